"""Unreadable input: the messages of the faults of rows and of sources."""

from __future__ import annotations

import csv
import gzip
import json
import os
import pickle

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertfit.data import delimited, lines
from bertfit.data.dataset import Columns, Row
from bertfit.data.readers import SourceError, iter_rows, read_dataset
from bertfit.errors import DataError, Fault
from tests.data.test_readers import read, source_error, write


def fault_of(source, **options) -> tuple[int | None, str]:
    """Return line and message of the only fault."""
    (fault,) = [row for row in read(source, **options) if isinstance(row, Fault)]
    return fault.line, fault.message


# Faults of a row


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "", "label": 1}, "the text is empty"),
        ({"text": " \t\n", "label": 1}, "the text is empty"),
        ({"text": [], "label": 1}, "the text is empty"),
        ({"text": None, "label": 1}, "the text is missing"),
        ({"text": float("nan"), "label": 1}, "the text is missing"),
        ({"text": pd.NA, "label": 1}, "the text is missing"),
        ({"text": 7, "label": 1}, "the text is int 7; a string or a list of strings was expected"),
        (
            {"text": {"a": 1}, "label": 1},
            "the text is dict {'a': 1}; a string or a list of strings was expected",
        ),
        (
            {"text": ["a", 2], "label": 1},
            "the text is a list with int 2; all its items must be strings",
        ),
        ({"text": "a\0b", "label": 1}, "the text has a NUL character at offset 1"),
        ({"text": "a\ud83d", "label": 1}, "the text has a lone surrogate U+D83D at offset 1"),
        ({"text": "a", "label": "b\ud83d"}, "the label has a lone surrogate U+D83D at offset 1"),
        (
            {"text": 10**5000, "label": 1},
            "the text is int of too many digits; a string or a list of strings was expected",
        ),
        (
            {"text": b"caf\xe9", "label": 1},
            (
                "byte 0xe9 at offset 3 of the text is not UTF-8; "
                "re-save the file as UTF-8 (it may be in latin-1 or cp1252)"
            ),
        ),
        ({"text": "good", "label": None}, "the label is missing (column 'label')"),
        ({"text": "good", "label": " "}, "the label is missing (column 'label')"),
        (
            {"text": "good", "label": 0.5},
            "the label is float 0.5; a string, an integer or a boolean was expected",
        ),
        (
            {"text": "good", "label": list(range(99))},
            (
                f"the label is list {str(list(range(99)))[:60]}…; "
                "a string, an integer or a boolean was expected; a text has one label"
            ),
        ),
        ({"text": "good"}, "key 'label' is missing; the keys are text."),
        (
            {"txt": "good", "label": 1},
            "key 'text' is missing; the keys are txt, label. Did you mean 'txt'?",
        ),
        ("good", "the row is a str; a dict was expected"),
    ],
)
def test_a_row_that_cannot_be_used_is_a_fault(row, message):
    assert fault_of([{"text": "fine", "label": 1}, row]) == (2, message)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (None, "the group is missing (column 'movie')"),
        ([1], "the group is list [1]; a string or an integer was expected"),
        ("m\ud83d", "the group has a lone surrogate U+D83D at offset 1"),
    ],
)
def test_a_group_that_cannot_be_used_is_a_fault(group, message):
    row = {"text": "good", "label": 1, "movie": group}
    assert fault_of([row], group="movie") == (1, message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x" 1}', "the line is not JSON: Expecting ',' delimiter at column 14"),
        ("[1]", "the line is a JSON list; an object was expected"),
        ('"text"', "the line is a JSON str; an object was expected"),
        ('{"text": "x", "label": ' + "1" * 5000 + "}", "the line cannot be read as JSON: "),
        ("[" * 100_000, "the line cannot be read as JSON: "),
        ('{"text": "a", "label": 1, "text": "b"}', "the key 'text' occurs twice in an object"),
        ('{"' + "k" * 999 + '": 1, "' + "k" * 999 + '": 2}', f"the key '{'k' * 79}…' occurs"),
        ('{"text": "a\0"}', "NUL character at offset 11 of the line; the file is not plain text"),
    ],
)
def test_a_bad_json_line_is_a_fault(tmp_path, line, message):
    path = write(tmp_path, "a.jsonl", f'{{"text": "good", "label": 1}}\n{line}\n')
    number, found = fault_of(path)
    assert number == 2
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("good", "too few fields: 1, but the header has 2"),
        (
            "good,bad,pos",
            (
                "too many fields: 3, but the header has 2; a text with the separator in it must "
                "stand in quotes"
            ),
        ),
        (
            '"good" ,pos',
            ("text follows a closing quote; quotes inside a quoted text must be doubled"),
        ),
        ("go\rod,pos", "a bare carriage return stands outside quotes; re-save the file with LF"),
        ("go\0od,pos", "NUL character at offset 2 of the line; the file is not plain text"),
    ],
)
def test_a_bad_csv_row_is_a_fault_and_the_next_row_is_read(tmp_path, line, message):
    path = write(tmp_path, "a.csv", f"text,label\n{line}\nfine,pos\n")
    number, found = fault_of(path)
    assert number == 2
    assert found.startswith(message)
    assert read(path)[1:] == [Row(line=3, text="fine", label="pos", group=None)]


