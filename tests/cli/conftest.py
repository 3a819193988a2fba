"""Shared fixture of the command-line tests: only those of `report` draw figures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.undrawn import draw_nothing


@pytest.fixture(scope="module", autouse=True)
def undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if not request.module.__name__.endswith("test_report"):
            draw_nothing(patch)
        yield
