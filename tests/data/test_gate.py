"""The data gate on a data set with every kind of fault, and on one without any."""

from __future__ import annotations

import random
import re
import string

import pytest

from bertfit.data.checks import check_training_data
from bertfit.data.dataset import Columns, TextDataset
from bertfit.data.findings import KINDS, shorten_around, show_row
from bertfit.data.gate import (
    GateReport,
    add_learned,
    choose_cleaning_of,
    inspect_rows,
    refuse_leaks,
    summarize_leaks,
)
from bertfit.data.readers import read_dataset
from bertfit.data.splits import split_off
from bertfit.errors import DataError, LeakError

TOKEN_KINDS = {
    "unknown_tokens",
    "no_tokens",
    "unread_signs",
}  # of the tokenizer: tests/data/test_token_faults.py


def make_texts(num_rows, *, seed, num_words=20):
    """Texts of random made-up words, of which no two are alike."""
    generator = random.Random(seed)
    words = ["".join(generator.choices(string.ascii_lowercase, k=5)) for _ in range(500)]
    return [" ".join(generator.choices(words, k=num_words)) for _ in range(num_rows)]


def make_rows(num_rows, *, seed, group="g"):
    return [
        {"text": text, "label": ("neg", "pos")[at % 2], "movie": f"{group}{at // 4}"}
        for at, text in enumerate(make_texts(num_rows, seed=seed))
    ]


def row(text, label="pos", movie="other"):
    return {"text": text, "label": label, "movie": movie}


def inspect(
    train, *, validation=None, test=None, group="movie", on_bad_row="error", is_split=False
):
    checked = check_training_data(
        train,
        validation=validation,
        test=test,
        columns=Columns(group=group),
        on_bad_row=on_bad_row,
    )
    return inspect_rows(
        checked.train,
        validation=checked.validation,
        test=checked.test,
        is_split=is_split,
        label_names=checked.label_names,
        skipped=checked.skipped,
    )


def kinds(report):
    return {(finding.kind, finding.part, finding.count) for finding in report.findings}


CLEAN = {
    "train": make_rows(200, seed=1, group="a"),
    "validation": make_rows(40, seed=2, group="b"),
    "test": make_rows(40, seed=3, group="c"),
}


LABELS = ("neg", "pos")


def test_clean_data_gives_no_finding():
    report = inspect(**CLEAN)
    assert report.findings == ()
    assert summarize_leaks(report) == "No leak into the test set was found (40 rows)."


def near(text):
    return text.rpartition(" ")[0] + " changed"


def test_what_the_base_had_learned_is_a_leak_into_test_and_serious_in_validation():
    test = [*CLEAN["test"], row(CLEAN["train"][0]["text"])]
    checked = check_training_data(
        CLEAN["train"], validation=CLEAN["validation"], test=test, columns=Columns()
    )
    parts = {"validation": checked.validation, "test": checked.test}
    before = inspect(CLEAN["train"], test=test)
    report = add_learned(before, parts, {"validation": [3], "test": [2, 1]}, "runs/a")
    assert report.leaked_test_rows == (1, 2, 40)
    assert [(one.kind, one.part, one.severity) for one in report.findings] == [
        ("shared_texts", "test", "leak"),
        ("learned_texts", "test", "leak"),
        ("learned_texts", "validation", "serious"),
    ]
    assert report.findings[1].message == (
        "2 rows of test (4.9 %) have a text on which runs/a, from which the training starts, was "
        "trained."
    )
    assert "choose the epoch" in report.findings[2].advice
    assert [one.note for one in report.findings[1].examples] == ["learned by runs/a"] * 2
    assert summarize_leaks(report) == "LEAK: 3 of 41 test rows (7.3 %) seen before"
    with pytest.raises(LeakError, match="learned texts: Start from another model"):
        refuse_leaks(report)


def test_where_nothing_had_been_learned_there_is_no_finding():
    checked = check_training_data(CLEAN["train"], test=CLEAN["test"], columns=Columns())
    report = inspect(CLEAN["train"], test=CLEAN["test"])
    parts = {"validation": None, "test": checked.test}
    assert add_learned(report, parts, {"validation": [], "test": []}, "runs/a") == report


