"""Checks before training: all problems of all files in one error, and what may be skipped."""

from __future__ import annotations

import gzip
import random

import pytest

from bertfit.data import readers
from bertfit.data.checks import (
    check_evaluation_data,
    check_training_data,
    describe,
)
from bertfit.data.dataset import Columns
from bertfit.data.readers import read_dataset
from bertfit.errors import ConfigError, DataError

GOOD = [{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}]
BAD = {"text": "", "label": "pos"}
ODD = {"text": "hm", "label": "psitive"}


def check(train, *, columns=None, **options):
    return check_training_data(train, columns=columns or Columns(), **options)


def refuse(train, **options) -> str:
    with pytest.raises(DataError) as caught:
        check(train, **options)
    return str(caught.value)


def write(path, rows):
    lines = ["text,label", *(f"{row['text']},{row['label']}" for row in rows)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_good_data_passes():
    checked = check(GOOD, validation=[*GOOD, GOOD[0]], test=GOOD)
    assert [len(checked.train), len(checked.validation), len(checked.test)] == [2, 3, 2]
    assert (checked.label_names, checked.skipped) == (("neg", "pos"), ())


def test_progress_is_told_of_each_large_source(monkeypatch):
    monkeypatch.setattr(readers, "ROWS_PER_REPORT", 3)
    heard = []

    def hear(*count):
        heard.append(count)

    check(GOOD * 2, validation=GOOD, test=GOOD * 3, on_progress=hear)
    assert heard == [(3, None), (4, 4), (3, None), (6, None), (6, 6)]
    heard.clear()
    check_evaluation_data(GOOD * 2, Columns(), ["neg", "pos"], on_progress=hear)
    assert heard == [(3, None), (4, 4)]


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_a_part_with_one_class_is_refused(part, on_bad_row):
    message = refuse(GOOD, **{part: [GOOD[0], BAD, GOOD[0]]}, on_bad_row=on_bad_row)
    assert (
        "\n  rows: all rows have the label 'pos': a part with one class only cannot tell" in message
    )


def test_a_misspelt_label_is_told_as_that_alone_unless_it_is_skipped():
    assert "1 problem in the data" in refuse(GOOD, validation=[GOOD[1], ODD])
    assert "one class only" in refuse(GOOD, validation=[GOOD[1], ODD], on_bad_row="skip")


def test_parts_that_are_not_given_are_none():
    checked = check(GOOD)
    assert (checked.validation, checked.test) == (None, None)


def test_label_names_do_not_depend_on_the_order_of_rows():
    rows = [{"text": "x", "label": label} for label in (10, 9, 2)]
    assert check(rows).label_names == check(rows[::-1]).label_names == ("2", "9", "10")


def test_all_faults_of_all_files_come_in_one_error(tmp_path):
    train = write(tmp_path / "train.csv", [*GOOD, BAD])
    validation = write(tmp_path / "validation.csv", [ODD, BAD, *GOOD])
    message = refuse(train, validation=validation, test=tmp_path / "test.csv")
    assert message.splitlines() == [
        "4 problems in the data: nothing was trained",
        f"  {train}:4: the text is empty",
        (
            f"  {validation}:2: label 'psitive' does not occur in the training data, "
            "which has neg, pos."
        ),
        f"  {validation}:3: the text is empty",
        f"  {tmp_path / 'test.csv'}: no such file.",
        (
            "Fix the data, or skip 3 rows with --on-bad-row skip. "
            "The other problem must be fixed in any case."
        ),
    ]


def test_problems_that_skipping_does_not_fix_are_counted(tmp_path):
    message = refuse([*GOOD, BAD], validation=tmp_path / "a.csv", test=tmp_path / "b.csv")
    assert message.endswith(" The other 2 problems must be fixed in any case.")


def test_the_columns_are_told_of_each_part():
    validation = [{"review": row["text"], "label": row["label"]} for row in GOOD]
    test = [{"text": row["text"], "sentiment": row["label"]} for row in GOOD]
    checked = check(GOOD, validation=validation, test=test)
    names = {
        part: (columns["text"].name, columns["label"].name)
        for part, columns in checked.columns.items()
    }
    assert names == {
        "train": ("text", "label"),
        "validation": ("review", "label"),
        "test": ("text", "sentiment"),
    }
    assert list(check(GOOD, test=test).columns) == ["train", "test"]


def swap(num_rows, num_texts, num_labels):
    return [
        {"text": f"t{at % num_texts}", "my label": f"l{at % num_labels}"} for at in range(num_rows)
    ]


def test_swapped_columns_are_told_once():
    columns = Columns(label="my label")
    told = refuse(swap(20, 2, 20), test=swap(40, 2, 40), columns=columns)
    assert told == (
        "1 problem in the data: nothing was trained\n"
        "  rows: the labels have 20 values in 20 rows, and the texts only 2, as if the columns "
        "were swapped. Name them the other way round: --text-column 'my label' --label-column text"
    )


@pytest.mark.parametrize("counts", [(19, 2, 19), (40, 2, 19), (40, 11, 20), (40, 30, 40)])
def test_few_rows_few_labels_or_as_many_texts_are_not_taken_for_swapped(counts):
    assert check(swap(*counts), columns=Columns(label="my label")).label_names


@pytest.mark.parametrize("counts", [(40, 2, 20), (40, 10, 20), (40, 20, 40)])
def test_labels_that_mostly_differ_beside_repeated_texts_are_taken_for_swapped(counts):
    refuse(swap(*counts), columns=Columns(label="my label"))


def test_a_file_that_cannot_be_read_does_not_hide_the_others(tmp_path):
    test = write(tmp_path / "test.csv", [BAD, *GOOD])
    assert refuse(tmp_path / "train.csv", test=test).splitlines()[:-1] == [
        "2 problems in the data: nothing was trained",
        f"  {tmp_path / 'train.csv'}: no such file.",
        f"  {test}:2: the text is empty",
    ]


def test_a_file_that_breaks_off_does_not_hide_the_rows_before(tmp_path):
    lines = "text,label\n,pos\n" + "".join(f"{random.random()},pos\n" for _ in range(3000))
    test = tmp_path / "test.csv.gz"
    test.write_bytes(gzip.compress(lines.encode())[:-9000])
    first, second = refuse(GOOD, test=test).splitlines()[1:-1]
    assert first.startswith(f"  {test}:")
    assert second == f"  {test}:2: the text is empty"


def test_one_problem_is_one_problem():
    message = refuse([*GOOD, BAD])
    assert message.splitlines() == [
        "1 problem in the data: nothing was trained",
        "  rows:3: the text is empty",
        "Fix the data, or skip 1 row with --on-bad-row skip.",
    ]


def test_the_headline_fits_what_was_to_be_done():
    assert "nothing was judged\n" in refuse([*GOOD, BAD], verb="judged")
    with pytest.raises(DataError, match="1 problem in the data: nothing was judged\n"):
        check_evaluation_data([*GOOD, BAD], Columns(), ["neg", "pos"], verb="judged")


def test_training_rows_must_be_given():
    for part in ({}, {"validation": GOOD}, {"test": GOOD}):
        with pytest.raises(DataError, match="cannot read rows from NoneType; a path, a pandas"):
            check(None, **part)


def test_a_label_of_another_spelling_is_that_of_the_training_rows():
    """pandas writes whole numbers with .0 if a value of the column is missing."""
    rows = [{"text": "good", "label": 1}, {"text": "bad", "label": 0}]
    written = [{**row, "label": f"{row['label']}.0"} for row in rows]
    assert check(rows, test=written).test.labels == ["1", "0"]
    assert check_evaluation_data(written, Columns(), ["0", "1"])[0].labels == ["1", "0"]


def test_an_unknown_label_gets_a_guess():
    message = refuse(GOOD, test=[{"text": "hm", "label": "Pos"}])
    assert "rows:1: label 'Pos' does not occur in the training data" in message
    assert "which has neg, pos. Did you mean 'pos'?" in message


def test_bad_rows_are_left_out_when_asked():
    checked = check([*GOOD, BAD], test=[ODD, *GOOD], on_bad_row="skip")
    assert [len(checked.train), len(checked.test)] == [2, 2]
    assert [fault.line for fault in checked.skipped] == [3, 1]
    assert checked.test.lines == [2, 3]


def test_a_single_label_cannot_be_skipped():
    message = refuse([{"text": "good", "label": "pos"}, BAD], on_bad_row="skip")
    assert message.splitlines() == [
        "2 problems in the data: nothing was trained",
        "  rows: all rows have the label 'pos'; at least 2 labels are needed",
        "  rows:2: the text is empty",
    ]


def test_a_file_with_a_header_alone_has_no_rows(tmp_path):
    train = write(tmp_path / "train.csv", [])
    assert f"\n  {train}: has no rows" in refuse(train)


def test_a_source_of_which_no_row_is_left_is_refused():
    message = refuse(GOOD, validation=[BAD, BAD], on_bad_row="skip")
    assert "\n  rows: no row can be used: all 2 have faults" in message


def test_skipping_is_not_advised_where_no_row_would_be_left():
    message = refuse([*GOOD, BAD], validation=[BAD, BAD])
    assert message.startswith("3 problems in the data")  # that none is left is no further one
    assert message.endswith("\nFix the data: without the bad rows, none would be left.")


def test_an_unknown_choice_is_refused():
    message = "on_bad_row is 'ignore'; 'error' or 'skip' was expected"
    with pytest.raises(ConfigError, match=message):
        check(GOOD, on_bad_row="ignore")
    with pytest.raises(ConfigError, match=r"on_bad_row is \['skip'\]; 'error' or 'skip' was"):
        check(GOOD, on_bad_row=["skip"])
    with pytest.raises(ConfigError, match=message):
        check_evaluation_data(GOOD, Columns(), ["neg", "pos"], "ignore")


def test_evaluation_data_passes_with_fewer_labels_than_the_model():
    dataset, skipped = check_evaluation_data(GOOD[:1], Columns(), ["neg", "pos"], "error")
    assert (len(dataset), skipped) == (1, ())


def test_a_label_that_the_model_does_not_know_is_refused():
    with pytest.raises(DataError) as caught:
        check_evaluation_data([*GOOD, ODD], Columns(), ["neg", "pos", "positive"])
    assert str(caught.value).splitlines() == [
        "1 problem in the data: nothing was evaluated",
        (
            "  rows:3: label 'psitive' is not known to the model, which has neg, pos, positive. "
            "Did you mean 'positive'?"
        ),
        "Fix the data, or skip 1 row with --on-bad-row skip.",
    ]


def test_the_known_labels_are_listed_once_and_a_long_label_is_cut():
    labels = ("x" * 5000, "psitive", "odd", "pos", "y" * 80)
    rows = [{"text": "hm", "label": label} for label in labels]
    with pytest.raises(DataError) as caught:
        check_evaluation_data(rows, Columns(), ["neg", "pos", "positive"])
    assert str(caught.value).splitlines()[1:-1] == [
        f"  rows:1: label '{'x' * 79}…' is not known to the model, which has neg, pos, positive.",
        "  rows:2: label 'psitive' is not known to the model. Did you mean 'positive'?",
        "  rows:3: label 'odd' is not known to the model.",
        f"  rows:5: label '{'y' * 80}' is not known to the model.",
    ]


def test_unknown_labels_are_left_out_of_an_evaluation_when_asked():
    dataset, skipped = check_evaluation_data([*GOOD, ODD, BAD], Columns(), ["neg", "pos"], "skip")
    assert (len(dataset), [fault.line for fault in skipped]) == (2, [3, 4])


def test_words_are_counted_in_scripts_without_spaces():
    """They had one word a text, beside findings that counted dozens."""
    texts = ["这部电影很好", "ｶﾀｶﾅ", "so good", "it's non-ASCII: é"]
    dataset, _ = read_dataset([{"text": text, "label": "x"} for text in texts], Columns())
    described = describe(dataset, ["x"])
    assert (described["words_median"], described["words_max"]) == (3.5, 6)


def test_a_dataset_is_described():
    texts = ["a b c d e f", "a b c", "a b c", "one<BR/>two"]
    rows = [
        {"text": text, "label": label, "movie": movie}
        for text, label, movie in zip(texts, "xxyx", "1122", strict=True)
    ]
    dataset, _ = read_dataset(rows, Columns(group="movie"))
    assert describe(dataset, ["x", "y", "z"]) == {
        "num_rows": 4,
        "num_per_label": {"x": 3, "y": 1, "z": 0},
        "num_groups": 2,
        "num_with_html_breaks": 1,
        "words_median": 3.0,
        "words_p95": 5.5,  # 5.55
        "words_max": 6,
    }


@pytest.mark.parametrize(
    ("given", "where"),
    [((), "train"), (("validation",), "validation"), (("validation", "test"),) * 2],
)
def test_only_the_rows_that_judge_need_the_columns_of_slices(given, where):
    where = "test" if "test" in given else where
    parts = {name: [{**row, "kind": row["label"][0]} for row in GOOD] for name in (where,)}
    sources = {name: parts.get(name, GOOD) for name in ("train", *given)}
    checked = check(**sources, columns=Columns(slices=("kind",)))
    assert dict(getattr(checked, where).slices) == {"kind": ["p", "n"]}
    assert all(not getattr(checked, name).slices for name in sources if name != where)
    sources[where] = [{**row, "kinds": "x"} for row in GOOD]
    message = refuse(**sources, columns=Columns(slices=("kind",)))
    assert (
        "no slice column 'kind': columns are text, label, kinds. Did you mean 'kinds'?" in message
    )


def test_columns_of_slices_go_with_their_rows():
    rows = [{**row, "year": year} for row, year in zip(GOOD * 2, (1990, None, "x", 3), strict=True)]
    dataset, faults = read_dataset([*rows[:1], BAD, *rows[1:]], Columns(slices=("year", "year")))
    assert len(faults) == 1
    assert dataset.slices == {"year": [1990, None, "x", 3]}
    assert dataset.select([3, 0]).slices == {"year": [3, 1990]}


def test_the_text_cuts_no_slices():
    assert "column 'text' is the text" in refuse(GOOD, columns=Columns(slices=("text",)))


def test_of_many_unknown_labels_only_the_first_get_a_suggestion(monkeypatch):
    monkeypatch.setattr("bertfit.data.checks._MOST_GUESSED", 2)
    labels = ["poss", "poss", "negg", "negh"]
    with pytest.raises(DataError) as caught:
        check_evaluation_data(
            [*GOOD, *({"text": "x", "label": label} for label in labels)], Columns(), ["neg", "pos"]
        )
    told = [fault.message for fault in caught.value.faults]
    assert ["Did you mean" in one for one in told] == [True, True, True, False]


def test_among_many_known_labels_fewer_unknown_ones_get_a_suggestion(monkeypatch):
    monkeypatch.setattr("bertfit.data.checks._MOST_COMPARED", 400)
    known = [f"class {number}" for number in range(200)]
    labels = ["class 0", *(f"clas {number}" for number in range(9))]
    rows = [{"text": "x", "label": label} for label in labels]
    with pytest.raises(DataError) as caught:
        check_evaluation_data(rows, Columns(), known)
    told = [fault.message for fault in caught.value.faults]
    assert ["Did you mean" in one for one in told] == [True] * 3 + [False] * 6


@pytest.mark.parametrize(
    ("num_rows", "lines"),
    [
        *((2, "3, 4"), (3, "3, 4, 5")),
        *((4, "3, 4, 5 and 1 other row"), (1004, "3, 4, 5 and 1,001 other rows")),
    ],
)
def test_rows_with_the_same_unknown_label_are_told_together(num_rows, lines):
    """Others were not told: all 20 lines repeated the first label."""
    fair, poor = ({"text": "hm", "label": label} for label in ("fair", "poor"))
    assert refuse(GOOD, test=[*GOOD, *[fair] * num_rows, poor]).splitlines() == [
        f"{num_rows + 1:,} problems in the data: nothing was trained",
        (f"  rows:{lines}: label 'fair' does not occur in the training data, which has neg, pos."),
        f"  rows:{num_rows + 3}: label 'poor' does not occur in the training data.",
        f"Fix the data, or skip {num_rows + 1:,} rows with --on-bad-row skip.",
    ]


def test_equal_faults_of_two_files_are_told_apart(tmp_path):
    paths = [write(tmp_path / name, [*GOOD, BAD, BAD]) for name in ("a.csv", "b.csv")]
    assert refuse(paths[0], test=paths[1]).splitlines()[1:-1] == [
        f"  {path}:4, 5: the text is empty" for path in paths
    ]


def test_equal_faults_of_parts_of_one_name_are_told_apart():
    """Tables in memory have one name."""
    told = refuse([*GOOD, BAD, BAD], test=[*GOOD, BAD, *GOOD, BAD])
    assert told.splitlines()[1:-1] == [
        "  rows:3, 4: the text is empty",
        "  rows:3, 6: the text is empty",
    ]


def test_each_row_keeps_a_fault_of_its_own():
    with pytest.raises(DataError) as caught:
        check([*GOOD, BAD, BAD])
    assert [str(fault) for fault in caught.value.faults] == [
        "rows:3: the text is empty",
        "rows:4: the text is empty",
    ]


def test_what_is_not_shown_is_counted_in_rows():
    rows = [{"text": "hm", "label": f"x{at % 22}"} for at in range(22 * 3)]
    lines = refuse(GOOD, test=[*GOOD, *rows]).splitlines()
    assert lines[0].startswith("66 problems")
    assert lines[20].startswith("  rows:22, 44, 66: label 'x19' does not occur")
    assert lines[21] == "  … and 6 more"


UTF8_ADVICE = "re-save the file as UTF-8 (it may be in latin-1 or cp1252)"
ENCODING_ADVICE = (
    "say which encoding it is, as in --encoding cp1252 (Western Europe), cp1251 (Cyrillic), "
    "gb18030 (Chinese) or shift_jis (Japanese), or re-save the file as UTF-8"
)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "café,a\nthé,b\n".encode("cp1252"), f"the line is not UTF-8; {ENCODING_ADVICE}"),
        (
            "a.csv",
            "café,a\ncafé,b\n".encode("cp1252"),
            f"byte 0xe9 at offset 3 of the line is not UTF-8; {ENCODING_ADVICE}",
        ),
        ("a.csv", b"a\0,a\n\0,b\n", "NUL character in the line; the file is not plain text"),
        (
            "a.csv",
            b"a,b,c\na,b,c,d\n",
            (
                "too many fields; the header has 2; a text with the separator in it must stand "
                "in quotes"
            ),
        ),
        ("a.tsv", b"a\tb\tc\na\tb\tc\td\n", "too many fields; the header has 2"),
        (
            "a.csv",
            b'"a\nb",b,c\n"a\n\nb",b,c\n',
            "too many fields; the header has 2; the row goes on over the next lines",
        ),
        (
            "a.jsonl",
            b'{"text": 1,\n{"text": 12,\n',
            "the line is not JSON: Expecting property name",
        ),
        (
            "a.jsonl",
            b'{"text": "a\tb"}\n{"text": "ab\tc"}\n',
            "the line is not JSON: Invalid control character",
        ),
        (
            "a.jsonl",
            b'{"text": 1.5, "label": 1}\n{"text": 2.5, "label": 1}\n',
            "the text is float; a string or a list of strings was expected",
        ),
        (
            "a.jsonl",
            b'{"text": "a", "label": [1]}\n{"text": "b", "label": [2]}\n',
            "the label is list; a string, an integer or a boolean was expected; a text has one",
        ),
        (
            "a.jsonl",
            b'{"text": "a\\u0000", "label": 1}\n{"text": "\\u0000", "label": 1}\n',
            "the text has a NUL character",
        ),
        (
            "a.jsonl",
            b'{"text": "\\ud800", "label": 1}\n{"text": "a\\ud801", "label": 1}\n',
            "the text has a lone surrogate",
        ),
    ],
)
def test_faults_that_differ_in_places_and_values_are_told_together(tmp_path, name, content, told):
    head = {".csv": b"text,label\n", ".tsv": b"text\tlabel\n"}.get(name[1:], b"")
    rest = b'{"text": "a", "label": 1}\n' if not head else b""
    path = tmp_path / name
    path.write_bytes(head + content + rest)
    first, *lines = refuse(path).splitlines()
    assert int(first.split()[0]) >= 2
    (line,) = [line for line in lines if ", " in line.partition(f"{name}:")[2].partition(": ")[0]]
    assert line.partition(": ")[2].startswith(told)
    assert not line.endswith(" at")


