"""On-disk cache of encoded text, memory-mapped when it is reused.

Entries are keyed by a hash of everything that determines their content (texts, tokenizer, the
version of its library, rule), so they are never stale. The least recently used ones are evicted.
The texts can be recovered from the token ids, so the cache is in the user's own cache folder,
readable only by them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bertfit.data.encoding import EncodedTexts, EncodingRule, encode_texts
from bertfit.files import find_cache, read_array, write_array
from bertfit.leftovers import find_leftovers, make_held_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MIN_CHARACTERS = 2_000_000
"""Less text than this is encoded in about a second and not worth caching."""
MAX_BYTES = 2 * 1024**3
"""Limit on the total size of all entries; the least recently used are evicted first."""
_FORMAT = "bertfit encoded text 2"
_DRAFT = ".draft-"
_ARRAYS = ("token_ids", "offsets", "full_lengths")
_FILES = tuple(f"{name}.npy" for name in _ARRAYS)
_DIGEST = "digest"
"""File with the digest of the others: a machine that crashed can leave zeros for token ids."""


def find_store() -> Path | None:
    """Return the cache folder, as `find_cache` does."""
    return find_cache("encoded")


def encode_or_reuse(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    rule: EncodingRule,
    *,
    store: Path | None,
    on_progress: Callable[[int, int], None] | None = None,
    on_problem: Callable[[str], None] | None = None,
) -> EncodedTexts:
    """Return the encoded texts, from the cache if possible.

    An unreadable or unwritable cache costs time but never fails the run.

    Args:
        texts: n texts.
        tokenizer: From `tokenizers`; its own truncation and padding must be off.
        rule: Cleaning and truncation.
        store: Folder of the entries; None disables the cache.
        on_progress: Called with (done, n) while encoding.
        on_problem: Called with a sentence if the entry could not be written.

    Raises:
        ModelError: As in `encode_texts`.
    """
    if store is None or sum(map(len, texts)) < MIN_CHARACTERS:
        return encode_texts(texts, tokenizer, rule, on_progress=on_progress)
    entry = store / _name_entry(texts, tokenizer, rule)
    # Not the size of the vocabulary: ids of added tokens may leave gaps.
    num_ids = 1 + max(tokenizer.get_vocab().values(), default=-1)
    fits = functools.partial(_fits, len(texts), num_ids)
    found = _open_entry(entry, fits)
    if found is not None:
        return found
    encoded = encode_texts(texts, tokenizer, rule, on_progress=on_progress)
    try:
        _write_entry(entry, encoded)
    except OSError as error:
        if on_problem is not None:
            on_problem(f"The encoded text is not kept for the next time: {error}.")
        return encoded
    with contextlib.suppress(OSError):  # another process may be evicting the same entries
        _make_room(store, keep=entry)
    return _open_entry(entry, fits) or encoded


def _name_entry(texts: Sequence[str], tokenizer: Tokenizer, rule: EncodingRule) -> str:
    import tokenizers

    digest = hashlib.blake2b(digest_size=20)
    program = f"{_FORMAT}, tokenizers {tokenizers.__version__}"  # another may give other ids
    settings = (tokenizer.to_str(), f"{tokenizer.encode_special_tokens}")  # not in its file
    for part in (program, *settings, repr(sorted(asdict(rule).items())), *texts):
        content = part.encode("utf-8", "surrogatepass")
        # The length first: otherwise "ab", "c" and "a", "bc" would have the same hash.
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def _open_entry(entry: Path, fits: Callable[[EncodedTexts], bool]) -> EncodedTexts | None:
    """Return what an entry has; None if there is none, or it is damaged."""
    try:
        if not all(path.is_file() for path in (entry / _DIGEST, *map(entry.joinpath, _FILES))):
            return None  # not a pipe either, which would be waited for
        if (entry / _DIGEST).read_text(encoding="ascii") != _digest_arrays(entry):
            return None
        arrays = [read_array(entry / name) for name in _FILES]
        os.utime(entry)
        found = EncodedTexts(*arrays)
        return found if fits(found) else None
    except (OSError, ValueError):
        return None


def _fits(num_texts: int, num_ids: int, found: EncodedTexts) -> bool:
    """Return whether arrays are as `encode_texts` makes them; their digest says nothing of it."""
    shapes = ((found.token_ids.size,), (num_texts + 1,), (num_texts,))
    types = (np.int32, np.int64, np.int32)
    arrays = (found.token_ids, found.offsets, found.full_lengths)
    for array, shape, dtype in zip(arrays, shapes, types, strict=True):
        if array.shape != shape or array.dtype != dtype:
            return False
    return bool(
        found.offsets[0] == 0
        and found.offsets[-1] == len(found.token_ids)
        and (found.lengths >= 0).all()
        and (found.full_lengths >= found.lengths).all()
        and found.token_ids.min(initial=0) >= 0
        and found.token_ids.max(initial=0) < num_ids
    )


def _write_entry(entry: Path, encoded: EncodedTexts) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft, hold = make_held_folder(entry.parent, _DRAFT)
    with hold:
        try:
            for name in _ARRAYS:
                write_array(draft / f"{name}.npy", getattr(encoded, name))
            (draft / _DIGEST).write_text(_digest_arrays(draft), encoding="ascii")
            shutil.rmtree(entry, ignore_errors=True)
            draft.rename(entry)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _digest_arrays(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for name in _FILES:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def _make_room(store: Path, *, keep: Path) -> None:
    """Remove leftovers of killed writers, and evict the oldest entries beyond `MAX_BYTES`."""
    for draft in find_leftovers(store, _DRAFT):
        shutil.rmtree(draft, ignore_errors=True)
    entries = sorted(
        (path for path in store.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    total = 0
    for entry in entries:
        total += sum(file.stat().st_size for file in entry.iterdir())
        if total > MAX_BYTES and entry != keep:
            shutil.rmtree(entry, ignore_errors=True)
