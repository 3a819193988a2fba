"""What several tests of models need."""

from __future__ import annotations

import shutil

import pytest

from bertfit.modeling.first_token import wanting_logits


@pytest.fixture
def for_logits():
    """Let models that a test calls compute as `compute_logits` does: nothing but logits counts."""
    with wanting_logits():
        yield


@pytest.fixture
def cached_model(tiny_model_dir, tmp_path, monkeypatch):
    """Give the folder of `some/model` in a cache of the hub."""
    folder = tmp_path / "models--some--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return shutil.copytree(tiny_model_dir, folder / "snapshots" / "0123")
