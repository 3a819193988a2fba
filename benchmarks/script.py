"""What all benchmarks share: checked folders, whole trainings, and errors as messages."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import RESULTS

from bertfit import train
from bertfit.errors import BertfitError
from bertfit.files import check_folders
from bertfit.workflow.training import TrainResult


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the option of the result's folder, which is refused before anything is measured."""
    parser.add_argument(
        "--output", type=writable_folder, default=RESULTS, help="Folder of the result."
    )


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """Add the option of a tokenizer instead of the embedded one."""
    parser.add_argument(
        "--tokenizer",
        type=tokenizer_folder,
        help="Folder of the tokenizer; the embedded model's by default.",
    )


def writable_folder(name: str) -> Path:
    """Return a folder that can be written to, or made; a type for argparse."""
    folder = Path(name)
    try:
        check_folders(folder / "result.json")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"nothing can be written there: {error}") from None
    return folder


def tokenizer_folder(name: str) -> Path:
    """Return a folder with a tokenizer; a type for argparse."""
    return _folder_with(name, "tokenizer.json", "a folder with a tokenizer")


def source_folder(name: str) -> Path:
    """Return a folder src/ with bertfit; a type for argparse.

    Python ignores a folder that is not there, and the present source would be measured twice.
    """
    return _folder_with(name, "bertfit/__init__.py", "the folder src/ of a checkout")


def _folder_with(name: str, file: str, what: str) -> Path:
    if not (Path(name) / file).is_file():
        raise argparse.ArgumentTypeError(f"{name} is not {what}: it has no {file}")
    return Path(name)


def train_to_the_end(
    rows: list[dict[str, str]],
    folder: Path,
    **settings: Any,  # noqa: ANN401 (as `train` takes them)
) -> TrainResult:
    """Call `bertfit.train`, and exit if a signal cut it short: it would be measured in part."""
    result = train(rows, folder, **settings)
    if result.outcome.interrupted:
        sys.exit("A training was interrupted; nothing is kept of what it was part of.")
    return result


def run_script(main: Callable[[], None]) -> None:
    """Run a benchmark; what it cannot work with ends it with a message."""
    try:
        main()
    except BertfitError as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(f"It ended with code {error.returncode}: {shlex.join(map(str, error.cmd))}")