def test_an_unclosed_quote_in_the_last_row_spoils_that_alone(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\nfine,pos\n"open,pos\n')
    assert fault_of(path) == (3, "a quote is opened in this row and never closed")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (
            "lost,neg\n",
            "a quote is opened in this row and never closed; the row goes on over the next line",
        ),
        (
            "lost,neg\nlost,pos\n",
            "a quote is opened in this row and never closed; the row goes on over the next 2 lines",
        ),
        (
            'lost,neg\n"fine",pos\nfine,neg\n',
            (
                "text follows a closing quote; quotes inside a quoted text must be doubled; "
                "the row goes on over the next 2 lines"
            ),
        ),
    ],
)
def test_an_unclosed_quote_that_hides_rows_cannot_be_skipped(tmp_path, rest, message):
    """Else nobody would know how many rows are lost with it."""
    path = write(tmp_path, "a.csv", f'text,label\nfine,pos\nx\n"open,pos\n{rest}')
    assert source_error(path) == f":4: {message}"
    with pytest.raises(SourceError) as caught:
        read_dataset(path, Columns())
    assert [fault.line for fault in caught.value.faults] == [3]


def test_a_row_of_too_few_fields_that_hides_others_says_so(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"open,pos\nlost,neg\nlost"\nfine,neg\n')
    told = "too few fields: 1, but the header has 2; the row goes on over the next 2 lines"
    assert fault_of(path) == (2, told)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_row_of_empty_values_alone_is_a_fault(tmp_path, name):
    """In .tsv it was passed over without a word, so a prediction lacked a row."""
    lines = ["text,label", "fine,1", ",", "", "fine,0"]
    content = "\n".join(lines).replace(",", "\t" if name == "a.tsv" else ",")
    dataset, faults = read_dataset(write(tmp_path, name, content), Columns())
    assert list(dataset.lines) == [2, 5]
    assert [(fault.line, fault.message) for fault in faults] == [(3, "the text is empty")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_empty_rows_at_the_end_of_a_table_are_none(tmp_path, name):
    """Spreadsheets write them for cells that were once in use."""
    content = "text,label\nfine,1\n,\nfine,0\n,\n , \n"
    content = content.replace(",", "\t" if name == "a.tsv" else ",")
    dataset, faults = read_dataset(write(tmp_path, name, content), Columns())
    assert (list(dataset.lines), [fault.line for fault in faults]) == ([2, 4], [3])


def test_empty_rows_between_others_are_faults_each_of_its_kind(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\n,\n,\n , \n,\n,,\nfine,1\n,\n")
    dataset, faults = read_dataset(path, Columns())
    assert list(dataset.lines) == [7]
    assert [fault.line for fault in faults] == [2, 3, 4, 5, 6]
    assert faults[-1].message.startswith("too many fields: 3")


def test_a_quote_that_is_not_closed_takes_no_more_than_a_field_may(tmp_path, monkeypatch):
    limit = csv.field_size_limit(1000)
    monkeypatch.setattr(delimited, "MAX_FIELD_CHARACTERS", 1000)
    path = write(tmp_path, "a.csv", 'text,label\nfine,1\n"open,1\n' + "fine,0\n" * 1000)
    try:
        told = source_error(path)
    finally:
        csv.field_size_limit(limit)
    mend = "a quote may not be closed; the row goes on over the next 142 lines"
    assert told == f":3: a field has more than 1,000 characters; {mend}"


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_byte_that_is_not_utf8_spoils_its_row_alone(tmp_path, name):
    rows = {
        "a.csv": [b"text,label", b"fine,1", b"caf\xe9,1", b"fine,0"],
        "a.tsv": [b"text\tlabel", b"fine\t1", b"caf\xe9\t1", b"fine\t0"],
        "a.jsonl": [b"", b'{"text": "fine", "label": 1}', b"caf\xe9", b'{"text": "x", "label": 0}'],
    }[name]
    path = write(tmp_path, name, b"\n".join(rows))
    assert fault_of(path) == (
        3,
        (
            "byte 0xe9 at offset 3 of the line is not UTF-8; say which encoding it is, as in "
            "--encoding cp1252 (Western Europe), cp1251 (Cyrillic), gb18030 (Chinese) or shift_jis "
            "(Japanese), or re-save the file as UTF-8"
        ),
    )
    assert [row.line for row in read(path)] == [2, 3, 4]


def test_a_bad_byte_inside_quotes_is_reported_on_its_own_line(tmp_path):
    path = write(tmp_path, "a.csv", b'text,label\n"one\ncaf\xe9\nthree",pos\nfine,neg\n')
    assert fault_of(path)[0] == 3
    assert read(path)[-1] == Row(line=5, text="fine", label="neg", group=None)


def test_parquet_strings_that_are_not_utf8_are_faults(tmp_path):
    buffers = pa.array([b"fine", b"caf\xe9"]).buffers()
    array = pa.Array.from_buffers(pa.string(), 2, buffers)
    pq.write_table(pa.table({"text": array, "label": [1, 0]}), tmp_path / "a.parquet")
    line, message = fault_of(tmp_path / "a.parquet")
    assert line == 2
    assert message.startswith("byte 0xe9 at offset 3 of the text is not UTF-8")


@pytest.mark.parametrize("role", ["label", "group"])
def test_a_parquet_name_that_is_not_utf8_is_the_fault_of_its_row_alone(tmp_path, role):
    buffers = pa.array([b"a", b"caf\xe9", b"b"]).buffers()
    columns = {"text": ["x", "y", "z"], "label": ["1", "0", "1"], "group": ["a", "b", "b"]}
    columns[role] = pa.Array.from_buffers(pa.string(), 3, buffers)
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    line, message = fault_of(tmp_path / "a.parquet", group="group")
    assert line == 2
    assert message.startswith(f"byte 0xe9 at offset 3 of the {role} is not UTF-8")


@pytest.mark.parametrize("kind", ["list", "dictionary"])
def test_nested_arrow_strings_that_are_not_utf8_are_faults(kind):
    strings = pa.Array.from_buffers(pa.string(), 2, pa.array([b"fine", b"caf\xe9"]).buffers())
    if kind == "list":
        array = pa.ListArray.from_arrays(pa.array([0, 1, 2]), strings)
    else:
        array = pa.DictionaryArray.from_arrays(pa.array([0, 1]), strings)
    line, message = fault_of(pa.table({"text": array, "label": [1, 0]}))
    assert line == 2
    assert message.startswith("byte 0xe9 at offset 3 of the text is not UTF-8")


def test_a_parquet_struct_that_is_not_utf8_is_refused_as_a_struct():
    strings = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"]).buffers())
    table = pa.table({"text": pa.StructArray.from_arrays([strings], names=["a"]), "label": [1]})
    message = r"the text is dict {'a': b'caf\xe9'}; a string or a list of strings was expected"
    assert fault_of(table) == (1, message)


@pytest.mark.parametrize("nested", [False, True])
def test_dates_that_python_does_not_have_are_strings(tmp_path, nested):
    """Databases write "infinity" as a date far away; it ended in an OverflowError."""
    days = pa.array([0, 2_932_897], pa.int32()).cast(pa.date32())
    if nested:
        days = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), days)
    pq.write_table(
        pa.table({"text": ["x", "y"], "label": [1, 0], "day": days}), tmp_path / "a.parquet"
    )
    dataset, faults = read_dataset(tmp_path / "a.parquet", Columns(slices=("day",)))
    assert not faults
    assert dataset.slices["day"][1] == (["10000-01-01"] if nested else "10000-01-01")


@pytest.mark.parametrize("in_memory", [False, True])
def test_times_that_only_other_packages_read_are_strings(tmp_path, in_memory):
    """An unknown zone ended the reading of the whole file; without pandas, nanoseconds did."""
    table = pa.table(
        {
            "text": ["x"],
            "label": [1],
            "at": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
            "zone": pa.array([17], pa.timestamp("us", "Europe/Nowhere")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    source = table if in_memory else tmp_path / "a.parquet"
    dataset, faults = read_dataset(source, Columns(slices=("at", "zone")))
    assert not faults
    assert dataset.slices["zone"] == ["1970-01-01 00:00:00.000017"]
    assert str(dataset.slices["at"][0]).startswith("2023-11-14 22:13:20.123456789")


@pytest.mark.parametrize("empty", ['"  "', '""', '" \n "'])
def test_a_quoted_empty_text_is_a_fault_also_where_it_is_the_only_column(tmp_path, empty):
    """A blank line is no row; and the lines of predictions tell which rows they are of."""
    path = write(tmp_path, "a.csv", f"text\ngood\n   \n\n{empty}\nbad\n")
    found = read(path, need_label=False)
    assert [row.line for row in found if not isinstance(row, Fault)] == [2, 6 + empty.count("\n")]
    assert [(row.line, row.message) for row in found if isinstance(row, Fault)] == [
        (5, "the text is empty")
    ]


# Faults of a source


def test_bare_carriage_returns_in_a_tsv_file_are_told_as_in_csv(tmp_path):
    path = write(tmp_path, "a.tsv", "text\tlabel\rgood\tpos\rbad\tneg\r")
    told = ":1: a bare carriage return stands outside quotes; re-save the file with LF line ends"
    assert source_error(path) == told
    path = write(tmp_path, "a.csv", '"the\r\ntext","label"\ngood,pos\n')
    assert [row.text for row in read(path, text="the\r\ntext")] == ["good"]


def test_a_missing_file_gets_a_guess(tmp_path):
    write(tmp_path, "train.csv", "")
    assert source_error(tmp_path / "trian.csv") == ": no such file. Did you mean 'train.csv'?"


def test_a_link_that_leads_nowhere_is_told_with_its_target(tmp_path):
    """It was "no such file. Did you mean" with its own name."""
    link = tmp_path / "train.csv"
    link.symlink_to("gone.csv")
    assert source_error(link) == ": is a link to gone.csv, where there is no file"
    link.unlink()
    link.symlink_to("train.csv")
    assert source_error(link) == ": is a link to train.csv, where there is no file"


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "data"])
def test_a_folder_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    assert source_error(tmp_path / name) == ": is a folder; a file was expected"
    (tmp_path / name / "state.json").write_text("{}")
    assert source_error(tmp_path / name).endswith("load_from_disk(…) and to_parquet(…) make a file")


@pytest.mark.parametrize("extension", [".txt", ".xlsx", ".arrow"])
def test_an_unknown_extension_says_what_to_save_the_rows_as(tmp_path, extension):
    assert source_error(write(tmp_path, f"a{extension}", "good")) == (
        f": unknown extension {extension!r}; save the rows as one of .csv, .csv.gz, .tsv, .tsv.gz, "
        ".jsonl, .jsonl.gz, .ndjson, .ndjson.gz, .json, .json.gz, .parquet."
    )


def test_a_name_without_extension_is_refused(tmp_path):
    message = ": the name has no extension; save the rows as one of .csv"
    assert source_error(write(tmp_path, "data", "good")).startswith(message)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_refused(tmp_path, name, content):
    assert source_error(write(tmp_path, name, content)) == ": the file is empty"


def test_no_rows_are_refused():
    with pytest.raises(SourceError, match="rows: there are no rows"):
        read([])


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([("good", "pos")], "tuple"),
        (["good", "bad"], "str"),
        ([["good"], None], "NoneType or list"),
    ],
)
def test_rows_that_are_no_dicts_are_told_as_that(rows, kind):
    """Not as a source that lacks a column, with the advice to name one."""
    with pytest.raises(SourceError, match=f"rows: each row is a {kind}; a dict was expected"):
        read(rows)