PLANTED = {
    "shared_texts": (
        {"test": [row(CLEAN["train"][0]["text"].upper() + "  ", "neg")]},
        ("test", 1),
    ),
    "near_duplicates": ({"test": [row(near(CLEAN["train"][3]["text"]))]}, ("test", 1)),
    "shared_groups": ({"test": [row("entirely new words here", "pos", "a1")]}, ("test", 1)),
    "giveaway": (
        {"train": [row(f"{text} srcone", "pos") for text in make_texts(120, seed=9)]},
        ("train", 120),
    ),
    "conflicting_labels": (
        {"train": [row("a text of two minds", "pos"), row("A text of two minds", "neg")]},
        ("train", 2),
    ),
    "swallowed_rows": (
        {"train": [row("it was good,pos\nso-so\nnot this one,neg\na great one")]},
        ("train", 1),
    ),
    "joined_labels": (
        {"train": [row(text, "neg, pos") for text in make_texts(40, seed=10)]},
        ("train", 40),
    ),
    "missing_labels": (
        {"train": [row(text, "mixed") for text in make_texts(40, seed=8)]},
        ("test", 0),
    ),
    "alike_labels": (
        {"train": [row(text, "Pos") for text in make_texts(40, seed=8)]},
        ("train", 140),
    ),
    "null_labels": (
        {"train": [row(text, "nan") for text in make_texts(40, seed=8)]},
        ("train", 40),
    ),
    "mojibake": ({"train": [row("the cafÃ© was donâ€™t know what")]}, ("train", 1)),
    "replacement_characters": ({"train": [row("it\ufffds a good thing to see")]}, ("train", 1)),
    "duplicates": ({"train": [row(CLEAN["train"][4]["text"], "neg")]}, ("train", 1)),
    "imbalance": (
        {"train": [row(text, "pos") for text in make_texts(1000, seed=7)]},
        ("train", 1100),
    ),
    "rare_labels": ({"train": [row("so rare a label", "rare")]}, ("train", 1)),
    "c1_characters": ({"train": [row("a dash \x96 was here before")]}, ("train", 1)),
    "control_characters": ({"train": [row("a bell \x07 was here before")]}, ("train", 1)),
    "csv_quotes": ({"train": [row('"it was ""good"", they said"')]}, ("train", 1)),
    "html_tags": ({"train": [row("an <i>odd</i> &amp; tag was here")]}, ("train", 1)),
    "html_breaks": ({"train": [row("a break<br />was here before")]}, ("train", 1)),
    "number_texts": (
        {"test": [row(f"{part}-{at}") for at in range(40) for part in ("TK", "08/15")]},
        ("test", 80),
    ),
    "short_texts": ({"train": [row("!?")]}, ("train", 1)),
    "long_texts": ({"train": [row(" ".join(make_texts(40, seed=6)))]}, ("train", 1)),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_each_planted_fault_is_found(kind):
    extra, (part, count) = PLANTED[kind]
    parts = {name: [*rows, *extra.get(name, [])] for name, rows in CLEAN.items()}
    report = inspect(**parts)
    assert (kind, part, count) in kinds(report)


def test_a_sign_that_tells_the_label_is_a_finding():
    marked = [
        {**row, "text": f"{row['text']} ★★★"} if row["label"] == "pos" else row
        for row in CLEAN["train"]
    ]
    (finding,) = inspect(marked).findings
    assert (finding.kind, finding.count) == ("giveaway", 100)
    assert finding.message.startswith("The sign '★' gives away the label 'pos': it is in 100 %")
    assert finding.examples[0].line == 2
    assert "★★★" in finding.examples[0].text


@pytest.mark.parametrize("part", ["validation", "test"])
def test_only_the_training_rows_are_searched_for_giveaways(part):
    """The model learns from no other rows."""
    marked = [
        {**row, "text": f"{row['text']} ★"} if row["label"] == "pos" else row
        for row in CLEAN["test"]
    ]
    assert inspect(CLEAN["train"], **{part: marked}).findings == ()


def test_the_words_of_validation_rows_do_not_hide_a_giveaway():
    """They would be counted as words of the training rows at the same places."""
    train = [
        {**row, "text": f"{row['text']} ★"} if row["label"] == "pos" else row
        for row in CLEAN["train"]
    ]
    validation = [{**row, "text": f"{row['text']} ★"} for row in make_rows(200, seed=4)]
    report = inspect(train, validation=validation, group=None)
    assert ("giveaway", "train", 100) in kinds(report)


def test_a_percent_sign_in_a_word_or_a_label_is_told_as_it_is():
    marked = [
        {**row, "text": f"{row['text']} %", "label": "50% off"} if row["label"] == "pos" else row
        for row in CLEAN["train"]
    ]
    (finding,) = inspect(marked).findings
    assert finding.message.startswith("The sign '%' gives away the label '50% off': it is in 100 %")


def test_words_that_are_told_together_stand_in_the_order_of_a_text_with_them():
    """Not in that in which they tell: one is in a text of the other label as well."""
    train = [
        row(f"beta zeta alpha {text}") if at % 2 else row(f"beta {text}" if not at else text, "neg")
        for at, text in enumerate(make_texts(400, seed=5))
    ]
    (finding,) = inspect(train, group=None).findings
    assert finding.message.startswith("The words 'beta', 'zeta', 'alpha', in the same rows, ")


def test_the_row_that_is_shown_has_the_word_and_not_only_its_letters():
    train = [row(f"unsrconed {text}", "neg") for text in make_texts(1, seed=6)]
    train += [row(f"{text} srcone") for text in make_texts(120, seed=9)]
    report = inspect([*train, *CLEAN["train"]], group=None)
    (finding,) = [one for one in report.findings if one.kind == "giveaway"]
    assert (finding.examples[0].line, finding.examples[0].note) == (2, "label pos")


def test_more_telling_words_than_are_told_one_by_one_are_counted():
    rows = [
        {"text": f"{text} name{at % 16}", "label": f"class {at % 16:02}", "movie": f"g{at}"}
        for at, text in enumerate(make_texts(320, seed=3))
    ]
    *first, last = (found for found in inspect(rows).findings if "giveaway" in found.kind)
    assert [found.kind for found in first] == ["giveaway"] * 10
    assert (last.kind, last.count) == ("more_giveaways", 120)
    assert last.message == (
        "Besides the 10 most telling words and signs, 6 more give away one of 6 labels: "
        "'name10', 'name11', 'name12' and 3 more."
    )


def test_words_that_are_told_together_stand_last_though_they_are_in_more_rows():
    numbers = [*range(16)] * 20 + [15] * 10
    rows = [
        {"text": f"{text} name{number}", "label": f"class {number:02}", "movie": f"g{at}"}
        for at, (text, number) in enumerate(zip(make_texts(330, seed=3), numbers, strict=True))
    ]
    *first, last = (found for found in inspect(rows).findings if "giveaway" in found.kind)
    assert {found.count for found in first} == {20}
    assert last.count == 130
    assert last.message.startswith("Besides the 10 most telling words and signs, 6 more")


@pytest.mark.parametrize("label", ["nan", "None", "NULL", "N/A", "na", "<NA>"])
def test_a_label_that_reads_as_a_missing_value_is_a_finding(label):
    """As `df.label.astype(str)` writes them; an empty cell has no label, and is refused."""
    extra = [row(text, label) for text in make_texts(40, seed=8)]
    (finding,) = inspect([*CLEAN["train"], *extra], group=None).findings
    assert (finding.kind, finding.severity) == ("null_labels", "minor")
    assert finding.message == (
        f"40 rows of train (16.7 %) have a label that reads like a missing value: {label!r}."
    )
    assert [(one.line, one.note) for one in finding.examples] == [
        (line, f"label {label}") for line in (201, 202, 203)
    ]
    assert "dropna()" in finding.advice


def test_labels_that_read_as_missing_values_are_found_in_each_part():
    rows = [row(text, "none", f"n{at}") for at, text in enumerate(make_texts(21, seed=8))]
    parts = {**CLEAN, "train": CLEAN["train"] + rows[:20], "test": CLEAN["test"] + rows[20:]}
    found = [one for one in inspect(**parts).findings if one.kind == "null_labels"]
    assert [(one.part, one.count) for one in found] == [("train", 20), ("test", 1)]
    assert found[1].message == (
        "1 row of test (2.4 %) has a label that reads like a missing value: 'none'."
    )


def test_skipped_rows_are_a_finding():
    report = inspect([*CLEAN["train"], row("")], on_bad_row="skip")
    assert kinds(report) == {("skipped_rows", "all", 1)}
    (finding,) = report.findings
    assert finding.message == "1 row (0.5 %) cannot be used and was left out."
    (example,) = finding.examples
    assert (example.source, example.line, example.text) == ("rows", 201, "the text is empty")


def test_the_share_of_skipped_rows_is_of_all_rows_that_were_read():
    report = inspect([*CLEAN["train"], *[row("")] * 200], on_bad_row="skip")
    assert [finding.message for finding in report.findings] == [
        "200 rows (50.0 %) cannot be used and were left out."
    ]


def test_the_share_of_skipped_rows_is_of_the_rows_of_all_parts():
    report = inspect(**{**CLEAN, "train": [*CLEAN["train"], row("")]}, on_bad_row="skip")
    (finding,) = report.findings
    assert (finding.count, finding.num_rows) == (1, 281)


@pytest.mark.parametrize(("num_more", "is_told"), [(899, False), (900, True)])
def test_ten_rows_for_each_of_the_rarest_label_are_unbalanced(num_more, is_told):
    more = [row(text, "pos") for text in make_texts(num_more, seed=7)]
    report = inspect([*CLEAN["train"], *more], group=None)
    assert ("imbalance" in {finding.kind for finding in report.findings}) == is_told


def test_of_unbalanced_labels_the_rarest_is_shown():
    more = [row(text, "pos") for text in make_texts(1000, seed=7)]
    (found,) = inspect([*CLEAN["train"], *more], group=None).findings
    assert (found.kind, found.examples[0].note) == ("imbalance", "label neg")


def test_of_three_labels_the_rarest_is_the_one_that_is_too_rare():
    more = [row(text, "pos") for text in make_texts(400, seed=7)]
    more += [row(text, "odd") for text in make_texts(20, seed=8)]
    (found,) = inspect([*CLEAN["train"], *more], group=None).findings
    assert (found.kind, found.examples[0].note) == ("imbalance", "label odd")
    assert found.message.endswith("'odd' has 3.2 % (20).")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_labels_are_rare_or_unbalanced_in_the_training_rows_alone(part):
    of_label = {name: [row for row in CLEAN[part] if row["label"] == name] for name in LABELS}
    rows = [*of_label["pos"][:11], of_label["neg"][0]]
    assert inspect(CLEAN["train"], **{part: rows}).findings == ()


def test_every_kind_is_planted_somewhere():
    others = {"skipped_rows", "indivisible_labels", "learned_texts", "more_giveaways"}
    assert set(PLANTED) | TOKEN_KINDS | others == set(KINDS)


@pytest.fixture(scope="module")
def planted_all():
    parts = {name: list(rows) for name, rows in CLEAN.items()}
    for extra, _ in PLANTED.values():
        for name, rows in extra.items():
            parts[name] += rows
    return inspect(**parts)


def test_all_faults_together_are_found(planted_all):
    found = {finding.kind for finding in planted_all.findings}
    # 1,000 rows more of one label have made its fellow words the rest; that has its own test.
    assert found >= set(PLANTED) - {"giveaway"}


def test_findings_stand_in_order_of_harm(planted_all):
    severities = [finding.severity for finding in planted_all.findings]
    order = ["leak", "serious", "minor"]
    assert severities == sorted(severities, key=order.index)
    assert planted_all.findings[0].kind == "shared_texts"
    serious = {one.kind for one in planted_all.findings if one.severity == "serious"}
    assert serious == {
        *("swallowed_rows", "joined_labels", "conflicting_labels", "number_texts"),
        *("missing_labels", "alike_labels"),
    }


def test_a_leak_stands_before_what_is_of_a_more_harmful_kind():
    parts = {
        "validation": [*CLEAN["validation"], row(CLEAN["train"][1]["text"])],
        "test": [*CLEAN["test"], row(near(CLEAN["train"][3]["text"]))],
    }
    findings = inspect(CLEAN["train"], **parts, group=None).findings
    assert [(finding.severity, finding.kind) for finding in findings] == [
        ("leak", "near_duplicates"),
        ("serious", "shared_texts"),
    ]


def test_an_excerpt_has_as_much_of_the_text_as_fits():
    text = "abcdefghij" * 10
    assert shorten_around(text[:60]) == text[:60]
    assert shorten_around(text, 30) == f"…{text[10:70]}…"
    assert shorten_around(text, 40) == f"…{text[20:80]}…"
    assert shorten_around(text, 95) == f"…{text[40:]}"


def test_an_excerpt_cuts_no_sign_in_two():
    accents, people = "e\u0301" * 60, "\U0001f469\u200d\U0001f4bb" * 60
    for whole, text in (("e\u0301", accents), ("\U0001f469\u200d\U0001f4bb", people)):
        for offset in range(30, 50):
            shown = shorten_around(text, offset).strip("…")
            assert shown
            assert shown == whole * (len(shown) // len(whole))


def test_an_excerpt_shows_what_languages_write():
    """Spaces that do not break, and what joins letters or emoji, are no damage."""
    joined = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f469\u200d\U0001f4bb"
    assert shorten_around(f"Vraiment\xa0? {joined}") == f"Vraiment ? {joined}"
    assert shorten_around("映画\u3000良い a\u200bb\u202e") == "映画 良い a\\u200bb\\u202e"


@pytest.mark.parametrize(("num_damaged", "severity"), [(19, "minor"), (20, "serious")])
def test_wrong_decoding_of_a_tenth_of_the_rows_is_serious(num_damaged, severity):
    texts = make_texts(200, seed=3)
    texts[:num_damaged] = [f"{text} cafÃ©" for text in texts[:num_damaged]]
    report = inspect([row(text, "np"[at % 2]) for at, text in enumerate(texts)], group=None)
    found = [one for one in report.findings if one.kind == "mojibake"]
    assert [(one.count, one.severity) for one in found] == [(num_damaged, severity)]


def test_an_example_names_the_line_of_its_row():
    rows = TextDataset("a.csv", ["a", "b"], ["neg", "pos"], (), [2, 5])
    assert show_row(rows, 1).line == 5


def test_each_finding_says_count_share_example_and_advice(planted_all):
    for finding in planted_all.findings:
        assert finding.advice
        assert finding.message.endswith(".")
        assert 0 <= finding.share <= 1
        assert finding.to_json()["share"] == finding.share
        assert finding.examples, finding.kind
        assert all(example.line >= 1 for example in finding.examples)


def test_a_shared_text_names_both_rows_and_another_label():
    copy = row(CLEAN["train"][0]["text"], "pos")
    (finding,) = inspect(CLEAN["train"], test=[*CLEAN["test"], copy]).findings
    assert finding.message == (
        "1 row of test (2.4 %) has a text that is also in train with another label."
    )
    assert (finding.examples[0].line, finding.examples[0].note) == (41, "as train line 1")
    assert "leave test as it is" in finding.advice


@pytest.mark.parametrize("labels", [("pos", "neg"), ("neg", "pos")])
def test_the_order_of_rows_does_not_decide_what_is_said_of_a_text_with_two_labels(labels):
    train = [*CLEAN["train"], *(row("one text, two labels", label) for label in labels)]
    copy = row("one text, two labels", "pos")
    shared = next(
        one
        for one in inspect(train, validation=[*CLEAN["test"], copy], is_split=True).findings
        if one.kind == "shared_texts"
    )
    assert " that is also in train with another label." in shared.message
    assert "does that, except for texts with two labels." in shared.advice


def test_a_near_duplicate_shows_its_similarity():
    copy = row(near(CLEAN["train"][3]["text"]))
    (finding,) = inspect(CLEAN["train"], test=[*CLEAN["test"], copy]).findings
    assert (finding.part, finding.other) == ("test", "train")
    assert finding.examples[0].note == "0.89 as train line 4"  # 17 of 19 sequences
    assert finding.message.endswith("80 % or more of the 3-word sequences of both are the same.")


def test_near_duplicates_may_have_three_words_and_no_fewer():
    """Three words are one sequence of three; fewer have none to compare."""
    short = [row("So good, really"), row("a film", "neg")]
    respelt = [row("so good really!"), row("a film!", "neg")]
    report = inspect([*CLEAN["train"], *short], test=[*CLEAN["test"], *respelt])
    assert report.near_test_rows == report.leaked_test_rows == (40,)


def test_a_message_with_another_link_or_passed_on_is_a_leaked_row():
    texts = ("no better day http://t.co/a1", "@eve lost it all")
    copies = ("No better day http://t.co/b2", "RT @bob: @eve Lost it ALL", "http://t.co/a1")
    train = [*CLEAN["train"], *map(row, texts)]
    report = inspect(train, test=[*CLEAN["test"], *map(row, copies)])
    assert report.near_test_rows == report.leaked_test_rows == (40, 41)
    assert report.findings[0].message.endswith("are the same, links and mentions aside.")


def test_each_copy_of_a_near_duplicate_is_a_leaked_row():
    """Texts are compared once each; the score without leaks would else keep the copies."""
    copy = near(CLEAN["train"][3]["text"])
    report = inspect(CLEAN["train"], test=[*CLEAN["test"], row(copy), row(copy.upper() + " ")])
    assert report.near_test_rows == report.leaked_test_rows == (40, 41)


def test_a_text_may_be_near_to_one_that_is_shared():
    """The original of both is in the training rows, and its copy in the test set as well."""
    text = CLEAN["train"][3]["text"]
    report = inspect(CLEAN["train"], test=[*CLEAN["test"], row(text), row(near(text))])
    assert (report.shared_test_rows, report.near_test_rows) == ((40,), (41,))


def test_leaks_from_validation_count_too():
    parts = {**CLEAN, "test": [*CLEAN["test"], row(CLEAN["validation"][0]["text"])]}
    report = inspect(**parts)
    assert report.leaked_test_rows == (40,)
    assert [finding.other for finding in report.findings] == ["validation"]


def test_a_leak_into_validation_is_serious_and_no_leak_into_test():
    parts = {**CLEAN, "validation": [*CLEAN["validation"], row(CLEAN["train"][1]["text"])]}
    report = inspect(**parts)
    assert [finding.severity for finding in report.findings] == ["serious"]
    assert summarize_leaks(report).startswith("No leak")


def test_the_first_line_counts_texts_near_texts_and_groups():
    extra = [
        row(CLEAN["train"][0]["text"]),
        row(near(CLEAN["train"][3]["text"])),
        row("new words", "neg", "a1"),
    ]
    report = inspect(CLEAN["train"], test=[*CLEAN["test"], *extra])
    line = summarize_leaks(report)
    assert line == "LEAK: 2 of 43 test rows (4.7 %) seen before (1 nearly); 1 in groups seen before"


def test_a_learned_row_is_not_told_as_nearly_seen():
    """It was seen as it is, whatever else it is near to."""
    report = GateReport(
        findings=(),
        num_test=40,
        shared_test_rows=(1,),
        near_test_rows=(2, 3),
        grouped_test_rows=(),
        learned_test_rows=(1, 2),
    )
    assert summarize_leaks(report) == "LEAK: 3 of 40 test rows (7.5 %) seen before (1 nearly)"


def test_rows_of_a_known_group_are_known_but_not_leaked():
    report = GateReport(
        findings=(),
        num_test=40,
        shared_test_rows=(5,),
        near_test_rows=(),
        grouped_test_rows=(2, 5),
    )
    assert (report.leaked_test_rows, report.known_test_rows) == ((5,), (2, 5))


def test_breaks_in_other_parts_do_not_decide_how_texts_are_cleaned():
    dirty = [{**row, "text": f"{row['text']}<br />"} for row in CLEAN["test"]]
    assert choose_cleaning_of(inspect(CLEAN["train"], test=dirty)) == ("none", 0.0)
    report = inspect([*CLEAN["train"], *dirty[:3]])
    assert choose_cleaning_of(report) == ("html_breaks", 3 / 203)


def test_a_shared_group_alone_is_a_leak():
    report = inspect(CLEAN["train"], test=[*CLEAN["test"], row("new words", "neg", "a1")])
    assert summarize_leaks(report) == "LEAK: 1 of 41 test rows in groups seen before"
    assert report.findings[0].message == (
        "1 group (a1) of test is also in train: 1 row of test (2.4 %)."
    )
    assert report.leaked_test_rows == ()
    with pytest.raises(LeakError):
        refuse_leaks(report)


def test_a_group_that_is_another_spelling_of_a_number_is_shared():
    """pandas saves the numbers of a column with 7.0 for 7 if one of them is missing."""
    train = [
        row(text, ("neg", "pos")[at % 2], f"{at // 4}.0")
        for at, text in enumerate(make_texts(40, seed=1))
    ]
    test = [row("words of its own", "pos", "7"), row("others of its own", "neg", "77")]
    report = inspect(train, test=test)
    assert report.grouped_test_rows == (0,)
    assert summarize_leaks(report) == "LEAK: 1 of 2 test rows in groups seen before"


@pytest.mark.parametrize(("kind", "copied"), [("shared", str), ("near", near)])
def test_leaked_rows_are_told_in_the_order_of_the_test_set(kind, copied):
    test = list(CLEAN["test"])
    for at in (7, 32):
        test[at] = row(copied(CLEAN["train"][at]["text"]), movie="a1")
    report = inspect(CLEAN["train"], test=test)
    told = (getattr(report, f"{kind}_test_rows"), report.grouped_test_rows)
    assert (*told, report.leaked_test_rows) == ((7, 32),) * 3


def test_without_a_test_set_the_first_line_says_so():
    report = inspect(CLEAN["train"])
    assert summarize_leaks(report) == "No test set was given, so leaks into it were not checked."


def test_strictness_refuses_a_leak_with_its_rows_and_its_exit_code():
    copy = row(CLEAN["train"][0]["text"])
    report = inspect(CLEAN["train"], test=[*CLEAN["test"], copy])
    with pytest.raises(LeakError) as caught:
        refuse_leaks(report)
    assert isinstance(caught.value, DataError)
    assert caught.value.exit_code == 8
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "strict, and the test set leaks. LEAK: 1 of 41 test rows (2.4 %) seen before"
    )
    assert lines[1].startswith("  rows:41: shared texts (as train line 1): ")
    assert "--drop-duplicates" in lines[-2]
    assert lines[-1].startswith("Or train without --strict; ")


DROPS = "bertfit train --drop-duplicates does that."
DROPS_NOT = "bertfit train --drop-duplicates does not: it drops training rows only."


@pytest.mark.parametrize(
    ("part", "other", "is_split", "place", "told"),
    [
        ("test", "train", False, "train", DROPS),
        ("validation", "train", False, "train", DROPS),
        ("validation", "train", True, "train", DROPS),
        ("test", "validation", False, "validation", DROPS_NOT),
        ("test", "validation", True, "the training rows, of which validation is a part", DROPS),
    ],
)
def test_dropping_is_advised_where_it_helps(part, other, is_split, place, told):
    copy = row(CLEAN[other][0]["text"], CLEAN[other][0]["label"])
    parts = {**CLEAN, part: [*CLEAN[part], copy]}
    (finding,) = inspect(**parts, is_split=is_split).findings
    assert finding.advice.startswith(f"Remove the copies from {place}")
    assert finding.advice.endswith(told)


@pytest.mark.parametrize(
    ("part", "other", "told"),
    [
        ("validation", "train", "does that, except for texts with two labels."),
        ("test", "validation", DROPS),
    ],
)
def test_dropping_keeps_a_text_of_two_labels_which_the_split_may_part(part, other, told):
    copy = row(CLEAN[other][0]["text"], "pos")  # which is neg there
    parts = {**CLEAN, part: [*CLEAN[part], copy]}
    (finding,) = inspect(**parts, is_split=True).findings
    assert finding.advice.endswith(told)


def test_dropping_leaves_texts_of_two_labels_which_the_advice_says():
    copy, minds = CLEAN["train"][4], [row("a text of two minds", label) for label in ("pos", "neg")]
    for extra, told in (([copy], "does that."), (minds, "does that, except for texts with two la")):
        report = inspect([*CLEAN["train"], *extra])
        (finding,) = [finding for finding in report.findings if finding.kind == "duplicates"]
        assert finding.advice.startswith(
            f"Keep one of each; bertfit train --drop-duplicates {told}"
        )


@pytest.mark.parametrize("part", ["validation", "test"])
def test_repeats_in_other_parts_are_not_advised_to_be_dropped(part):
    rows = [*CLEAN[part], CLEAN[part][0]]
    (finding,) = inspect(CLEAN["train"], **{part: rows}, group=None).findings
    assert (finding.kind, finding.part) == ("duplicates", part)
    assert finding.advice.startswith("A repeated text counts twice.")


def test_how_many_texts_are_repeated_exactly_is_told_if_not_all_are():
    first, spaced = CLEAN["train"][4], f"  {CLEAN['train'][4]['text'].upper()}"
    for texts, told in (
        ([first["text"]], "repeats the text of an earlier row of train."),
        ([first["text"], spaced], "repeat the text of an earlier row of train, 1 of them exactly."),
        ([spaced], "repeats the text of an earlier row of train, if not to the letter."),
    ):
        report = inspect([*CLEAN["train"], *(row(text, first["label"]) for text in texts)])
        (finding,) = [finding for finding in report.findings if finding.kind == "duplicates"]
        assert f" %) {told}" in finding.message


def test_the_hint_of_strictness_is_the_advice_for_each_leak_that_was_found():
    group = row("new words", "neg", "a1")
    with pytest.raises(LeakError) as caught:
        refuse_leaks(inspect(CLEAN["train"], test=[*CLEAN["test"], group]))
    assert caught.value.hint == (
        "shared groups: Remove the rows of these groups from train, or split again by group.\n"
        "Or train without --strict; test scores are then given with and without these rows."
    )
    parts = {**CLEAN, "test": [*CLEAN["test"], row(CLEAN["validation"][0]["text"])]}
    with pytest.raises(LeakError, match=r"from validation; .*--drop-duplicates does not"):
        refuse_leaks(inspect(**parts))


def test_strictness_lets_clean_data_pass():
    refuse_leaks(inspect(**CLEAN))


def test_strictness_refuses_leaks_and_nothing_else():
    copy = CLEAN["train"][0]
    faulty = [*CLEAN["train"], copy]
    report = inspect(faulty, validation=[*CLEAN["validation"], copy])
    assert {finding.severity for finding in report.findings} == {"serious", "minor"}
    refuse_leaks(report)
    with pytest.raises(LeakError) as caught:
        refuse_leaks(inspect(faulty, test=[*CLEAN["test"], row("new words", movie="a1")]))
    assert [fault.line for fault in caught.value.faults] == [41]


@pytest.mark.parametrize(
    ("num_rare", "told"),
    [
        (1, "1 label has fewer than 10 rows to train on: rare 0 (9)."),
        (5, "rare 3 (9), rare 4 (9)."),
        (
            6,
            (
                "6 labels have fewer than 10 rows to train on: rare 0 (9), rare 1 (9), rare 2 (9), "
                "rare 3 (9), rare 4 (9) and 1 more."
            ),
        ),
    ],
)
def test_rare_labels_are_named(num_rare, told):
    names = [f"rare {at // 9}" for at in range(9 * num_rare)] + ["not rare"] * 10
    rare = [row(text, name) for text, name in zip(make_texts(64, seed=4), names, strict=False)]
    report = inspect([*CLEAN["train"], *rare], group=None)
    (found,) = [one for one in report.findings if one.kind == "rare_labels"]
    assert found.message.endswith(told)


def test_of_rare_labels_the_rarest_is_named_first():
    names = ["few"] * 7 + ["fewest"] * 3 + ["fewer"] * 5
    rare = [row(text, name) for text, name in zip(make_texts(15, seed=4), names, strict=True)]
    report = inspect([*CLEAN["train"], *rare], group=None)
    (found,) = [one for one in report.findings if one.kind == "rare_labels"]
    assert found.message.endswith(": fewest (3), fewer (5), few (7).")


def test_without_validation_rows_a_label_that_cannot_be_split_is_serious():
    """The check was content, and train then refused the file."""
    rare = [row("so rare a label", "rare", "r"), *[row(f"of one {n}", "one", "r") for n in "abc"]]
    rows = [*CLEAN["train"], *rare]
    (found,) = [one for one in inspect(rows).findings if one.kind == "indivisible_labels"]
    assert (found.severity, found.count) == ("serious", 4)
    assert found.message == (
        "train cannot split off validation rows: label 'rare' has 1 row; each part needs at least "
        "one (and 1 more label)."
    )
    report = inspect(rows, validation=CLEAN["validation"])
    assert "indivisible_labels" not in {one.kind for one in report.findings}
    with pytest.raises(DataError, match="label 'rare' has 1 row; each part needs at least one"):
        split_off(read_dataset(rows, Columns(group="movie"))[0], 0.1, seed=0)


@pytest.mark.parametrize(
    ("num_rows", "how"), [(1, " (train --set min_label_rows=2 does)"), (2, "")]
)
def test_a_setting_that_leaves_labels_out_is_named_if_each_of_them_has_one_row(num_rows, how):
    ones = [row(f"one of {number}", "one", "r") for number in range(num_rows)]
    report = inspect([*CLEAN["train"], row("so rare a label", "rare", "r"), *ones])
    (found,) = [one for one in report.findings if one.kind == "indivisible_labels"]
    assert found.advice.startswith(f"Add rows, merge labels or leave them out{how}, or give")


@pytest.mark.parametrize(("num_lacking", "more"), [(5, "."), (6, " and 1 more.")])
def test_the_first_labels_that_the_validation_lacks_are_named(num_lacking, more):
    extra = [row(text, f"x{at % 10}") for at, text in enumerate(make_texts(100, seed=5))]
    validation = [*CLEAN["validation"], *extra[num_lacking:10]]
    report = inspect([*CLEAN["train"], *extra[10:]], validation=validation, group=None)
    (found,) = [one for one in report.findings if one.kind == "missing_labels"]
    named = "'x0', 'x1', 'x2', 'x3', 'x4'"
    assert found.message == f"{num_lacking} labels have no row in validation: {named}{more}"


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("GEBÜHR für", "'GEBÜHR für' and 'Gebühr für'"),
        ("Gebu\u0308hr für", "'Gebu\\u0308hr für' and 'Geb\\xfchr f\\xfcr'"),
    ],
)
def test_labels_spelt_alike_are_shown_as_they_are_if_that_tells_them_apart(label, told):
    names = ("neg", "Gebühr für", label)
    rows = [row(text, names[at % 3]) for at, text in enumerate(make_texts(90, seed=8))]
    (found,) = [one for one in inspect(rows, group=None).findings if one.kind == "alike_labels"]
    assert found.message == f"Labels that are alike are classes of their own: {told}."


