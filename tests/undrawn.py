"""Reports without figures, which take a quarter of the time of training a tiny encoder.

Figures, and that a training's report has them, are tested in tests/reporting, in
workflow/test_reporting and cli/test_report, and by the README's commands.
"""

from __future__ import annotations

import pytest

from bertfit.reporting import figures, html


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(html, "draw_figures", lambda _facts: dict.fromkeys(figures.NAMES))
