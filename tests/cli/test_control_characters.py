"""Control characters in data are escaped in the terminal; bertfit's own styles and bars work."""

from __future__ import annotations

import functools
import io
import json
import os
import pty
import shlex
import subprocess
import sys
import termios
import threading

import pytest
from rich.table import Table
from rich.text import Text

from bertfit.cli.main import main
from bertfit.cli.streams import VisibleStream, write_json
from bertfit.cli.terminal import Terminal, console, error_console

CLEAR, TITLE, BACK, C1, TURNED = "\x1b[2J", "\x1b]0;owned\x07", "\x08\x08", "\x9b1A", "\u202e\u2066"
STEERING = (CLEAR, TITLE, BACK, C1, *TURNED, "\r")
EVIL = f"po{CLEAR}{BACK}{C1}"
EVIL_SHOWN = r"po\x1b[2J\x08\x08\u009b1A"
EVIL_TEXT = f"good{TITLE} {TURNED}film\rLEAK"
EVIL_TEXT_SHOWN = r"good\x1b]0;owned\x07 \u202e\u2066film\x0dLEAK"
ARABIC, PERSIAN = "\u062c\u064a\u062f", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
HEBREW, JOINED = "\u200f\u05d8\u05d5\u05d1\u200e", "👩\u200d👩\u200d👧 🏳️\u200d🌈"
ORDINARY = f"{ARABIC} {PERSIAN} {HEBREW} {JOINED} :bug: [b]é[/b] 日本"


class Screen:
    """What arrives at a terminal, exactly as it was written."""

    end = b"<the end>"

    def __init__(self) -> None:
        self._reader, self.writer = pty.openpty()
        attributes = termios.tcgetattr(self.writer)
        attributes[1] &= ~termios.OPOST  # otherwise each line end gets a carriage return
        termios.tcsetattr(self.writer, termios.TCSANOW, attributes)
        self._read = bytearray()
        # Beside the writer, who would wait for a reader.
        self._thread = threading.Thread(target=self._read_all, daemon=True)
        self._thread.start()

    def _read_all(self) -> None:
        while not self._read.endswith(self.end):
            self._read += os.read(self._reader, 4096)

    def close(self) -> str:
        os.write(self.writer, self.end)
        self._thread.join(timeout=60)
        os.close(self.writer)
        os.close(self._reader)
        return self._read.removesuffix(self.end).decode("utf-8")


def run_on_terminal(monkeypatch, *arguments: object, exit_code: int = 0) -> str:
    """Run a command with a terminal for its output, and return what was shown."""
    screen = Screen()
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        patch.setenv("TERM", "xterm-256color")
        for name in ("stdout", "stderr"):
            stream = os.fdopen(os.dup(screen.writer), "w", encoding="utf-8", newline="")
            patch.setattr(sys, name, stream)
        patch.setattr(sys, "argv", ["bertfit", *map(str, arguments)])
        try:
            with pytest.raises(SystemExit) as stop:
                main()
        finally:
            sys.stdout.close()
            sys.stderr.close()
            shown = screen.close()
    assert int(stop.value.code or 0) == exit_code, shown
    return shown


@pytest.fixture
def show(monkeypatch):
    return functools.partial(run_on_terminal, monkeypatch)


def assert_harmless(shown: str) -> None:
    lines = shown.replace("\r\x1b[2K", "")  # a bar of rich's own, drawn anew
    assert [steering for steering in STEERING if steering in lines] == []


@pytest.fixture(scope="module")
def files(tmp_path_factory, write_csv):
    """Rows of which texts, one label, groups, kinds, a column and the file would steer."""
    path = tmp_path_factory.mktemp("evil") / f"re{CLEAR}views.csv"
    rows = []
    for number in range(80):
        is_good = number % 2 == 0
        text = f"{'good fine' if is_good else 'bad awful'} film {'plot ' * (number % 7)}"
        if number in {0, 2}:
            text = f"{EVIL_TEXT} {number}"
        label = EVIL if is_good != (number == 1) else "neg"
        kind = f"kind{TITLE}{number % 2}"
        rows.append({"text": text, "label": label, "kind": kind, f"co{BACK}l": "x"})
    write_csv(path, [*rows, rows[0]])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model_dir, files):
    """A run whose label names would steer, and all that its training wrote to a terminal."""
    run = tmp_path_factory.mktemp("trained") / f"ru{CLEAR}n"
    command = ["train", files, "--test", files, "--model", tiny_model_dir, "--output", run]
    command += ["--slice", "kind", "--set", "learning_rate=0.03"]
    options = "--epochs 6 --batch-size 8 --dtype float32"
    with pytest.MonkeyPatch.context() as patch:
        shown = run_on_terminal(patch, *command, *options.split())
    return run, shown


