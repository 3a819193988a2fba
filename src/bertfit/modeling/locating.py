"""Finds a model by its name, and says why one cannot be loaded."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from bertfit.assets import find_embedded_model, find_model_path
from bertfit.errors import BertfitError, ModelError, find_first_line, is_out_of_memory
from bertfit.files import as_path, refuse_hidden

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_CREDENTIALS = re.compile(r"://[^/@\s]+@")
"""Of a URL: HF_ENDPOINT may have a password, and messages name it."""
_LONGEST_NAME = 255
_HUB_SECONDS = 10.0
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}

_importing = threading.Lock()
_lock = threading.Lock()
_found: list[tuple[int, bool]] = []
"""Transformers' verbosity, and whether it has progress bars, as each who loads found them."""


def _renew_locks() -> None:
    """Free the locks in a forked process, which has none of the threads that may hold them."""
    global _importing, _lock
    _importing, _lock = threading.Lock(), threading.Lock()
    _found.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def locate_model(name: str, *, lacks: Callable[[Path], bool] | None = None) -> tuple[str, bool]:
    """Return where transformers should load a model from, and whether that is local.

    Args:
        name: Hub name, local folder, or "embedded".
        lacks: Whether a folder of the hub's cache lacks files that are needed besides config.json:
            an interrupted download, or a command that needed fewer, leaves only some there.

    Raises:
        ModelError: There is no such model.
        ConfigError: The name is empty.
    """
    path = find_model_path(name)
    if path is None:
        return str(find_embedded_model()), True
    with explaining_failures(name):
        refuse_hidden(path / "config.json")
        is_folder, is_file = path.is_dir(), path.is_file()
    if is_folder:
        if not (path / "config.json").is_file():
            raise ModelError(
                f"the folder {name} is not a model: it has no config.json",
                hint=suggest_folder(path)
                or "Expected a Hugging Face folder: config.json, weights and a tokenizer.",
            )
        return str(path), True
    if is_file:
        raise ModelError(f"expected a model folder, but {name} is a file")
    if not _HUB_NAME.fullmatch(name):
        raise ModelError(f"the model folder {name} does not exist")
    is_cached = _is_cached(name, lacks)
    if not is_cached:
        _ask_hub(name)
    return name, is_cached


def suggest_folder(path: Path) -> str | None:
    """Return what to name instead of a folder without config.json, if that can be seen."""
    if not path.is_dir():  # nor a name that cannot be one: from Python 3.13 on, glob raises then
        return None
    if (path / "adapter_config.json").is_file():
        return (
            "It is an adapter of PEFT: merge it into its model (merge_and_unload), save that "
            "together with its tokenizer, and name its folder."
        )
    inside = [
        file
        for file in path.glob("*/config.json")  # Trainer's checkpoints, for example
        if file.is_file() and "model_type" in file.read_text(encoding="utf-8", errors="replace")
    ]
    if inside:
        newest = max(inside, key=lambda file: file.stat().st_mtime).parent
        return f"Name a model folder in it, such as {newest}"
    return None


def _ask_hub(name: str) -> None:
    """Check once whether the hub has the model: a download would retry for half a minute."""
    from huggingface_hub import HfApi

    with explaining_failures(name):
        HfApi().model_info(name, timeout=_HUB_SECONDS)