@pytest.mark.parametrize(("num_alike", "end"), [(5, "'E' and 'e'."), (6, "'E' and 'e' ….")])
def test_the_first_labels_spelt_alike_are_named(num_alike, end):
    names = [name for letter in "abcdef"[:num_alike] for name in (letter, letter.upper())]
    texts = make_texts(20 * num_alike, seed=8)
    rows = [row(text, names[at % len(names)]) for at, text in enumerate(texts)]
    (found,) = [one for one in inspect(rows, group=None).findings if one.kind == "alike_labels"]
    assert found.message.endswith(end)


def test_a_label_that_the_validation_lacks_is_named():
    train = [
        {**one, "label": "fair"} if place % 3 == 0 else one
        for place, one in enumerate(CLEAN["train"])
    ]
    (finding,) = inspect(train, validation=CLEAN["validation"]).findings
    assert finding.message == "1 label has no row in validation: 'fair'."
    first = finding.examples[0]  # where train has one
    assert (first.source, first.line, first.note) == ("rows", 1, "label fair")


def test_progress_counts_the_rows_of_all_parts():
    heard = []
    checked = check_training_data(CLEAN["train"], test=CLEAN["test"], columns=Columns())
    inspect_rows(
        checked.train,
        test=checked.test,
        label_names=checked.label_names,
        on_progress=lambda *count: heard.append(count),
    )
    assert [count for count in heard if count[0] == "comparing"] == [
        ("comparing", 200, 240),
        ("comparing", 240, 240),
    ]