def test_a_training_shows_its_labels_and_findings_escaped(trained):
    run, shown = trained
    assert_harmless(shown)
    assert f"Labels: neg → 0, {EVIL_SHOWN} → 1." in shown
    log = (run / "train.log").read_text(encoding="utf-8")
    assert_harmless(log)
    assert EVIL_SHOWN in log


def test_check_shows_texts_and_names_escaped(show, files, tiny_model_dir):
    shown = show("check", files, "--model", tiny_model_dir, "--group-column", "kind")
    assert_harmless(shown)
    assert r"re\x1b[2Jviews.csv:" in shown
    assert EVIL_SHOWN in shown


def test_suspects_show_texts_and_labels_escaped(show, files):
    shown = show("suspects", files, "--folds", "3", "--top", "40")
    assert_harmless(shown)
    assert rf"line 3: {EVIL_SHOWN[:15]}" in shown


@pytest.mark.parametrize("options", [["--slice", "kind", "--errors", "40"], ["--json"]])
def test_evaluate_shows_tables_and_errors_escaped(show, trained, files, options):
    shown = show("evaluate", trained[0], files, *options)
    assert_harmless(shown)
    if "--slice" in options:
        assert r"kind: kind\x1b…ed\x070" in shown
        assert rf"is {EVIL_SHOWN[:14]}" in shown


def test_inspect_shows_label_names_escaped(show, trained):
    shown = show("inspect", trained[0])
    assert_harmless(shown)
    assert f"{EVIL_SHOWN} → 1" in shown


def test_predict_shows_label_and_text_escaped(show, trained):
    shown = show("predict", trained[0], EVIL_TEXT, "bad awful film", ORDINARY)
    assert_harmless(shown)
    first, second, third, *_ = shown.splitlines()
    assert first.startswith(f"{EVIL_SHOWN} (0.")
    assert first.endswith(f"\t{EVIL_TEXT_SHOWN}")
    assert second.endswith("\tbad awful film")
    assert third.endswith(f"\t{ORDINARY}")


def test_json_on_a_terminal_is_escaped_and_means_the_same(show, trained):
    shown = show("predict", trained[0], "--json", EVIL_TEXT + C1 + "\x7f", ORDINARY)
    assert_harmless(shown)
    assert "\x7f" not in shown
    rows = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert [row["text"] for row in rows] == [EVIL_TEXT + C1 + "\x7f", ORDINARY]
    assert EVIL in rows[0]["probabilities"]
    assert ORDINARY in shown


def test_files_hold_the_data_as_they_are(show, trained, files, tmp_path):
    show("predict", trained[0], "--file", files, "--output", tmp_path / "predictions.csv")
    assert EVIL_TEXT in (tmp_path / "predictions.csv").read_bytes().decode("utf-8")
    show("suspects", files, "--folds", "3", "--output", tmp_path / "suspects.csv")
    assert EVIL in (tmp_path / "suspects.csv").read_bytes().decode("utf-8")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "told"),
    [
        (["evaluate", f"no{EVIL}", "x.csv"], 5, f"Error: the run no{EVIL_SHOWN} does not exist"),
        (["check", f"no{CLEAR}.csv"], 3, r"no\x1b[2J.csv: no such file"),
        (["report", f"no{ORDINARY}"], 5, f"the run no{ORDINARY} does not exist"),
        ([f"tr{TURNED}ain"], 2, r"\u202e\u2066ain"),
        (["train", f"--ep{CLEAR}{TURNED}ochs"], 2, r"--ep\x1b[2J\u202e\u2066ochs"),
        (["check", "x.csv", f"more{C1}"], 2, "more"),
        (["suspects", "x.csv", "--top", f"{TURNED}1"], 2, "Invalid value"),
    ],
)
def test_errors_repeat_an_argument_escaped(show, arguments, exit_code, told):
    shown = show(*arguments, exit_code=exit_code)
    assert_harmless(shown)
    assert told in shown


