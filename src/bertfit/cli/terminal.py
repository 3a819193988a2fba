"""What the commands share: the terminal, progress bars, errors as messages and exit codes."""

from __future__ import annotations

import contextlib
import errno
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import IO, Any, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from bertfit.cli.streams import discard_output, guard_streams
from bertfit.errors import (
    BertfitError,
    ConfigError,
    Fault,
    MissingDependencyError,
    WorkLeft,
    find_first_line,
    is_out_of_memory,
    tell_faults,
)
from bertfit.reporting.control_characters import escape_controls
from bertfit.wording import format_count

_TABLE_WIDTH = 80
"""Columns into which every table fits."""
_ADVICE_ON_GPU = (
    "Run the command again; a training goes on with --resume, if it saved a state. If it fails "
    "again, --set fast_path=off trains without bertfit's own kernels, and --device cpu without "
    "the GPU."
)
_ADVICE_ON_IMPORT = (
    "Install bertfit and what it needs again, or mend the environment variable that this is about."
)
_OPTIONS = {
    "abstain_below": "--abstain-below",
    "device": "--device",
    "dtype": "--dtype",
    "encoding": "--encoding",
    "group column": "--group-column",
    "kept columns": "--keep",
    "label column": "--label-column",
    "label_names": "--label-names",
    "max_length": "--max-length",
    "num_folds": "--folds",
    "num_heads": "--num-heads",
    "num_labels": "--num-labels",
    "num_seeds": "--seeds",
    "num_tokens": "--num-tokens",
    "on_bad_row": "--on-bad-row",
    "output": "--output",
    "output_dir": "--output",
    "run and columns.group": "--with and --group-column",
    "run and num_folds": "--with and --folds",
    "run and seed": "--with and --seed",
    "seed": "--seed",
    "slices": "--slice",
    "source": "--source",
    "text column": "--text-column",
}
"""Names of arguments, as messages begin with, and of the options of commands."""


