"""Rows whose true probabilities are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import softmax


@pytest.fixture(scope="session")
def draw_logits() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Give a function that draws labels from true probabilities.

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
