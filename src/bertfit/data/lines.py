"""Read the physical lines of a text file, plain or gzip, each decoded separately.

A byte that cannot be decoded affects only its own line, and the line number is known. In UTF-16 and
its like, which have no such lines, the first fault ends the file. A byte order mark overrules the
encoding that was given.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, AnyStr, cast

from bertfit.data.records import SourceError
from bertfit.errors import Fault, did_you_mean
from bertfit.text_encoding import is_line_wise

_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark its own begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by their byte order marks."""
_GZIP = b"\x1f\x8b"
_OTHER_KINDS = {
    _GZIP: "gzip; add .gz to its name",
    b"PK\x03\x04": "a ZIP archive or an Excel workbook; unpack it, or save it as CSV",
    b"PAR1\x15": "Parquet; its name should end in .parquet",
}
"""Kinds of files by their first bytes, whatever the file name."""


_MOST_STRAY, _MOST_OF_UTF16, _LEAST_TELLING = 0.35, 0.6, 8
"""Shares of NULs in a line, and its least length: half of UTF-16 and three quarters of UTF-32 are
NULs, if the letters are Latin."""


NOT_UTF8 = (
    "the line is not UTF-8; say which encoding it is, as in --encoding cp1252 (Western Europe), "
    "cp1251 (Cyrillic), gb18030 (Chinese) or shift_jis (Japanese), or re-save the file as UTF-8"
)
"""Kind of the fault of a line that is in another encoding."""

_LONGEST_LINE = 2**26
"""Bytes, or characters of UTF-16, of a line; a novel has a million."""
_LONGEST_ARRAY = 2**30
"""The same of a JSON array, all of whose rows may stand on one line."""


@dataclass(frozen=True, slots=True)
class Line:
    """One physical line, including its line ending."""

    number: int
    text: str
    """Undecodable bytes are replaced, so that quotes still match across lines."""
    fault: Fault | None


def check_is_file(path: Path, source: str) -> None:
    """Check that a path is a file.

    Raises:
        SourceError: The path does not exist or is a folder.
    """
    if path.is_dir():
        message = "is a folder; a file was expected"
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            message += ". It was saved by datasets: load_from_disk(…) and to_parquet(…) make a file"
        raise SourceError(source, message)
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


def _refuse_other_kinds(start: bytes, source: str) -> None:
    for mark, told in _OTHER_KINDS.items():
        if start.startswith(mark):
            raise SourceError(source, f"the file is {told}")


def iter_lines(path: Path, source: str, encoding: str) -> Generator[Line]:
    """Yield the lines of a file; `.gz` files are decompressed.

    Args:
        path: The file.
        source: Its name in messages.
        encoding: As `find_encoding_problem` accepts; a byte order mark overrules it.

    Raises:
        SourceError: The file cannot be opened, is of another kind (such as ZIP), is damaged gzip,
            or is UTF-16 with a fault.
    """
    with _open(path, source) as file, _explain_gzip_errors(source):
        start = _peek(file)[1]
        if path.suffix.lower() == ".gz" and start.startswith(_GZIP):
            raise SourceError(source, "it is gzip within gzip; unpack it once, as with gunzip")
        _refuse_other_kinds(start, source)
        yield from decode_lines(file, source, encoding)


def has_byte_order_mark(path: Path, source: str) -> bool:
    """Return whether a file, once decompressed if it is `.gz`, begins with a byte order mark.

    Raises:
        SourceError: The file cannot be opened, or is damaged gzip.
    """
    with _open(path, source) as file, _explain_gzip_errors(source):
        return _peek(file)[1].startswith(tuple(_MARKS))


