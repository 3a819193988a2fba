"""Reading: all formats, the choice of columns, and optional labels."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import sys
import types
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertfit.data import readers
from bertfit.data.dataset import Columns, ReadColumn, Row
from bertfit.data.delimited import USUAL_FORM, CsvForm, find_csv_form, open_csv_writer
from bertfit.data.readers import SourceError, iter_rows, read_dataset
from bertfit.errors import Fault


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(source, *, need_label=True, **columns):
    return list(iter_rows(source, Columns(**columns), need_label=need_label))


def rows_of(source, **options):
    """Return (line, text, label) of each row; a fault is a failure here."""
    found = read(source, **options)
    assert not [row for row in found if isinstance(row, Fault)]
    return [(row.line, row.text, row.label) for row in found]


def source_error(source, **options) -> str:
    with pytest.raises(SourceError) as caught:
        read(source, **options)
    assert str(caught.value) == str(caught.value.fault)
    return str(caught.value).removeprefix(f"{source}")


MIXED = 'text,label\r\nCafé – naïf,pos\r\n"zwei\nZeilen Öl",neg\r\n'


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("written", "given"),
    [
        ("cp1252", "cp1252"),
        ("utf-16", "utf-8"),  # its mark says so
        ("utf-16", "cp1252"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-8"),
        ("utf-32-le", "utf-32-le"),
        ("utf-8-sig", "cp1252"),
        ("utf-8", "UTF8"),
        ("utf-8-sig", "utf-8-sig"),
    ],
)
def test_a_file_is_read_in_its_encoding(tmp_path, name, written, given):
    content = MIXED.encode(written)
    path = write(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
    assert rows_of(path, encoding=given) == [
        (2, "Café – naïf", "pos"),
        (3, "zwei\nZeilen Öl", "neg"),
    ]


def test_a_state_that_lasts_over_lines_is_kept(tmp_path):
    content = 'text,label\n"안녕\n세상",1\n끝,0\n'
    path = write(tmp_path, "a.csv", content.encode("iso2022_kr"))
    assert [row.text for row in read(path, encoding="iso2022_kr")] == ["안녕\n세상", "끝"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.tsv", "text\tlabel\n„Öl“\t1\n"), ("a.jsonl", '{"text": "„Öl“", "label": 1}\n')],
)
@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_other_text_files_are_read_in_their_encoding_too(tmp_path, name, content, encoding):
    path = write(tmp_path, name, content.encode(encoding))
    assert [row.text for row in read(path, encoding=encoding)] == ["„Öl“"]


TWO_ROWS = [("good", "pos"), ("bad", "neg")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\ngood,pos\nbad,neg\n"),
        ("a.tsv", "text\tlabel\ngood\tpos\nbad\tneg\n"),
        ("A.CSV", "text,label\r\ngood,pos\r\nbad,neg"),
        ("a.jsonl", '{"text": "good", "label": "pos"}\n{"text": "bad", "label": "neg"}\n'),
        ("a.ndjson", '{"text": "good", "label": "pos"}\n{"text": "bad", "label": "neg"}\n'),
        ("a.json", '{"text": "good", "label": "pos"}\n{"text": "bad", "label": "neg"}\n'),
        ("a.b.csv", "\ufefftext,label\ngood,pos\nbad,neg\n"),
        ("a.jsonl", '\ufeff{"text": "good", "label": "pos"}\n{"text": "bad", "label": "neg"}\n'),
    ],
)
@pytest.mark.parametrize("is_compressed", [False, True])
def test_every_text_format_is_read(tmp_path, name, content, is_compressed):
    data = content.encode()
    path = write(tmp_path, name, data)
    if is_compressed:
        path = write(tmp_path, f"{name}.gz", gzip.compress(data))
    assert [(text, label) for _, text, label in rows_of(path)] == TWO_ROWS


def make_table() -> pa.Table:
    return pa.table({"text": ["good", "bad"], "label": [1, 0], "other": [None, None]})


def test_parquet_is_read(tmp_path):
    pq.write_table(make_table(), tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == [(1, "good", "1"), (2, "bad", "0")]


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (make_table(), "Table"),
        (make_table().to_batches()[0], "rows"),
        (make_table().to_pandas(), "DataFrame"),
        (make_table().to_pylist(), "rows"),
    ],
)
def test_tables_in_memory_are_read(table, name):
    assert rows_of(table) == [(1, "good", "1"), (2, "bad", "0")]
    assert read_dataset(table, Columns())[0].source == name


def test_names_of_a_frame_that_are_numbers_are_read_as_strings():
    assert rows_of(pd.DataFrame([["good", "x"]]), text="0", label="1") == [(1, "good", "x")]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "hub"])
def test_rows_of_several_batches_are_numbered_on(tmp_path, kind):
    table = pa.table({"text": [f"text {row}" for row in range(2500)], "label": ["x"] * 2500})
    source = table
    if kind == "parquet":
        source = tmp_path / "a.parquet"
        pq.write_table(table, source)
    elif kind == "hub":
        source = datasets.Dataset(table)
    assert rows_of(source) == [(row + 1, f"text {row}", "x") for row in range(2500)]


def test_reading_many_rows_tells_how_many_bad_ones_included(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "ROWS_PER_REPORT", 2)
    path = write(tmp_path, "a.csv", "text,label\ngood,pos\n,neg\nbad,neg\nbad,neg\nfine,pos\n")
    heard = []
    _, (fault,) = read_dataset(path, Columns(), on_progress=lambda *count: heard.append(count))
    assert fault.line == 3
    assert heard == [(2, None), (4, None), (5, 5)]
    heard.clear()
    path.write_text("text,label\ngood,pos\nbad,neg\n")
    read_dataset(path, Columns(), on_progress=lambda *count: heard.append(count))
    assert heard == [(2, None), (2, 2)]


@pytest.mark.parametrize("is_array", [False, True])
def test_all_rows_of_a_long_file_of_json_are_read(tmp_path, is_array):
    """The first hundred name the columns."""
    objects = [json.dumps({"text": f"text {number}", "label": "x"}) for number in range(250)]
    content = f"[{', '.join(objects)}]" if is_array else "\n".join(objects)
    found = rows_of(write(tmp_path, "a.jsonl", content))
    assert [text for _, text, _ in found] == [f"text {number}" for number in range(250)]


def test_reading_few_rows_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "ROWS_PER_REPORT", 3)
    path = write(tmp_path, "a.csv", "text,label\ngood,pos\nbad,neg\n")
    read_dataset(path, Columns(), on_progress=None)
    heard = []
    read_dataset(path, Columns(), on_progress=lambda *count: heard.append(count))
    assert heard == []


def make_hub_dataset() -> datasets.Dataset:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    rows = {"text": ["bad", "good", "who knows"], "label": [0, 1, -1]}
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("kind", ["Dataset", "torch", "Table", "parquet"])
def test_class_numbers_of_a_hub_dataset_are_read_by_name(tmp_path, kind):
    """In all of them the labels are 0, 1 and -1, which stands for none."""
    rows = make_hub_dataset()
    if kind == "parquet":
        pq.write_table(rows.with_format("arrow")[:], tmp_path / "a.parquet")
    source = {
        "Dataset": rows,
        "torch": rows.with_format("torch"),
        "Table": rows.with_format("arrow")[:],
        "parquet": tmp_path / "a.parquet",
    }[kind]
    dataset, (fault,) = read_dataset(source, Columns())
    assert list(zip(dataset.texts, dataset.labels, strict=True)) == [
        ("bad", "neg"),
        ("good", "pos"),
    ]
    assert (fault.line, fault.message) == (3, "the label is missing (column 'label')")


def test_a_transform_of_a_hub_dataset_is_not_left_out():
    """Columns are read as stored; predict, which takes row by row, would see other texts."""
    rows = make_hub_dataset().with_transform(lambda batch: {**batch, "text": ["x"] * 3})
    with pytest.raises(SourceError) as caught:
        read_dataset(rows, Columns())
    assert str(caught.value) == (
        "Dataset: rows were expected as they are stored, but a transform changes them when they "
        "are read. Apply it with map(), or leave it out with with_format(None)"
    )
    assert len(read_dataset(rows.with_format(None), Columns())[0]) == 2


def test_selected_rows_of_a_hub_dataset_are_read_in_their_order():
    rows = make_hub_dataset().rename_columns({"text": "review", "label": "sentiment"})
    assert rows_of(rows.select([1, 0, 1])) == [
        (1, "good", "pos"),
        (2, "bad", "neg"),
        (3, "good", "pos"),
    ]


@pytest.mark.parametrize(
    "metadata",
    [
        "not JSON",
        "[]",
        '{"info": {"features": {"label": "ClassLabel"}}}',
        '{"info": {"features": {"label": {"_type": "ClassLabel", "names": null}}}}',
        '{"info": {"features": {"label": {"_type": "Value", "dtype": "int64"}}}}',
        '{"info": {"features": {"label": {"_type": "ClassLabel", "names": []}}}}',
        "[" * 100_000,
    ],
)
def test_numbers_without_names_stay_numbers(metadata):
    table = make_table().replace_schema_metadata({"huggingface": metadata})
    assert rows_of(table) == [(1, "good", "1"), (2, "bad", "0")]


def test_the_line_is_where_the_row_starts(tmp_path):
    path = write(tmp_path, "a.csv", '\ntext,label\n"one\ntwo, ""three""",pos\n\nlast,neg\n')
    assert rows_of(path) == [(3, 'one\ntwo, "three"', "pos"), (6, "last", "neg")]


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ('text;label\n"good; fine, too";pos\n', (2, "good; fine, too", "pos")),
        ('\ufeff\r\n"text";"label (a, b)"\r\ngood, fine;pos\r\n', (3, "good, fine", "pos")),
        ("sep=;\r\ntext;label;a, b\r\ngood;pos;1\r\n", (3, "good", "pos")),
        ("sep=\t\ntext\tlabel\ngood\tpos\n", (3, "good", "pos")),
        ("sep=,\n\ntext,a;b,label\ngood,1,pos\n", (4, "good", "pos")),
        ("text;label;a, b\ngood;pos;1\n", (2, "good", "pos")),
        ('"SEP=;";;\r\ntext;label;a, b, c, d\r\ngood;pos;1\r\n', (3, "good", "pos")),
        ('text,"a;b",label\ngood;fine,1,pos\n', (2, "good;fine", "pos")),
        ('"a;\n;;b",text,label\n1,good,pos\n', (3, "good", "pos")),
        ('"a,\n\n,""b""";text;label\n1;good, fine;pos\n', (4, "good, fine", "pos")),
    ],
    ids=[
        *("semicolons", "quoted", "declared", "tabs declared", "commas declared", "few commas"),
        *("declared as a spreadsheet saves it", "commas", "lines", "lines and semicolons"),
    ],
)
def test_a_csv_file_is_divided_as_its_header_says(tmp_path, content, row):
    label = "label (a, b)" if "(a, b)" in content else None
    assert rows_of(write(tmp_path, "a.csv", content), label=label) == [row]


