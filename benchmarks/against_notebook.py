"""bertfit's `--recipe notebook` against the notebook's own loop, on the same IMDB reviews.

Speed: both train one epoch on the same rows, in turn, in one process. The time in training steps is
compared; the loop's includes fetching and tokenizing, which it repeats every epoch, while bertfit's
single encoding is only part of the time of the whole call, also given. Accuracy: both train all
epochs on the same rows, keep the epoch with the best F1 on the same validation rows (split by
movie), and are scored on the same test rows.

Needs BERTFIT_DATA, a folder with imdb/imdb_train_raw.jsonl.gz and imdb/imdb_test_raw.jsonl.gz.
With all reviews the plain loop alone takes hours on a small machine: --rows and --test-rows set
smaller numbers, which the result records.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from notebook_loop import predict_plainly, train_plainly
from record import summarize, write_result
from reviews import LABEL_NAMES, label_ids_of, read_reviews, take, to_rows
from script import add_output, run_script, train_to_the_end
from transformers.utils import logging

from bertfit.assets import find_embedded_model
from bertfit.data.dataset import TextDataset
from bertfit.data.splits import split_off
from bertfit.evaluation.intervals import bootstrap_intervals, paired_difference_interval
from bertfit.workflow.training import TrainResult

VALIDATION_FRACTION = 0.1


@dataclass(frozen=True, slots=True)
class Parts:
    """The rows that both use."""

    train: TextDataset
    validation: TextDataset
    test: TextDataset


def main() -> None:
    arguments = parse_arguments()
    logging.disable_progress_bar()
    rows = read_reviews("train", num_rows=arguments.rows, seed=arguments.seed)
    test = read_reviews("test", num_rows=arguments.test_rows, seed=arguments.seed)
    parts = Parts(*split_off(rows, VALIDATION_FRACTION, seed=arguments.seed), test)
    print(
        f"{len(parts.train):,} reviews to train, {len(parts.validation):,} to validate, "
        f"{len(parts.test):,} to test; {torch.get_num_threads()} threads"
    )
    measured: dict[str, Any] = {
        "seed": arguments.seed,
        "num_train": len(parts.train),
        "num_validation": len(parts.validation),
        "num_test": len(parts.test),
    }
    if arguments.alternations:
        measured["speed"] = compare_speed(parts, arguments)
    if not arguments.skip_accuracy:
        measured["accuracy"] = compare_accuracy(parts, arguments)
    write_result("against-notebook", measured, output=arguments.output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000, help="Training reviews (4000).")
    parser.add_argument("--test-rows", type=int, default=5000, help="Test reviews (5000).")
    parser.add_argument("--epochs", type=int, default=3, help="Epochs for the accuracy (3).")
    parser.add_argument("--alternations", type=int, default=5, help="Timings of each (5).")
    parser.add_argument("--speed-rows", type=int, default=512, help="Reviews per timing (512).")
    parser.add_argument("--skip-accuracy", action="store_true", help="Compare the speed alone.")
    parser.add_argument("--dtype", default="auto", help="bertfit's arithmetic (auto).")
    parser.add_argument("--seed", type=int, default=0, help="Of everything random (0).")
    add_output(parser)
    return parser.parse_args()


def compare_speed(parts: Parts, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one epoch with each, in turn; the first round is a warm-up and not counted."""
    few = Parts(
        take(parts.train, arguments.speed_rows, seed=arguments.seed),
        take(parts.validation, 32, seed=arguments.seed),
        take(parts.test, 1, seed=arguments.seed),
    )
    num_rows = len(few.train)
    rates: dict[str, list[float]] = {"notebook": [], "bertfit": []}
    whole: dict[str, list[float]] = {"notebook": [], "bertfit": []}
    dtype = ""
    for attempt in range(arguments.alternations + 1):
        started = time.perf_counter()
        loop = run_loop(few, epochs=1, seed=attempt)
        between = time.perf_counter()
        ours = run_bertfit(few, epochs=1, seed=attempt, dtype=arguments.dtype)
        ended = time.perf_counter()
        dtype = ours.classifier.precision.dtype_name
        if attempt == 0:
            continue
        rates["notebook"].append(num_rows / loop.train_seconds)
        rates["bertfit"].append(num_rows / ours.outcome.train_seconds)
        whole["notebook"].append(between - started)
        whole["bertfit"].append(ended - between)
        print(
            f"round {attempt}: {rates['notebook'][-1]:.1f} and {rates['bertfit'][-1]:.1f} rows/s "
            f"(notebook, bertfit)"
        )
    ratios = np.divide(rates["bertfit"], rates["notebook"])
    summary = summarize([float(ratio) for ratio in ratios])
    print(
        f"bertfit trains {summary['median']:.2f} times as fast "
        f"({summary['min']:.2f} to {summary['max']:.2f}, {dtype})"
    )
    return {
        "num_rows": num_rows,
        "bertfit_dtype": dtype,
        "rows_per_second_in_training": {name: summarize(r) for name, r in rates.items()},
        "seconds_of_the_whole_call": {name: summarize(s) for name, s in whole.items()},
        "speed_ratio": summary,
    }