def decode_lines(file: IO[bytes], source: str, encoding: str) -> Iterator[Line]:
    """Yield the lines of an open file, or of standard input; as in `iter_lines`.

    Raises:
        SourceError: As in `iter_lines`, except for what the opening of a file finds.
    """
    reader, start = _peek(file)
    if start.startswith(_GZIP):
        raise SourceError(source, "it is gzip; unpack it first, as with zcat")
    encoding = codecs.lookup(encoding).name.removesuffix("-sig")
    mark = next((mark for mark in _MARKS if start.startswith(mark)), None)
    if mark is not None:
        encoding = _MARKS[mark]
    elif start and encoding in {"utf-16", "utf-32"}:
        told = f"has no byte order mark; name {encoding}-le or {encoding}-be with --encoding"
        raise SourceError(source, f"the file {told}, if it is that")
    if not is_line_wise(encoding):
        yield from _decode_one_after_other(reader, source, encoding)
        return
    for number, content in enumerate(_iter_pieces(reader.readline, source, unit="bytes"), start=1):
        line = content.removeprefix(codecs.BOM_UTF8) if number == 1 else content
        yield _decode_line(line, number, source, encoding)


def _iter_pieces(readline: Callable[[int], AnyStr], source: str, *, unit: str) -> Iterator[AnyStr]:
    """Yield lines; one without an end would take all memory, as of /dev/zero or a gzip bomb.

    Raises:
        SourceError: A line is longer than any text.
    """
    for number in itertools.count(1):
        piece = readline(_LONGEST_LINE + 1)
        if not piece:
            return
        longest = _LONGEST_LINE
        if len(piece) > longest and number == 1 and _begins_array(piece):
            longest = _LONGEST_ARRAY
            piece += readline(longest + 1 - len(piece))
        if len(piece) > longest:
            message = f"the line has more than {longest:,} {unit}; is this a text file?"
            raise SourceError(source, message, line=number)
        yield piece


def _begins_array(piece: str | bytes) -> bool:
    start = piece[:64]
    text = start if isinstance(start, str) else start.decode("utf-8-sig", "replace")
    return text.lstrip().startswith("[")


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


def _peek(file: IO[bytes]) -> tuple[io.BufferedReader, bytes]:
    """Return a reader of the file, and its first bytes, which stay to be read."""
    peeking = file if hasattr(file, "peek") else io.BufferedReader(cast("io.RawIOBase", file))
    reader = cast("io.BufferedReader", peeking)
    return reader, reader.peek(8)


def _decode_one_after_other(
    reader: io.BufferedReader, source: str, encoding: str
) -> Iterator[Line]:
    """Yield lines whose ends are not the byte that ends those of ASCII."""
    number = 0
    texts = io.TextIOWrapper(reader, encoding, newline="\n")
    try:
        for number, text in enumerate(
            _iter_pieces(texts.readline, source, unit="characters"), start=1
        ):
            yield Line(number, text, _find_nul(text, number, source, guesses=False))
    except UnicodeError as error:
        reason = getattr(error, "reason", error)
        message = f"the file is not {encoding} from about this line on: {reason}"
        raise SourceError(source, message, line=number + 1) from error
    finally:
        texts.detach()


def _decode_line(content: bytes, number: int, source: str, encoding: str) -> Line:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        return Line(
            number,
            content.decode(encoding, "replace"),
            _describe_undecodable(error, number, source, encoding),
        )
    return Line(number, text, _find_nul(text, number, source, guesses=number == 1))


def _describe_undecodable(
    error: UnicodeDecodeError, number: int, source: str, encoding: str
) -> Fault:
    if encoding == "utf-8":
        kind = NOT_UTF8
    else:
        kind = f"the line is not {encoding}; --encoding says which encoding the file has"
    byte = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
    return Fault(source, number, f"{byte} of {kind}", kind=kind)


def _find_nul(text: str, number: int, source: str, *, guesses: bool) -> Fault | None:
    """Return the fault of a line with NUL; with `guesses`, and the encoding it looks like."""
    if "\0" not in text:
        return None
    mend, share = "the file is not plain text", text.count("\0") / len(text)
    if guesses and share > _MOST_STRAY and len(text) >= _LEAST_TELLING:
        bits = 32 if share > _MOST_OF_UTF16 else 16
        mend = f"the file looks like UTF-{bits}, which --encoding utf-{bits}-le or -be reads"
    message = f"NUL character at offset {text.index(chr(0))} of the line; {mend}"
    return Fault(source, number, message, kind=f"NUL character in the line; {mend}")
