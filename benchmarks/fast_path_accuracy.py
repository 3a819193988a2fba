"""Whether the fast path learns as well as the plain modules: the same rows, seed and recipe.

For each seed, one model is trained with `fast_path=auto` and one with `fast_path=off`, and both are
scored on the same test reviews; with `--ways auto off float32` also one with the plain modules in
float32. Intervals are those of paired differences, over movies. Dropout draws different random
numbers in them, so they differ by chance, as seeds do. With --dropout 0, nearly all that is left
between them is the rounding of their arithmetic.

Needs BERTFIT_DATA. All reviews take hours on a small machine; --rows and --test-rows set fewer. The
result is written after each seed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from record import write_result
from reviews import read_reviews, to_rows
from script import add_output, run_script, train_to_the_end
from transformers.utils import logging

from bertfit.data.dataset import TextDataset
from bertfit.evaluation.intervals import paired_difference_interval
from bertfit.evaluation.metrics import row_log_losses
from bertfit.workflow.training import TrainResult

WAYS = ("auto", "off", "float32")
"""Values of `fast_path`, and "off" in float32."""


def main() -> None:
    arguments = parse_arguments()
    logging.disable_progress_bar()
    # The same for every seed, so that those of several commands can be compared.
    rows = read_reviews("train", num_rows=arguments.rows, seed=0)
    test = read_reviews("test", num_rows=arguments.test_rows, seed=0)
    print(f"{len(rows):,} reviews to train and validate, {len(test):,} to test", flush=True)
    about = {
        "num_rows": len(rows),
        "num_test": len(test),
        "epochs": arguments.epochs,
        "max_length": arguments.max_length,
        "dropout": arguments.dropout,
        "interval_level": 0.95,
    }
    measured: list[dict[str, Any]] = []
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        measured.append(compare(rows, test, seed=seed, arguments=arguments))
        result = {**about, "measured": measured}
        write_result("fast-path-accuracy", result, output=arguments.output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=25_000, help="Training reviews (25000).")
    parser.add_argument("--test-rows", type=int, default=25_000, help="Test reviews (25000).")
    parser.add_argument("--epochs", type=int, default=1, help="Epochs of each (1).")
    parser.add_argument("--max-length", type=int, default=128, help="Tokens per review (128).")
    parser.add_argument("--seeds", type=int, default=1, help="Pairs to train (1).")
    parser.add_argument("--seed", type=int, default=0, help="The first seed (0).")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS[:2], help="(auto off).")
    parser.add_argument("--dropout", type=float, help="Rate of all dropout (the model's own).")
    parser.add_argument("--dtype", default="auto", help="Type of the arithmetic (auto).")
    add_output(parser)
    return parser.parse_args()


def compare(
    rows: TextDataset, test: TextDataset, *, seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Train each way with one seed; return their scores, and differences from the first."""
    label_ids = np.array([label == "pos" for label in test.labels], dtype=int)
    measured: dict[str, Any] = {"seed": seed}
    correct = {}
    for way in arguments.ways:
        result = train_one(rows, way=way, seed=seed, arguments=arguments)
        probabilities = result.classifier.predict_probabilities(test.texts)
        correct[way] = probabilities.argmax(axis=1) == label_ids
        measured[way] = {
            "accuracy": float(correct[way].mean()),
            "log_loss": float(row_log_losses(probabilities, label_ids).mean()),
            "val_losses": result.outcome.history.val_losses,
            "train_losses": result.outcome.history.train_losses,
            "train_seconds": result.outcome.train_seconds,
        }
        print(
            f"  seed {seed}, {way}: {correct[way].mean():.2%}, "
            f"log loss {measured[way]['log_loss']:.4f}",
            flush=True,
        )
    first, *others = arguments.ways
    measured["differences"] = {}
    for way in others:
        interval = paired_difference_interval(
            correct[first], correct[way], groups=np.asarray(test.groups)
        )
        value = float(correct[first].mean() - correct[way].mean())
        measured["differences"][way] = {"value": value, "low": interval.low, "high": interval.high}
        print(f"  {first} less {way}: {interval.low:+.2%} to {interval.high:+.2%}", flush=True)
    return measured


def train_one(
    rows: TextDataset, *, way: str, seed: int, arguments: argparse.Namespace
) -> TrainResult:
    with tempfile.TemporaryDirectory() as folder:
        return train_to_the_end(
            to_rows(rows, group_column="movie"),
            Path(folder) / "run",
            group_column="movie",
            epochs=arguments.epochs,
            max_length=arguments.max_length,
            seed=seed,
            dropout=arguments.dropout,
            dtype="float32" if way == "float32" else arguments.dtype,
            fast_path="auto" if way == "auto" else "off",
            calibration="none",
            baseline=False,
        )


if __name__ == "__main__":
    run_script(main)
