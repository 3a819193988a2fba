"""The folder of a run: a Hugging Face model folder with bertfit.json, which is written last.

A run is built in a separate folder next to its final place and moved there once complete. A run is
therefore either complete or absent, and an old one is replaced only by a finished new one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertfit.assets import find_model_path
from bertfit.errors import ModelError, RunError
from bertfit.files import (
    check_folders,
    find_free_names,
    is_part,
    make_readable,
    read_json,
    refuse_hidden,
    write_json,
)
from bertfit.killed_trainings import has_leftovers, tell_failed, tell_leftovers
from bertfit.leftovers import hold_folder, make_held_folder
from bertfit.places import check_replaceable, is_mounted
from bertfit.progress import Listener
from bertfit.record_entries import find_damaged_entry, refuse_huge_numbers
from bertfit.run_files import (
    CARD_NAME,
    RECORD_NAME,
    REPORT_NAME,
    STATE_NAME,
    WRITTEN_AFTER_TRAINING,
    digest_model,
    is_sealed,
    list_files,
    may_be_of_run,
)

FORMAT_VERSION = 1
_OVERWRITE_HINT = "Choose another --output, or add --overwrite."
_MOST_SHOWN = 3
_LONGEST_NAME = 234
"""Bytes, of the 255 that a name may have: a hidden name next to it adds 21."""
_WRITTEN_LATER = {CARD_NAME, REPORT_NAME, ".DS_Store"}
"""Files that `bertfit report` or a file manager may add to a run later."""


@dataclass(frozen=True, slots=True)
class Staging:
    """A run being built: work in `folder`, then `publish` it."""

    output: Path
    folder: Path
    overwrite: bool
    """Whether a run at `output` may be replaced."""
    hold: contextlib.ExitStack
    """The lock that marks `folder` as in use; closed when the work is over."""
    made: os.stat_result
    """Stat of `folder` when it was made. The lock keeps it open, so its inode is not reused."""

    def publish(self, record: Mapping[str, Any]) -> None:
        """Write bertfit.json and move the folder to its place, replacing a run there.

        Raises:
            RunError: Something that may not be replaced has appeared at `output`; the run is set
                aside. Or the folder was removed meanwhile.
        """
        if not self.is_intact():
            raise RunError(
                f"the folder in which the run was made, {self.folder}, was removed meanwhile",
                hint="What was in it is lost. Train again, and leave that folder alone.",
            )
        make_readable(self.folder)
        self.complete(record)
        (self.folder / STATE_NAME).unlink(missing_ok=True)
        try:
            refuse_existing(self.output, overwrite=self.overwrite)
        except RunError as error:
            raise RunError(
                f"{error.message}; it was not there when this began",
                hint=f"The finished run is in {self.set_aside()}; move it where you want it.",
            ) from None
        if self.output.exists():
            self._replace()
        else:
            self.folder.rename(self.output)
        self.hold.close()

    def complete(self, record: Mapping[str, Any]) -> None:
        """Write bertfit.json, with the names and digests of the files that are there."""
        present = {path.name for path in self.folder.iterdir()}
        found = {name for name in present if not is_part(name)} - {STATE_NAME}
        files = sorted({RECORD_NAME, *found})
        whole = {
            "format_version": FORMAT_VERSION,
            **record,
            "files": files,
            "sha256": digest_model(self.folder, files),
        }
        write_json(self.folder / RECORD_NAME, whole)

    def _replace(self) -> None:
        """Move the old run away, move the new one to its place, and remove the old one."""
        aside, hold = make_held_folder(self.output.parent, f".{self.output.name}.old-")
        old = aside / self.output.name
        with hold:
            try:
                self.output.rename(old)
                self.folder.rename(self.output)
            except (OSError, KeyboardInterrupt):
                if self.folder.exists() or not self.output.exists():
                    if old.exists() and not self.output.exists():
                        old.rename(self.output)
                    with contextlib.suppress(OSError):  # if it stays, it is reported as a leftover
                        aside.rmdir()
                    raise
            try:
                shutil.rmtree(aside, ignore_errors=True)
            except KeyboardInterrupt:  # too late: the new run is in its place
                shutil.rmtree(aside, ignore_errors=True)

    def is_intact(self) -> bool:
        """Return whether the folder is the one that was made, not a later one of the same name."""
        return self.folder.is_dir() and os.path.samestat(self.folder.stat(), self.made)

    def is_complete(self) -> bool:
        """Return whether all of the run has been written, and only its place is missing."""
        return (self.folder / RECORD_NAME).is_file()

    def holds_model(self) -> bool:
        """Return whether weights have been written."""
        return any(path.name != STATE_NAME for path in self.folder.glob("*.safetensors"))

    def holds_state(self) -> bool:
        """Return whether it has a state from which the training can go on."""
        return (self.folder / STATE_NAME).is_file()

    def leave(self) -> None:
        """Leave the folder as it is, for a training that goes on with it."""
        self.hold.close()

    def set_aside(self) -> Path:
        """Move the folder to a free name next to `output`, and return the new path.

        One that had been set aside before, and was adopted, keeps its name.
        """
        make_readable(self.folder)
        if not self.folder.name.startswith(f".{self.output.name}."):
            self.hold.close()
            return self.folder
        try:
            target = self.folder.rename(next(find_free_names(self.output, "unfinished")))
        except OSError:  # the disk takes nothing more, and the error that led here is told
            target = self.folder
        self.hold.close()
        return target

    def discard(self) -> None:
        """Remove the folder; `output` is untouched."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.hold.close()