def test_rows_divide_no_header_whose_name_has_a_quote_inside(tmp_path):
    content = '5" disk,label\nold; bad; slow,a\nthe 7" one; fine; ok,b\n'
    path = write(tmp_path, "a.csv", content)
    assert rows_of(path, text='5" disk')[-1] == (3, 'the 7" one; fine; ok', "b")


@pytest.mark.parametrize("num_rows", [3, 300])
def test_a_quote_in_a_name_of_a_header_opens_nothing(tmp_path, num_rows):
    path = write(
        tmp_path, "a.csv", 'text;5" size;label\n' + 'good, "fine", a, b;1;pos\n' * num_rows
    )
    assert rows_of(path)[-1] == (num_rows + 1, 'good, "fine", a, b', "pos")


def test_as_many_semicolons_as_commas_in_a_header_divide_nothing(tmp_path):
    path = write(tmp_path, "a.csv", "pro;contra,text\npos,good; fine\n")
    assert rows_of(path, label="pro;contra") == [(2, "good; fine", "pos")]


def test_semicolons_in_texts_divide_nothing(tmp_path):
    path = write(tmp_path, "a.csv", "text\ngood; fine\nsep=;\n")
    rows = rows_of(path, need_label=False)
    assert rows == [(2, "good; fine", None), (3, "sep=;", None)]


