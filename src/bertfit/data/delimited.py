"""Read CSV and TSV files, with a header in the first line and correct line numbers; write CSV."""

from __future__ import annotations

import codecs
import csv
import itertools
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from bertfit.data.lines import Line, has_byte_order_mark, iter_lines
from bertfit.data.records import Record, RecordStream, SourceError, check_names_differ
from bertfit.errors import Fault

MAX_FIELD_CHARACTERS = 2**26
"""As long as a line may be. The csv module takes 131,072 by default, which long texts exceed; with
no limit, a quote that is never closed would take the memory of all the rest of the file."""
_MOST_HEADER_LINES = 100
"""Over which a header goes on whose names have line ends; a quote open for longer opens nothing."""
_MARK = "\ufeff"
_DECLARATION = re.compile(r'"?sep=([,;|\t])"?\1*\s*', re.IGNORECASE)
"""A first line for Excel, which shows no such line and divides the others as it says."""
_BARE_RETURN = "a bare carriage return stands outside quotes; re-save the file with LF line ends"
_QUOTED = re.compile(r'"[^"]*"')
_OPEN = re.compile(r'(?:^|[,;\n])"(?:[^"]|"")*+\Z')
"""A field with quotes, in which those of the value are doubled, that goes on after the text."""


@dataclass(frozen=True, slots=True)
class CsvForm:
    """How a CSV file is written, whatever its rows are."""

    delimiter: str = ","
    """What divides the fields: a comma or a semicolon, which a header shows to who reads it."""
    has_mark: bool = False
    """Whether it begins with a byte order mark, without which Excel does not take it for UTF-8."""


USUAL_FORM = CsvForm()


@dataclass(frozen=True, slots=True)
class _Fields:
    line: int
    fields: list[str]


_Splitter = Callable[[Iterator[Line], str], Iterator[_Fields | Fault]]


def open_csv(path: Path, source: str, encoding: str) -> RecordStream:
    """Open a comma-separated file; quoted fields may contain commas, quotes and line ends.

    Semicolons divide the fields if the header has more of them than commas, as Excel writes where
    commas are for decimals; a line like "sep=;" before the header says it too.

    Raises:
        SourceError: The file cannot be read, is empty, or has an unusable header; or, while its
            rows are read, a quote is opened and not closed before other rows begin.
    """
    return _open_delimited(iter_lines(path, source, encoding), source, _split_csv)


def find_csv_form(path: Path | None, encoding: str) -> CsvForm:
    """Return the form for a CSV file that is made from a file: what wrote the one reads the other.

    It has semicolons if that file has, and a byte order mark if that has one or is not in UTF-8.
    The form is the usual one if that is no CSV file, or is a pipe, which can be read only once.

    Raises:
        SourceError: The file cannot be opened.
    """
    if path is None or not path.name.lower().endswith((".csv", ".csv.gz")) or not path.is_file():
        return USUAL_FORM
    with closing(iter_lines(path, str(path), encoding)) as lines:
        delimiter, _ = _find_delimiter(lines)
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    delimiter = ";" if delimiter == ";" else ","  # others would have to be declared
    return CsvForm(delimiter, not is_utf8 or has_byte_order_mark(path, str(path)))


def open_csv_writer(file: IO[str], form: CsvForm) -> Callable[[Iterable[object]], object]:
    """Return what writes a row of fields to an empty file."""
    if form.has_mark:
        file.write(_MARK)
    return csv.writer(file, delimiter=form.delimiter).writerow


def open_tsv(path: Path, source: str, encoding: str) -> RecordStream:
    """Open a tab-separated file; quotes are ordinary characters, as in the GLUE data sets.

    Raises:
        SourceError: The file cannot be read, is empty, or has an unusable header.
    """
    return _open_delimited(iter_lines(path, source, encoding), source, _split_tsv)


def _open_delimited(lines: Iterator[Line], source: str, split: _Splitter) -> RecordStream:
    rows = _drop_empty_end(split(lines, source))
    header = next(rows, None)
    if header is None:
        raise SourceError(source, "the file is empty")
    if isinstance(header, Fault):
        raise SourceError(source, f"the header cannot be read: {header.message}", line=header.line)
    names = header.fields
    if split is _split_tsv and any("\r" in name for name in names):  # csv finds it itself
        raise SourceError(source, _BARE_RETURN, line=header.line)
    check_names_differ(names, source)

    def read(_wanted: object) -> Iterator[Record | Fault]:
        for row in rows:
            yield row if isinstance(row, Fault) else _name_fields(row, names, source)

    return RecordStream(source=source, names=names, read=read, has_header_line=True)