def stage_run(output: Path, *, overwrite: bool) -> Staging:
    """Make the folder in which a run is built.

    Raises:
        RunError: `output` exists and may not be replaced, or cannot be written.
    """
    refuse_existing(output, overwrite=overwrite)
    try:
        # As given, with folders before a "..": without them the path would not lead to the run.
        output.parent.mkdir(parents=True, exist_ok=True)
        output = output.resolve()  # a symlink stays, and its target is replaced
        folder, hold = make_held_folder(output.parent, f".{output.name}.incomplete-")
    except OSError as error:
        raise RunError(f"the run folder {output} cannot be made: {error.strerror}") from None
    return Staging(output, folder, overwrite, hold, folder.stat())


def adopt_folder(folder: Path, output: Path, *, overwrite: bool) -> Staging:
    """Take over a folder in which a run was built, and that was left.

    Raises:
        RunError: Another process has it, or as in `stage_run`.
    """
    refuse_existing(output, overwrite=overwrite)
    hold = hold_folder(folder)
    if hold is None:
        raise RunError(
            f"another process has just gone on with the training in {folder}",
            hint="Wait for it, or choose another --output.",
        )
    for path in folder.iterdir():  # partial files, and what the run may have no more
        if (
            path.is_symlink()  # nothing that is written here is one
            or is_part(path.name)
            or path.name.startswith(".tmp")
            or path.name in WRITTEN_AFTER_TRAINING
        ):
            if path.is_dir() and not path.is_symlink():  # a model that was being written
                shutil.rmtree(path)
            else:
                path.unlink()
    return Staging(output.resolve(), folder, overwrite, hold, folder.stat())


def check_place(output: Path, *, overwrite: bool, listener: Listener, resume: bool = False) -> None:
    """Check that a run may be written to `output`; note what killed trainings left next to it.

    To `resume`, those that may go on are not noted.

    Raises:
        RunError: As for `refuse_existing`, or nothing can be written there.
    """
    refuse_existing(output, overwrite=overwrite)
    check_writable(output)
    # Not free: the new run will be there.
    for told in tell_leftovers(output, is_free=False, with_states=not resume):
        listener.note(told)


def check_writable(output: Path) -> None:
    """Check that a folder can be made at `output`.

    Raises:
        RunError: Nothing can be written there, what is there cannot be replaced, or the path is not
            UTF-8 or has too long a name.
    """
    try:
        check_folders(output.resolve() if output.exists() else output)
        place = output.resolve()
        if place.exists():
            check_replaceable(place)
    except OSError as error:
        raise RunError(f"the run folder {output} cannot be made: {error.strerror}") from None
    # The libraries that save models and tokenizers take no other path.
    if os.fsencode(place) != str(place).encode("utf-8", "surrogatepass"):
        problem, hint = "the path is not UTF-8", "Rename its folders, or choose another --output."
    elif len(os.fsencode(place.name)) > _LONGEST_NAME:
        problem = f"expected a name of at most {_LONGEST_NAME} bytes"
        hint = "Choose another --output."
    else:
        return
    raise RunError(f"the run folder {output} cannot be made: {problem}", hint=hint)


