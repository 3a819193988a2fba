"""Read the physical lines of a text file, plain or gzip, each decoded separately.

A byte that is not UTF-8 affects only its own line, and the line number is known.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from bertfit.data.records import SourceError
from bertfit.data.rows import describe_undecodable, tell_undecodable
from bertfit.errors import Fault, did_you_mean

UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_OTHER_KINDS = {
    b"\x1f\x8b": "gzip; add .gz to its name",
    b"PK\x03\x04": "a ZIP archive or an Excel workbook; unpack it, or save it as CSV",
    b"PAR1\x15": "Parquet; its name should end in .parquet",
}
"""Kinds of files by their first bytes, whatever the file name."""


@dataclass(frozen=True, slots=True)
class Line:
    """One physical line, including its line ending."""

    number: int
    text: str
    """Undecodable bytes are surrogates, so that quotes still match across lines."""
    fault: Fault | None


def check_is_file(path: Path, source: str) -> None:
    """Check that a path is a file.

    Raises:
        SourceError: The path does not exist or is a folder.
    """
    if path.is_dir():
        raise SourceError(source, "is a folder; a file was expected")
    if path.is_symlink() and not path.exists():
        raise SourceError(source, f"is a link to {path.readlink()}, where there is no file")
    if not path.exists():
        names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        message = f"no such file.{did_you_mean(path.name, names)}"
        # As data sets of the hub are named, which look like a file in a folder.
        if re.fullmatch(r"[\w.-]+/[\w-]+", source) and not path.parent.exists():
            message += (
                " If it is a data set of the hub: bertfit.train(datasets.load_dataset(…), …) in "
                "Python, or save it with to_parquet; for IMDB, bertfit prepare imdb --source hub."
            )
        raise SourceError(source, message)


def refuse_utf16(line: bytes, source: str) -> None:
    """Reject a file whose first line starts with a UTF-16 byte order mark.

    Raises:
        SourceError: The line starts with such a mark.
    """
    if line.startswith(UTF16_MARKS):
        raise SourceError(source, "the file is UTF-16; re-save it as UTF-8")


def _refuse_other_kinds(line: bytes, source: str) -> None:
    refuse_utf16(line, source)
    for mark, told in _OTHER_KINDS.items():
        if line.startswith(mark):
            raise SourceError(source, f"the file is {told}")


def iter_lines(path: Path, source: str) -> Iterator[Line]:
    """Yield the lines of a file; `.gz` files are decompressed.

    Raises:
        SourceError: The file cannot be opened, is of another kind (such as UTF-16 or ZIP), or is
            damaged gzip.
    """
    with _open(path, source) as file, _explain_gzip_errors(source):
        for number, content in enumerate(file, start=1):
            line = content
            if number == 1:
                _refuse_other_kinds(content, source)
                line = content.removeprefix(UTF8_MARK)
            yield _decode_line(line, number, source)


def _open(path: Path, source: str) -> IO[bytes]:
    check_is_file(path, source)
    try:
        if path.suffix.lower() == ".gz":
            return cast("IO[bytes]", gzip.open(path, "rb"))
        return path.open("rb")
    except OSError as error:
        raise SourceError(source, f"cannot be opened: {error.strerror}") from error


@contextlib.contextmanager
def _explain_gzip_errors(source: str) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(source, f"the gzip file is damaged or cut off: {error}") from error


def _decode_line(content: bytes, number: int, source: str) -> Line:
    fault = None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        text = content.decode("utf-8", "surrogateescape")
        message, kind = describe_undecodable(error, place="line"), tell_undecodable(place="line")
        fault = Fault(source, number, message, kind=kind)
    if fault is None and "\0" in text:
        mend = "the file is not plain text"
        message = f"NUL byte at offset {content.index(0)} of the line; {mend}"
        fault = Fault(source, number, message, kind=f"NUL byte in the line; {mend}")
    return Line(number, text, fault)
