"""The gate in a second process: the same report as here, and never a failure of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from bertfit.data import gate_process
from bertfit.data.dataset import TextDataset
from bertfit.data.gate import inspect_rows
from bertfit.data.gate_process import start_inspection
from bertfit.errors import Fault

SKIPPED = (Fault("rows.csv", 7, "text is empty"), Fault("rows.csv", None, "a fault of the whole"))


def make_part(name, count, *, groups=False):
    texts = [
        f"{name} review {row} says this film was fine, \ud83d and long" for row in range(count)
    ]
    texts[0], texts[1] = (
        "the same text in all parts, word for word",
        "caf\u00e9 \u4e2d\u6587 <br /> Ã©",
    )
    return TextDataset(
        source=f"{name}.csv",
        texts=texts,
        labels=["neg" if row % 3 else "pos" for row in range(count)],
        groups=[f"movie {row % 5}" for row in range(count)] if groups else (),
        lines=list(range(2, count + 2)),
    )


@pytest.fixture
def parts():
    sizes = {"train": 60, "validation": 20, "test": 20}
    return {name: make_part(name, count, groups=True) for name, count in sizes.items()}


@pytest.fixture
def worth_it(monkeypatch):
    """A process is started for any number of rows; the result says how many were."""
    started, popen = [], subprocess.Popen

    def start(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(gate_process, "_is_worth_it", lambda _parts: True)
    monkeypatch.setattr(gate_process.subprocess, "Popen", start)
    return started


def start(parts, *, is_split=False):
    names = ("neg", "pos")
    return start_inspection(parts, is_split=is_split, label_names=names, skipped=SKIPPED)


def inspect(parts, *, is_split=False):
    return inspect_rows(**parts, is_split=is_split, label_names=("neg", "pos"), skipped=SKIPPED)


def test_the_process_knows_that_validation_was_split_off(parts, worth_it):
    reports = [inspect(parts, is_split=is_split) for is_split in (True, False)]
    assert reports[0] != reports[1]
    assert start(parts, is_split=True)(lambda *_: None) == reports[0]
    assert [process.returncode for process in worth_it] == [0]


def test_so_it_does_here_where_no_process_is_started(parts, monkeypatch):
    monkeypatch.setattr(gate_process, "_is_worth_it", lambda _parts: False)
    assert start(parts, is_split=True)(lambda *_: None) == inspect(parts, is_split=True)


@pytest.mark.parametrize("with_test", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_report_is_the_same_as_here(parts, worth_it, monkeypatch, with_test):
    if not with_test:
        parts["test"] = None
    expected = inspect(parts)
    finish = start(parts)
    monkeypatch.setattr(gate_process, "inspect_rows", None)
    counted = []
    assert finish(lambda *counts: counted.append(counts)) == expected
    num_rows, num_checks = (100, 7) if with_test else (80, 4)
    assert counted[0] == ("comparing", 0, num_rows)
    assert ("comparing", num_rows, num_rows) in counted
    assert counted[-1] == ("checks", num_checks, num_checks)
    assert {finding.kind for finding in expected.findings} >= {"shared_texts", "skipped_rows"}
    assert [process.returncode for process in worth_it] == [0]


def test_texts_in_other_scripts_take_no_more_memory_than_in_a_file(parts, monkeypatch):
    jobs = []
    monkeypatch.setattr(gate_process, "_is_worth_it", lambda _parts: True)
    monkeypatch.setattr(gate_process._Process, "start", jobs.append)
    parts["train"].texts[2:] = ["\u4e2d" * 1000] * 58
    start(parts)
    assert 58 * 3000 < len(jobs[0]) < 60 * 3000 + 5000


def test_what_else_python_prints_is_not_the_report(parts, worth_it, monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('Welcome!', end=' ')")
    folders = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    expected = inspect(parts)
    monkeypatch.setattr(gate_process, "inspect_rows", None)
    counted = []
    assert start(parts)(lambda *count: counted.append(count)) == expected
    assert ("comparing", 100, 100) in counted
    assert [process.returncode for process in worth_it] == [0]


@pytest.fixture
def run_instead(worth_it, monkeypatch):
    """The process runs this code instead of the gate."""
    popen = gate_process.subprocess.Popen

    def choose(code):
        command = [sys.executable, "-c", code]
        monkeypatch.setattr(
            gate_process.subprocess, "Popen", lambda _, **options: popen(command, **options)
        )

    return choose


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(1)",
        "import os; os.kill(os.getpid(), 9)",
        "pass",
        "print('not a report')",
        "print(5)",
        "print('[' * 100_000)",
        "print('[\"comparing\", 3]')",
        "print('[\"comparing\", 3, 100]')",
        "print('[[1], 2, 3]')",
        "import sys; sys.stdout.buffer.write(b'[\\xff')",
    ],
)
def test_if_the_process_fails_the_rows_are_checked_here(parts, run_instead, code):
    run_instead(code)
    counted, finish = [], start(parts)
    assert finish(lambda *counts: counted.append(counts)) == inspect(parts)
    assert counted[-2:] == [("checks", 6, 7), ("checks", 7, 7)]


def test_how_far_the_process_is_is_told_once_while_it_works(
    parts, run_instead, tmp_path, monkeypatch
):
    """It goes on only once its first line was told, and then fails."""
    monkeypatch.setattr(gate_process, "_LEAST_SECONDS", 0.001)
    heard = tmp_path / "heard"
    run_instead(f"""