def test_strings_of_a_table_that_are_not_utf8_are_told_together():
    rows = [{"text": text, "label": "pos"} for text in (b"caf\xe9", b"th\xe9")]
    assert f"rows:3, 4: the text is not UTF-8; {UTF8_ADVICE}" in refuse([*GOOD, *rows])


def test_a_label_of_other_words_gets_no_guess():
    """It was 'card_payment_fee_charged' for 'transfer_fee_charged'."""
    labels = ("card_payment_fee_charged", "card_arrival")
    rows = [{"text": "hm", "label": label} for label in ("transfer_fee_charged", "card_arival")]
    with pytest.raises(DataError) as caught:
        check_evaluation_data([*rows, {"text": "hm", "label": labels[0]}], Columns(), labels)
    first, second, _ = str(caught.value).splitlines()[1:]
    assert first.endswith(f", which has {', '.join(labels)}.")
    assert second.endswith("Did you mean 'card_arrival'?")


def test_numbers_are_the_classes_of_a_model_that_has_no_names_for_them():
    rows = [{"text": "good", "label": 1}, {"text": "bad", "label": "0"}]
    dataset, _ = check_evaluation_data(rows, Columns(), ["LABEL_0", "LABEL_1"])
    assert dataset.labels == ["LABEL_1", "LABEL_0"]