@pytest.mark.parametrize(
    ("role", "used", "columns"),
    [
        ("label", "group", {"group": "label"}),
        ("label", "text", {"text": "label"}),
        ("text", "label", {"label": "text"}),
        ("text", "group", {"group": "text"}),
        ("label", "text", {"trained_text": "label"}),
        ("label", "text", {"text": "label", "group": "label"}),
    ],
)
def test_a_column_that_has_a_role_already_is_told_as_that(role, used, columns, tmp_path):
    usual = columns.get("group") or next(iter(columns.values()))
    taken = f"no {role} column: {usual!r} is the {used} column already"
    told = f": {taken}; columns are text, label, film."
    assert source_error([{"text": "good", "label": "pos", "film": "a"}], **columns) == (
        f"rows{told} Name another {role} column, or another {used} column"
    )
    path = write(tmp_path, "a.csv", "text,label,film\ngood,pos,a\n")
    assert source_error(path, **columns).endswith(
        f"{told} Name another {role} column with --{role}-column, or another {used} column with "
        f"--{used}-column"
    )


def test_a_bar_in_the_name_of_one_of_several_columns_separates_nothing(tmp_path):
    path = write(tmp_path, "a.csv", "id|year,film\n1,a\n")
    assert "no text column: columns are id|year, film; one of" in source_error(path)


