"""Real data for the benchmarks: where it is, and a random sample of IMDB's reviews by seed."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from bertfit.data.dataset import Columns, TextDataset
from bertfit.data.readers import read_dataset
from bertfit.labels import encode_labels

LABEL_NAMES = ("neg", "pos")


def read_reviews(part: str, *, num_rows: int, seed: int) -> TextDataset:
    """Return reviews of "train" or "test", drawn at random, with their movies as groups."""
    columns = Columns(text="text", label="label", group="movie")
    return take(read_file(find_reviews(part), columns), num_rows, seed=seed)


def find_reviews(part: str) -> Path:
    """Return the file of the reviews of "train" or "test", or exit with a message."""
    file = find_data("imdb") / f"imdb_{part}_raw.jsonl.gz"
    if not file.is_file():
        sys.exit(f"{file}: no such file.")
    return file


def find_data(name: str) -> Path:
    """Return a data set's folder in BERTFIT_DATA, or exit with a message."""
    data = os.environ.get("BERTFIT_DATA")
    if not data or not (Path(data) / name).is_dir():
        sys.exit(f"BERTFIT_DATA must name a folder that holds {name}/.")
    return Path(data) / name


def read_file(path: Path, columns: Columns) -> TextDataset:
    """Return all rows of a file, or exit with a message if some are bad."""
    dataset, faults = read_dataset(path, columns)
    if faults:
        sys.exit(f"{path} has {len(faults)} bad rows, such as {faults[0]}")
    return dataset


def take(dataset: TextDataset, num_rows: int, *, seed: int) -> TextDataset:
    """Return rows drawn at random, the same for the same seed."""
    indices = random.Random(seed).sample(range(len(dataset)), min(num_rows, len(dataset)))
    return dataset.select(indices)


def label_ids_of(dataset: TextDataset) -> list[int]:
    """Return each review's label as a number: 0 for neg, 1 for pos."""
    return encode_labels(dataset.labels, LABEL_NAMES)


def to_rows(dataset: TextDataset, *, group_column: str | None = None) -> list[dict[str, str]]:
    """Return rows as `bertfit.train` takes them, with their groups if their column is named."""
    rows = [
        {"text": text, "label": label}
        for text, label in zip(dataset.texts, dataset.labels, strict=True)
    ]
    if group_column is not None:
        for row, group in zip(rows, dataset.groups, strict=True):
            row[group_column] = group
    return rows