def test_of_a_model_without_names_it_is_told_where_they_belong():
    with pytest.raises(DataError) as caught:
        check_evaluation_data(GOOD, Columns(), ["LABEL_0", "LABEL_1"], names_may_change=True)
    told = "which has LABEL_0, LABEL_1, as nobody named them: write the names of your labels into"
    assert told in str(caught.value)
    with pytest.raises(DataError) as caught:  # of a run, whose record has the names too
        check_evaluation_data(GOOD, Columns(), ["LABEL_0", "LABEL_1"])
    assert "config.json" not in str(caught.value)


@pytest.mark.parametrize(
    ("num_undecodable", "num_empty", "advice"),
    [
        (1, 0, "Fix the data, or skip 1 row"),
        (2, 0, "Say the encoding, as above"),
        (2, 1, "Say the encoding, as above"),
        (2, 2, "Fix the data, or skip 4 rows"),
    ],
)
def test_if_most_faults_are_of_the_encoding_it_is_to_be_said(
    tmp_path, num_undecodable, num_empty, advice
):
    rows = ["good,pos", "bad,neg", *["caf\u00e9,pos"] * num_undecodable, *[",pos"] * num_empty]
    (tmp_path / "train.csv").write_bytes("\n".join(["text,label", *rows]).encode("latin-1"))
    assert refuse(tmp_path / "train.csv").splitlines()[-1].startswith(advice)
