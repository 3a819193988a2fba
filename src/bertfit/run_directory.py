"""The folder of a run: a Hugging Face model folder with bertfit.json, which is written last.

A run is made in a folder of its own beside its place and moved there when it is whole, so that a
run is either complete or not there, and an old one is replaced only by a finished new one.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from bertfit.errors import RunError
from bertfit.files import make_readable, write_json

RECORD_NAME = "bertfit.json"
BASELINES_NAME = "baselines.json"
FORMAT_VERSION = 1
_ENTRIES = {"label_names": list, "encoding": dict, "settings": dict, "training": dict}
"""What the verbs read of bertfit.json, where it is there."""
_MOST_SHOWN = 3
_WRITTEN_LATER = {"README.md", "report.html", ".DS_Store"}
"""What `bertfit report` adds to a run that had none, and what a file manager does."""
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "safetensors")


@dataclass(frozen=True, slots=True)
class Staging:
    """A run in the making: work in `folder`, then `publish` it."""

    output: Path
    folder: Path
    overwrite: bool
    """Whether a run that stands at `output` may be replaced."""

    def publish(self, record: Mapping[str, Any]) -> None:
        """Write bertfit.json and move the folder to its place, replacing a run that stood there.

        Raises:
            RunError: Something has come to stand at `output` that may not be replaced; the run is
                set aside.
        """
        make_readable(self.folder)
        files = sorted({RECORD_NAME, *(path.name for path in self.folder.iterdir())})
        whole = {"format_version": FORMAT_VERSION, **record, "files": files}
        write_json(self.folder / RECORD_NAME, whole)
        try:
            refuse_existing(self.output, overwrite=self.overwrite)
        except RunError as error:
            raise RunError(
                f"{error.message}; it was not there when this began",
                hint=f"The finished run is in {self.set_aside()}; move it where it shall stand.",
            ) from None
        if not self.output.exists():
            self.folder.rename(self.output)
            return
        prefix = f".{self.output.name}.old-"
        aside = Path(tempfile.mkdtemp(prefix=prefix, dir=self.output.parent))
        old = self.output.rename(aside / self.output.name)
        try:
            self.folder.rename(self.output)
        except OSError:
            old.rename(self.output)
            aside.rmdir()
            raise
        shutil.rmtree(aside, ignore_errors=True)

    def holds_model(self) -> bool:
        """Return whether weights have been written."""
        return any(self.folder.glob("*.safetensors"))

    def set_aside(self) -> Path:
        """Move the folder to a free name beside the output place, and return it."""
        numbers = itertools.count(2)
        target = self.output.with_name(f"{self.output.name}.unfinished")
        while target.exists():
            target = self.output.with_name(f"{self.output.name}.unfinished-{next(numbers)}")
        make_readable(self.folder)
        return self.folder.rename(target)

    def discard(self) -> None:
        """Remove the folder; the output place is untouched."""
        shutil.rmtree(self.folder, ignore_errors=True)


def stage_run(output: Path, *, overwrite: bool) -> Staging:
    """Make the folder in which a run is built.

    Raises:
        RunError: Something stands at `output` and may not be replaced, or it cannot be written.
    """
    refuse_existing(output, overwrite=overwrite)
    output = output.resolve()  # a link stays, and what it leads to is replaced
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(prefix=f".{output.name}.incomplete-", dir=output.parent)
    except OSError as error:
        raise RunError(f"the run folder {output} cannot be made: {error.strerror}") from None
    return Staging(output, Path(name), overwrite)


def refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Check that a run may be written to `output`, which may be an empty folder.

    Raises:
        RunError: A run stands there and `overwrite` is off, or something that is not a run does, or
            it is the current folder, or holds files of somebody else.
    """
    if not output.exists() and not output.is_symlink():
        return
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
        raise RunError(
            f"a run exists in {output}", hint="Choose another --output, or add --overwrite."
        )
    foreign = _find_foreign(output)
    if foreign:
        shown = ", ".join(foreign[:_MOST_SHOWN]) + (" …" if len(foreign) > _MOST_SHOWN else "")
        raise RunError(
            f"{output} holds what bertfit did not write, and would lose it: {shown}",
            hint="Move it away, or choose another --output.",
        )


def _find_foreign(run: Path) -> list[str]:
    """Return the names in a run that its record does not have, where that has any."""
    try:
        known = json.loads((run / RECORD_NAME).read_text(encoding="utf-8")).get("files")
    except (OSError, ValueError, AttributeError):
        return []
    if not isinstance(known, list):
        return []
    return sorted({path.name for path in run.iterdir()} - {*map(str, known)} - _WRITTEN_LATER)


def read_record(run: Path) -> dict[str, Any]:
    """Return the content of a run's bertfit.json.

    Raises:
        RunError: The folder is missing, is not a run, is incomplete or of a newer format.
    """
    path = run / RECORD_NAME
    if not run.is_dir():
        raise RunError(f"the run {run} does not exist", hint="bertfit train makes one.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{run} is not a complete run: it has no {RECORD_NAME}",
            hint="A run that was killed before its end has none; train it again.",
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    version = record.get("format_version") if isinstance(record, dict) else None
    if version != FORMAT_VERSION:
        raise RunError(
            f"{path} has format {version!r}, expected {FORMAT_VERSION}",
            hint="It was written by another version of bertfit.",
        )
    for name, kind in _ENTRIES.items():
        if not isinstance(record.get(name, kind()), kind):
            raise RunError(
                f"{path} is damaged: its entry {name!r} is {record.get(name)!r}",
                hint="It was changed. Restore the file, or train again.",
            )
    checked: dict[str, Any] = record
    return checked


def is_run(path: Path) -> bool:
    """Return whether `path` is a folder with a bertfit.json."""
    return (path / RECORD_NAME).is_file()


def describe_environment() -> dict[str, Any]:
    """Return versions and hardware, as they are recorded in a run."""
    return {
        "versions": {
            "bertfit": metadata.version("bertfit"),
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES},
        },
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor_name(),
            "num_cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "system": platform.system(),
        },
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
