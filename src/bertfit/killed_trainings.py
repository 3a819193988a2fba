"""What trainings that were killed, or failed, left next to the place of a run, and how to use it.

Nothing is removed by itself: a folder may hold hours of training.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from bertfit.files import find_free_names
from bertfit.leftovers import find_leftovers, may_be_held, measure_folder
from bertfit.run_files import STATE_NAME, is_whole
from bertfit.wording import quote_path

_UNFINISHED = r"\.unfinished(?:-(\d+))?"
"""Pattern of what the name of a run is followed by where a failed training was kept."""
_MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
"""Files that a folder needs to be loaded as a plain model."""


@dataclass(frozen=True, slots=True)
class _Leftover:
    """What a killed training left next to the place of its run."""

    folder: Path
    """Hidden, and not locked by any process."""
    what: str
    content: Path | None
    """What is worth keeping: a complete run, or a model that can be loaded."""
    is_run: bool

    def tell(self, keep_as: Path) -> str:
        """Return a description with the commands that keep or remove it."""
        size = max(measure_folder(self.folder) / 1e6, 0.1)
        folder = quote_path(self.folder)
        lines = [
            f"A training that was killed left {self.folder} ({size:,.1f} MB): {self.what}. "
            "No process on this machine is using it. "
            + ("To remove it:" if self.content is None else "To keep it, or to remove it:")
        ]
        if self.content is not None:
            move = f"  mv {quote_path(self.content)} {quote_path(keep_as)}"
            lines.append(move if self.content == self.folder else f"{move} && rmdir {folder}")
        lines.append(f"  rm -r {folder}")
        if (self.folder / STATE_NAME).is_file():
            lines.append("To go on with the training, add --resume to the command that began it.")
        return "\n".join(lines)


def has_leftovers(run: Path) -> bool:
    """Return whether trainings that ended early left something next to the place of a run."""
    return bool(tell_leftovers(run, is_free=False) or tell_failed(run))


def tell_failed(output: Path) -> list[str]:
    """Return what trainings that failed left next to `output`, finished runs first."""
    output = _follow(output)
    name = re.compile(re.escape(output.name) + _UNFINISHED)
    folders: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        found = ((name.fullmatch(folder.name), folder) for folder in output.parent.iterdir())
        folders = sorted((int(one[1] or 1), folder) for one, folder in found if one is not None)
    runs, models, states = list[str](), list[str](), list[str]()
    for _, folder in folders:
        if may_be_held(folder):  # a training goes on in it
            continue
        if is_whole(folder):
            runs.append(f"A training that failed kept a finished run in {folder}.")
        elif _holds_model(folder):
            models.append(
                f"A training that failed kept its model in {folder}, which predict can read."
            )
        if (folder / STATE_NAME).is_file():
            states.append(
                f"The state of a training that failed is in {folder}: the command that began it "
                "goes on with --resume."
            )
    return [*runs, *models, *states]


def tell_leftovers(output: Path, *, is_free: bool, with_states: bool = True) -> list[str]:
    """Return descriptions of what killed trainings left next to `output`.

    Args:
        output: Where their runs would have been.
        is_free: Whether a run may be moved there.
        with_states: Also of trainings that may go on.
    """
    output = _follow(output)
    told = []
    for kind, look_at, name in (
        ("old", _look_at_old, "old"),
        ("incomplete", _look_at_incomplete, "unfinished"),
    ):
        free_names = find_free_names(output, name)
        for folder in find_leftovers(output.parent, f".{output.name}.{kind}-"):
            if not with_states and (folder / STATE_NAME).is_file():
                continue
            leftover = look_at(folder, output)
            takes_place = is_free and leftover.is_run
            needs_name = leftover.content is not None and not takes_place
            told.append(leftover.tell(next(free_names) if needs_name else output))
            is_free = is_free and not takes_place
    return told


def _follow(output: Path) -> Path:
    """Return the place itself if `output` is a link, or has no name of its own."""
    if output.is_symlink() or output.name in {"", ".."}:
        return Path(os.path.realpath(output))  # for a loop of links, pathlib raises an error
    return output


def find_states(output: Path) -> tuple[list[Path], list[Path]]:
    """Return the states of trainings next to the place of a run, the newest first.

    Those that were killed left them in a hidden folder, and those that failed in RUN.unfinished.

    Returns:
        Those that were left, and those whose folder is in use, or may be.
    """
    output = _follow(output)
    name = re.escape(output.name)
    holds = re.compile(rf"\.{name}\.incomplete-[a-z0-9_]+|{name}{_UNFINISHED}")
    states: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError):
        for folder in output.parent.iterdir():
            if holds.fullmatch(folder.name):
                with contextlib.suppress(OSError):  # it has none, or was just removed
                    states.append(((folder / STATE_NAME).stat().st_mtime, folder / STATE_NAME))
    newest_first = [path for _, path in sorted(states, reverse=True)]
    held = [path for path in newest_first if may_be_held(path.parent)]
    return [path for path in newest_first if path not in held], held


def _look_at_old(folder: Path, output: Path) -> _Leftover:
    """Describe a folder to which an old run was moved while a new one took its place."""
    run = folder / output.name
    if is_whole(run):
        return _Leftover(folder, f"the run that stood in {output} before", run, is_run=True)
    return _Leftover(folder, "the rest of a run that was replaced", None, is_run=False)


def _holds_model(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _MODEL_FILES)


def _look_at_incomplete(folder: Path, _output: Path) -> _Leftover:
    """Describe a folder in which a run was built."""
    if is_whole(folder):
        return _Leftover(folder, "a complete run, not yet moved to its place", folder, is_run=True)
    if _holds_model(folder):
        what = "the model of its best epoch so far, which predict and evaluate can read"
        return _Leftover(folder, what, folder, is_run=False)
    return _Leftover(folder, "it holds no model that can be loaded", None, is_run=False)
