"""Benchmarks are scripts that find one another in their own folder."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch):
    """Give a function that runs a script in this process, which has loaded torch already."""

    def run_script(name, *arguments):
        monkeypatch.syspath_prepend(BENCHMARKS)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")

    return run_script


@pytest.fixture
def load(monkeypatch):
    """Give a function that imports a script by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module
