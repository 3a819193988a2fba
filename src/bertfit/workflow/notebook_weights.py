"""Reads the weights of a notebook's model.pth, without running code from it."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from bertfit.errors import ModelError, RunError, is_out_of_memory
from bertfit.files import refuse_hidden
from bertfit.progress import Listener
from bertfit.wording import list_some

if TYPE_CHECKING:
    import torch

EXPECTED = "Expected model.pth (a state dict), tokenizer/ and, if at hand, training_history.json."
"""The hint if a notebook's folder lacks something."""
ONLY_BERT = "Only the notebook's BertModel + dropout + linear can be imported."
"""The hint if the weights are of another model."""
_SAVE_HINT = "In the notebook, save it with torch.save(model.state_dict(), 'model.pth')."
_COPY_HINT = "Copy it again."
_ANCHOR = "embeddings.word_embeddings.weight"
_WEIGHT_FILES = {".pth", ".pt", ".bin", ".safetensors"}
_OF_DAMAGE = re.compile(r"miniz|corrupt|\bEOF\b")
"""What torch says of a file that is cut off or damaged."""


def read_weights(folder: Path, listener: Listener) -> dict[str, torch.Tensor]:
    """Return a notebook's weights by the names that `BertForSequenceClassification` gives them.

    Args:
        folder: Holds model.pth.
        listener: Receives notes on what was chosen and what was left out.

    Raises:
        ModelError: model.pth is missing or damaged, or its weights are not those of a BERT
            classifier, or reading it would run code.
        RunError: There is no such folder.
    """
    path = _find_file(folder)
    state = _choose_state(_load(path), path, listener)
    return _rename(_unwrap({str(key): value for key, value in state.items()}), path, listener)


def _find_file(folder: Path) -> Path:
    path = folder / "model.pth"
    if folder.is_file():
        raise RunError(f"expected a folder, but {folder} is a file", hint=EXPECTED)
    if not folder.is_dir():
        refuse_hidden(folder)
        raise RunError(f"the folder {folder} does not exist", hint=EXPECTED)
    if path.is_file():
        return path
    hint = EXPECTED
    others = [one for one in folder.glob("*") if one.suffix in _WEIGHT_FILES and one.is_file()]
    if len(others) == 1:
        name = others[0].name
        hint = f"It has {name}: rename it to model.pth, if that is it."
        if name.endswith(".safetensors"):
            hint = f"It has {name}, but only files of torch.save are read. {_SAVE_HINT}"
    raise ModelError(f"{folder} has no model.pth", hint=hint)


def _load(path: Path) -> object:
    import torch

    try:
        _check_file(path)
        with warnings.catch_warnings():
            # torch warns of unknown pickle protocols; a failure is explained below.
            warnings.simplefilter("ignore")
            found: object = torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # a damaged file can raise anything
        if is_out_of_memory(error):
            raise
        raise _explain_unread(path, error) from None
    return found