def test_a_column_is_found_whatever_the_form_of_its_accents(tmp_path):
    """As of a file from macOS; the message showed two names that look the same."""
    path = write(tmp_path, "a.csv", "texte\u0301,label\ngood,pos\n")
    (row,) = read(path, text="text\u00e9")
    assert row.text == "good"
    path = write(tmp_path, "a.csv", "e\u0301,\u00e9,label\ngood,bad,pos\n")
    (row,) = read(path, text="\u00e9")
    assert row.text == "bad"


def test_of_two_columns_that_differ_in_their_accents_form_none_is_a_third(tmp_path):
    forms = ["\u01d6", "\u00fc\u0304", "u\u0308\u0304"]
    path = write(tmp_path, "a.csv", f"{forms[0]},{forms[1]},label\ngood,bad,pos\n")
    assert f"no text column {forms[2]!r}" in source_error(path, text=forms[2])


def test_names_that_occur_twice_are_refused(tmp_path):
    path = write(tmp_path, "a.csv", "text,label,text,,\na,b,c,,\n")
    assert source_error(path) == ": column 'text' occurs twice; column names must differ"
    names = ["text", "label", "text"]
    frame = pd.DataFrame([["good", "pos", "fine"]], columns=names)
    table = pa.table([["good"], ["pos"], ["fine"]], names=names)
    pq.write_table(table, tmp_path / "a.parquet")
    for source in (frame, table, tmp_path / "a.parquet"):
        assert source_error(source).endswith(
            ": column 'text' occurs twice; column names must differ"
        )


