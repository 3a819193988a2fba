"""The command `bertfit`: its verbs, each loaded when it is called."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bertfit.cli import check, compare, evaluate, inspect, predict, prepare, report, suspects, train
from bertfit.cli import demo as demo_command
from bertfit.cli import import_ as import_command
from bertfit.cli import settings as settings_command
from bertfit.cli.signals import hear_signals
from bertfit.cli.streams import guard_streams
from bertfit.cli.unknown_options import Verb

app = typer.Typer(
    name="bertfit",
    help="Turn labelled text into a BERT classifier that you can trust.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
_VERBS: Mapping[str, Callable[..., None]] = {
    "demo": demo_command.demo,
    "prepare": prepare.prepare,
    "check": check.check,
    "inspect": inspect.inspect,
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "compare": compare.compare,
    "suspects": suspects.suspects,
    "report": report.report,
    "predict": predict.predict,
    "import": import_command.import_,
    "settings": settings_command.settings,
}
for _name, _verb in _VERBS.items():
    app.command(_name, cls=Verb)(_verb)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"bertfit {metadata.version('bertfit')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Turn labelled text into a BERT classifier that you can trust."""
    _check_python()
    _check_current_folder()


def _check_python() -> None:
    """Refuse to run without docstrings, where transformers cannot define its models."""
    if sys.flags.optimize >= 2:
        from bertfit.errors import BertfitError

        raise BertfitError(
            "Python runs without docstrings (PYTHONOPTIMIZE=2 or -OO), and transformers needs them",
            hint="Unset PYTHONOPTIMIZE, or set it to 1.",
        )


def _check_current_folder() -> None:
    """Refuse to work in a folder that was removed, where torch's libraries end the process."""
    try:
        Path.cwd()
    except FileNotFoundError:
        from bertfit.errors import BertfitError

        raise BertfitError(
            "the current folder does not exist any more", hint="Change to another one (cd)."
        ) from None


def _find_hidden_cause(end: SystemExit) -> BaseException | None:
    """Return the Ctrl-C or broken pipe that typer turned into a bare exit code, if any."""
    cause: BaseException | None = end
    while cause is not None and not isinstance(cause, (KeyboardInterrupt, BrokenPipeError)):
        cause = cause.__cause__ or cause.__context__
    return cause


def _prepare_process() -> None:
    """Hear signals; make all characters printable and escaped."""
    hear_signals()
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115 (stays open)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    guard_streams()
    columns = os.environ.get("COLUMNS", "")
    if columns and not columns.strip("0"):  # rich would print nothing
        del os.environ["COLUMNS"]
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # libraries ask for it as they are imported; few commands use it
        tempfile.tempdir = str(Path(os.sep, "tmp"))


def _run_command() -> None:
    """Run the command; at its end, output that cannot be written is an error like any other."""
    try:
        app(prog_name="bertfit")
    except SystemExit as end:
        if not end.code:  # the message of an error tells more
            sys.stdout.flush()
        raise


def main() -> None:
    """Run the command line; every error becomes a message and an exit code."""
    # Progress bars of transformers, datasets and the hub would break bertfit's.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ["MPLBACKEND"] = "agg"  # nothing is shown; another might not be known
    # From 3.13 on Python colours tracebacks, and `guard_streams` would escape the codes.
    os.environ["PYTHON_COLORS"] = "0"
    _prepare_process()
    try:
        _run_command()
    except SystemExit as end:
        cause = _find_hidden_cause(end)
        if cause is None:
            raise
        _end_with(cause)
    except Exception as error:  # noqa: BLE001 (outermost handler: unknown errors are raised again)
        _end_with(error)


def _end_with(error: BaseException) -> NoReturn:
    try:
        from bertfit.cli.terminal import exit_code_of

        code = exit_code_of(error)
    except MemoryError:  # not even the import of what shows a message
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"Error: out of memory.\n")
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
