"""What a training says is kept line by line."""

from __future__ import annotations

import pytest

from bertfit.workflow.log import LogKeeper
from tests.step_listener import StepListener


@pytest.mark.parametrize("line_break", ["\n", "\u2028", "\u2029"])
def test_a_name_with_a_line_break_begins_no_note_of_its_own(line_break):
    log = LogKeeper(StepListener())
    log.note(f"Slices by the column a{line_break}2026-01-01T00:00:00+00:00 Accuracy 100 %.")
    (line,) = log.lines
    first, second = line.splitlines()
    assert first.endswith(" Slices by the column a")
    assert second == "    2026-01-01T00:00:00+00:00 Accuracy 100 %."
