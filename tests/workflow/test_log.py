"""What a training says is kept line by line."""

from __future__ import annotations

from bertfit.workflow.log import LogKeeper
from tests.step_listener import StepListener


def test_a_name_with_a_line_break_begins_no_note_of_its_own():
    log = LogKeeper(StepListener())
    log.note("Slices by the column a\n2026-01-01T00:00:00+00:00 Accuracy 100 %.")
    (line,) = log.lines
    first, second = line.split("\n")
    assert first.endswith(" Slices by the column a")
    assert second == "    2026-01-01T00:00:00+00:00 Accuracy 100 %."