@pytest.mark.parametrize(
    ("name", "content", "encoding", "form"),
    [
        ("a.csv", "text,label\n", "utf-8", USUAL_FORM),
        ("a.csv", "", "UTF8", USUAL_FORM),
        ("A.CSV", "\ufeff\ntext;label\n", "utf-8", CsvForm(";", has_mark=True)),
        ("a.csv", "\ufefftext,label\n".encode("utf-16-le"), "utf-8", CsvForm(has_mark=True)),
        ("a.csv", "sep=|\ntext|größe\n".encode("cp1252"), "cp1252", CsvForm(has_mark=True)),
        ("a.csv.gz", gzip.compress(b"text;label\n", mtime=0), "utf-8", CsvForm(";")),
        ("a.tsv", "\ufefftext;label\n", "utf-8", USUAL_FORM),
        ("b.csv", None, "utf-8", USUAL_FORM),
    ],
    ids=["usual", "empty", "marked", "UTF-16", "cp1252", "gzip", "TSV", "missing"],
)
def test_a_csv_file_that_is_made_takes_after_the_one_that_was_read(
    tmp_path, name, content, encoding, form
):
    if content is not None:
        write(tmp_path, name, content)
    assert find_csv_form(tmp_path / name, encoding) == form
    made = tmp_path / "made.csv"
    with made.open("w", encoding="utf-8", newline="") as file:
        write_fields = open_csv_writer(file, form)
        write_fields(["label", "text"])
        write_fields(["größer", f"a, b; c {form.delimiter} d"])
    assert made.read_bytes().startswith(codecs.BOM_UTF8) == form.has_mark
    assert rows_of(made) == [(2, f"a, b; c {form.delimiter} d", "größer")]