@pytest.mark.parametrize(
    ("names", "total"),
    [
        (["train"], 2),  # its own check, and that of its words
        (["train", "test"], 4),  # a pair of parts more
        (["train", "validation", "test"], 7),
    ],
)
def test_progress_counts_the_checks_that_follow(names, total):
    heard = []
    checked = check_training_data(**{name: CLEAN[name] for name in names}, columns=Columns())
    inspect_rows(
        checked.train,
        validation=checked.validation,
        test=checked.test,
        label_names=checked.label_names,
        on_progress=lambda *count: heard.append(count),
    )
    assert heard[len(names) :] == [("checks", done, total) for done in range(total + 1)]


@pytest.mark.parametrize(
    ("num_words", "short", "told"),
    [
        (4, [1, 2], None),  # search terms
        (9, [1], None),
        (10, [1], "1 word or none, where the median is 10"),  # tweets
        (60, [3, 2, 1], "at most 3 words, where the median is 60"),
        (60, [4], None),
    ],
)
def test_what_is_very_short_depends_on_the_other_texts(num_words, short, told):
    texts = make_texts(60, seed=3, num_words=num_words)
    texts += [
        " ".join(f"odd{at}x{word}" for word in range(count)) for at, count in enumerate(short)
    ]
    report = inspect([row(text, "np"[at % 2]) for at, text in enumerate(texts)], group=None)
    found = [one for one in report.findings if one.kind == "short_texts"]
    assert [one.count for one in found] == ([len(short)] if told else [])
    assert all(told in one.message for one in found)