import pathlib, sys, time
sys.stdin.buffer.read()
print('Welcome! \\n["comparing", 30, 90]', flush=True)
for _ in range(6000):
    if pathlib.Path({str(heard)!r}).exists():
        break
    time.sleep(0.01)
print('["comparing", 90, 90]\\n["checks", 1, 2]', flush=True)
raise SystemExit(1)
""")
    counted = []

    def hear(*count):
        counted.append(count)
        if count == ("comparing", 30, 90):
            heard.touch()

    start(parts)(hear)
    assert counted[:4] == [
        ("comparing", 0, 100),
        ("comparing", 30, 90),
        ("comparing", 90, 90),
        ("checks", 1, 2),
    ]


def test_a_process_that_says_much_is_not_held_up(parts, worth_it, run_instead):
    """A pipe holds 64 kilobytes, and nobody waits for the report until the process has ended."""
    lines = "'[\"comparing\", %d, 20000]' % at for at in range(20_001)"
    run_instead(f"import sys; sys.stdin.buffer.read(); print(*({lines}), sep='\\n')")
    counted, finish = [], start(parts)
    assert worth_it[0].wait(60) == 0
    for thread in threading.enumerate():
        if "_talk" in thread.name:
            thread.join(60)
    finish(lambda *count: counted.append(count))
    assert counted[:2] == [("comparing", 0, 100), ("comparing", 20_000, 20_000)]


def test_the_process_says_how_far_it_is_before_it_reports(parts, monkeypatch, capsys):
    job = {
        "parts": {
            name: {field: getattr(rows, field) for field in gate_process._FIELDS}
            for name, rows in parts.items()
        },
        "is_split": False,
        "label_names": ["neg", "pos"],
        "skipped": [],
    }
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(job).encode())))
    monkeypatch.setattr(gate_process, "_LEAST_SECONDS", 0.0)
    gate_process._main()
    *counts, report = (json.loads(line) for line in capsys.readouterr().out.split("\n") if line)
    assert counts == [
        *(["comparing", done, 100] for done in (60, 80, 100)),
        *(["checks", done, 7] for done in range(8)),
    ]
    assert report["num_test"] == 20


def test_progress_is_written_at_once_a_few_times_a_second(monkeypatch):
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="utf-8"))
    seconds = iter([0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    monkeypatch.setattr(gate_process, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    write = gate_process._ProgressWriter()
    for done in range(7):
        write("checks", done, 6)
    written = [json.loads(line)[1] for line in pipe.getvalue().split(b"\n") if line]
    assert written == [0, 3, 6]


def test_if_no_process_can_be_started_the_rows_are_checked_here(parts, monkeypatch):
    def fail(*_arguments, **_options):
        raise OSError("no more processes")

    monkeypatch.setattr(gate_process, "_is_worth_it", lambda _parts: True)
    monkeypatch.setattr(gate_process.subprocess, "Popen", fail)
    assert start(parts)(lambda *_: None) == inspect(parts)


@pytest.mark.parametrize("executable", [None, ""])
def test_in_a_program_that_is_not_python_the_rows_are_checked_here(parts, monkeypatch, executable):
    monkeypatch.setattr(gate_process, "_is_worth_it", lambda _parts: True)
    monkeypatch.setattr(sys, "executable", executable)
    assert start(parts)(lambda *_: None) == inspect(parts)


def test_few_rows_and_too_much_text_need_no_process(monkeypatch):
    monkeypatch.setattr(gate_process, "count_cores", lambda: 2)
    many, few = make_part("train", 4000), make_part("train", 3999)
    assert gate_process._is_worth_it([many])
    assert gate_process._is_worth_it([few, few])
    assert not gate_process._is_worth_it([few])
    monkeypatch.setattr(gate_process, "_MOST_CHARACTERS", 1000)
    assert not gate_process._is_worth_it([many])
    monkeypatch.undo()
    monkeypatch.setattr(gate_process, "count_cores", lambda: 1)
    assert not gate_process._is_worth_it([many])


def test_a_process_whose_report_nobody_waits_for_ends_with_this_one(tmp_path):
    """A training that stops early leaves nothing behind."""
    code = """
from bertfit.data import gate_process
from bertfit.data.dataset import TextDataset
gate_process._is_worth_it = lambda parts: True
texts = [f"review {row} of a film that is told in many words" for row in range(200_000)]
rows = TextDataset("rows", texts, ["neg", "pos"] * 100_000, (), list(range(200_000)))
gate_process.start_inspection(
    {"train": rows}, is_split=False, label_names=("neg", "pos"), skipped=()
)
import gc
process = [one for one in gc.get_objects() if isinstance(one, gate_process._Process)][0]
print(process._process.pid)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(said.stdout), 0)


def test_if_no_thread_can_be_started_the_rows_are_checked_here(parts, worth_it, monkeypatch):
    def fail(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(gate_process.threading.Thread, "start", fail)
    assert start(parts)(lambda *_: None) == inspect(parts)
    assert [process.returncode for process in worth_it] == [-9]