def compare_accuracy(parts: Parts, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train with each, and score both on the test rows, with intervals over movies."""
    loop = run_loop(parts, epochs=arguments.epochs, seed=arguments.seed)
    ours = run_bertfit(parts, epochs=arguments.epochs, seed=arguments.seed, dtype=arguments.dtype)
    probabilities = {
        "notebook": predict_plainly(loop.model, loop.tokenizer, parts.test.texts),
        "bertfit": ours.classifier.predict_probabilities(parts.test.texts),
    }
    label_ids = np.asarray(label_ids_of(parts.test))
    groups = np.asarray(parts.test.groups)
    measured: dict[str, Any] = {"epochs": arguments.epochs, "interval_level": 0.95}
    correct = {}
    for name, values in probabilities.items():
        correct[name] = values.argmax(axis=1) == label_ids
        interval = bootstrap_intervals(values, label_ids, groups=groups)["accuracy"]
        accuracy = float(correct[name].mean())
        measured[name] = {"accuracy": accuracy, "low": interval.low, "high": interval.high}
        print(f"{name:9}{accuracy:8.2%}  ({interval.low:.2%} to {interval.high:.2%})")
    measured["notebook"] |= {"val_f1": loop.val_f1, "train_seconds": loop.train_seconds}
    history, seconds = ours.outcome.history, ours.outcome.train_seconds
    measured["bertfit"] |= {"val_f1": history.val_f1, "train_seconds": seconds}
    difference = paired_difference_interval(correct["bertfit"], correct["notebook"], groups=groups)
    measured["difference"] = {
        "value": measured["bertfit"]["accuracy"] - measured["notebook"]["accuracy"],
        "low": difference.low,
        "high": difference.high,
    }
    print(f"bertfit less notebook: {difference.low:+.2%} to {difference.high:+.2%}")
    return measured


def run_loop(parts: Parts, *, epochs: int, seed: int) -> Any:  # noqa: ANN401 (a LoopResult)
    return train_plainly(
        find_embedded_model(),
        (parts.train.texts, label_ids_of(parts.train)),
        (parts.validation.texts, label_ids_of(parts.validation)),
        num_labels=len(LABEL_NAMES),
        epochs=epochs,
        seed=seed,
    )


def run_bertfit(parts: Parts, *, epochs: int, seed: int, dtype: str) -> TrainResult:
    with tempfile.TemporaryDirectory() as folder:
        return train_to_the_end(
            to_rows(parts.train),
            Path(folder) / "run",
            validation=to_rows(parts.validation),
            recipe="notebook",
            epochs=epochs,
            seed=seed,
            dtype=dtype,
        )


if __name__ == "__main__":
    run_script(main)
