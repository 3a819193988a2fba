"""The data gate in a second process, while this one imports torch.

Checking 25,000 reviews takes seconds, and in a thread it would hold the GIL. The rows go to the
process as JSON; lines of JSON come back: lists that say how far it is, then the report, an object.
If the process fails, or there are too few rows to be worth it, the rows are checked here, when the
report is needed.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from bertfit.data.dataset import TextDataset
from bertfit.data.findings import Example, Finding
from bertfit.data.gate import GateReport, TaskProgress, inspect_rows
from bertfit.environment import count_cores
from bertfit.errors import Fault
from bertfit.second_process import start_module

_LEAST_ROWS = 4000
"""Fewer are checked in hardly more time than a process takes to start."""
_MOST_CHARACTERS = 2**28
"""More are not kept in memory twice."""
_FIELDS = ("source", "texts", "labels", "groups", "lines")
"""What the gate reads of a part."""

_LEAST_SECONDS = 0.25
"""Time from one report of the progress to the next."""

Finish: TypeAlias = Callable[[TaskProgress], GateReport]
"""Waits for the report; takes what `inspect_rows` calls with its progress."""


def start_inspection(
    parts: Mapping[str, TextDataset | None],
    *,
    is_split: bool,
    label_names: Sequence[str],
    skipped: Sequence[Fault],
) -> Finish:
    """Start `inspect_rows` for the parts "train", "validation" and "test".

    The other arguments are also those of `inspect_rows`.
    """
    given = {name: rows for name, rows in parts.items() if rows is not None}
    process = None
    if _is_worth_it(list(given.values())):
        job = {
            "parts": {
                name: {field: getattr(rows, field) for field in _FIELDS}
                for name, rows in given.items()
            },
            "is_split": is_split,
            "label_names": list(label_names),
            "skipped": [dataclasses.asdict(fault) for fault in skipped],
        }
        # Escapes such as \u4e2d would take six bytes for each character that is not ASCII.
        written = json.dumps(job, ensure_ascii=False)
        process = _Process.start(written.encode("utf-8", "surrogatepass"))

    def finish(on_progress: TaskProgress) -> GateReport:
        if process is not None:
            on_progress("comparing", 0, sum(map(len, given.values())))
            report = _read_report(process.wait(on_progress))
            if report is not None:
                return report
        return inspect_rows(
            given["train"],
            validation=given.get("validation"),
            test=given.get("test"),
            is_split=is_split,
            label_names=label_names,
            skipped=skipped,
            on_progress=on_progress,
        )

    return finish


class _Process:
    """This module, run with a job on its standard input."""

    def __init__(self, process: subprocess.Popen[bytes], job: bytes) -> None:
        self._process = process
        self._answer = b""
        self._counts: dict[str, tuple[int, int]] = {}
        """The latest (done, total) of each task."""
        # In a thread, because a pipe takes no more until the process has started and reads.
        self._thread = threading.Thread(target=self._talk, args=(job,), daemon=True)
        self._thread.start()
        atexit.register(self._end)

    @classmethod
    def start(cls, job: bytes) -> _Process | None:
        """Return the running process, or None if it cannot be started."""
        pipe = subprocess.PIPE
        process = start_module("bertfit.data.gate_process", stdin=pipe, stdout=pipe)
        if process is None:
            return None
        try:
            return cls(process, job)
        except RuntimeError:  # no thread can be started
            process.kill()
            process.communicate()
            return None

    def wait(self, on_progress: TaskProgress) -> bytes:
        """Return the last line it wrote, besides its progress; nothing if it failed."""
        told: dict[str, tuple[int, int]] = {}
        while self._thread.is_alive() or told != self._counts:
            self._thread.join(_LEAST_SECONDS)
            counts = self._counts.copy()
            for task, count in counts.items():
                if told.get(task) != count:
                    on_progress(task, *count)
            told = counts
        atexit.unregister(self._end)
        return self._answer if self._process.returncode == 0 else b""

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _talk(self, job: bytes) -> None:
        # Not `communicate`: it writes 4 kilobytes at a time, and waits for the GIL after each.
        asked, answered = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answered is not None
        with contextlib.suppress(OSError), asked:  # the process may have ended
            asked.write(job)
        with answered:
            for line in answered:
                count = _read_count(line)
                if count is not None:
                    task, done, total = count
                    self._counts[task] = (done, total)
                else:
                    self._answer = line
        self._process.wait()


def _is_worth_it(parts: Sequence[TextDataset]) -> bool:
    if sum(map(len, parts)) < _LEAST_ROWS or count_cores() < 2:
        return False
    return sum(len(text) for rows in parts for text in rows.texts) <= _MOST_CHARACTERS


def _read_count(line: bytes) -> tuple[str, int, int] | None:
    """Return the task, and how much of it is done and there is, or None if the line is another."""
    match _parse(line) if line.startswith(b"[") else None:
        case [str(task), int(done), int(total)]:
            return task, done, total
    return None


def _parse(line: bytes) -> object:
    """Return the value of a line of JSON, or None if it is not one."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # the latter: a thousand brackets
        return None


def _read_report(answer: bytes) -> GateReport | None:
    """Return the report whose fields are the line, or None if that is not a report."""
    written = _parse(answer)
    if not isinstance(written, dict) or "findings" not in written:
        return None
    findings = tuple(
        Finding(**finding | {"examples": tuple(Example(**one) for one in finding["examples"])})
        for finding in written.pop("findings")
    )
    rows = {name: tuple(of) for name, of in written.items() if name.endswith("_rows")}
    return GateReport(findings=findings, num_test=written["num_test"], **rows)


def _write_line(value: object) -> None:
    # On a line of its own: what Python imports at its start (a sitecustomize.py) may print, too.
    sys.stdout.write(f"\n{json.dumps(value)}\n")
    sys.stdout.flush()


class _ProgressWriter:
    """Writes how far a task is, a few times a second; its beginning and its end in any case."""

    def __init__(self) -> None:
        self._written = time.monotonic()

    def __call__(self, task: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done in {0, total} or now - self._written >= _LEAST_SECONDS:
            self._written = now
            _write_line([task, done, total])


def _main() -> None:
    job = json.load(sys.stdin.buffer)
    parts = {name: TextDataset(**fields) for name, fields in job["parts"].items()}
    report = inspect_rows(
        parts["train"],
        validation=parts.get("validation"),
        test=parts.get("test"),
        is_split=job["is_split"],
        label_names=job["label_names"],
        skipped=[Fault(**fault) for fault in job["skipped"]],
        on_progress=_ProgressWriter(),
    )
    _write_line(dataclasses.asdict(report))


if __name__ == "__main__":
    _main()