def _check_file(path: Path) -> None:
    """Refuse a file that torch did not write, or that has changed since."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise ModelError(f"{path} cannot be read: the file is empty", hint=_COPY_HINT)
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(
            f"{path} is a Git LFS pointer, not the file itself", hint="git lfs pull fetches it."
        )
    if start[4:9] == b"\0\0\0\0{":  # JSON after its length in 8 bytes
        raise ModelError(
            f"{path} is a safetensors file; only files of torch.save are read", hint=_SAVE_HINT
        )
    if not start.startswith((b"\x80", b"PK")):  # a pickle, or a zip file
        raise ModelError(f"{path} cannot be read: torch did not write it", hint=_SAVE_HINT)
    if start.startswith(b"PK"):
        _check_zip(path)


def _check_zip(path: Path) -> None:
    """Refuse a zip file that was cut off or changed; torch does not compare the checksums."""
    if not zipfile.is_zipfile(path):
        raise _damaged(path)
    with zipfile.ZipFile(path) as archive:
        # It compresses nothing, and a few megabytes could unpack to more than there is memory.
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.filelist):
            raise ModelError(f"{path} cannot be read: torch did not write it", hint=_SAVE_HINT)
        # torch writes 0 where it computed none: set_crc32_options(False), skip_data.
        archive.filelist = [part for part in archive.filelist if part.CRC]
        changed = archive.testzip()
    if changed is not None:
        raise ModelError(
            f"{path} is damaged: its part {changed} does not have the checksum it was saved with",
            hint=_COPY_HINT,
        )


def _damaged(path: Path) -> ModelError:
    return ModelError(f"{path} cannot be read: it is damaged or cut off", hint=_COPY_HINT)


def _explain_unread(path: Path, error: Exception) -> ModelError:
    told = str(error)
    if isinstance(error, PermissionError):
        return ModelError(f"{path} cannot be read: permission denied")
    if isinstance(error, pickle.UnpicklingError) and "nsupported" in told:
        refused = re.search(r"GLOBAL (\S+)", told)
        what = f", as it holds {refused[1]}" if refused else ""
        return ModelError(
            f"{path} is not a plain state dict: reading it would run code from the file{what}",
            hint="If you made the file yourself, load it in Python with torch.load('model.pth', "
            "weights_only=False), and save its state dict alone with torch.save(STATE_DICT, "
            "'model.pth').",
        )
    if isinstance(error, EOFError | zipfile.BadZipFile) or _OF_DAMAGE.search(told):
        return _damaged(path)
    reason = "torch did not write it"
    if isinstance(error, OSError | RuntimeError):
        reason = next(iter(told.splitlines()), type(error).__name__)
    return ModelError(f"{path} cannot be read: {reason}", hint=_SAVE_HINT)


def _choose_state(found: object, path: Path, listener: Listener) -> Mapping[str, torch.Tensor]:
    """Return the state dict that a file is, or that is one entry of the checkpoint it is."""
    if _is_state(found):
        return found
    what = type(found).__name__
    if isinstance(found, Mapping):
        states = [
            name
            for name, entry in found.items()
            if _is_state(entry) and any(str(key).endswith(_ANCHOR) for key in entry)
        ]
        if len(states) == 1:
            listener.note(f"The weights are the entry {states[0]!r} of {path}.")
            chosen: Mapping[str, torch.Tensor] = found[states[0]]
            return chosen
        others = sorted(repr(name) for name, entry in found.items() if not _is_tensor(entry))
        what = f"the entries {list_some(others, 5)}"
    raise ModelError(
        f"{path}: expected a state dict of tensors and nothing else, got {what}", hint=_SAVE_HINT
    )


def _is_state(value: object) -> TypeGuard[Mapping[str, torch.Tensor]]:
    return isinstance(value, Mapping) and all(map(_is_tensor, value.values()))


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and not value.is_nested


def _unwrap(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take away what DataParallel and torch.compile put before every name."""
    for wrapper in ("module.", "_orig_mod.", "module."):  # one may stand within the other
        if all(key.startswith(wrapper) for key in state):
            state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state


def _rename(
    state: dict[str, torch.Tensor], path: Path, listener: Listener
) -> dict[str, torch.Tensor]:
    """Rename the weights to the names used by `BertForSequenceClassification`."""
    anchor = next((k for k in state if k.endswith(_ANCHOR)), None)
    if anchor is None:
        raise ModelError(
            f"{path} has no BERT embeddings; its weights begin with {sorted(state)[:3]}",
            hint=ONLY_BERT,
        )
    prefix = anchor.removesuffix(_ANCHOR)
    if any(key.startswith(f"{prefix}transformer.layer.") for key in state):
        raise ModelError(f"{path}: the encoder is a DistilBERT", hint=ONLY_BERT)
    if not any(key.startswith(f"{prefix}pooler.") for key in state):
        raise ModelError(
            f"{path}: the encoder has no pooler, so the head reads last_hidden_state; only a head "
            "on pooler_output can be imported",
            hint="Train it again: bertfit train FILE --recipe notebook --output RUN",
        )
    begins = (prefix,) if prefix else ("embeddings.", "encoder.", "pooler.")
    encoder = {key: value for key, value in state.items() if key.startswith(begins)}
    head = _leave_out_loss({k: v for k, v in state.items() if k not in encoder}, listener)
    kinds = sorted(key.rpartition(".")[2] for key in head)
    if kinds != ["bias", "weight"]:
        raise ModelError(
            f"{path}: expected one linear layer beside the encoder, found "
            f"{list_some(sorted(head), 5) or 'none'}",
            hint=ONLY_BERT,
        )
    renamed = {
        f"bert.{key.removeprefix(prefix)}": value
        for key, value in encoder.items()
        if not key.endswith("position_ids")
    }
    return renamed | {f"classifier.{key.rpartition('.')[2]}": v for key, v in head.items()}


def _leave_out_loss(head: dict[str, torch.Tensor], listener: Listener) -> dict[str, torch.Tensor]:
    """Leave out the weights of the classes in a loss: one for each, and no bias beside them."""
    lengths = [value.shape[:1] for value in head.values() if len(value.shape) == 2]
    losses = [
        key
        for key, value in head.items()
        if key.endswith(".weight")
        and value.shape in lengths
        and f"{key.removesuffix('weight')}bias" not in head
    ]
    for key in losses:
        listener.note(f"{key} was left out: it weights the classes in the loss.")
    return {key: value for key, value in head.items() if key not in losses}