def test_a_header_that_is_not_utf8_is_refused(tmp_path):
    path = write(tmp_path, "a.csv", b"text,caf\xe9\na,b\n")
    message = ":1: the header cannot be read: byte 0xe9 at offset 8 of the line is not UTF-8"
    assert source_error(path).startswith(message)


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (gzip.compress(b"text,label\n"), "gzip; add .gz to its name"),
        (b"PK\x03\x04\x14\0", "a ZIP archive or an Excel workbook; unpack it, or save it as CSV"),
        (b"PAR1\x15\x04\x15", "Parquet; its name should end in .parquet"),
    ],
    ids=["gzip", "zip", "parquet"],  # gzip's bytes hold the time, and each process would differ
)
def test_a_file_of_another_kind_than_its_name_says_is_named(tmp_path, start, told):
    """Each was told to be re-saved as UTF-8."""
    assert source_error(write(tmp_path, "a.csv", start)) == f": the file is {told}"


def test_gzip_within_gzip_is_named(tmp_path):
    path = write(tmp_path, "a.csv.gz", gzip.compress(gzip.compress(b"text,label\na,x\n")))
    assert source_error(path) == ": it is gzip within gzip; unpack it once, as with gunzip"


@pytest.mark.parametrize(("sign", "told"), [(",", "commas"), (";", "semicolons")])
def test_csv_that_is_called_tsv_is_named(tmp_path, sign, told):
    path = write(tmp_path, "a.tsv", f"text{sign}label\na{sign}b\n")
    assert source_error(path).endswith(f"separated by {told}; name the file .csv")


@pytest.mark.parametrize(
    ("header", "told"),
    [("text\tlabel", "tabs"), ("id\ttext, full\tlabel", "tabs"), ("text|label", "bars")],
)
def test_other_separators_are_named(tmp_path, header, told):
    path = write(tmp_path, "a.csv", f"{header}\n")
    assert f"separated by {told}; save the file with commas" in source_error(path)


