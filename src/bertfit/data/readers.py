"""Read labelled text from all supported files and tables.

Chooses the reader for a source. The formats are in `delimited`, `json_lines` and `tables`, the
checks of a row in `rows`, and the choice of columns in `columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from bertfit.data.columns import ChosenColumns, choose_columns, list_names
from bertfit.data.dataset import Columns, Row, TextDataset
from bertfit.data.delimited import open_csv, open_tsv
from bertfit.data.json_lines import open_json_lines
from bertfit.data.lines import check_is_file
from bertfit.data.records import TABLE_NAMES, RecordStream, SourceError
from bertfit.data.rows import make_row
from bertfit.data.tables import open_parquet, open_table
from bertfit.errors import DataError, Fault, did_you_mean
from bertfit.files import as_path

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa

Source: TypeAlias = (
    "str | Path | pd.DataFrame | pa.Table | datasets.Dataset | Sequence[Mapping[str, object]]"
)
"""The path of a file, or a table in memory."""

RowProgress: TypeAlias = Callable[[int, int | None], None]
"""Called with (done, total) rows, bad ones included; the total is None until all were read."""

_OPENERS: Mapping[str, Callable[[Path, str, str], RecordStream]] = MappingProxyType(
    {
        ".csv": open_csv,
        ".csv.gz": open_csv,
        ".tsv": open_tsv,
        ".tsv.gz": open_tsv,
        ".jsonl": open_json_lines,
        ".jsonl.gz": open_json_lines,
        ".ndjson": open_json_lines,
        ".ndjson.gz": open_json_lines,
        ".json": open_json_lines,
        ".json.gz": open_json_lines,
        ".parquet": open_parquet,
    }
)
EXTENSIONS = tuple(_OPENERS)
"""What the name of a file of rows ends in, in lower case."""
ROWS_PER_REPORT = 20_000
"""Rows from one report of the progress to the next; fewer are read before anyone wonders."""


def iter_rows(source: Source, columns: Columns, *, need_label: bool) -> Iterator[Row | Fault]:
    """Yield the rows of a source in order; for an unusable row, its fault.

    Files are streamed, in constant memory. Texts are not changed; a text that is a list of strings
    is joined by spaces. If labels are not needed, none is read.

    Raises:
        SourceError: (at the first row, or when a file turns out to be damaged) The whole source
            cannot be read: no such file, an unknown extension, no such column, …
    """
    stream = _open(source, columns.encoding)
    yield from _iter_chosen(stream, choose_columns(stream, columns, need_label=need_label))


def read_dataset(
    source: Source,
    columns: Columns,
    *,
    on_progress: RowProgress | None = None,
) -> tuple[TextDataset, list[Fault]]:
    """Read a whole source: the dataset of its good rows, and the faults of the others.

    Args:
        source: A file or a table.
        columns: Which columns hold what.
        on_progress: Called every `ROWS_PER_REPORT` rows, and at the end if it was called before.

    Raises:
        SourceError: The whole source cannot be read; `faults` has those of the rows read before.
    """
    rows: list[Row] = []
    faults: list[Fault] = []
    num_read = 0
    try:
        stream = _open(source, columns.encoding)
        chosen = choose_columns(stream, columns, need_label=True)
        for num_read, row in enumerate(_iter_chosen(stream, chosen), start=1):
            if isinstance(row, Fault):
                faults.append(row)
            else:
                rows.append(row)
            if on_progress is not None and num_read % ROWS_PER_REPORT == 0:
                on_progress(num_read, None)
    except SourceError as error:
        error.faults = tuple(faults)
        raise
    dataset = _make_dataset(rows, name_source(source), chosen)
    if on_progress is not None and num_read >= ROWS_PER_REPORT:
        on_progress(num_read, num_read)
    return dataset, faults


def _iter_chosen(stream: RecordStream, chosen: ChosenColumns) -> Iterator[Row | Fault]:
    for record in stream.read(chosen.names()):
        if isinstance(record, Fault):
            yield record
        else:
            yield make_row(record, chosen, source=stream.source)


def name_source(source: Source) -> str:
    """Return the name of the source in messages: the path as given, or the kind of table."""
    if isinstance(source, str | Path):  # file names may contain bytes that are not UTF-8
        return str(source).encode("utf-8", "backslashreplace").decode("utf-8")
    kind = type(source).__name__
    return kind if kind in TABLE_NAMES else "rows"


def _open(source: Source, encoding: str) -> RecordStream:
    if isinstance(source, str | Path):
        return _open_file(as_path(source), name_source(source), encoding)
    stream = open_table(source, name_source(source))
    if stream is None:
        raise _unknown_kind(source)
    return stream


def _unknown_kind(source: object) -> DataError:
    kind = type(source)
    package = kind.__module__.partition(".")[0]
    name = kind.__name__ if package == "builtins" else f"{package}.{kind.__name__}"
    method = next((one for one in ("to_arrow", "to_pandas") if hasattr(source, one)), None)
    hint = None if method is None else f"Give what its method {method}() returns."
    if name == "datasets.DatasetDict" and isinstance(source, Mapping):
        hint = f"Give one of its splits: {list_names(source)}."
    return DataError(
        f"cannot read rows from {name}; a path, a pandas DataFrame, an Arrow Table, a Dataset of "
        "the library datasets or a list of dicts was expected",
        hint=hint,
    )


def _open_file(path: Path, source: str, encoding: str) -> RecordStream:
    extension = "".join(path.suffixes[-2:]).lower()
    if extension not in _OPENERS:
        extension = path.suffix.lower()
    if extension not in _OPENERS:
        check_is_file(path, source)
        known = ", ".join(_OPENERS)
        guess = did_you_mean(extension, _OPENERS) if extension else ""
        what = f"unknown extension {extension!r}" if extension else "the name has no extension"
        raise SourceError(source, f"{what}; save the rows as one of {known}.{guess}")
    return _OPENERS[extension](path, source, encoding)


def _make_dataset(rows: Sequence[Row], source: str, chosen: ChosenColumns) -> TextDataset:
    return TextDataset(
        source=source,
        texts=[row.text for row in rows],
        labels=[row.label for row in rows if row.label is not None],  # all have one
        groups=[row.group for row in rows if row.group is not None],
        lines=[row.line for row in rows],
        slices={
            name: [row.slices[place] for row in rows] for place, name in enumerate(chosen.slices)
        },
        columns=chosen.read,
    )