def test_a_text_without_a_word_is_very_short_among_any():
    texts = [*make_texts(60, seed=3, num_words=4), "!?"]
    report = inspect([row(text, "np"[at % 2]) for at, text in enumerate(texts)], group=None)
    assert [one.message for one in report.findings] == [
        "1 row of train (1.6 %) is very short: no word at all, where the median is 4."
    ]


@pytest.mark.parametrize(
    ("others", "is_told"),
    [
        (["4711"], True),
        (["12.05.2024 18:30"], True),
        (["TK-0815/b"], True),
        (["https://example.org/a?id=3"], True),
        (["room 101"], False),
        (["great!"], False),
        (["!?"], False),
        (["第5回大会"], False),
        (["٣٤"], True),
    ],
)
def test_texts_that_are_mostly_no_words_may_be_another_column(others, is_told):
    texts = [*make_texts(10, seed=3), *others * 10]
    report = inspect([row(text, "np"[at % 2]) for at, text in enumerate(texts)], group=None)
    found = [one for one in report.findings if one.kind == "number_texts"]
    assert [(one.severity, one.message) for one in found] == is_told * [
        ("serious", "10 rows of train (50.0 %) are numbers, codes or addresses, not words.")
    ]
    report = inspect([row(text, "np"[at % 2]) for at, text in enumerate(texts[:-1])], group=None)
    assert not [one for one in report.findings if one.kind == "number_texts"]


