"""Read JSON lines, one object per line, or an array of objects, whatever the extension."""

from __future__ import annotations

import bisect
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bertfit.data.lines import Line, iter_lines
from bertfit.data.records import Record, RecordStream, SourceError
from bertfit.errors import Fault
from bertfit.files import parse_json
from bertfit.wording import shorten_name

NUM_LINES_PEEKED = 100
"""Keys may differ from line to line; the column names are those of the first lines together."""


class _RepeatedKeyError(ValueError):
    """An object of JSON has a key twice, so that it is open which value it means."""


def _join(pairs: list[tuple[str, object]]) -> dict[str, object]:
    joined = dict(pairs)
    if len(joined) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _RepeatedKeyError(next(name for name, count in counts.items() if count > 1))
    return joined


_DECODER = json.JSONDecoder(object_pairs_hook=_join)
_PLAIN_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def open_json_lines(path: Path, source: str, encoding: str) -> RecordStream:
    """Open a file of JSON lines or an array; the column names are the keys of the first objects.

    An array is read into memory, and each of its objects counts as standing on its first line.

    Raises:
        SourceError: The file cannot be read, is empty, or is a single object or a damaged array.
    """
    lines = (line for line in iter_lines(path, source, encoding) if line.text.strip())
    first = next(lines, None)
    if first is None:
        raise SourceError(source, "the file is empty")
    if first.text.strip() == "{":
        message = "the file is one JSON object over several lines; one object per line was expected"
        raise SourceError(source, message, line=first.number)
    found: Iterator[Line] = itertools.chain([first], lines)
    if first.text.lstrip().startswith("["):
        found = iter(_split_array([*found], source))
    records = (_parse(line, source) for line in found)
    head = list(itertools.islice(records, NUM_LINES_PEEKED))
    return RecordStream(
        source=source,
        names=_gather_names(head, source),
        read=lambda _: itertools.chain(head, records),
    )


def _split_array(lines: Sequence[Line], source: str) -> list[Line]:
    """Return the elements of an array, each as a line with the number of the one it begins on.

    What is wrong within an element is found as in a line, which costs reading it a second time.

    Raises:
        SourceError: It is no whole array, or a line of it cannot be decoded.
    """
    for line in lines:
        if line.fault is not None:
            raise SourceError(source, line.fault.message, line=line.number)
    text = "".join(line.text for line in lines)
    ends = list(itertools.accumulate(len(line.text) for line in lines))

    def number_of(place: int) -> int:
        return lines[min(bisect.bisect_right(ends, place), len(lines) - 1)].number

    found: list[Line] = []
    place = _skip_space(text, text.index("[") + 1)
    is_more = not text.startswith("]", place)
    while is_more:
        end, problem = _find_end(text, place)
        if problem is not None:
            raise SourceError(source, f"the JSON array is damaged: {problem}", line=number_of(end))
        found.append(Line(number_of(place), text[place:end], None))
        place = _skip_space(text, end)
        is_more = not text.startswith("]", place)
        if text.startswith(",", place):
            place = _skip_space(text, place + 1)
    if text[place + 1 :].strip():
        message = "something follows the JSON array; one array, or one object per line was expected"
        raise SourceError(source, message, line=number_of(_skip_space(text, place + 1)))
    if not found:
        raise SourceError(source, "the JSON array is empty")
    return found


def _find_end(text: str, place: int) -> tuple[int, str | None]:
    """Return where an element ends; or where something is wrong with it, and what."""
    try:
        _, end = _PLAIN_DECODER.raw_decode(text, place)
    except json.JSONDecodeError as error:
        return error.pos, error.msg.removesuffix(" at")
    except (ValueError, RecursionError):  # a number of 5,000 digits, 1,000 brackets
        return place, "it is nested too deeply, or holds a number of thousands of digits"
    after = _skip_space(text, end)
    if after < len(text) and text[after] not in ",]":
        return after, "a comma or ] was expected after an element"
    return end, None


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None  # it matches nothing as well
    return found.end()


def _gather_names(head: list[Record | Fault], source: str) -> list[str]:
    records = [record for record in head if isinstance(record, Record)]
    first = head[0]
    if not records and isinstance(first, Fault):
        # Without any object there are no column names: report the fault of the first line.
        message = f"no JSON object in the first lines: {first.message}"
        raise SourceError(source, message, line=first.line)
    return list(dict.fromkeys(name for record in records for name in record.values))


def _parse(line: Line, source: str) -> Record | Fault:
    if line.fault is not None:
        return line.fault
    try:
        value = parse_json(line.text.rstrip(), _DECODER.decode)
    except _RepeatedKeyError as error:
        key = shorten_name(str(error))
        message = f"the key {key!r} occurs twice in an object; keys must differ"
        return Fault(source, line.number, message)
    except json.JSONDecodeError as error:
        kind = f"the line is not JSON: {error.msg.removesuffix(' at')}"
        return Fault(source, line.number, f"{kind} at column {error.colno}", kind=kind)
    except ValueError as error:  # a number of 5,000 digits, 1,000 brackets
        return Fault(source, line.number, f"the line cannot be read as JSON: {error}")
    if not isinstance(value, dict):
        message = f"the line is a JSON {type(value).__name__}; an object was expected"
        return Fault(source, line.number, message)
    return Record(line.number, value)
