"""Convert the IMDB Large Movie Review Dataset (Maas et al. 2011) to JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal

from bertfit.config import check_flags
from bertfit.data.imdb_sources import (
    NUM_FILES_PER_REPORT,
    Report,
    Review,
    Reviews,
    Shelf,
    read_hub,
    read_published,
)
from bertfit.errors import ConfigError, DataError
from bertfit.files import as_path, check_folders, open_atomically

TextFormat = Literal["text", "tokens"]
_FormatRow = Callable[[str, Review], dict[str, Any]]

_LABELLED: Mapping[str, tuple[Shelf, ...]] = MappingProxyType(
    {
        "imdb_train": (("train", "neg"), ("train", "pos")),
        "imdb_test": (("test", "neg"), ("test", "pos")),
    }
)
_UNLABELLED: Mapping[str, tuple[Shelf, ...]] = MappingProxyType(
    {"imdb_unsup": (("train", "unsup"),)}
)
# Source: Maas et al. 2011, section 4.3.2, and the README in the archive.
_OFFICIAL_COUNTS: Mapping[Shelf, int] = MappingProxyType(
    {
        ("train", "neg"): 12_500,
        ("train", "pos"): 12_500,
        ("test", "neg"): 12_500,
        ("test", "pos"): 12_500,
        ("train", "unsup"): 50_000,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImdbCounts:
    """Numbers of rows written and reviews read."""

    num_rows: Mapping[str, int]
    """Rows of each file, by file name."""
    num_per_shelf: Mapping[str, int]
    """Reviews of train/neg, train/pos, test/neg, test/pos and train/unsup in the source."""
    num_skipped: int
    """Files in the review folders that are not reviews, such as .DS_Store."""
    differences: tuple[str, ...]
    """Differences from the published data set, one sentence each; and files of another source."""


def prepare_imdb(
    source: str | Path,
    output_dir: str | Path,
    *,
    text_format: TextFormat = "text",
    overwrite: bool = False,
    report: Report | None = None,
) -> ImdbCounts:
    """Write the dataset as JSON lines; no file appears until all are written.

    Args:
        source: Path of aclImdb_v1.tar.gz, of the extracted folder, or of the folder around it; or
            "hub" for the copy on the hub, which lacks ratings and movies.
        output_dir: Folder for the files; created if missing.
        text_format: "text" writes imdb_train.jsonl, imdb_test.jsonl and imdb_unsup.jsonl with id,
            text, label, rating and movie, the text unchanged; "tokens" writes imdb_train.json and
            imdb_test.json with lower-cased words in a list, for programs that expect those.
        overwrite: Replace existing files.
        report: Called with the progress.

    Raises:
        ConfigError: A file exists and may not be replaced, a folder is in the place of a file, or
            `text_format` is unknown.
        DataError: The source is missing, damaged, unsafe, incomplete or not IMDB.
        MissingDependencyError: `source` is "hub" and `datasets` is not installed.
        OSError: The files cannot be written.
    """
    check_flags(overwrite=overwrite)
    paths = _name_files(as_path(output_dir, "output_dir"), text_format)
    _refuse_existing(paths, overwrite=overwrite)
    check_folders(next(iter(paths)))  # all are in one folder
    tell = report or _ignore
    reviews = read_hub(tell) if source == "hub" else read_published(as_path(source, "source"), tell)
    _check_complete(reviews, str(source))
    rows = {
        path: [
            (kind, review) for split, kind in shelves for review in reviews.by_shelf[split, kind]
        ]
        for path, shelves in paths.items()
        if any(reviews.by_shelf[shelf] for shelf in shelves)
    }
    _write(rows, _format_tokens if text_format == "tokens" else _format_text, tell)
    left = [
        f"{path} is of an earlier source; this one has no such reviews"
        for path in paths
        if path not in rows and path.exists()
    ]
    return ImdbCounts(
        num_rows={path.name: len(lines) for path, lines in rows.items()},
        num_per_shelf={
            f"{split}/{kind}": len(reviews.by_shelf[split, kind])
            for split, kind in _OFFICIAL_COUNTS
        },
        num_skipped=reviews.num_skipped,
        differences=(*_find_differences(reviews, has_movies=source != "hub"), *left),
    )


def _name_files(folder: Path, text_format: str) -> dict[Path, tuple[Shelf, ...]]:
    if text_format == "text":
        files, extension = {**_LABELLED, **_UNLABELLED}, ".jsonl"
    elif text_format == "tokens":
        files, extension = dict(_LABELLED), ".json"
    else:
        message = f"text_format is {text_format!r}; 'text' or 'tokens' was expected"
        raise ConfigError(message)
    return {folder / f"{name}{extension}": shelves for name, shelves in files.items()}


def _refuse_existing(paths: Collection[Path], *, overwrite: bool) -> None:
    folders = [str(path) for path in paths if path.is_dir()]
    if folders:  # would be found only when other files are in their places
        message = f"a folder is in the place of a file: {', '.join(folders)}"
        raise ConfigError(message, hint="Move it away, or name another folder.")
    existing = [str(path) for path in paths if path.exists()]
    if existing and not overwrite:
        message = f"already there: {', '.join(existing)}"
        raise ConfigError(message, hint="Replace them with --overwrite, or name another folder.")


def _check_complete(reviews: Reviews, source: str) -> None:
    shelves = [shelf for shelves in _LABELLED.values() for shelf in shelves]
    empty = ["/".join(shelf) for shelf in shelves if not reviews.by_shelf[shelf]]
    if empty:
        message = f"{source} is not the whole of IMDB: there are no reviews in {', '.join(empty)}"
        raise DataError(message)


def _write(
    rows: Mapping[Path, list[tuple[str, Review]]], format_row: _FormatRow, tell: Report
) -> None:
    with contextlib.ExitStack() as stack:
        files = {path: stack.enter_context(open_atomically(path)) for path in rows}
        for path, file in files.items():
            _write_rows(file, rows[path], format_row, name=path.name, tell=tell)
        # A full disk fails here, and Ctrl-C comes most likely: no file has its final name yet.
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())


def _write_rows(
    file: IO[str],
    rows: list[tuple[str, Review]],
    format_row: _FormatRow,
    *,
    name: str,
    tell: Report,
) -> None:
    for done, (kind, review) in enumerate(rows):
        if done % NUM_FILES_PER_REPORT == 0:
            tell(f"writing {name}", done, len(rows))
        json.dump(format_row(kind, review), file, ensure_ascii=False)
        file.write("\n")
    tell(f"writing {name}", len(rows), len(rows))


def _format_text(kind: str, review: Review) -> dict[str, Any]:
    return {
        "id": review.id,
        "text": review.text,
        "label": None if kind == "unsup" else kind,
        "rating": review.rating,
        "movie": review.movie,
    }


def _format_tokens(kind: str, review: Review) -> dict[str, Any]:
    return {"text": review.text.lower().split(), "label": kind}


def _find_differences(reviews: Reviews, *, has_movies: bool) -> Iterable[str]:
    for (split, kind), expected in _OFFICIAL_COUNTS.items():
        shelf = reviews.by_shelf[split, kind]
        if len(shelf) != expected:
            yield f"reviews in {split}/{kind}: {len(shelf):,}; published: {expected:,}"
        num_without_movie = sum(review.movie is None for review in shelf)
        if has_movies and num_without_movie:
            yield f"reviews without a movie in {split}/{kind}: {num_without_movie:,}"


def _ignore(_name: str, _done: int, _total: int) -> None:
    """Discard the progress."""