@pytest.mark.parametrize(
    ("parts", "told_of"), [("train test", ["train"]), ("test", ["test"]), ("", [])]
)
def test_numbers_in_all_parts_are_told_once(parts, told_of):
    texts = {"train": make_texts(60, seed=3), "test": make_texts(40, seed=4)}
    texts |= {part: [str(at) for at in range(60)] for part in parts.split()}
    rows = {
        part: [row(text, "np"[at % 2]) for at, text in enumerate(texts[part])] for part in texts
    }
    found = [one for one in inspect(**rows, group=None).findings if one.kind == "number_texts"]
    assert [one.part for one in found] == told_of


@pytest.mark.parametrize(
    ("num_words", "long", "told"),
    [
        (12, 500, None),
        (12, 501, "over 500 words, where the median is 12"),
        (30, 600, None),
        (30, 601, "over 600 words, where the median is 30"),
    ],
)
def test_what_is_very_long_depends_on_the_other_texts(num_words, long, told):
    texts = [*make_texts(60, seed=3, num_words=num_words), *make_texts(1, seed=4, num_words=long)]
    report = inspect([row(text, "np"[at % 2]) for at, text in enumerate(texts)], group=None)
    found = [one.message for one in report.findings if one.kind == "long_texts"]
    assert found == ([f"1 row of train (1.6 %) is very long: {told}."] if told else [])


