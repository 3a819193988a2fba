"""Findings in 80 columns: leaks first, and user text is not interpreted as markup."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bertfit.data.findings import Example, Finding
from bertfit.reporting.findings import brief_lines, findings_text, labels_table, lengths_table

LEAK = "LEAK: 1 of 10 test rows (10.0 %) seen before"


def show(renderable) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80).print(renderable)
    return out.getvalue().splitlines()


def make(severity="minor", kind="duplicates", text="[red]a film[/red]", **options):
    example = Example(f"/very/long/{'path' * 30}/train.csv", 12, text, "as line 3")
    values = {
        "part": "train",
        "count": 1,
        "num_rows": 10,
        "message": "1 row of train (10.0 %) repeats the text of an earlier row of train.",
        "advice": "Keep one of each.",
        "examples": (example,),
    }
    return Finding(kind=kind, severity=severity, **{**values, **options})


PART = {
    "num_rows": 25_000,
    "words_median": 174.0,
    "tokens": {
        "num_counted": 10_000,
        "num_estimated": 0,
        "median": 224.0,
        "p95": 757.0,
        "max": 3_127,
        "cut_shares": {"128": 0.88, "200": 0.6, "256": 0.41, "512": 0.13},
        "text_cleaning": "none",
    },
}


def test_the_leak_line_is_the_first():
    assert show(findings_text(LEAK, [make()]))[0].rstrip() == LEAK


def test_every_finding_has_its_example_and_advice_under_its_severity():
    lines = [line.strip() for line in show(findings_text(LEAK, [make("leak"), make()]))]
    assert [line for line in lines if line.startswith(("Leaks:", "Minor:"))] == [
        "Leaks: the test score overstates the model",
        "Minor: worth fixing",
    ]
    assert "train.csv:12 (as line 3): [red]a film[/red]" in lines
    assert "Keep one of each." in lines


def test_findings_of_several_parts_share_their_advice():
    found = [make(message="in train"), make(message="in test"), make(message="x", advice="Else.")]
    lines = [line.strip() for line in show(findings_text(LEAK, found))]
    example = "train.csv:12 (as line 3): [red]a film[/red]"
    of_both = ["in train", example, "in test", example, "Keep one of each."]
    assert lines[lines.index("in train") :] == [*of_both, "", "x", example, "Else."]


def test_nothing_is_wider_than_80_columns():
    long = make(text="word " * 100, message="a long message " * 20, advice="do this " * 30)
    for renderable in (findings_text(LEAK, [long]), lengths_table({"validation": PART})):
        assert max(map(len, show(renderable))) <= 80


def test_an_example_stays_on_one_line():
    lines = show(findings_text(LEAK, [make(text="word " * 100)]))
    assert sum("train.csv:12" in line for line in lines) == 1


@pytest.mark.parametrize("label", ["x" * 200, "two\nlines", "标签" * 40])
def test_an_example_with_a_long_label_stays_on_one_line(label):
    example = Example("训练集.csv", 12, "文" * 60, f"label {label}")
    (line,) = [
        line for line in show(findings_text(LEAK, [make(examples=(example,))])) if "文" in line
    ]
    assert "csv:12 (label " in line
    assert line.rstrip().endswith("文")


def test_without_findings_it_says_so():
    lines = show(findings_text("No leak into the test set was found (9 rows).", []))
    assert lines[1].rstrip() == "The other checks found nothing."


def test_labels_are_counted_in_each_part():
    parts = {
        "train": {"num_per_label": {"neg": 900, "pos": 1100}},
        "test": {"num_per_label": {"neg": 1500, "pos": 7}},
    }
    lines = (line.split() for line in show(labels_table(parts)) if line.strip())
    title, head, _, *rows = lines
    assert (title, head) == (["Rows", "by", "label"], ["Label", "train", "test"])
    assert rows == [["neg", "900", "1,500"], ["pos", "1,100", "7"]]


def test_of_many_labels_the_most_frequent_are_shown_and_the_rarest_is_counted():
    counts = {f"label {number} {'x' * 50}": number + 1 for number in range(300)}
    lines = show(labels_table({"train": {"num_per_label": counts}}))
    told = "Rows by label (the 10 most frequent of 300; the rarest has 1 row)"
    assert lines[0].rstrip() == told
    assert sum("label" in line for line in lines[1:]) == 10
    assert "300" in "".join(lines[4:6])


def test_lengths_show_what_each_limit_cuts_and_what_was_counted():
    text = "\n".join(show(lengths_table({"train": PART})))
    for shown in ("25,000", "> 128", "88.0", "> 200", "> 512", "13.0", "10,000 of train"):
        assert shown in text
    assert "…" not in text


def test_lengths_of_many_rows_leave_every_limit_legible():
    part = {**PART, "num_rows": 999_999, "tokens": {**PART["tokens"], "max": 12_345}}
    text = "\n".join(show(lengths_table({"validation": part})))
    for shown in ("validation", "999,999", "12,345", "> 128", "> 200", "> 256", "> 512"):
        assert shown in text
    assert "…" not in text


def test_lengths_of_all_rows_need_no_remark():
    part = {**PART, "tokens": {**PART["tokens"], "num_counted": 25_000}}
    assert "drawn" not in "\n".join(show(lengths_table({"train": part})))


@pytest.mark.parametrize(
    ("num_estimated", "told"),
    [
        (0, None),
        (1, "The tokens of 1 long text are estimated from its beginning."),
        (1_200, "The tokens of 1,200 long texts are estimated from their beginning."),
    ],
)
def test_lengths_say_how_many_are_estimates(num_estimated, told):
    part = {**PART, "tokens": {**PART["tokens"], "num_estimated": num_estimated}}
    text = "\n".join(show(lengths_table({"train": part})))
    assert told in text if told else "estimated" not in text


@pytest.mark.parametrize(("cleaning", "is_told"), [("html_breaks", True), ("none", False)])
def test_lengths_say_how_line_breaks_were_counted(cleaning, is_told):
    part = {**PART, "tokens": {**PART["tokens"], "text_cleaning": cleaning}}
    text = "\n".join(show(lengths_table({"train": part})))
    assert ("with HTML line breaks as spaces, as train reads them" in text) == is_told


def test_brief_lines_name_the_severity_and_count_the_rest():
    lines = brief_lines([make("serious"), make(), make()], most=2)
    assert lines[0].startswith("Serious: 1 row of train")
    assert lines[1].startswith("1 row of train")
    assert lines[2] == "… and 1 more finding, which the report and bertfit check show."
    assert brief_lines([make()], most=2) == [make().message]
    all_serious = brief_lines([make("serious")] * 5 + [make()], most=2)
    assert [line.startswith("Serious: ") for line in all_serious] == [*[True] * 5, False]
