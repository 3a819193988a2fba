"""Training speed: bertfit against the notebook's loop and against transformers.Trainer at its best.

All three train on the same real IMDB reviews with the same batch size, in turn, in one process: a
round is one epoch of each over --rows reviews, every second one in reverse order. Before them each
takes two steps that are not counted. Rows per second in training are compared, without
validation, loading and, for bertfit and Trainer, the encoding beforehand (the notebook's loop
tokenizes as it goes, as the notebook does). Trainer gets bfloat16 if the processor is fast at it,
dynamic padding, fused AdamW and bertfit's batches of similar length: its own sampler makes such
batches of thousands of rows, but not of as few as are timed here.

Needs BERTFIT_DATA. Large models and long texts take a while; --models and --lengths choose.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import notebook_loop
import numpy as np
import torch
from models import MODELS, make_model_folder
from record import summarize, write_result
from reviews import LABEL_NAMES, label_ids_of, read_reviews, to_rows
from script import add_output, run_script, train_to_the_end
from trainer import arrange, settle_trainer
from transformers.utils import logging

from bertfit.data.dataset import TextDataset
from bertfit.modeling.precision import choose_precision

BATCH_SIZE = 16


def main() -> None:
    arguments = parse_arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = read_reviews("train", num_rows=arguments.rows, seed=arguments.seed)
    measured = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, length in itertools.product(arguments.models, arguments.lengths):
            folder = make_model_folder(name, Path(scratch))
            print(f"{name}, {length} tokens, {len(rows):,} reviews", flush=True)
            result = compare(folder, rows, max_length=length, rounds=arguments.rounds)
            measured.append({"model": name, "max_length": length, **result})
    of_what = [*arguments.models, *(str(length) for length in arguments.lengths)]
    write_result(
        "-".join(["against-peers", *of_what]),
        {
            "num_rows": len(rows),
            "batch_size": BATCH_SIZE,
            "dtype": choose_precision().dtype_name,
            "reason": choose_precision().reason,
            "measured": measured,
        },
        output=arguments.output,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=512, help="Reviews of an epoch (512).")
    parser.add_argument("--rounds", type=int, default=3, help="Epochs of each (3).")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--seed", type=int, default=0, help="Of everything random (0).")
    add_output(parser)
    return parser.parse_args()


def compare(folder: Path, rows: TextDataset, *, max_length: int, rounds: int) -> dict[str, Any]:
    """Return rows per second of each, and the ratios, for every round."""
    ways: dict[str, Callable[..., float]] = {
        "notebook": train_notebook,
        "trainer": train_trainer,
        "bertfit": train_bertfit,
    }
    few = rows.select(range(min(len(rows), 2 * BATCH_SIZE)))
    for way in ways.values():  # a warm-up
        way(folder, few, max_length=max_length, seed=0)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for attempt in range(rounds):
        for name, way in list(ways.items())[:: -1 if attempt % 2 else 1]:
            seconds = way(folder, rows, max_length=max_length, seed=attempt)
            rates[name].append(len(rows) / seconds)
        shown = ", ".join(f"{name} {values[-1]:.2f}" for name, values in rates.items())
        print(f"  round {attempt + 1}: {shown} rows/s", flush=True)
    ratios = {
        name: summarize([float(r) for r in np.divide(rates["bertfit"], rates[name])])
        for name in ("notebook", "trainer")
    }
    for name, ratio in ratios.items():
        print(
            f"  bertfit is {ratio['median']:.2f} times as fast as {name} "
            f"({ratio['min']:.2f} to {ratio['max']:.2f})",
            flush=True,
        )
    return {
        "rows_per_second": {name: summarize(values) for name, values in rates.items()},
        "ratio_of_bertfit_to": ratios,
    }


def train_notebook(folder: Path, rows: TextDataset, *, max_length: int, seed: int) -> float:
    """Return the seconds of one epoch of the notebook's loop."""
    few = rows.select(range(2))
    return notebook_loop.train_plainly(
        folder,
        (rows.texts, label_ids_of(rows)),
        (few.texts, label_ids_of(few)),
        num_labels=len(LABEL_NAMES),
        epochs=1,
        seed=seed,
        max_length=max_length,
    ).train_seconds


def train_trainer(folder: Path, rows: TextDataset, *, max_length: int, seed: int) -> float:
    """Return the seconds of one epoch of Trainer's steps, on encoded data."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
    )

    started: list[float] = []

    class FirstStep(TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers
        def on_step_begin(self, *_: object, **__: object) -> None:
            started.append(time.perf_counter())

    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(list(rows.texts), truncation=True, max_length=max_length)
    features = [
        {"input_ids": ids, "attention_mask": mask, "labels": label_id}
        for ids, mask, label_id in zip(
            encoded["input_ids"], encoded["attention_mask"], label_ids_of(rows), strict=True
        )
    ]
    lengths = np.array([len(feature["input_ids"]) for feature in features])
    order = arrange(lengths, BATCH_SIZE, seed=seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(LABEL_NAMES), dtype=torch.float32
    )
    with tempfile.TemporaryDirectory() as output:
        settings = settle_trainer(
            output,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=2e-5,
            seed=seed,
        )
        trainer = Trainer(
            model=model,
            args=settings,
            train_dataset=[features[row] for row in order],
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[FirstStep()],
        )
        trainer.train()
        return time.perf_counter() - started[0]


def train_bertfit(folder: Path, rows: TextDataset, *, max_length: int, seed: int) -> float:
    """Return the seconds of one epoch of bertfit's steps."""
    table = to_rows(rows)
    with tempfile.TemporaryDirectory() as output:
        result = train_to_the_end(
            table,
            Path(output) / "run",
            validation=few_of_each(table),
            recipe="notebook",
            model=str(folder),
            epochs=1,
            max_length=max_length,
            batch_size=BATCH_SIZE,
            seed=seed,
            keep_encoded="off",
            baseline=False,
        )
    return result.outcome.train_seconds


def few_of_each(table: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return one row of each label."""
    return list({row["label"]: row for row in table}.values())


if __name__ == "__main__":
    run_script(main)
