"""Whether the fast path learns as well as the plain modules: the same rows, seed and recipe.

For each seed, one model is trained with `fast_path=auto` and one with `fast_path=off`, and both are
scored on the same test reviews. The interval is that of the paired difference, over movies. Dropout
draws different random numbers in the two, so they differ by chance, as two seeds do.

Needs BERTFIT_DATA. All reviews take hours on a small machine; --rows and --test-rows set fewer.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import write_result
from reviews import read_reviews, to_rows
from script import add_output, run_script
from transformers.utils import logging

from bertfit import train
from bertfit.data.dataset import TextDataset
from bertfit.evaluation.intervals import paired_difference_interval
from bertfit.workflow.training import TrainResult

WAYS = ("auto", "off")


def main() -> None:
    arguments = parse_arguments()
    logging.disable_progress_bar()
    rows = read_reviews("train", num_rows=arguments.rows, seed=arguments.seed)
    test = read_reviews("test", num_rows=arguments.test_rows, seed=arguments.seed)
    print(f"{len(rows):,} reviews to train and validate, {len(test):,} to test", flush=True)
    measured = [
        compare(rows, test, seed=seed, arguments=arguments)
        for seed in range(arguments.seed, arguments.seed + arguments.seeds)
    ]
    write_result(
        "fast-path-accuracy",
        {
            "num_threads": torch.get_num_threads(),
            "num_rows": len(rows),
            "num_test": len(test),
            "epochs": arguments.epochs,
            "max_length": arguments.max_length,
            "interval_level": 0.95,
            "measured": measured,
        },
        output=arguments.output,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=25_000, help="Training reviews (25000).")
    parser.add_argument("--test-rows", type=int, default=25_000, help="Test reviews (25000).")
    parser.add_argument("--epochs", type=int, default=1, help="Epochs of each (1).")
    parser.add_argument("--max-length", type=int, default=128, help="Tokens per review (128).")
    parser.add_argument("--seeds", type=int, default=1, help="Pairs to train (1).")
    parser.add_argument("--seed", type=int, default=0, help="The first seed (0).")
    parser.add_argument("--dtype", default="auto", help="Type of the arithmetic (auto).")
    add_output(parser)
    return parser.parse_args()


def compare(
    rows: TextDataset, test: TextDataset, *, seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Train a pair with one seed, and return both accuracies and their difference."""
    label_ids = np.array([label == "pos" for label in test.labels], dtype=int)
    measured: dict[str, Any] = {"seed": seed}
    correct = {}
    for way in WAYS:
        result = train_one(rows, fast_path=way, seed=seed, arguments=arguments)
        probabilities = result.classifier.predict_probabilities(test.texts)
        correct[way] = probabilities.argmax(axis=1) == label_ids
        measured[way] = {
            "accuracy": float(correct[way].mean()),
            "val_losses": result.outcome.history.val_losses,
            "train_losses": result.outcome.history.train_losses,
            "train_seconds": result.outcome.train_seconds,
        }
        print(f"  seed {seed}, fast_path={way}: {correct[way].mean():.2%}", flush=True)
    interval = paired_difference_interval(
        correct["auto"], correct["off"], groups=np.asarray(test.groups)
    )
    measured["difference"] = {
        "value": measured["auto"]["accuracy"] - measured["off"]["accuracy"],
        "low": interval.low,
        "high": interval.high,
    }
    print(f"  fast less plain: {interval.low:+.2%} to {interval.high:+.2%}", flush=True)
    return measured


def train_one(
    rows: TextDataset, *, fast_path: str, seed: int, arguments: argparse.Namespace
) -> TrainResult:
    with tempfile.TemporaryDirectory() as folder:
        return train(
            to_rows(rows, group_column="movie"),
            Path(folder) / "run",
            group_column="movie",
            epochs=arguments.epochs,
            max_length=arguments.max_length,
            seed=seed,
            dtype=arguments.dtype,
            fast_path=fast_path,
            calibration="none",
            baseline=False,
        )


if __name__ == "__main__":
    run_script(main)
