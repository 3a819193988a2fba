"""What the tests of whole trainings share: reports whose figures are made, but not drawn.

matplotlib's drawing takes half of a training of a tiny encoder. What figures look like, and that a
training's report has them, is for test_reporting, the command line's tests and tests/reporting.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bertfit.reporting import svg

UNDRAWN = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'


@pytest.fixture(scope="module", autouse=True)
def undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if not request.module.__name__.endswith("test_reporting"):
            patch.setattr(svg, "_draw", lambda _figure: UNDRAWN)
        yield
