"""Read Parquet files, Arrow tables, hub datasets, DataFrames and lists of dicts; rows are 1-based.

The library `datasets` stores labels as numbers, and their names in the schema's metadata, also in
Parquet files, which is how the hub has most data sets. Such labels are read by name.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertfit.data.lines import check_is_file
from bertfit.data.records import Record, RecordStream, SourceError, check_names_differ
from bertfit.errors import Fault
from bertfit.files import parse_json

BATCH_SIZE = 1024
"""Rows of a Parquet file in memory at a time."""
NUM_ROWS_PEEKED = 100
"""Keys may differ from dict to dict; the column names are those of the first dicts together."""
_UNREADABLE = (OSError, ValueError, NotImplementedError)
"""What pyarrow raises: ArrowInvalid is a ValueError, and integers of 128 bits are not known."""


def open_parquet(path: Path, source: str, _encoding: str) -> RecordStream:
    """Open a Parquet file, which is UTF-8; only the requested columns are read, in batches.

    Raises:
        SourceError: The file cannot be read as Parquet, or two columns have the same name.
    """
    import pyarrow.parquet

    check_is_file(path, source)
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except _UNREADABLE as error:
        raise _unreadable(source, error) from error
    names = list(file.schema_arrow.names)
    check_names_differ(names, source)

    def read(wanted: Sequence[str]) -> Iterator[Record]:
        with file:
            batches = file.iter_batches(batch_size=BATCH_SIZE, columns=list(wanted))
            try:
                yield from _read_batches(batches)
            except _UNREADABLE as error:
                raise _unreadable(source, error) from error

    return RecordStream(source=source, names=names, read=read)


def open_table(table: object, source: str) -> RecordStream | None:
    """Open a table in memory; return None for objects of an unknown type.

    Raises:
        SourceError: Two columns have the same name, or there are no rows, or none is a dict, or
            a transform changes the rows of a hub dataset.
    """
    # A caller that passes a DataFrame has already imported pandas, which is optional.
    if _is_instance(table, "pandas", "DataFrame"):
        return _open_frame(table, source)
    if _is_instance(table, "pyarrow", "RecordBatch"):
        table = sys.modules["pyarrow"].Table.from_batches([table])
    if _is_instance(table, "pyarrow", "Table"):
        return _open_arrow(table, source)
    if _is_instance(table, "datasets", "Dataset"):
        return _open_hub_dataset(table, source)
    if isinstance(table, Sequence) and not isinstance(table, str | bytes):
        return _open_dicts(table, source)
    return None


def _is_instance(value: object, module_name: str, class_name: str) -> bool:
    # A module of the caller may have this name, or another thread may be importing it.
    kind = getattr(sys.modules.get(module_name), class_name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _open_frame(frame: Any, source: str) -> RecordStream:  # noqa: ANN401 (pandas is optional)
    names = [str(name) for name in frame.columns]
    check_names_differ(names, source)

    def read(wanted: Sequence[str]) -> Iterator[Record]:
        columns = [frame.iloc[:, names.index(name)].tolist() for name in wanted]
        for line, values in enumerate(zip(*columns, strict=True), start=1):
            yield Record(line, dict(zip(wanted, values, strict=True)))

    return RecordStream(source=source, names=names, read=read)


def _open_arrow(table: Any, source: str) -> RecordStream:  # noqa: ANN401 (pyarrow has no types)
    check_names_differ(table.column_names, source)

    def read(wanted: Sequence[str]) -> Iterator[Record]:
        return _read_batches(table.select(list(wanted)).to_batches(max_chunksize=BATCH_SIZE))

    return RecordStream(source=source, names=table.column_names, read=read)


def _open_hub_dataset(dataset: Any, source: str) -> RecordStream:  # noqa: ANN401 (it is optional)
    if dataset.format["type"] == "custom":  # reading by columns would leave it out
        message = (
            "rows were expected as they are stored, but a transform changes them when they are "
            "read. Apply it with map(), or leave it out with with_format(None)"
        )
        raise SourceError(source, message)

    def read(wanted: Sequence[str]) -> Iterator[Record]:
        chosen = dataset.select_columns(list(wanted)).with_format("arrow")
        return _read_batches(chosen.iter(batch_size=BATCH_SIZE))

    return RecordStream(source=source, names=dataset.column_names, read=read)


def _open_dicts(rows: Sequence[object], source: str) -> RecordStream:
    head = (row for row in itertools.islice(rows, NUM_ROWS_PEEKED) if isinstance(row, Mapping))
    names = list(dict.fromkeys(str(name) for row in head for name in row))
    if len(rows) == 0:
        raise SourceError(source, "there are no rows")
    if not any(isinstance(row, Mapping) for row in rows):  # there are no column names
        kinds = {type(row).__name__ for row in itertools.islice(rows, NUM_ROWS_PEEKED)}
        message = f"each row is a {' or '.join(sorted(kinds))}; a dict was expected"
        raise SourceError(source, message)

    def read(_wanted: Sequence[str]) -> Iterator[Record | Fault]:
        for line, row in enumerate(rows, start=1):
            if isinstance(row, Mapping):
                yield Record(line, {str(name): value for name, value in row.items()})
            else:
                message = f"the row is a {type(row).__name__}; a dict was expected"
                yield Fault(source, line, message)

    return RecordStream(source=source, names=names, read=read)


def _read_batches(batches: Iterable[Any]) -> Iterator[Record]:
    line = 0
    for batch in batches:
        names = batch.schema.names
        columns = [_to_list(column) for column in batch.columns]
        for name, classes in _find_classes(batch.schema).items():
            place = names.index(name)
            columns[place] = _name_classes(columns[place], classes)
        for values in zip(*columns, strict=True):
            line += 1
            yield Record(line, dict(zip(names, values, strict=True)))


def _find_classes(schema: Any) -> dict[str, list[str]]:  # noqa: ANN401 (pyarrow has no types)
    """Return, by column, the names of classes that `datasets` left in a schema's metadata."""
    try:
        stored = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in stored.items()
            if feature.get("_type") == "ClassLabel" and column in schema.names
        }
    except (ValueError, KeyError, TypeError, AttributeError):  # none, or of another form
        return {}