def test_columns_without_a_name_may_be_several(tmp_path):
    """As commas at the end of each line make them."""
    assert rows_of(write(tmp_path, "a.csv", "text,label,,\na,x,,\n")) == [(2, "a", "x")]


def test_a_name_that_is_not_utf8_is_told_with_escapes(tmp_path):
    path = write(tmp_path, os.fsdecode(b"caf\xe9.csv"), "text,label\na,x\n")
    assert read_dataset(path, Columns())[0].source == f"{tmp_path}/caf\\udce9.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_ends_of_lines_within_a_text_stay_as_they_are(tmp_path, encoding):
    content = 'text,label\r\n"a\rb\r\nc",x\r\nd,y\r\n'.encode(encoding)
    found = rows_of(write(tmp_path, "a.csv", content), encoding=encoding)
    assert found == [(2, "a\rb\r\nc", "x"), (4, "d", "y")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_byte_that_is_not_utf8_is_told_so_with_a_mark_or_without(tmp_path, mark, encoding):
    path = write(tmp_path, "a.csv", mark + b"text,label\ncaf\xe9,x\n")
    (fault,) = read(path, encoding=encoding)
    assert "is not UTF-8; say which encoding it is" in fault.message


def test_the_extension_may_be_in_capitals(tmp_path):
    content = gzip.compress(b"text,label\na,x\n")
    assert rows_of(write(tmp_path, "A.CSV.GZ", content)) == [(2, "a", "x")]


def test_what_is_no_file_has_the_usual_form(tmp_path):
    (tmp_path / "a.csv").mkdir()
    assert find_csv_form(tmp_path / "a.csv", "utf-8") == USUAL_FORM


def test_quotes_in_tsv_are_ordinary_characters(tmp_path):
    path = write(tmp_path, "a.tsv", 'label\tsentence\n1\t"open \n0\tnext "\n')
    assert rows_of(path) == [(2, '"open ', "1"), (3, 'next "', "0")]


def test_text_is_passed_as_it_stands(tmp_path):
    path = write(tmp_path, "a.jsonl", json.dumps({"text": "  <br />A\x85 Ü\n", "label": " x "}))
    assert rows_of(path) == [(1, "  <br />A\x85 Ü\n", "x")]


def test_a_text_of_any_length_is_read(tmp_path):
    path = write(tmp_path, "a.csv", f"text,label\n{'w ' * 200_000},pos\n")
    assert len(rows_of(path)[0][1]) == 400_000


def test_blank_lines_are_skipped(tmp_path):
    path = write(
        tmp_path, "a.jsonl", '\n{"text": "good", "label": 1}\n  \n{"text": "x", "label": 0}'
    )
    assert [line for line, _, _ in rows_of(path)] == [2, 4]


@pytest.mark.parametrize("tokens", [["a", "good", "film"], ("a", "good", "film")])
def test_tokens_are_joined_by_spaces(tokens):
    assert rows_of([{"text": tokens, "label": 1}]) == [(1, "a good film", "1")]


def test_tokens_in_a_numpy_array_are_joined():
    frame = pd.DataFrame({"text": [np.array(["a", "film"], dtype=object)], "label": ["pos"]})
    assert rows_of(frame) == [(1, "a film", "pos")]


def test_bytes_in_a_table_are_decoded():
    assert rows_of(pa.table({"text": [b"caf\xc3\xa9"], "label": [1]})) == [(1, "café", "1")]
    assert rows_of(pa.table({"text": ["a"], "label": [b"caf\xc3\xa9"]})) == [(1, "a", "café")]
    assert rows_of(pa.table({"text": [[b"caf\xc3\xa9", b"noir"]], "label": [1]})) == [
        (1, "café noir", "1")
    ]


# Columns


def test_usual_names_are_found_in_any_case():
    assert rows_of([{"Review": "good", "SENTIMENT": "pos"}]) == [(1, "good", "pos")]


@pytest.mark.parametrize("is_file", [True, False])
def test_keys_that_come_later_name_columns_too(tmp_path, is_file):
    rows = [{"text": "a"}, {"text": "b", "label": "x"}, {"label": "y", "text": "c"}]
    content = "\n".join(map(json.dumps, rows))
    source = write(tmp_path, "a.jsonl", content) if is_file else rows
    dataset, (fault,) = read_dataset(source, Columns())
    assert (dataset.labels, fault.line) == (["x", "y"], 1)
    assert fault.message == "key 'label' is missing; the keys are text."


def test_the_first_usual_name_wins():
    row = {"content": "no", "review": "no", "sentence": "yes", "class": "no", "category": "yes"}
    assert rows_of([row]) == [(1, "yes", "yes")]


def test_a_dataset_knows_which_columns_were_read_and_what_else_would_have_fitted():
    row = {"review": "b", "text": "a", "Target": 1, "category": 2, "label": 3, "class": 4, "id": 5}
    columns = Columns(group="class", slices=("category",))
    dataset, _ = read_dataset([row], columns)
    assert dataset.columns == {
        "text": ReadColumn(name="text", is_given=False, others=("review",)),
        "label": ReadColumn(name="label", is_given=False, others=("Target",)),
    }
    assert dataset.select([0]).columns == dataset.columns
    named, _ = read_dataset([row], Columns(text="review", label="class"))
    assert named.columns == {
        "text": ReadColumn(name="review", is_given=True),
        "label": ReadColumn(name="class", is_given=True),
    }


def test_columns_of_the_training_go_first_where_they_are_and_serve_nothing_else():
    row = {"text": "a", "review": "b", "label": "x", "class": "y"}
    trained = {"trained_text": "review", "trained_label": "class"}
    assert rows_of([row], **trained) == [(1, "b", "y")]
    assert rows_of([{"text": "a", "label": "x"}], **trained) == [(1, "a", "x")]
    assert rows_of([row], **trained, group="class") == [(1, "b", "x")]
    assert rows_of([row], **trained, label="review") == [(1, "a", "b")]
    assert rows_of([row], **trained, text="text", label="label") == [(1, "a", "x")]


def test_accents_in_names_of_columns_may_be_characters_of_their_own():
    """Files of macOS have such; what is typed, and what a run recorded, has not."""
    names = ("texte\u0301", "genre\u0301", "caté")
    row = dict(zip((unicodedata.normalize("NFD", name) for name in names), "abc", strict=True))
    text, label, other = (unicodedata.normalize("NFC", name) for name in names)
    (found,) = read([row], text=text, label=label, group=other, slices=(other,), kept=(other,))
    assert (found.text, found.label, found.group) == ("a", "b", "c")
    assert found.slices == found.kept == ("c",)
    assert rows_of([row], trained_text=text, trained_label=label) == [(1, "a", "b")]
    with pytest.raises(SourceError, match="cannot be both label and group"):
        read([row], text=text, label=label, group=unicodedata.normalize("NFD", label))


def test_of_columns_whose_names_differ_in_case_the_first_is_read():
    assert rows_of([{"Text": "a", "TEXT": "b", "label": "x"}]) == [(1, "a", "x")]


def test_named_columns_are_used():
    row = {"text": "no", "body": "yes", "stars": 5, "label": "no", "movie": 7}
    (found,) = read([row], text="body", label="stars", group="movie")
    assert found == Row(line=1, text="yes", label="5", group="7")


def test_a_usual_name_that_is_taken_is_not_used_twice():
    row = {"category": "yes", "class": "pos"}
    assert rows_of([row], text="category") == [(1, "yes", "pos")]


def test_no_usual_text_column_is_explained(tmp_path):
    path = write(tmp_path, "a.csv", "id,reveiw,label\n1,good,pos\n")
    assert source_error(path) == (
        ": no text column: columns are id, reveiw, label; one of text, sentence, review, content "
        "was expected. Did you mean 'reveiw'? (The first line is read as the header.) "
        "Name it with --text-column"
    )


def test_a_column_of_labels_is_not_proposed_for_the_texts(tmp_path):
    path = write(tmp_path, "a.csv", "Comment,Sentiment\ngood,pos\n")
    assert "Did you mean 'Comment'?" in source_error(path)


def test_a_column_that_is_merely_spelt_a_little_alike_is_not_proposed():
    assert "Did you mean" not in source_error([{"extra": "good", "label": "pos"}])


def test_without_a_header_the_texts_in_its_place_are_shortened(tmp_path):
    path = write(tmp_path, "a.csv", f"{'a long review ' * 20},pos\ngood,pos\n")
    assert f"columns are {('a long review ' * 20)[:79]}…, pos; one of" in source_error(path)


def test_no_usual_label_column_is_explained():
    assert source_error([{"text": "good"}]).endswith(
        ": no label column: columns are text; one of label, sentiment, category, target, class "
        "was expected. Rename the column to 'label', or give its name: to train as label_column=…, "
        "elsewhere as columns=bertfit.Columns(label=…)"
    )


def test_a_named_column_that_is_missing_gets_a_guess(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "good", "label": 1}')
    message = ": no label column 'lable': columns are text, label. Did you mean 'label'?"
    assert source_error(path, label="lable") == message


@pytest.mark.parametrize("role", ["text", "label", "group"])
@pytest.mark.parametrize("name", ["film", ""])
def test_a_column_that_is_missing_is_refused(role, name):
    with pytest.raises(SourceError) as caught:
        read([{"text": "good", "label": 1}], **{role: name})
    assert str(caught.value) == f"rows: no {role} column {name!r}: columns are text, label."


def test_one_column_cannot_be_both():
    with pytest.raises(SourceError, match="column 'text' cannot be both text and label"):
        read([{"text": "good"}], text="text", label="text")


def test_a_wide_table_does_not_flood_the_message():
    row = {f"column_{number}": 1 for number in range(30)}
    with pytest.raises(SourceError, match=r"column_19 … and 10 more; one of"):
        read([row])


# Labels that are not needed


def test_labels_that_are_not_there_are_none():
    assert rows_of([{"text": "good"}], need_label=False) == [(1, "good", None)]


def test_labels_that_are_not_needed_are_not_read():
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": None}, {"text": "c", "label": [1]}]
    assert [row.label for row in read(rows, need_label=False)] == [None, None, None]


def test_a_named_label_column_is_not_read_either_where_labels_are_not_needed():
    rows = [{"text": "a", "stars": 1}, {"text": "b", "stars": [1]}]
    found = read(rows, need_label=False, label="stars")
    assert [row.label for row in found] == [None, None]


def test_a_column_that_is_named_twice_is_read_once():
    rows = [{"text": "a", "label": "x", "year": 1999}]
    columns = Columns(slices=("year", "year"), kept=("label", "year", "label"))
    (row,) = iter_rows(rows, columns, need_label=True)
    assert (row.slices, row.kept) == ((1999,), ("x", 1999))


def test_a_file_without_labels_may_have_its_texts_where_the_run_had_its_labels():
    trained = {"trained_text": "body", "trained_label": "text"}
    assert rows_of([{"text": "good"}], need_label=False, **trained) == [(1, "good", None)]
    with pytest.raises(SourceError, match="'text' cannot be both text and label"):
        read([{"text": "good"}], **trained)


@pytest.mark.parametrize("role", ["text", "label"])
@pytest.mark.parametrize("is_named", [False, True])
def test_rows_are_not_grouped_by_their_texts_or_labels(role, is_named):
    named = {role: role} if is_named else {}
    with pytest.raises(SourceError, match=role):
        read([{"text": "good", "label": "pos"}], group=role, **named)


def test_a_named_label_column_must_be_there_though_not_needed():
    with pytest.raises(SourceError, match="no label column 'stars'"):
        read([{"text": "good"}], need_label=False, label="stars")


def make_dataset(*pairs):
    return read_dataset([{"text": text, "label": label} for text, label in pairs], Columns())[0]


def test_a_fingerprint_is_that_of_the_texts_and_labels_in_order():
    rows = [("a", "x"), ("b", "y")]
    others = [rows[::-1], [("a", "x"), ("b", "x")], [("ab", "y")], [("ax", "b"), ("b", "y")]]
    whole = [make_dataset(*pairs).fingerprint() for pairs in (rows, *others)]
    assert len(set(whole)) == len(whole)
    assert make_dataset(*rows).fingerprint() == whole[0]
    assert make_dataset(("ab", "c")).fingerprint() != make_dataset(("a", "bc")).fingerprint()


def test_rows_are_selected_in_the_order_asked_for():
    dataset = make_dataset(("a", "x"), ("b", "y"), ("c", "x")).select([1, 2, 0])
    assert (dataset.texts, dataset.labels, dataset.lines) == (
        ["b", "c", "a"],
        ["y", "x", "x"],
        [2, 3, 1],
    )


def test_a_dataset_holds_the_good_rows(tmp_path):
    path = write(tmp_path, "a.csv", "text,label,movie\na,pos,m1\n,neg,m1\nc,neg,m2\n")
    dataset, faults = read_dataset(path, Columns(group="movie"))
    assert (dataset.source, dataset.texts, dataset.labels) == (
        str(path),
        ["a", "c"],
        ["pos", "neg"],
    )
    assert (dataset.groups, dataset.lines) == (["m1", "m2"], [2, 4])
    assert [str(fault) for fault in faults] == [f"{path}:3: the text is empty"]


def test_rows_come_before_the_whole_file_is_read(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\n" + "good,pos\n" * 100_000)
    rows = iter_rows(path, Columns(), need_label=True)
    assert next(rows) == Row(line=2, text="good", label="pos", group=None)
    rows.close()


# Real files


def real_file(name: str) -> Path:
    folder = os.environ.get("BERTFIT_DATA")
    if folder is None:
        pytest.skip("BERTFIT_DATA does not name a folder with the real data sets")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.mark.parametrize(
    ("name", "num_rows", "num_labels"),
    [("banking77/train.csv", 10_003, 77), ("sst2_glue/dev.tsv", 872, 2)],
)
def test_a_real_file_is_read_without_a_fault(name, num_rows, num_labels):
    dataset, faults = read_dataset(real_file(name), Columns())
    assert (len(dataset), len(set(dataset.labels)), faults) == (num_rows, num_labels, [])


def test_the_first_real_reviews_are_read():
    path = real_file("imdb/imdb_test_raw.jsonl.gz")
    rows = iter_rows(path, Columns(group="movie"), need_label=True)
    first = [row for row, _ in zip(rows, range(1000), strict=False)]
    assert {row.label for row in first} == {"neg"}
    assert all(row.group.startswith("tt") for row in first)


def test_keys_of_dicts_are_read_as_names():
    rows = [{0: "good", 1: "pos"}, {0: "bad", 1: "neg"}]
    dataset, faults = read_dataset(rows, Columns(text="0", label="1"))
    assert (list(dataset.texts), list(dataset.labels), faults) == (
        ["good", "bad"],
        ["pos", "neg"],
        [],
    )


@pytest.mark.parametrize("name", ["pandas", "pyarrow", "datasets"])
def test_a_module_of_the_caller_may_be_named_like_a_library(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    assert rows_of([{"text": "good", "label": "pos"}]) == [(1, "good", "pos")]
