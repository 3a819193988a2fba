"""Rows with known true probabilities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import softmax


@pytest.fixture(scope="session")
def draw_logits() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Return a function that draws labels from true probabilities.

    `draw_logits(num_rows, num_labels, temperature=1.0, seed=0)` returns logits (n, C), which are
    the true ones times the temperature, and label ids (n,).
    """
    return _draw_logits


def _draw_logits(
    num_rows: int, num_labels: int, *, temperature: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_rows, num_labels)) * 2
    steps = softmax(logits, axis=1).cumsum(axis=1)
    label_ids = (rng.random((num_rows, 1)) > steps[:, :-1]).sum(axis=1)
    return logits * temperature, label_ids


@pytest.fixture(scope="session")
def draw_crowded() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return a function that draws rows of two classes whose confident logits are compressed.

    `draw_crowded(num_rows, slope=0.5, cube=0.1, seed=0)` returns logits (n, 2), label ids (n,) and
    features (n, 8); the logits and their cubes are linear functions of the features. The true log
    odds for a difference d of the logits are slope · d + cube · d³ / 4.
    """
    return _draw_crowded


def _draw_crowded(
    num_rows: int, *, slope: float = 0.5, cube: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    apart = np.clip(rng.normal(size=num_rows) * 3, -5, 5)
    log_odds = slope * apart + cube * apart**3 / 4
    label_ids = (rng.random(num_rows) < 1 / (1 + np.exp(-log_odds))).astype(np.int64)
    along = np.column_stack([apart, apart**3 / 10, rng.normal(size=(num_rows, 6)) / 10])
    turned = along @ np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    return np.column_stack([-apart / 2, apart / 2]), label_ids, turned + 0.3