def _name_classes(values: list[object], classes: Sequence[str]) -> list[object]:
    """Replace numbers of classes by their names; `datasets` writes -1 where there is no label."""
    named: dict[object, object] = {-1: None, **dict(enumerate(classes))}
    return [named.get(value, value) if isinstance(value, int) else value for value in values]


def _to_list(column: Any) -> list[object]:  # noqa: ANN401 (pyarrow has no types)
    try:
        values: list[object] = column.to_pylist()
    except (ValueError, OverflowError, KeyError):  # Parquet validates neither strings nor dates
        values = [_to_value(scalar) for scalar in column]
    return values


def _to_value(scalar: Any) -> object:  # noqa: ANN401 (pyarrow has no types)
    """Return a value in which strings that are not UTF-8 are bytes, for their row to report.

    Dates and times that Python does not have are strings: those of the year 10000, of an unknown
    time zone and, without pandas, with nanoseconds.
    """
    import pyarrow as pa

    value: object
    try:
        value = scalar.as_py()
    except (ValueError, OverflowError, KeyError):  # pytz: an unknown time zone
        if pa.types.is_temporal(scalar.type):
            value = _spell_time(scalar)
        elif hasattr(scalar, "value"):  # of a dictionary, a union or an extension type
            value = _to_value(scalar.value)
        elif isinstance(scalar, pa.ListScalar):
            value = [_to_value(item) for item in scalar.values]
        elif isinstance(scalar, pa.StructScalar):
            value = {name: _to_value(item) for name, item in scalar.items()}
        else:
            value = scalar.as_buffer().to_pybytes()
    return value


def _spell_time(scalar: Any) -> str:  # noqa: ANN401 (pyarrow has no types)
    """Return a date, a time or a duration as a string; in UTC if its time zone is unknown."""
    import pyarrow as pa

    try:
        return str(scalar.cast(pa.string()))
    except ValueError:
        return str(scalar.cast(pa.timestamp(scalar.type.unit)).cast(pa.string()))


def _unreadable(source: str, error: Exception) -> SourceError:
    return SourceError(source, f"cannot be read as Parquet: {error}")
