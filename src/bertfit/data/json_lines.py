"""Read JSON lines, one object per line, whatever the extension."""

from __future__ import annotations

import itertools
import json
from collections import Counter
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


def open_json_lines(path: Path, source: str, encoding: str) -> RecordStream:
    """Open a file of JSON lines; the column names are the keys of the first objects.

    Raises:
        SourceError: The file cannot be read, is empty, or is a single multi-line JSON document.
    """
    lines = (line for line in iter_lines(path, source, encoding) if line.text.strip())
    first = next(lines, None)
    if first is None:
        raise SourceError(source, "the file is empty")
    _refuse_whole_document(first, source)
    records = (_parse(line, source) for line in itertools.chain([first], lines))
    head = list(itertools.islice(records, NUM_LINES_PEEKED))
    return RecordStream(
        source=source,
        names=_gather_names(head, source),
        read=lambda _: itertools.chain(head, records),
    )


def _refuse_whole_document(first: Line, source: str) -> None:
    start = first.text.strip()
    mend = ""
    if start.startswith("["):
        what, mend = "a JSON array", " (jq -c '.[]' converts it)"
    elif start == "{":
        what = "one JSON object over several lines"
    else:
        return
    message = f"the file is {what}; JSON lines were expected: one object per line{mend}"
    raise SourceError(source, message, line=first.number)


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
