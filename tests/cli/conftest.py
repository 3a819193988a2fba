"""Shared fixtures of the command-line tests: shorter trainings, a command line built once."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import typer.main
import typer.testing

from tests.shorter import few_resamples, measured, undrawn, unmeasured

__all__ = ["built_once", "few_resamples", "measured", "undrawn", "unmeasured"]


@pytest.fixture(scope="session", autouse=True)
def built_once() -> Iterator[None]:
    """Build the command line once in a process, as the command itself does."""
    build = functools.cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", build)
        patch.setattr(typer.testing, "_get_command", build)
        yield
