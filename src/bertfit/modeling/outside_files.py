"""Refuses models that would bring files from outside their folder into a run.

transformers copies what a tokenizer and a configuration are made of into what is saved. A folder
from somebody else could so publish any file of this machine: by the path of a "vocabulary" in its
JSON, or by a link where a file is expected.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertfit.errors import ModelError
from bertfit.files import read_json
from bertfit.modeling.locating import find_file

_CONFIG, _SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"
_READ = {".json", ".txt", ".jinja", ".model", ".spm", ".bpe", ".tiktoken"}
"""Kinds of files that a tokenizer is read from."""
_NEVER_READ = {"tokenizer_file", "special_tokens_map_file"}
"""Entries that transformers 4 wrote: paths of the machine on which a checkpoint was made."""


def refuse_named_files(source: str, *, local_only: bool) -> None:
    """Refuse a tokenizer whose JSON names files outside the model's folder.

    Args:
        source: A folder, or a name on the hub.
        local_only: Whether nothing may be downloaded.

    Raises:
        ModelError: It does, and transformers might read them.
    """
    for file in (_CONFIG, _SPECIAL_TOKENS):
        path = find_file(source, file, local_only=local_only)
        entries = None if path is None else _read_entries(path)
        for name, value in (entries or {}).items():
            if path is not None and _leads_outside(file, name, value, path.parent):
                raise ModelError(
                    f"the tokenizer of {source!r} cannot be loaded: by {name} in {file}, it would "
                    f"be read from {value!r}",
                    hint="Only files in the model's own folder are read. Remove that entry, or "
                    "get a good copy of the model.",
                )


def refuse_links(source: str) -> None:
    """Refuse links out of a folder that a run is made from, except to the hub's cache.

    A model that is only used may be made of links, as tools for large files make them.

    Args:
        source: A folder, or a name on the hub, of which nothing is refused.

    Raises:
        ModelError: There is one.
    """
    folder = Path(source)
    if not folder.is_dir():
        return
    inside = folder.resolve()
    for path in itertools.chain(folder.iterdir(), folder.glob("additional_chat_templates/*")):
        target = _find_target(path) if path.suffix in _READ else None
        if target is None or target.is_relative_to(inside):
            continue
        is_of_cache = target.parent.name == "blobs" and target.parents[1].name.startswith("models-")
        if not is_of_cache:
            raise ModelError(
                f"no run is made from {source!r}: {path.name} is a link to {target}, outside "
                "that folder",
                hint="The run would hold what is there. If it belongs to the model, put a copy of "
                "it in the place of the link.",
            )


def _find_target(path: Path) -> Path | None:
    """Return what a path leads to; None if that is nothing, of which transformers tells."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        return None


def _read_entries(path: Path) -> dict[str, Any] | None:
    try:
        entries = read_json(path)
    except ValueError:  # transformers says what is wrong
        return None
    return entries if isinstance(entries, dict) else None


def _leads_outside(file: str, name: str, value: object, folder: Path) -> bool:
    """Return whether transformers might read an entry's value as the path of a file elsewhere."""
    if file == _SPECIAL_TOKENS:  # it would take any entry as an argument of the tokenizer's class
        return isinstance(value, str) and not name.endswith(("_token", "_tokens"))
    if name == "fast_tokenizer_files":
        return not all(Path(one).name == one for one in _list_strings(value))
    if name in {"vocab", "merges"}:
        return isinstance(value, str)
    is_path = name.endswith("_file") and name not in _NEVER_READ and isinstance(value, str)
    return is_path and _is_elsewhere(str(value), folder)


def _list_strings(value: object) -> Iterator[str]:
    return (one for one in value if isinstance(one, str)) if isinstance(value, list) else iter(())


def _is_elsewhere(value: str, folder: Path) -> bool:
    """Return whether there is such a file on this machine, and not in the folder."""
    try:
        path = Path(value)
        if path.name == value and (folder / path).exists():  # which transformers takes instead
            return False
        places = {path.absolute().parent, path.resolve().parent}
        return path.exists() and places.isdisjoint({folder, folder.resolve()})
    except (OSError, ValueError):  # not a valid path
        return False
