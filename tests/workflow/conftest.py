"""Shared fixtures of the workflow tests: shorter trainings, a Ctrl-C that ends no test run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.shorter import few_resamples, measured, undrawn, unmeasured, without_figures

__all__ = [
    "few_resamples",
    "fnet",
    "measured",
    "train_on",
    "undrawn",
    "unmeasured",
    "without_figures",
]


@pytest.fixture
def fnet(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """Give the folder of a tiny FNet, which reads padding and has no arithmetic in bfloat16."""
    from transformers import FNetConfig, FNetModel

    folder = shutil.copytree(tiny_model_dir, tmp_path / "fnet")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "max_position_embeddings": 64}
    config = FNetConfig(vocab_size=100, num_hidden_layers=1, pad_token_id=0, **sizes)
    FNetModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def train_on(train: Callable[..., Any]) -> Callable[..., Any]:
    """Return a module's `train`; KeyboardInterrupt fails the test instead of ending the run."""

    def run(*args: Any, **options: Any) -> Any:
        try:
            return train(*args, **options)
        except KeyboardInterrupt:
            pytest.fail("the first Ctrl-C gave everything up")

    return run
