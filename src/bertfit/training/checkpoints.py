"""The state of a training on disk, from which a training that was killed goes on.

It is one file, replaced as a whole: weights, moments of AdamW, random numbers, the scores so far
and the steps of the epoch that had begun. Rows, their order and the learning rates are not in it:
they follow from the data and the settings, by which a state is known again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertfit.errors import RunError
from bertfit.files import part_of, raising_system_errors
from bertfit.run_files import STATE_NAME, digest_model, find_changed_files

if TYPE_CHECKING:
    import torch

_FORMAT = "2"


@dataclass(frozen=True, slots=True)
class SavedState:
    """A state that was read, apart from its tensors, which are read when it is taken up."""

    path: Path
    belongs_to: dict[str, Any]
    """What the training is known by."""
    progress: dict[str, Any]
    """How far it had come, as the trainer wrote it."""
    kept: dict[str, Any]
    """What else was kept with it."""
    model: dict[str, str]
    """Digests of the weights of the best epoch beside it, by file; empty if it needs none."""
    digest: str
    """Of all the rest."""

    def check_whole(self) -> None:
        """Check what `read_state` does not: each byte, also of the model that it needs.

        Raises:
            RunError: Some are others now. A number that changed would show in no other way.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                told = file.metadata()
                found = _digest(told, ((name, file.get_tensor(name)) for name in file.keys()))  # noqa: SIM118 (no dict)
            changed = find_changed_files(self.path.parent, {"sha256": self.model})
        except (OSError, SafetensorError) as error:
            raise explain_damage(self.path, error) from None
        if found != self.digest:
            raise explain_damage(self.path, "it was damaged or changed")
        if changed:
            why = "the model of its best epoch, beside it, is missing, damaged or another"
            raise explain_damage(self.path, why)

    def read_tensors(self) -> dict[str, torch.Tensor]:
        """Return its tensors by name.

        Raises:
            RunError: The file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise explain_damage(self.path, error) from None


@dataclass(slots=True)
class Checkpoints:
    """Where a training keeps the model of its best epoch and, now and then, its state."""

    folder: Path
    minutes: float | None = None
    """Between two states; None saves none."""
    belongs_to: Mapping[str, Any] = field(default_factory=dict)
    """What the training is known by, of JSON's types."""
    saved: SavedState | None = None
    """The state from which the training goes on."""
    keep: Callable[[], Mapping[str, Any]] = dict
    """Returns what else is to be kept with a state, of JSON's types."""
    stays: bool = False
    """Whether a training that is interrupted leaves its state, to go on later."""
    num_written: int = 0
    """States written by this process."""
    has_failed: bool = False
    """Whether the last one could not be written."""
    model: dict[str, str] | None = None
    """Digests of the weights in the folder, once a state was written that needs them."""
    _since: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> Path:
        """Path of the state."""
        return self.folder / STATE_NAME

    def is_due(self) -> bool:
        """Return whether it is time for another state."""
        minutes = math.inf if self.minutes is None else self.minutes
        return time.monotonic() - self._since >= 60.0 * minutes

    def write(
        self,
        tensors: Mapping[str, torch.Tensor],
        progress: Mapping[str, Any],
        *,
        needs_model: bool = False,
    ) -> None:
        """Replace the state.

        Args:
            tensors: By name; on any device.
            progress: Of JSON's types.
            needs_model: Whether it is of use only with the model in the folder.

        Raises:
            OSError: It cannot be written; an earlier one stays.
        """
        from safetensors.torch import save_file

        self._since = time.monotonic()
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if needs_model and self.model is None:
            self.model = _keep_model(self.folder)
        told = {
            "format": _FORMAT,
            "belongs_to": self.belongs_to,
            "progress": progress,
            "kept": self.keep(),
            "model": self.model if needs_model else {},
        }
        metadata = {name: json.dumps(value) for name, value in told.items()}
        metadata["digest"] = json.dumps(_digest(metadata, held.items()))
        part = part_of(self.path)
        try:
            with raising_system_errors(self.path):
                save_file(held, part, metadata)
            _write_through(part)
            part.replace(self.path)
            self.num_written += 1
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        finally:
            self._since = time.monotonic()

    def remove(self) -> None:
        """Remove the state: the folder no longer has the model of the best epoch that it needs."""
        self.path.unlink(missing_ok=True)


def read_state(path: Path) -> SavedState:
    """Read what a state belongs to and how far the training had come.

    Raises:
        RunError: The file is damaged, or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb"):  # safetensors says of any file that it does not exist
            pass
        with safe_open(path, "numpy") as file:
            told = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
        is_known = told.pop("format") == _FORMAT
        saved = SavedState(path, **told) if is_known else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise explain_damage(path, error) from None
    if saved is None:
        raise RunError(
            f"{path} was written by another version of bertfit",
            hint="Remove it, or train with that version.",
        )
    parts = (saved.belongs_to, saved.progress, saved.kept, saved.model)
    if not (all(isinstance(one, dict) for one in parts) and isinstance(saved.digest, str)):
        raise explain_damage(path, "its entries are of a wrong type")
    return saved


def explain_damage(path: Path, error: Exception | str) -> RunError:
    """Return an error that says why a state cannot be used."""
    return RunError(
        f"the state of a training, {path}, cannot be read: {error}",
        hint="Remove it, and train from the beginning.",
    )


def _keep_model(folder: Path) -> dict[str, str]:
    """Have the system write the weights in a folder to the disk, and return their digests."""
    paths = list(folder.glob("model*.safetensors"))
    for path in paths:
        _write_through(path)
    return digest_model(folder, (path.name for path in paths))


def _digest(metadata: Mapping[str, str], named: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return a digest of a state, whatever the order of its tensors, which are on the CPU."""
    import torch

    lines = [f"{name} {value}" for name, value in metadata.items() if name != "digest"]
    for name, tensor in named:
        # A copy, since one number may have any stride, and bytes are not seen in all.
        flat = tensor.reshape(-1).clone(memory_format=torch.contiguous_format)
        content = hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
        lines.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {content}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _write_through(path: Path) -> None:
    """Have the system write a file to the disk, so that a power failure does not lose it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