def test_where_no_text_has_words_none_is_called_short():
    texts = [chr(0x1F600 + at) * (1 + at % 3) for at in range(60)]
    report = inspect([row(text, "np"[at % 2]) for at, text in enumerate(texts)], group=None)
    assert not [one for one in report.findings if one.kind == "short_texts"]


def test_a_very_short_text_of_one_word_has_1_word():
    texts = [*make_texts(60, seed=3), "word", "!"]
    report = inspect([row(text, "np"[at % 2]) for at, text in enumerate(texts)], group=None)
    (found,) = [one for one in report.findings if one.kind == "short_texts"]
    assert [example.note for example in found.examples] == ["1 word", "0 words"]


@pytest.mark.parametrize("kind", ["mojibake", "control_characters", "csv_quotes", "swallowed_rows"])
def test_a_single_damaged_text_is_told_in_the_singular(kind):
    report = inspect(CLEAN["train"] + PLANTED[kind][0]["train"])
    (found,) = [one for one in report.findings if one.kind == kind]
    assert re.match(r"1 row of train \(0\.5 %\) (shows|has|stands|holds) ", found.message)


def test_the_nearest_of_near_duplicates_are_shown_first():
    texts = [one["text"] for one in CLEAN["train"]]
    copies = [row(near(texts[3])), row(f"{texts[5]} more")]
    (finding,) = inspect(CLEAN["train"], test=[*CLEAN["test"], *copies]).findings
    notes = [example.note for example in finding.examples]
    assert notes == ["0.95 as train line 6", "0.89 as train line 4"]
    assert finding.message.startswith("2 rows of test (4.8 %) are nearly a text of train: ")


def test_the_rows_and_groups_that_parts_share_are_named():
    extra = [row(f"new words {at}", "neg", f"a{at}") for at in (1, 2)]
    (finding,) = inspect(CLEAN["train"], test=[*CLEAN["test"], *extra]).findings
    assert finding.message == (
        "2 groups (a1, a2) of test are also in train: 2 rows of test (4.8 %)."
    )
    assert [example.note for example in finding.examples] == ["group a1", "group a2"]


def test_a_copy_in_validation_is_not_told_as_one_in_test():
    copy = row(CLEAN["train"][0]["text"], "neg")
    (finding,) = inspect(CLEAN["train"], validation=[*CLEAN["validation"], copy]).findings
    assert finding.advice.startswith("Remove the copies from train: they reward memorising. ")
