"""Fixtures that shorten the trainings of tests.

What they leave out is tested elsewhere: figures in tests/reporting and workflow/test_reporting;
intervals in tests/evaluation; measuring in tests/training and by the tests that ask for `measured`;
and all of it by the first training of the README's commands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bertfit.evaluation import intervals, resampling
from bertfit.modeling.plan import Plan
from bertfit.reporting import figures, html
from bertfit.training.measuring import SpeedEstimate
from bertfit.workflow import speeding

FEW_RESAMPLES = 100
SPEED = SpeedEstimate(
    tokens_per_second=10_000.0,
    train_seconds=1.0,
    first_step_seconds=0.1,
    recording=Plan(is_on=False, reason="this is for a CUDA GPU"),
)


@pytest.fixture(scope="module", autouse=True)
def undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if not request.module.__name__.endswith("test_reporting"):
            draw_nothing(patch)
        yield


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        draw_few_resamples(patch)
        yield


@pytest.fixture(autouse=True)
def unmeasured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a made-up speed, except in tests that ask for `measured` and in shared trainings."""
    if "measured" not in request.fixturenames:
        measure_nothing(monkeypatch)


@pytest.fixture
def measured() -> None:
    """Measure the speed before a training."""


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures of the reports of one test."""
    draw_nothing(monkeypatch)


def shorten_trainings(patch: pytest.MonkeyPatch) -> None:
    """Draw, resample and measure little from here on."""
    draw_nothing(patch)
    draw_few_resamples(patch)
    measure_nothing(patch)


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Leave out the figures of reports from here on."""
    patch.setattr(html, "draw_figures", lambda _facts: dict.fromkeys(figures.NAMES))


def draw_few_resamples(patch: pytest.MonkeyPatch) -> None:
    """Draw `FEW_RESAMPLES` for an interval from here on, instead of one or two thousand."""
    draw_counts = resampling.draw_counts

    def draw_few(num_units: int, num_resamples: int, **options: Any) -> Any:
        return draw_counts(num_units, min(num_resamples, FEW_RESAMPLES), **options)

    for module in (resampling, intervals):
        patch.setattr(module, "draw_counts", draw_few)


def measure_nothing(patch: pytest.MonkeyPatch) -> None:
    """Take a made-up speed from here on."""
    patch.setattr(speeding, "measure_speed", lambda *_, **__: SPEED)
