"""Shared fixtures of the workflow tests: no figures, and a Ctrl-C that must not end the test run.

Drawing with matplotlib takes half of the time of training a tiny encoder. Figures, and that a
training's report has them, are tested in test_reporting, the command-line tests and
tests/reporting.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bertfit.reporting import svg

UNDRAWN = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'


@pytest.fixture(scope="module", autouse=True)
def undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if not request.module.__name__.endswith("test_reporting"):
            patch.setattr(svg, "_draw", lambda _figure: UNDRAWN)
        yield


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
