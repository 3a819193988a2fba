"""Listeners of a training: one does something at a step, such as ending it, one keeps notes."""

from __future__ import annotations


class StepListener:
    """Keeps notes, counts steps, and calls `on_step` with the number of each, `on_note` with notes.

    The number counts the steps that this listener heard of.
    """

    def __init__(self, on_step=lambda step: None, on_note=lambda text: None):
        self.notes, self.num_steps, self.on_step, self.on_note = [], 0, on_step, on_note

    def note(self, text):
        self.notes.append(text)
        self.on_note(text)

    def progress(self, task, done, total, detail=""):
        assert total is None or done <= total
        if detail.startswith("loss"):  # not the start of an epoch, nor validation
            self.num_steps += 1
            self.on_step(self.num_steps)


class Recorder:
    """A listener that keeps the notes, and calls `on_progress` with task and count."""

    def __init__(self, on_progress=lambda task, done: None):
        self.notes, self.on_progress = [], on_progress

    def note(self, text):
        self.notes.append(text)

    def progress(self, task, done, total, detail=""):
        self.on_progress(task, done)
