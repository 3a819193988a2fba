"""Real IMDB reviews for the benchmarks: where they are, and a random sample by seed."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from bertfit.data.dataset import Columns, TextDataset
from bertfit.data.readers import read_dataset

LABEL_NAMES = ("neg", "pos")


def read_reviews(part: str, *, num_rows: int, seed: int) -> TextDataset:
    """Return reviews of "train" or "test", drawn at random, with their movies as groups."""
    path = find_data() / f"imdb_{part}_raw.jsonl.gz"
    dataset, faults = read_dataset(path, Columns(text="text", label="label", group="movie"))
    if faults:
        sys.exit(f"{path} has {len(faults)} bad rows, such as {faults[0]}")
    return take(dataset, num_rows, seed=seed)


def find_data() -> Path:
    """Return the folder imdb/ of BERTFIT_DATA, or exit with a message."""
    folder = Path(os.environ.get("BERTFIT_DATA", "")) / "imdb"
    if "BERTFIT_DATA" not in os.environ or not folder.is_dir():
        sys.exit("BERTFIT_DATA must name a folder that holds imdb/.")
    return folder


def take(dataset: TextDataset, num_rows: int, *, seed: int) -> TextDataset:
    """Return rows drawn at random, the same for the same seed."""
    indices = random.Random(seed).sample(range(len(dataset)), min(num_rows, len(dataset)))
    return dataset.select(indices)