class _CarefulConsole(Console):
    """Shows control characters escaped, and survives a closed pipe."""

    @property
    def file(self) -> IO[str]:
        """The innermost stream, unescaped: styles and bars need their control characters."""
        file = super().file
        while hasattr(file, "rich_proxied_file"):
            file = file.rich_proxied_file
        return file

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 (as rich has them)
        """Escape a string before rich drops some characters and measures the rest."""
        return super().render_str(escape_controls(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Escape what was not a string, except rich's own control codes.

        Tables keep their width if the terminal is narrower, which then wraps their lines: rich
        would cut off numbers. A table with a `min_width` of its own shrinks to that. Bars are
        grids, without box and header, and shrink. In a pipe or a file, no line is padded.
        """
        options = options or self.options
        is_stripped = not self.is_terminal  # a bar, which is drawn on one, has a width
        if isinstance(renderable, Table) and (renderable.box or renderable.show_header):
            least = renderable.min_width or _TABLE_WIDTH
            options = options.update(max_width=max(options.max_width, least))
            is_stripped = True
        segments = super().render(renderable, options)
        if is_stripped:
            segments = _strip_lines(segments)
        for segment in segments:
            shown = segment.text if segment.control else escape_controls(segment.text)
            yield segment if shown == segment.text else segment._replace(text=shown)

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401 (as rich has them)
        """Print without cropping, so that a narrow terminal wraps the lines of a table."""
        super().print(*objects, **{"crop": False, **options})

    def on_broken_pipe(self) -> None:
        """Discard all further output, and let the work go on."""
        self.quiet = True
        discard_output(self.file)


def _strip_lines(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Yield segments without the spaces at line ends, which would wrap to lines of their own."""
    spaces: list[Segment] = []
    for segment in segments:
        inner = re.sub(r" +(?=\n)", "", segment.text)
        text = inner.rstrip(" ")
        if text.startswith("\n"):
            spaces.clear()
        elif text:
            yield from spaces
            spaces.clear()
        if text:
            yield segment._replace(text=text)
        if text != inner:
            spaces.append(segment._replace(text=inner[len(text) :]))
    yield from spaces  # the line may go on in another renderable


# Brackets in names of files or classes are not markup, and words between colons are not emoji.
console: Console = _CarefulConsole(highlight=False, markup=False, emoji=False, stderr=False)
error_console: Console = _CarefulConsole(highlight=False, markup=False, emoji=False, stderr=True)

_BAR_WIDTH = 16
_QUIET_SECONDS = 10.0
_MOST_SKIPPED_SHOWN = 20


class Terminal:
    """A listener that prints notes and shows progress with the remaining time.

    A terminal shows a bar; in a pipe or a file, and on a terminal that cannot redraw a line, a line
    is written from time to time. If nothing can be written any more (a full disk, a closed
    terminal), the work goes on silently.
    """

    def __init__(self, out: Console) -> None:
        """Write to `out`."""
        self._console = out
        # rich draws no bar if TERM is dumb, and draws one to a file if FORCE_COLOR is set.
        self._is_drawing = out.is_terminal and not out.is_dumb_terminal and out.file.isatty()
        self._bars: dict[str, TaskID] = {}
        self._last_line = time.monotonic()
        self._told: str | None = None
        """The task of the last line that was written; its end is told too."""
        self._failure: OSError | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=_BAR_WIDTH),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=out,
        )

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._is_drawing:
            with self._outlived():
                self._progress.start()
            # Other output is now redirected through rich, which would interpret colours and links
            # in it.
            guard_streams()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop drawing; unfinished bars are removed.

        Raises:
            BertfitError: Standard output could not be written, and this was not reported yet.
        """
        with self._outlived():
            if self._is_drawing:
                for task in self._bars.values():
                    self._progress.remove_task(task)
                self._progress.stop()
        if kind is None and self._failure is not None and not self._console.stderr:
            raise BertfitError(
                f"standard output could not be written: {self._failure.strerror}",
                hint="The work was done all the same; only its messages are lost.",
            )

    @contextlib.contextmanager
    def _outlived(self) -> Iterator[None]:
        """Go on silently if the console cannot be written to."""
        try:
            yield
        except OSError as error:
            self._failure = self._failure or error
            self._console.on_broken_pipe()

    def note(self, text: str) -> None:
        """Print a sentence; indented lines are commands to copy, and are not wrapped."""
        style = "bold yellow" if text.startswith("WARNING") else None
        with self._outlived():
            for line in text.split("\n"):
                self._console.print(line, style=style, soft_wrap=line.startswith("  "))

    def progress(self, task: str, done: int, total: int | None, detail: str = "") -> None:
        """Move the bar of `task`."""
        with self._outlived():
            self._show_progress(task, done, total, detail)

    def _show_progress(self, task: str, done: int, total: int | None, detail: str) -> None:
        if not self._is_drawing:
            self._write_line(task, done, total, detail)
            return
        if task not in self._bars:
            self._bars[task] = self._progress.add_task(task, total=total, detail=detail)
        bar = self._bars[task]
        self._progress.update(bar, completed=done, total=total, detail=detail)
        if total is not None and done >= total:
            self._finish(task, bar)

    def _finish(self, task: str, bar: TaskID) -> None:
        # A note says how a task ended; its bar is not needed any more.
        self._progress.remove_task(bar)
        del self._bars[task]

    def _write_line(self, task: str, done: int, total: int | None, detail: str) -> None:
        now = time.monotonic()
        is_end = total is not None and done >= total
        is_told_end = is_end and (task.startswith("epoch") or task == self._told)
        if is_told_end or now - self._last_line >= _QUIET_SECONDS:
            self._last_line = now
            self._told = None if is_end else task
            of_total = "" if total is None else f"/{total}"
            self._console.print(f"{task}: {done}{of_total} {detail}".rstrip())


def show_skipped(out: Console, faults: Sequence[Fault]) -> None:
    """Print the number of skipped rows and the first of them."""
    if not faults:
        return
    out.print(f"Skipped {format_count(len(faults), 'bad row')}:", style="yellow")
    told, num_more = tell_faults(faults, _MOST_SKIPPED_SHOWN)
    for line in told:
        out.print(f"  {line}", soft_wrap=True)
    if num_more:
        out.print(f"  … and {num_more:,} more")


def exit_code_of(error: BaseException) -> int:
    """Print an error as a message, without a traceback, and return the exit code."""
    if isinstance(error, BertfitError):
        told = _name_options(str(error)) if isinstance(error, ConfigError) else str(error)
        _tell(f"Error: {told}", style="red", soft_wrap=True)
        return error.exit_code
    if isinstance(error, WorkLeft):
        _tell(f"Interrupted; {error}.", soft_wrap=True)
        return 130
    if isinstance(error, KeyboardInterrupt):
        _tell("Interrupted; nothing half-made was left behind.")
        return 130
    if isinstance(error, BrokenPipeError):
        # The reader of the pipe (such as head) has exited: stop quietly, as other tools do.
        discard_output(sys.stdout)
        return 0
    if is_out_of_memory(error):
        _tell(
            "Error: out of memory. In training, lower --set micro_batch_tokens=…, batch_size or "
            "max_length; else close other programs, or split the file.",
            style="red",
        )
        _tell_notes(error)
        return 1
    if type(error).__name__ == "AcceleratorError":  # torch's, which need not be imported here
        told = f"Error: the GPU cannot go on: {find_first_line(error)}\n{_ADVICE_ON_GPU}"
        _tell(told, style="red", soft_wrap=True)
        _tell_notes(error)
        return 1
    if isinstance(error, OSError):
        _tell(f"Error: {_explain_os_error(error)}", style="red", soft_wrap=True)
        _tell_notes(error)
        return 1
    package = _find_broken_package(error)
    if package is None:
        raise error
    told = f"{package} cannot be imported: {type(error).__name__}: {find_first_line(error)}"
    _tell(f"Error: {told}\n{_ADVICE_ON_IMPORT}", style="red", soft_wrap=True)
    return MissingDependencyError.exit_code


def _tell_notes(error: BaseException) -> None:
    """Tell what was added to an error, such as what was kept."""
    for note in getattr(error, "__notes__", ()):
        _tell(note, soft_wrap=True)


def _find_broken_package(error: BaseException) -> str | None:
    """Return the package of others that an error comes from, if it failed while it was imported."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if frame.f_code.co_name == "<module>" and package not in {"bertfit", "__main__"}:
            return package
    return error.name if isinstance(error, ModuleNotFoundError) else None


def _name_options(told: str) -> str:
    """Return a message about arguments of a Python function with the names of their options."""
    names, colon, problem = told.partition(": ")
    told = ", ".join(_OPTIONS.get(name, name) for name in names.split(", "))
    return f"{told}{colon}{problem}"


def _tell(text: str, *, style: str | None = None, soft_wrap: bool = False) -> None:
    """Print to standard error; if that fails, only the exit code tells of the error."""
    try:
        error_console.print(text, style=style, soft_wrap=soft_wrap)
    except OSError:
        error_console.on_broken_pipe()


def _explain_os_error(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        if error.filename is None:  # standard output, for example
            return (
                "the disk is full; free some space first. If the output of this command goes to a "
                "file, that file is incomplete."
            )
        if getattr(error, "__notes__", ()):  # they tell what was left
            return f"the disk is full{place}; free some space first."
        return f"the disk is full{place}. No half-written file was left; free some space first."
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"no permission to write or read{place}: {error.strerror}."
    if error.errno == errno.ENOTDIR and error.filename:
        return f"{error.filename} is a file; a folder was expected there."
    return f"{error.strerror or error}{place}."