def test_styles_are_obeyed_on_a_real_terminal():
    screen = Screen()
    environment = {"PATH": "", "TERM": "xterm-256color", "COLUMNS": "80"}
    command = [sys.executable, "-m", "bertfit", "train", "x.csv", "--output", "run"]
    command += ["--config", f"no{EVIL}\udcff.toml"]
    process = subprocess.run(
        [os.fsencode(argument) for argument in command],
        stdout=screen.writer,
        stderr=screen.writer,
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    shown = screen.close()
    assert process.returncode == 2, shown
    assert_harmless(shown)
    assert "\x1b[31mError: " in shown
    assert f"no{EVIL_SHOWN}\\udcff.toml" in shown


def draw(*printed: object, style: str | None = None, is_terminal: bool = True) -> str:
    file = io.StringIO()
    told = type(console)(
        file=file,
        force_terminal=is_terminal,
        color_system="truecolor" if is_terminal else None,
        no_color=False,
        width=40,
        markup=False,
        highlight=False,
        emoji=False,
    )
    told.print(*printed, style=style)
    return file.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_is_printed_is_escaped_in_every_shape(is_terminal):
    table = Table(CLEAR, title=TURNED, caption=C1)
    table.add_row(f"cell{CLEAR}", Text(f"text{C1}{TURNED}"))
    for printed in (f"line{CLEAR}{TITLE}", Text(f"text{CLEAR}", style="bold"), table):
        assert_harmless(draw(printed, is_terminal=is_terminal))


def test_a_cell_is_as_wide_as_it_is_shown():
    table = Table("name", "n")
    table.add_row(f"a{CLEAR}", "1")
    table.add_row("longer name", "2")
    lines = draw(table, is_terminal=False).splitlines()
    assert r"│ a\x1b[2J    │ 1 │" in lines
    assert {len(line) for line in lines} == {19}


def test_our_own_styles_newlines_and_tabs_stay():
    assert draw("a\nb", style="red") == "\x1b[31ma\x1b[0m\n\x1b[31mb\x1b[0m\n"
    assert draw("a\tb") == "a       b\n"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_ordinary_text_is_printed_as_it_is(is_terminal):
    told = draw(Text(ORDINARY[:20]), is_terminal=is_terminal)
    told += draw(ORDINARY[20:], is_terminal=is_terminal)
    assert told.replace("\n", "") == ORDINARY


def test_what_others_write_beside_a_bar_is_escaped(show, monkeypatch):
    def warn(*_args, **_options):
        print(f"a {CLEAR}link \x1b]8;;http://evil\x1b\\here", file=sys.stderr)  # noqa: T201 (as others do)
        raise KeyboardInterrupt

    monkeypatch.setattr("bertfit.data.imdb.prepare_imdb", warn)
    shown = show(*shlex.split("prepare imdb --source a --output b"), exit_code=130)
    assert_harmless(shown)
    assert r"a \x1b[2Jlink \x1b]8;;http://evil\x1b\here" in " ".join(shown.split())
    assert "\x1b[?25l" in shown  # the bar hides the cursor, and gives it back
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


class TerminalFile(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("file", "environment"),
    [(TerminalFile(), {"TERM": "dumb"}), (io.StringIO(), {"FORCE_COLOR": "1", "TERM": "xterm"})],
    ids=["dumb terminal", "file in colours"],
)
def test_where_no_bar_can_be_drawn_anew_lines_tell_of_progress(file, environment):
    """rich draws nothing where TERM is dumb, and hundreds of bars into a file under FORCE_COLOR."""
    told = type(console)(file=file, highlight=False, _environ=environment)
    assert told.is_terminal
    with Terminal(told) as terminal:
        terminal.progress("epoch 1/1", 3, 3, "loss")
    assert file.getvalue().removesuffix("\n") == "epoch 1/1: 3/3 loss"


def test_a_task_whose_progress_was_told_is_told_to_its_end(monkeypatch):
    """A log ended at "folds: 0/5" although all five were fitted."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    file = io.StringIO()
    with Terminal(type(console)(file=file, highlight=False)) as terminal:
        for seconds, task, done in (
            (1, "quick", 0),
            (2, "quick", 5),
            (12, "slow", 1),
            (13, "slow", 4),
            (14, "slow", 5),
            (15, "other", 5),
        ):
            now[0] = seconds
            terminal.progress(task, done, 5)
    assert file.getvalue().splitlines() == ["slow: 1/5", "slow: 5/5"]


def test_a_stream_is_what_it_was_but_for_what_it_writes():
    below = io.StringIO()
    stream = VisibleStream(below)
    stream.writelines(["a\n", f"{CLEAR}\n"])
    assert stream.write(CLEAR) == len(CLEAR)
    assert below.getvalue() == "a\n\\x1b[2J\n\\x1b[2J"
    assert not stream.isatty()
    assert not stream.closed


def test_the_terminal_below_a_bar_is_given_back(monkeypatch):
    before = sys.stdout, sys.stderr
    monkeypatch.setattr(type(error_console), "is_terminal", True)
    monkeypatch.setattr(type(error_console), "file", TerminalFile())
    with Terminal(error_console):
        assert isinstance(sys.stderr, VisibleStream)
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_valid_in_any_encoding_of_standard_output(monkeypatch, encoding, indent):
    """A stream writes what its encoding lacks as in Python, such as \\xe9, which JSON refuses."""
    written = io.BytesIO()
    below = io.TextIOWrapper(written, encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", VisibleStream(below))
    write_json({"text": f"café {ORDINARY}{C1}"}, indent=indent)
    below.flush()
    assert json.loads(written.getvalue().decode(encoding)) == {"text": f"café {ORDINARY}{C1}"}
    assert ("é".encode() in written.getvalue()) == (encoding == "utf-8")
