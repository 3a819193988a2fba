"""Fixtures for reports without figures, a quarter of the time of training a tiny encoder.

Figures, and that a training's report has them, are tested in tests/reporting, in
workflow/test_reporting and cli/test_report, and by the README's commands.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bertfit.reporting import figures, html

DRAWN = ("test_report", "test_reporting")
"""Modules whose reports have figures."""


@pytest.fixture(scope="module", autouse=True)
def undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if not request.module.__name__.endswith(DRAWN):
            _draw_nothing(patch)
        yield


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures of the reports of one test."""
    _draw_nothing(monkeypatch)


def _draw_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(html, "draw_figures", lambda _facts: dict.fromkeys(figures.NAMES))