def refuse_existing(output: Path, *, overwrite: bool, hint: str = _OVERWRITE_HINT) -> None:
    """Check that a run may be written to `output`, which may be an empty folder.

    Args:
        output: Folder of the run to make.
        overwrite: Whether an existing run may be replaced.
        hint: What to do if it may not.

    Raises:
        RunError: `output` is a run and `overwrite` is off, is not a run, cannot be moved away, or
            holds files that bertfit did not write.
    """
    is_there = output.exists()
    if not is_there and not output.is_symlink():
        return
    if not is_there:
        raise RunError(
            f"{output} is a link to {output.readlink()}, which does not exist",
            hint="Make that folder, or choose another --output.",
        )
    if is_mounted(output.resolve()):
        raise RunError(
            f"{output} is a mount point, which a run cannot replace",
            hint="Name a folder in it as --output.",
        )
    if output.resolve() == Path.cwd():
        raise RunError(
            f"the run would take the place of the current folder, {Path.cwd()}",
            hint="Name a folder in it as --output.",
        )
    if output.is_dir() and not any(output.iterdir()):
        return
    if not (output / RECORD_NAME).is_file():
        raise RunError(
            f"{output} exists and is not a run of bertfit; it will not be replaced",
            hint="Choose another --output.",
        )
    if not overwrite:
        raise RunError(f"a run exists in {output}", hint=hint)
    foreign = _find_foreign(output)
    if foreign:
        shown = ", ".join(foreign[:_MOST_SHOWN]) + (" …" if len(foreign) > _MOST_SHOWN else "")
        raise RunError(
            f"{output} holds files that this version of bertfit did not write as they are, and "
            f"would lose them: {shown}",
            hint="Move them away, or choose another --output.",
        )


def _tell_of_model(folder: Path) -> str:
    """Return what a folder without a record may be used for, if it holds a model."""
    if any(folder.glob("*.safetensors")) and not (folder / STATE_NAME).exists():
        return "It is the folder of a model. If that is a classifier, evaluate and predict read it."
    return ""


def _find_foreign(run: Path) -> list[str]:
    """Return the names in a run that its record does not list, or that no run has if it lists none.

    A run has no folders in it.
    """
    found = {path.name: path.is_dir() for path in run.iterdir() if not is_part(path.name)}
    known = list_files(run)
    if known is None:  # damaged, or not bertfit's
        known = [name for name in found if may_be_of_run(name)]
    foreign = {
        name
        for name, is_folder in found.items()
        if is_folder or not (name in known or name in _WRITTEN_LATER)
    }
    card = run / CARD_NAME
    if card.is_file() and not is_sealed(card.read_bytes()):
        foreign.add(CARD_NAME)  # edited, of another hand, or of an early version
    return sorted(foreign)


@contextlib.contextmanager
def telling_of_unfinished(model: str) -> Iterator[None]:
    """Tell of what a killed training left, if a model is not found that it was making.

    Raises:
        RunError: It is not; the hint tells what was left.
    """
    try:
        yield
    except ModelError:
        place = find_model_path(model)
        if place and not place.exists() and has_leftovers(place):
            read_record(place)
        raise


def read_record(run: Path) -> dict[str, Any]:
    """Return the content of a run's bertfit.json.

    Raises:
        RunError: The folder is missing, is not a run, is incomplete, damaged or of another format.
    """
    path = run / RECORD_NAME
    if run.is_file():
        raise RunError(f"{run} is a file; the folder of a run was expected")
    if not run.is_dir():
        refuse_hidden(run)
        told = [*tell_leftovers(run, is_free=not run.exists()), *tell_failed(run)]
        hint = "\n".join(told) or "bertfit train makes one."
        raise RunError(f"the run {run} does not exist", hint=hint)
    try:
        record = read_json(path)
        refuse_huge_numbers(record)
    except FileNotFoundError:
        hint = "\n".join(tell_leftovers(run, is_free=False)) or _tell_of_model(run)
        raise RunError(
            f"{run} is not a complete run: it has no {RECORD_NAME}",
            hint=hint or "A run that was killed before its end has none; train it again.",
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    version = record.get("format_version") if isinstance(record, dict) else None
    if version != FORMAT_VERSION:
        raise RunError(
            f"{path} has format {version!r}, expected {FORMAT_VERSION}",
            hint="It was written by another version of bertfit.",
        )
    if (damaged := find_damaged_entry(record)) is not None:
        raise RunError(
            f"{path} is damaged: its entry {damaged[0]!r} is {damaged[1]!r}",
            hint="It was changed. Restore the file, or train again.",
        )
    checked: dict[str, Any] = record
    return checked