def _is_cached(name: str, lacks: Callable[[Path], bool] | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    with explaining_failures(name):
        config = try_to_load_from_cache(name, "config.json")
        return isinstance(config, str) and not (lacks is not None and lacks(Path(config).parent))


def import_transformers() -> None:
    """Import it in one thread; to others it would be there meanwhile, without its names."""
    with _importing:
        importlib.import_module("transformers")


@contextlib.contextmanager
def quieting_transformers() -> Iterator[None]:
    """Silence transformers' load report and progress bars; notes here give what matters.

    These are settings of the process. Where several threads load, the last one to end sets them
    back.
    """
    from transformers.utils import logging

    with _lock:
        _found.append((logging.get_verbosity(), logging.is_progress_bar_enabled()))
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        with _lock:
            level, had_bars = _found[0]
            _found.pop()
            if not _found:
                logging.set_verbosity(level)
                if had_bars:
                    logging.enable_progress_bar()


def find_file(source: str, file: str, *, local_only: bool) -> Path | None:
    """Return a file of a located model, from its folder or the hub, or None if it has none."""
    folder = Path(source)
    if folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    import_transformers()
    from transformers.utils import cached_file

    found = cached_file(
        source,
        file,
        local_files_only=local_only,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


@contextlib.contextmanager
def explaining_failures(name: str) -> Iterator[None]:
    """Turn exceptions of transformers and the hub into a ModelError with a hint."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or getattr(error, "errno", None) in _FULL_DISK:
            raise  # not the model's fault
        if "can't start new thread" in str(error):
            raise BertfitError(
                "the system allows this process no more threads",
                hint="Raise the limit: ulimit -u, or that of a container on processes (pids).",
            ) from error
        if (unreadable := _find_unreadable(name)) is not None:  # reported as missing or damaged
            raise ModelError(
                f"the model {name!r} cannot be loaded: no permission to read {unreadable}",
                hint="Ask its owner for permission to read it.",
            ) from error
        told = _CREDENTIALS.sub("://…@", find_first_line(error))
        if type(error).__name__ == "InvalidURL":  # it may name a part of a password
            told = "HF_ENDPOINT or a proxy, such as HTTPS_PROXY, is no valid address"
        raise ModelError(
            f"the model {name!r} cannot be loaded: {type(error).__name__}: {told[:300]}",
            hint=_find_missing_part(name, error) or _loading_hint(name, str(error)),
        ) from error


def _find_unreadable(name: str) -> Path | None:
    """Return a folder, or its first file, that this user may not read, or None."""
    folder = as_path(name)
    try:
        files = sorted(folder.iterdir())
    except PermissionError:
        return folder
    except (OSError, ValueError):  # not a folder, or not a valid path
        return None
    return next((file for file in files if not os.access(file, os.R_OK)), None)


def _find_missing_part(name: str, error: Exception) -> str | None:
    """Return what to install, or to add to the folder, if a tokenizer's file needs it."""
    told, folder = str(error), as_path(name)
    # transformers asks for tiktoken instead, also where a folder has no tokenizer at all.
    is_asking = "tiktoken" in told or "sentencepiece" in told.lower()
    if is_asking and (not folder.is_dir() or any(folder.glob("*.model"))):
        return (
            "Its tokenizer is a sentencepiece file, which two packages read: pip install "
            "sentencepiece protobuf. Or add tokenizer.json: where they are installed, "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes it."
        )
    if "`vocab` and `merges`" in told:
        return "One of vocab.json and merges.txt is missing: both are needed."
    if isinstance(error, ImportError):
        return "Install the package that the message names."
    return None


def _loading_hint(name: str, text: str) -> str:
    is_folder = len(name) < _LONGEST_NAME and as_path(name).is_dir()
    if "model.safetensors" in text or "pytorch_model.bin" in text:  # not one of several files
        if is_folder and not any(as_path(name).glob("*.bin")):
            return (
                "Copy model.safetensors of the same checkpoint into the folder; weights of other "
                "kinds, such as model.onnx or tf_model.h5, are not read."
            )
        return "Only safetensors weights are read; convert a pickled pytorch_model.bin first."
    if "custom code" in text:
        return "Code from a checkpoint is never run. Choose one of a kind that transformers knows."
    if sys.flags.optimize > 1:
        return "transformers reads docstrings, which python -OO leaves out: run without -OO."
    if is_folder:
        return (
            "The folder is damaged, or of a kind that this transformers does not know: copy it "
            "again, or name another model."
        )
    return (
        "It is neither a folder here nor complete in the local cache, and the hub did not give "
        "it. Check the spelling, go online once, name a local folder, or use --model embedded."
    )