def test_a_row_with_another_separator_than_the_header_has_too_few_fields(tmp_path):
    path = write(tmp_path, "a.csv", "text;label\ngood,pos\n")
    assert fault_of(path) == (2, "too few fields: 1, but the header has 2")


def test_a_byte_that_is_not_in_another_encoding_spoils_its_row_alone(tmp_path):
    path = write(tmp_path, "a.csv", b'text,label\ncaf\xe9,1\n"\x9d",1\nfine,0\n')
    good, fault, last = read(path, encoding="cp1252")
    assert (good.text, last.text) == ("café", "fine")
    assert (fault.line, fault.message) == (
        3,
        (
            "byte 0x9d at offset 1 of the line is not cp1252; "
            "--encoding says which encoding the file has"
        ),
    )


def test_utf16_that_is_cut_off_is_named_with_its_line(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\ngood,1\n".encode("utf-16")[:-1])
    message = source_error(path)
    assert message.startswith(":2: the file is not utf-16 from about this line on: ")
    assert "truncated data" in message


def test_utf16_without_a_mark_is_told_how_to_be_read(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\ngood,1\n".encode("utf-16-le"))
    assert "looks like UTF-16, which --encoding utf-16-le or -be reads" in source_error(path)
    wide = write(tmp_path, "b.csv", "text,label\ngood,1\n".encode("utf-32-le"))
    assert "looks like UTF-32, which --encoding utf-32-le or -be reads" in source_error(wide)
    for stray in (b"a\0,label\n", b"text,label,\0\n", b"\0\0\0a\n"):
        assert source_error(write(tmp_path, "c.csv", stray)).endswith("the file is not plain text")
    later = write(tmp_path, "d.csv", b"text,label\n" + b"a\0" * 9 + b",1\n")
    assert fault_of(later)[1].endswith("the file is not plain text")
    assert [row.text for row in read(path, encoding="utf-16-le")] == ["good"]


def test_a_row_without_values_between_others_is_one_fault(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\na,1\n,\nb,1\nc,0\n,\n")
    assert fault_of(path) == (3, "the text is empty")
    assert [row.line for row in read(path)] == [2, 3, 4, 5]


def test_an_empty_text_at_the_end_of_a_file_of_texts_is_a_fault(tmp_path):
    path = write(tmp_path, "a.csv", 'text\na\n""\n')
    assert fault_of(path, need_label=False) == (3, "the text is empty")


def test_a_byte_that_cannot_be_decoded_is_told_before_a_quote_that_is_not_doubled(tmp_path):
    path = write(tmp_path, "a.csv", b'text,label\n"caf\xe9" was here,1\n')
    assert fault_of(path)[1].startswith("byte 0xe9 at offset 4 of the line is not UTF-8")


def test_a_first_line_that_is_not_json_is_a_fault_of_that_line_alone(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text"\n{"text": "fine", "label": 1}\n')
    assert fault_of(path)[0] == 1
    assert read(path)[-1].text == "fine"


def test_an_array_with_a_line_that_cannot_be_decoded_is_damaged(tmp_path):
    content = b'[{"text": "a", "label": 1},\n{"text": "caf\xe9", "label": 1}]'
    told = source_error(write(tmp_path, "a.json", content))
    assert told.startswith(":2: byte 0xe9 at offset 13 of the line is not UTF-8")


def test_a_nul_in_utf16_is_the_fault_of_its_row_alone(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\na\0b,1\nfine,0\n".encode("utf-16"))
    assert fault_of(path)[0] == 2
    assert read(path)[-1].text == "fine"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            '{\n"text": "a"\n}',
            ":1: the file is one JSON object over several lines; one object per line was expected",
        ),
        ("[\n]", ": the JSON array is empty"),
        ('[{"text": "a"},\n{"text": "b"', ":2: the JSON array is damaged: Expecting ',' delimiter"),
        ('[{"text": "a"},\n\n', ":1: the JSON array is damaged: Expecting value"),
        ('[{"text": "a"},\n{"text": "b"}', ":2: the JSON array is damaged: Expecting value"),
        ('[{"text": "a"},\n{"text": "b"},\n]', ":3: the JSON array is damaged: Expecting value"),
        (
            f'[{{"text": 1{"0" * 5000}}}]',
            (
                ":1: the JSON array is damaged: it is nested too deeply, or holds a number of "
                "thousands of digits"
            ),
        ),
        (
            '[{"text": "a"}]]',
            ":1: something follows the JSON array; one array, or one object per line was expected",
        ),
        (
            '[{"text": "a"}\n{"text": "b"}]',
            ":2: the JSON array is damaged: a comma or ] was expected after an element",
        ),
        (
            '["a", 1]\n["b", 0]',
            ":2: something follows the JSON array; one array, or one object per line was expected",
        ),
        (
            f"[{'[' * 100_000}",
            (
                ":1: the JSON array is damaged: it is nested too deeply, or holds a number of "
                "thousands of digits"
            ),
        ),
    ],
)
def test_a_json_document_that_is_no_whole_array_is_refused(tmp_path, content, what):
    assert source_error(write(tmp_path, "a.json", content)) == what


@pytest.mark.parametrize("space", ["", "\n", "\n\n  ", "\r\n\t"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz"])
def test_an_array_is_read_object_by_object(tmp_path, space, name):
    """As pandas writes them with orient="records", with the lines on which objects begin."""
    content = f'[{space}{{"text": "goo\\nd, [1]", "label":{space}"pos"}}{space},'
    content += f'{space}{{"text": "bad", "label": "neg"}}{space}, [1]{space}]{space}'
    encoded = content.encode()
    path = write(tmp_path, name, gzip.compress(encoded) if name.endswith("gz") else encoded)
    first, second, fault = read(path)
    lines = space.count("\n")
    assert (first.line, first.text, first.label) == (1 + lines, "goo\nd, [1]", "pos")
    assert (second.line, second.text) == (1 + 4 * lines, "bad")
    assert fault.message == "the line is a JSON list; an object was expected"
    assert fault.line == 1 + 5 * lines


def test_a_file_without_a_single_json_object_is_refused(tmp_path):
    message = ":1: no JSON object in the first lines: the line is not JSON: Expecting value"
    assert source_error(write(tmp_path, "a.jsonl", "text,label\na,b\n")).startswith(message)


def test_gzip_with_other_bytes_in_it_is_refused(tmp_path):
    content = bytearray(gzip.compress(b"text,label\n" + os.urandom(5000).hex().encode()))
    content[20:2000] = b"\xff" * 1980
    told = source_error(write(tmp_path, "a.csv.gz", bytes(content)))
    assert told.startswith(": the gzip file is damaged or cut off")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_a_file_without_content_is_empty_in_any_encoding(tmp_path, encoding):
    assert source_error(write(tmp_path, "a.csv", b""), encoding=encoding) == ": the file is empty"


def test_gzip_that_is_cut_off_is_refused(tmp_path):
    content = gzip.compress(b"text,label\n" + os.urandom(5000).hex().encode())
    path = write(tmp_path, "a.csv.gz", content[:-2000])
    assert source_error(path).startswith(": the gzip file is damaged or cut off: ")


def test_what_is_no_gzip_is_refused(tmp_path):
    path = write(tmp_path, "a.csv.gz", "text,label\n")
    assert source_error(path).startswith(": the gzip file is damaged or cut off: Not a gzipped")


def test_damaged_parquet_is_refused(tmp_path):
    path = write(tmp_path, "a.parquet", "no parquet at all")
    assert source_error(path).startswith(": cannot be read as Parquet: ")


def test_parquet_that_is_damaged_further_down_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [os.urandom(20).hex() for _ in range(3000)]
    pq.write_table(pa.table({"text": texts, "label": ["pos"] * 3000}), path, row_group_size=1000)
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(2).column(0).data_page_offset
    content[start : start + 200] = bytes(200)
    path.write_bytes(content)
    assert source_error(path).startswith(": cannot be read as Parquet: ")


def test_a_missing_parquet_file_is_refused(tmp_path):
    assert source_error(tmp_path / "a.parquet") == ": no such file."


@pytest.mark.parametrize("thing", [7, b"text"])
def test_an_object_of_another_kind_is_refused(thing):
    with pytest.raises(DataError) as caught:
        read(thing)
    assert str(caught.value) == (
        f"cannot read rows from {type(thing).__name__}; a path, a pandas DataFrame, an Arrow "
        "Table, a Dataset of the library datasets or a list of dicts was expected"
    )


def test_a_table_of_another_library_is_refused_with_the_way_to_convert_it():
    """Polars and others call their tables DataFrame or Table, too."""
    frame = type("DataFrame", (), {"__module__": "polars.dataframe.frame", "to_arrow": None})
    with pytest.raises(DataError) as caught:
        read(frame())
    assert caught.value.message.startswith("cannot read rows from polars.DataFrame; a path, ")
    assert caught.value.hint == "Give what its method to_arrow() returns."


def test_the_splits_of_a_hub_dataset_are_named():
    rows = datasets.Dataset.from_dict({"text": ["good"], "label": ["pos"]})
    with pytest.raises(DataError) as caught:
        read(datasets.DatasetDict(train=rows, test=rows))
    assert caught.value.hint == "Give one of its splits: train, test."


def test_faults_before_the_damage_are_kept(tmp_path):
    lines = "text,label\n,pos\n" + "".join(f"{os.urandom(40).hex()},pos\n" for _ in range(2000))
    path = write(tmp_path, "a.csv.gz", gzip.compress(lines.encode())[:-9000])
    with pytest.raises(SourceError) as caught:
        read_dataset(path, Columns())
    assert [fault.message for fault in caught.value.faults] == ["the text is empty"]


def test_an_error_can_come_from_another_process():
    with pytest.raises(SourceError) as caught:
        read([{"body": "good"}])
    copied = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 (its own bytes)
    assert (str(copied), copied.fault) == (str(caught.value), caught.value.fault)
    of_line = SourceError("a.csv", "is damaged", line=7)
    copied = pickle.loads(pickle.dumps(of_line))  # noqa: S301 (its own bytes)
    assert (str(copied), copied.fault) == ("a.csv:7: is damaged", of_line.fault)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("start", ["", "[", " \t["])
def test_only_an_array_may_have_all_rows_on_one_line(tmp_path, monkeypatch, start, encoding):
    """pandas writes one; of 50,000 reviews it has 70 megabytes."""
    monkeypatch.setattr(lines, "_LONGEST_LINE", 1000)
    monkeypatch.setattr(lines, "_LONGEST_ARRAY", 8000)
    rows = [{"text": f"text {number}", "label": "pos"} for number in range(100)]
    content = start + json.dumps(rows)[1:] if start else json.dumps(dict(enumerate(rows)))
    path = write(tmp_path, "a.json", content.encode(encoding))
    if start:
        found = list(iter_rows(path, Columns(encoding=encoding), need_label=True))
        assert [row.text for row in found] == [row["text"] for row in rows]
        monkeypatch.setattr(lines, "_LONGEST_ARRAY", 2000)
    limit = "2,000" if start else "1,000"
    with pytest.raises(SourceError, match=f"the line has more than {limit} "):
        list(iter_rows(path, Columns(encoding=encoding), need_label=True))


@pytest.mark.parametrize("at", ["opening", "reading"])
def test_what_pyarrow_does_not_know_is_a_fault_of_the_file(tmp_path, monkeypatch, at):
    """Such as the integers of 128 bits that polars writes, in any column."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"], "label": ["x"]}), path)

    def fail(*_, **__):
        raise pa.ArrowNotImplementedError("Integers with more than 64 bits not implemented")

    if at == "opening":
        monkeypatch.setattr(pq, "ParquetFile", fail)
    else:
        monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: map(fail, [1]))
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        list(iter_rows(path, Columns(), need_label=True))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
@pytest.mark.parametrize(("name", "is_zipped"), [("a.csv", False), ("a.tsv.gz", True)])
def test_a_line_without_an_end_is_not_read_into_memory(
    tmp_path, monkeypatch, name, is_zipped, encoding
):
    """A few megabytes of gzip may hold gigabytes, and /dev/zero never ends."""
    monkeypatch.setattr(lines, "_LONGEST_LINE", 1000)
    head, fitting = ("\t".join if is_zipped else ",".join)(["text", "label"]), "x" * 990
    end = "\tpos" if is_zipped else ",pos"
    content = f"{head}\n{fitting}{end}\n{'x' * 1001}".encode(encoding)
    path = write(tmp_path, name, gzip.compress(content) if is_zipped else content)
    rows = iter_rows(path, Columns(encoding=encoding), need_label=True)
    assert next(rows).text == fitting
    unit = "bytes" if encoding == "utf-8" else "characters"
    with pytest.raises(SourceError, match=f"has more than 1,000 {unit}; is this") as caught:
        next(rows)
    assert caught.value.fault.line == 3