def _drop_empty_end(rows: Iterator[_Fields | Fault]) -> Iterator[_Fields | Fault]:
    """Drop rows of empty fields at the end: a spreadsheet writes them for cells that were in use.

    Between other rows, they are kept, as each stands for a row.
    """
    waiting: list[tuple[list[str], array[int]]] = []  # lines by fields: there may be a million
    for row in rows:
        if isinstance(row, _Fields) and len(row.fields) > 1 and not any(map(str.strip, row.fields)):
            if not waiting or waiting[-1][0] != row.fields:
                waiting.append((row.fields, array("q")))
            waiting[-1][1].append(row.line)
            continue
        for fields, lines in waiting:
            yield from (_Fields(line, fields) for line in lines)
        waiting.clear()
        yield row


def _name_fields(row: _Fields, names: list[str], source: str) -> Record | Fault:
    if len(row.fields) == len(names):
        return Record(row.line, dict(zip(names, row.fields, strict=True)))
    amount = "too few" if len(row.fields) < len(names) else "too many"
    message = f"{amount} fields: {len(row.fields)}, but the header has {len(names)}"
    kind = f"{amount} fields; the header has {len(names)}"
    num_more = sum(field.count("\n") for field in row.fields)
    if num_more:
        message += f"; {_tell_lines(num_more)}"
        kind += "; the row goes on over the next lines"
    elif amount == "too many" and not source.lower().endswith((".tsv", ".tsv.gz")):
        mend = "; a text with the separator in it must stand in quotes"
        message, kind = message + mend, kind + mend
    return Fault(source, row.line, message, kind=kind)


def _split_csv(lines: Iterator[Line], source: str) -> Iterator[_Fields | Fault]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARACTERS))
    faults: list[Fault] = []
    latest = ""
    delimiter, all_lines = _find_delimiter(lines)

    def texts() -> Iterator[str]:
        nonlocal latest
        for line in all_lines:
            latest = line.text
            if line.fault is not None and not faults:  # one is told, of however many lines
                faults.append(line.fault)
            yield latest

    reader = csv.reader(texts(), strict=True, delimiter=delimiter)
    while True:
        faults.clear()
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > start:  # skipping it would lose rows, nobody knows how many
                message = f"{_explain(error)}; {_tell_lines(reader.line_num - start)}"
                raise SourceError(source, message, line=start) from error
            yield faults[0] if faults else Fault(source, start, _explain(error))
            continue
        if faults:
            yield faults[0]
        elif len(fields) > 1 or (fields and (not fields[0].isspace() or '"' in latest)):
            # A blank line is no row; a lone "" or " " is one, with an empty value, a fault.
            yield _Fields(start, fields)


def _find_delimiter(lines: Iterator[Line]) -> tuple[str, Iterator[Line]]:
    """Return what divides the fields, and all lines; one that declares it is blank in them."""
    head: list[Line] = []
    for line in lines:
        declared = None if head else _DECLARATION.fullmatch(line.text)
        if declared is not None:
            return declared[1], itertools.chain([replace(line, text="\n")], lines)
        head.append(line)
        if line.text.strip():
            break
    header = first = head[-1].text if head else ""
    num_more = _MOST_HEADER_LINES if _is_open(first) else 0
    for line in itertools.islice(lines, num_more):
        head.append(line)
        header += line.text
        if not _is_open(header):
            break
    names = _QUOTED.sub("", first if _is_open(header) else header)
    delimiter = ";" if names.count(";") > names.count(",") else ","
    return delimiter, itertools.chain(head, lines)


def _is_open(text: str) -> bool:
    """Return whether a field that begins with a quote has not ended."""
    return _OPEN.search(text) is not None


def _tell_lines(num_more: int) -> str:
    lines = "the next line" if num_more == 1 else f"the next {num_more:,} lines"
    return f"the row goes on over {lines}"


def _explain(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quote is opened in this row and never closed"
    if "larger than field limit" in str(error):
        most = csv.field_size_limit()
        return f"a field has more than {most:,} characters; a quote may not be closed"
    if "new-line character" in str(error):
        return _BARE_RETURN
    if "expected after" in str(error):  # the module's own quotes would be taken for data
        return "text follows a closing quote; quotes inside a quoted text must be doubled"
    return f"the row is not CSV: {error}; quotes inside a quoted text must be doubled"


def _split_tsv(lines: Iterator[Line], source: str) -> Iterator[_Fields | Fault]:  # noqa: ARG001 (signature of _Splitter)
    for line in lines:
        fields = line.text.rstrip("\r\n").split("\t")
        if line.fault is not None:
            yield line.fault
        elif len(fields) > 1 or fields[0].strip():
            # As in CSV, tabs alone are a row of empty values, which is a fault.
            yield _Fields(line.number, fields)
