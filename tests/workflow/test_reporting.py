"""The report and the model card of a run: complete, well-formed, escaped, clear about gaps."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.metrics import auc

import bertfit
from bertfit.errors import ConfigError, RunError
from bertfit.evaluation.curves import reliability_points
from bertfit.evaluation.scaling import Scaling
from bertfit.evaluation.scaling_choice import ScalingChoice
from bertfit.files import write_json
from bertfit.reporting.facts_tables import list_baselines
from bertfit.reporting.html import SECTIONS, render_report
from bertfit.reporting.model_card import render_card
from bertfit.run_directory import read_record
from bertfit.run_files import BASELINES_NAME
from bertfit.workflow import calibrating, reporting
from bertfit.workflow.report_facts import gather_facts

HOSTILE = '<script>alert(1)</script></svg></style><img src="http://evil.test/x" onerror=x> & "q"'
SMALL = {"epochs": 2, "batch_size": 8, "learning_rate": 0.02, "dropout": 0.0, "dtype": "float32"}
VOID = {"meta", "br", "img", "link", "hr", "input", "wbr"}
LOADING = {"src", "srcset", "data", "poster", "action", "background"}


class Page(HTMLParser):
    """Reads a page and keeps what the tests ask for; an element left open is a fault."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.tags: Counter[str] = Counter()
        self.references: list[str] = []
        self.svgs: list[dict[str, str | None]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.handlers: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.references += [values[name] for name in ("href", *LOADING) if name in values]
        self.handlers += [name for name in values if name.startswith("on")]
        self.svgs += [values] if tag == "svg" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def train(tiny_model_dir, make_reviews):
    def run(output, data=None, **options):
        data = make_reviews(60) if data is None else data
        return bertfit.train(data, output, **{"model": str(tiny_model_dir), **SMALL, **options}).run

    return run


@pytest.fixture(scope="module")
def run(train, tmp_path_factory, make_reviews):
    """Give a run of two classes with a leaking, hostile test set of which some labels are wrong."""
    rows, test = make_reviews(120), make_reviews(60, seed=7)
    for row in test[:20]:
        row["text"] = f"{HOSTILE} {row['text']}"
        row["label"] = {"pos": "neg", "neg": "pos"}[row["label"]]
    test[30] = dict(rows[3])
    return train(
        tmp_path_factory.mktemp("runs") / "run", rows, test=test, epochs=6, validation_fraction=0.4
    )


@pytest.fixture
def copy(run, tmp_path):
    """Give a copy of the run that may be spoilt."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def read_page(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def read_card(run: Path) -> tuple[dict, str]:
    _, metadata, text = (run / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(metadata), text


def check_page(page: Page) -> None:
    """Check what holds of every report."""
    for anchor, _ in SECTIONS:
        assert anchor in page.ids
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    loading = [at for at in page.references if not at.startswith(("#", "data:image/png;base64,"))]
    assert loading == []
    assert {at[1:] for at in page.references if at.startswith("#")} <= set(page.ids)
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    assert page.handlers == []
    for svg in page.svgs:
        assert svg["role"] == "img"
        assert set(svg["aria-labelledby"].split()) <= set(page.ids)


def test_a_training_writes_a_whole_page(run):
    page = read_page(run)
    check_page(page)
    assert len(page.svgs) == 7
    for part in (
        "test rows correctly (95 % interval",
        "Leak: 1 row of test",
        "Confusion matrix",
        "NB-SVM",
        "Labels that look wrong",
        "BertForSequenceClassification",
        "learning_rate",
        "import bertfit",
        "Processor",
    ):
        assert part in page.words


@pytest.mark.parametrize(("num_wrong", "is_doubted"), [(9, False), (12, True)])
@pytest.mark.usefixtures("without_figures")
def test_a_page_doubts_a_model_that_doubts_a_fifth_of_the_labels(run, num_wrong, is_doubted):
    facts = gather_facts(run, read_record(run), name="run")
    (part,) = (one for one in facts["suspects"] if one["part"] == "test")
    part |= {"num_wrong": num_wrong, "num_expected": 0.4}  # of 60
    facts["record"]["training"]["collapsed_to"] = None
    assert ("so many labels are rarely wrong" in render_report(facts)) == is_doubted


def test_the_score_in_the_page_is_that_of_the_metrics(run):
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    ends = metrics["intervals"]["accuracy"]
    told = (
        f"The model classifies {100 * metrics['accuracy']:.1f} % of 60 test rows correctly "
        f"(95 % interval {100 * ends['low']:.1f} to {100 * ends['high']:.1f})."
    )
    assert told in read_page(run).words


def test_the_test_scores_of_baselines_stand_with_their_intervals(run):
    found = json.loads((run / BASELINES_NAME).read_text(encoding="utf-8"))["baselines"]
    record = read_record(run)
    ours, *others = list_baselines(gather_facts(run, record, name="run"))
    for row, test in zip(
        (ours, *others), (record["scores"]["test"], *(one["test"] for one in found)), strict=True
    ):
        ends = test["intervals"]["accuracy"]
        shown = f"{100 * test['accuracy']:.1f} % ({100 * ends['low']:.1f} to"
        assert row["cells"][1].startswith(shown)
        assert row["cells"][1] in read_page(run).words


def test_beside_baselines_the_model_answers_the_most_probable_class(run):
    """With a threshold, its test score is another one, which the headline shows."""
    record = read_record(run)
    interval = {"low": 0.3, "high": 0.7}
    record["scores"]["comparison"] |= {
        "model_accuracy": 0.5,
        "model_intervals": {"accuracy": interval, "macro_f1": interval},
    }
    model = list_baselines(gather_facts(run, record, name="run"))[0]
    assert model["cells"][1] == "50.0 % (30.0 to 70.0)"


def test_texts_are_shown_as_they_are_and_never_as_markup(run):
    page = read_page(run)
    assert HOSTILE[:25] in page.words
    assert page.tags["img"] == 0


@pytest.mark.usefixtures("without_figures")
def test_a_leak_is_not_followed_by_the_news_that_there_is_none(run):
    words = Page(render_report(gather_facts(run, read_record(run), name="run"))).words
    assert "Leak: 1 row of test" in words
    assert "No leak into the test set was found." not in words
    facts = gather_facts(run, read_record(run), name="run")
    facts["record"]["training"]["collapsed_to"] = None
    assert "apart from those that leaked" in render_report(facts)
    facts["record"]["data"]["findings"] = []
    assert "apart from those that leaked" not in render_report(facts)


@pytest.mark.usefixtures("without_figures")
def test_findings_of_several_parts_share_their_advice_on_the_page(run):
    facts = gather_facts(run, read_record(run), name="run")
    kept = facts["record"]["data"]["findings"][-1] | {"severity": "minor", "kind": "html_tags"}
    facts["record"]["data"]["findings"] = [
        kept | {"message": f"Tags of {part}.", "advice": advice}
        for part, advice in (("train", "Do this."), ("test", "Do this."), ("other", "Do that."))
    ]
    words = Page(render_report(facts)).words
    found = re.findall(r"Tags of \w+\.|Do \w+\.", words)
    assert found == ["Tags of train.", "Tags of test.", "Do this.", "Tags of other.", "Do that."]


def test_metadata_has_no_score_if_all_test_rows_leaked(run):
    """Whoever reads only the metadata, as the hub does, would take it for one on new text."""
    record = read_record(run)
    assert "model-index" in render_card(gather_facts(run, record, name="run"))
    record["scores"]["test_without_leaks"]["accuracy"] = None
    card = render_card(gather_facts(run, record, name="run"))
    assert "model-index" not in card
    assert "None of them is new to the model: the scores say nothing about new text." in card


@pytest.mark.usefixtures("without_figures")
def test_two_classes_are_confused_without_a_table_of_pairs(run):
    facts = gather_facts(run, read_record(run), name="run")
    assert "The pairs that are confused most" not in render_report(facts)


@pytest.mark.usefixtures("without_figures")
def test_a_threshold_is_that_of_the_second_class(run):
    facts = gather_facts(run, read_record(run), name="run")
    facts["record"]["threshold"] = {"value": 0.25, "aim": "f1"}
    words = Page(render_report(facts)).words
    told = "Threshold: 'pos' is predicted at a probability of 0.2500 or more, chosen for f1"
    assert words.count(told) == 2  # among the limits, and beside the confidence


@pytest.mark.usefixtures("without_figures")
def test_a_suspect_of_another_part_shows_its_text_though_the_line_is_that_of_an_error(run):
    facts = gather_facts(run, read_record(run), name="run")
    line = facts["errors"]["rows"][0]["line"]
    suspect = {"line": line, "label": "neg", "suggested_label": "pos", "confidence": 0.9}
    part = {"num_rows": 9, "num_wrong": 1, "num_expected": 0.6}
    part["rows"] = [{**suspect, "text": "a text of its own"}]
    facts["record"]["training"]["collapsed_to"] = None
    facts["suspects"] = [{**part, "part": "validation"}]
    words = Page(render_report(facts)).words
    assert "a text of its own" in words
    assert "its text is among the worst errors" not in words
    facts["suspects"] = [{**part, "part": "test"}]
    words = Page(render_report(facts)).words
    assert "a text of its own" not in words
    assert "its text is among the worst errors" in words


@pytest.mark.usefixtures("without_figures")
def test_a_collapsed_model_judges_no_labels_and_the_top_says_so(run):
    facts = gather_facts(run, read_record(run), name="run")
    facts["record"]["training"]["collapsed_to"] = 1
    page = render_report(facts)
    words = Page(page).words
    top = page.index("The model has collapsed: ")
    assert top < page.index('id="asked"')
    assert words.count("The model has collapsed: ") == 2  # in the section of suspects, too
    assert "rather" not in words
    assert "**The model has collapsed: " in render_card(facts)


def test_metadata_has_the_score_without_leaks(run):
    """Without leaks, it has that of the metrics."""
    facts = gather_facts(run, read_record(run), name="run")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    clean = facts["record"]["scores"]["test_without_leaks"]
    assert clean["accuracy"] != metrics["accuracy"]
    grouped = {**clean, "num_leaked": 9, "accuracy": 0.3, "macro_f1": 0.2}
    none_left = {**clean, "accuracy": None}
    for without_leaks, without_groups, scores, name in (
        (clean, None, clean, "Accuracy without 1 leaked row: "),
        (clean, grouped, grouped, "Accuracy without 9 leaked or grouped rows: "),
        (clean, none_left, clean, "Accuracy without 1 leaked row: "),
        (None, None, metrics, "Accuracy: "),
    ):
        facts["record"]["scores"]["test_without_leaks"] = without_leaks
        facts["record"]["scores"]["test_without_groups"] = without_groups
        metadata = yaml.safe_load(render_card(facts).split("---\n")[1])
        (result,) = metadata["model-index"][0]["results"]
        values = {metric["type"]: metric["value"] for metric in result["metrics"]}
        assert values == {"accuracy": scores["accuracy"], "f1": scores["macro_f1"]}
        assert result["metrics"][0]["name"].startswith(name)


def test_errors_are_the_surest_wrong_rows_with_their_texts(run):
    listed = reporting.gather_facts(run, read_record(run), name="run")["errors"]
    sure = [row["confidence"] for row in listed["rows"]]
    assert sure == sorted(sure, reverse=True)
    assert all(row["label"] != row["predicted"] and row["text"] for row in listed["rows"])


@pytest.mark.parametrize(
    ("num_wrong", "num_shown", "told"),
    [
        (1, 1, "1 of 60 test rows is wrong: Row"),
        (3, 3, "3 of 60 test rows are wrong, the most confident first: Row"),
        (9, 3, "9 of 60 test rows are wrong. The 3 most confident ones: Row"),
    ],
)
@pytest.mark.usefixtures("without_figures")
def test_errors_are_counted_in_a_sentence(run, num_wrong, num_shown, told):
    facts = gather_facts(run, read_record(run), name="run")
    facts["errors"] |= {"num_wrong": num_wrong, "rows": facts["errors"]["rows"][:num_shown]}
    assert told in Page(render_report(facts)).words


@pytest.mark.usefixtures("without_figures")
def test_baselines_without_test_scores_are_not_said_to_have_intervals(run):
    facts = gather_facts(run, read_record(run), name="run")
    assert "On the same rows, test scores with 95 % intervals; " in render_report(facts)
    for one in facts["baselines"]["baselines"]:
        one["test"] = None
    assert "On the same rows; " in render_report(facts)


@pytest.mark.usefixtures("without_figures")
def test_commands_in_the_page_quote_the_name_of_the_run(run):
    words = Page(render_report(gather_facts(run, read_record(run), name="my run"))).words
    assert "bertfit predict 'my run' \"your text\"" in words
    assert "bertfit evaluate 'my run' FILE" in words
    assert "--output 'my run'" in words or "'my run'," in words


def test_report_gives_the_same_page_as_the_training(copy):
    before = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    written = bertfit.report(copy)
    assert written.page == copy / "report.html"
    assert written.page.read_bytes() == before


@pytest.mark.usefixtures("without_figures")
def test_the_facts_of_a_run_that_was_replaced_are_not_written_into_the_new_one(copy, monkeypatch):
    page = (copy / "report.html").read_bytes()

    def replace_and_render(*arguments, **options):
        shutil.copytree(copy, copy.with_name("new"), copy_function=shutil.copyfile)
        shutil.rmtree(copy)
        copy.with_name("new").rename(copy)
        return render(*arguments, **options)

    render = reporting._render
    monkeypatch.setattr(reporting, "_render", replace_and_render)
    with pytest.raises(RunError, match=r"was replaced meanwhile by another training\n"):
        bertfit.report(copy, overwrite=True)
    assert (copy / "report.html").read_bytes() == page


@pytest.mark.usefixtures("without_figures")
def test_a_run_that_was_removed_meanwhile_is_not_said_to_be_replaced(copy, monkeypatch):
    def render_and_remove(*arguments, **options):
        rendered = render(*arguments, **options)
        shutil.rmtree(copy)
        return rendered

    render = reporting._render
    monkeypatch.setattr(reporting, "_render", render_and_remove)
    with pytest.raises(RunError, match=r"was removed meanwhile; nothing was written$"):
        bertfit.report(copy)
    assert not copy.exists()


@pytest.mark.usefixtures("without_figures")
def test_an_edited_card_is_kept_unless_it_may_be_replaced(copy):
    card = copy / "README.md"
    old = card.read_text(encoding="utf-8")
    card.write_text("mine", encoding="utf-8")
    assert bertfit.report(copy).card is None
    assert card.read_text(encoding="utf-8") == "mine"
    assert bertfit.report(copy, overwrite=True).card == card
    assert card.read_text(encoding="utf-8") == old


@pytest.mark.parametrize("name", ["report.html", "README.md", "report.json", "baselines.json"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_a_run_is_not_waited_for(copy, name):
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    with pytest.raises(RunError, match=r"is not a regular file|is damaged"):
        bertfit.report(copy)


@pytest.mark.parametrize("name", ["report.html", "README.md"])
@pytest.mark.parametrize("target", ["precious", "model.safetensors", None])
def test_nothing_is_written_through_links_of_a_run(copy, tmp_path, name, target):
    """The run may be another's; and its links lead to files of other folders, or form a loop."""
    other = copy / "model.safetensors" if target == "model.safetensors" else tmp_path / "precious"
    other.touch()
    before = other.read_bytes()
    (copy / name).unlink()
    (copy / name).symlink_to(other if target is not None else copy / name)
    with pytest.raises(RunError, match=r"is a link to .*: it is not written through"):
        bertfit.report(copy, overwrite=True)
    assert other.read_bytes() == before


@pytest.mark.usefixtures("without_figures")
def test_a_card_of_a_folder_that_was_moved_is_known_as_ours(copy):
    moved = copy.rename(copy.with_name("other"))
    card = moved / "README.md"
    assert bertfit.report(moved).card == card
    assert "\n# other\n" in card.read_text(encoding="utf-8")
    again = moved.rename(moved.with_name("third"))
    assert bertfit.report(again).card == again / "README.md"


@pytest.mark.usefixtures("without_figures")
def test_a_changed_card_is_kept_in_a_folder_that_was_moved(copy):
    moved = copy.rename(copy.with_name("other"))
    card = moved / "README.md"
    changed = card.read_text(encoding="utf-8").replace("\n# run\n", "\n# My model\n")
    card.write_text(changed, encoding="utf-8")
    assert bertfit.report(moved).card is None
    assert card.read_text(encoding="utf-8") == changed


@pytest.mark.usefixtures("without_figures")
def test_another_file_can_be_written_and_is_not_replaced_silently(copy, tmp_path):
    page = tmp_path / "page.html"
    (copy / "README.md").unlink()
    assert bertfit.report(copy, output=page).card is None
    assert not (copy / "README.md").exists()
    with pytest.raises(ConfigError, match="exists"):
        bertfit.report(copy, output=page)
    assert bertfit.report(copy, output=page, overwrite=True).page == page
    with pytest.raises(ConfigError, match=r"ending in \.html"):
        bertfit.report(copy, output=tmp_path / "page.pdf")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        bertfit.report(copy, output=tmp_path / "folder.html")


@pytest.mark.usefixtures("without_figures")
def test_a_page_without_texts_has_none(copy, tmp_path):
    kept = json.loads((copy / "report.json").read_text(encoding="utf-8"))["texts"]["test"]
    bertfit.report(copy, output=tmp_path / "page.html", with_texts=False)
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    check_page(page)
    assert not [text for text in kept.values() if " ".join(text.split()) in page.words]
    assert "alert(1)" not in page.words
    assert "left out on request" in page.words


@pytest.mark.usefixtures("without_figures")
def test_a_run_without_texts_keeps_none_anywhere(train, tmp_path, make_reviews):
    rows, test = make_reviews(60), make_reviews(30, seed=7)
    test[3] = dict(rows[3])
    run = train(tmp_path / "run", rows, test=test, keep_texts=False, baseline=False)
    for path in run.iterdir():
        if path.suffix in {".json", ".jsonl", ".html", ".md", ".log"}:
            written = path.read_text(encoding="utf-8")
            assert not [row["text"] for row in test if row["text"] in written], path.name
    page = read_page(run)
    check_page(page)
    assert "The run keeps no texts." in page.words
    assert "Not in this run: baselines" in page.words


def test_without_a_test_set_the_validation_rows_speak(train, tmp_path):
    options = {"validation_fraction": 0.4, "threshold_aim": "f1", "baseline": False}
    run = train(tmp_path / "run", **options)
    page = read_page(run)
    check_page(page)
    assert "24 validation rows correctly (95 % interval" in page.words
    assert "these rows also chose the epoch" in page.words
    assert "leaks into it were not checked" in page.words
    assert "is predicted at a probability" in page.words
    metadata, text = read_card(run)
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"]["split"] == "validation"
    assert "There was no test set" in text
    assert "the scores hold for text like its own." in text
    assert "`report.html` in this folder shows the curves, the errors and the settings." in text


@pytest.mark.parametrize("judged_by", ["test", "validation"])
@pytest.mark.usefixtures("without_figures")
def test_slices_by_a_column_stand_in_record_and_page(train, tmp_path, make_reviews, judged_by):
    rows, test = make_reviews(120), make_reviews(40, seed=7)
    for part in (rows, test):
        for at, row in enumerate(part):
            row["source"] = "press" if at % 4 < 2 else "web"
    options = {"validation_fraction": 0.4, "baseline": False}
    if judged_by == "test":
        options["test"] = test
    run = train(tmp_path / "run", rows, slice_columns=["source"], **options)
    found = gather_facts(run, read_record(run), name="run")["judged"]
    by_source = {
        one["value"]: one["num_rows"] for one in found["slices"]["slices"] if one["by"] == "source"
    }
    assert found["part"] == judged_by
    assert set(by_source) == {"press", "web"}
    assert sum(by_source.values()) == found["num_rows"]
    again = tmp_path / "again.html"
    bertfit.report(run, output=again)
    for page in (run / "report.html", again):
        words = Page(page.read_text(encoding="utf-8")).words
        assert "source: press" in words
        assert "source: web" in words


@pytest.mark.usefixtures("without_figures")
def test_slices_of_grouped_rows_are_said_to_be_tested_by_group(run):
    told = "p and intervals allow for rows of one group being right or wrong together."
    facts = gather_facts(run, read_record(run), name="run")
    assert told not in render_report(facts)
    facts["judged"]["slices"]["unit"] = "group"
    assert told in render_report(facts)


def test_77_classes_stay_readable(train, tmp_path):
    generator = np.random.default_rng(0)
    words = ["good", "bad", "film", "plot", "fine", "poor", "the", "was", "acting"]
    names = [f"class {number}" for number in range(76)] + ["<b>$x$</b> | 日本\x00"]
    rows = [
        {"text": " ".join(generator.choice(words, 6)) + f" {at}", "label": names[at % 77]}
        for at in range(77 * 6)
    ]
    run = train(tmp_path / "run", rows, test=rows[: 77 * 2], baseline=False, epochs=1)
    page = read_page(run)
    check_page(page)
    assert "All 77 classes" in page.words
    assert "and 65 more: the list under Scores" in page.words
    assert "#all-classes" in page.references
    assert "<b>$x$</b> | 日本�" in page.words
    assert page.tags["b"] == 0
    assert "The 15 classes of lowest F1, of 77" in page.words
    metadata, text = read_card(run)
    assert metadata["tags"] == ["bertfit", "text-classification"]
    assert "&lt;b&gt;\\$x\\$&lt;/b&gt; \\| 日本" in text


@pytest.mark.usefixtures("without_figures")
def test_a_label_turns_nothing_beside_it_around(train, tmp_path, make_reviews):
    """Names may be of a script that is read from right to left, or hold its control characters."""
    sides = ("\u202eweb", "press") * 30
    rows = [{**row, "side": side} for row, side in zip(make_reviews(60), sides, strict=True)]
    test = [{**row, "label": {"neg": "pos", "pos": "neg"}[row["label"]]} for row in rows[:40]]
    run = train(tmp_path / "run", rows, test=test, slice_columns=["side"], baseline=False)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert re.search(r"^\.rows strong { unicode-bidi: isolate; }$", html, re.MULTILINE)
    rows = html[html.index('<ol class="rows">') :]
    assert re.search(r"<strong>\w+</strong>, predicted <strong>\w+</strong>", rows)
    assert "<bdi>side:</bdi> <bdi>\u202eweb</bdi>" in html


@pytest.mark.usefixtures("without_figures")
def test_class_names_at_the_head_of_a_column_may_break(train, tmp_path, make_reviews):
    """One long name made the matrix of confusions wider than any screen."""
    names = {"neg": "card_payment_" + "x" * 90, "pos": "b"}
    rows = [{**row, "label": names[row["label"]]} for row in make_reviews(60)]
    run = train(tmp_path / "run", rows, test=rows[:20], baseline=False, epochs=1)
    html = (run / "report.html").read_text(encoding="utf-8")
    head = f'<th scope="col" class="number label">card_<wbr>payment_<wbr>{"x" * 90}</th>'
    assert html.count(head) == 2  # among the rows, and in the matrix
    style = re.search(r"^\.label {(.*)}$", html, re.MULTILINE)
    number = re.search(r"^\.number {.*white-space: nowrap.*}$", html, re.MULTILINE)
    assert number.start() < style.start(), "the later rule holds"
    assert "white-space: normal; overflow-wrap: break-word" in style[1]


def test_an_imported_or_bare_run_says_what_it_does_not_have(copy):
    record = json.loads((copy / "bertfit.json").read_text(encoding="utf-8"))
    bare = {
        "format_version": 1,
        "label_names": record["label_names"],
        "encoding": record["encoding"],
        "training": {"imported_from": "notebook", "dtype": "float32"},
        "scores": {"validation": None, "test": None},
        "versions": record["versions"],
        "hardware": record["hardware"],
    }
    (copy / "bertfit.json").write_text(json.dumps(bare), encoding="utf-8")
    for path in [*copy.glob("*_predictions.jsonl"), copy / "report.json", copy / "README.md"]:
        path.unlink()
    for name in ("training_history.json", "metrics.json", BASELINES_NAME):
        (copy / name).unlink()
    assert bertfit.report(copy).card is not None
    page = read_page(copy)
    check_page(page)
    assert "is not known: the run holds no scores" in page.words
    assert page.words.count("Not in this run:") == 12
    assert "BertForSequenceClassification" in page.words
    metadata, text = read_card(copy)
    assert "model-index" not in metadata
    assert "It was imported from a notebook" in text
    assert "the scores hold" not in text
    assert "`report.html` in this folder shows what else is known of the run." in text


def test_a_run_of_before_reports_has_all_but_the_texts(copy):
    (copy / "report.json").unlink()
    bertfit.report(copy)
    page = read_page(copy)
    check_page(page)
    assert len(page.svgs) == 7
    assert "The run keeps no texts." in page.words


def test_a_run_with_scores_but_without_predictions_has_its_tables(copy):
    (copy / "test_predictions.jsonl").unlink()
    record = read_record(copy)
    record["training"]["collapsed_to"] = None
    write_json(copy / "bertfit.json", record)
    bertfit.report(copy)
    page = read_page(copy)
    check_page(page)
    assert len(page.svgs) == 3
    assert "Confusion matrix" in page.words
    assert "Validation: " in page.words


@pytest.mark.usefixtures("without_figures")
def test_a_run_that_knows_little_of_its_validation_says_that_little(copy):
    record = read_record(copy)
    record["scores"]["test"] = record["scores"]["comparison"] = None
    record["calibration"] = record["selective"] = None
    (copy / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")
    for path in copy.glob("*_predictions.jsonl"):
        path.unlink()
    bertfit.report(copy, overwrite=True)
    page = read_page(copy)
    check_page(page)
    share = 100 * record["scores"]["validation"]["accuracy"]
    assert f"The model classifies {share:.1f} % of validation rows correctly;" in page.words
    assert read_card(copy)[0]["model-index"]


@pytest.mark.usefixtures("without_figures")
def test_several_seeds_stand_side_by_side(copy):
    record = read_record(copy)
    scores = {"accuracy": 0.75, "macro_f1": 0.7, "loss": 0.5}
    part = {"mean": scores, "standard_deviation": None}
    record["seeds"] = {
        "runs": [
            {"seed": seed, "interrupted": False, "validation": scores, "test": None}
            for seed in (4, 5)
        ],
        "best_seed": 5,
        "chosen_by": "validation accuracy",
        "validation": part,
        "test": {"mean": None, "standard_deviation": None},
    }
    (copy / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")
    bertfit.report(copy)
    words = read_page(copy).words
    assert "5 (kept) 75.00 % 70.00 % – –" in words
    assert "num_seeds=2" in words
    assert "seed=4" in words
    assert "They chose the seed with the highest accuracy" in words


def test_a_record_that_lacks_what_is_needed_is_named(copy):
    record = read_record(copy)
    del record["data"]["train"]["num_rows"]
    (copy / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(RunError, match=r"bertfit\.json or a file beside it lacks"):
        bertfit.report(copy)


def test_a_number_that_cannot_be_shown_is_an_error_of_the_record(copy):
    record = read_record(copy)
    record["training"]["train_seconds"] = math.inf
    (copy / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(RunError, match=r"bertfit\.json .*OverflowError"):
        bertfit.report(copy)


def scale_apart(logits, *_args, **_options):
    """Scale each class by its own weight, and turn what is answered on the whole around."""
    means = logits.mean(axis=0)
    scaling = Scaling("vector", (1.5, 1.2), tuple((4 * (means[::-1] - means)).tolist()))
    losses = {"none": 0.7, "temperature": 0.7, "vector": 0.6}
    return ScalingChoice(scaling, "asked for by a test", len(logits), losses)


@pytest.fixture(scope="module")
def scaled_apart(train, make_reviews, tmp_path_factory):
    """Give a run whose classes are scaled apart, which also changes what it answers."""
    uneven = [row for row in make_reviews(40, seed=3) if row["label"] == "pos"]
    uneven += [row for row in make_reviews(10, seed=5) if row["label"] == "neg"]
    rows = {"validation": uneven, "test": make_reviews(40, seed=4)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrating, "choose_scaling", scale_apart)
        run = train(tmp_path_factory.mktemp("scaled") / "run", epochs=1, **rows)
    return run, rows


def test_reliability_before_and_after_are_of_the_same_test_rows(scaled_apart):
    run, rows = scaled_apart
    drawn = gather_facts(run, read_record(run), name="run")["curves"]["reliability_before"]
    before = bertfit.evaluate(run, rows["test"])
    is_right = before.uncalibrated.argmax(axis=1) == before.label_ids
    expected = reliability_points(before.uncalibrated.max(axis=1), is_right)
    assert drawn["part"] == "test"
    assert np.asarray(drawn["points"]) == pytest.approx(np.asarray(expected), abs=1e-4)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "that of the validation rows" not in page


def test_reliability_before_of_other_rows_is_said_to_be_theirs(scaled_apart, tmp_path):
    run = shutil.copytree(scaled_apart[0], tmp_path / "run")
    kept = json.loads((run / "report.json").read_text(encoding="utf-8"))
    del kept["test_reliability_before"]  # as in older runs
    (run / "report.json").write_text(json.dumps(kept), encoding="utf-8")
    bertfit.report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "The curve before calibration is that of the validation rows." in page


def test_beside_baselines_stands_what_the_saved_model_answers(scaled_apart):
    run, rows = scaled_apart
    record = read_record(run)
    saved = bertfit.evaluate(run, rows["validation"]).scores.accuracy
    assert saved != record["scores"]["validation"]["accuracy"]  # of the epoch, uncalibrated
    (model, *_) = list_baselines(gather_facts(run, record, name="run"))
    assert model["cells"][0] == f"{100 * saved:.1f} %"


def flatten(value, path=""):
    """Return plain values by their paths in nested dicts and lists."""
    if not isinstance(value, dict | list):
        return {path: value}
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    flat = [flatten(one, f"{path}/{key}") for key, one in inner]
    return {name: one for part in flat for name, one in part.items()}


@pytest.mark.usefixtures("without_figures")
def test_scores_of_validation_rows_are_those_of_an_evaluation(train, tmp_path, make_reviews):
    """Without a test set the report scores them itself: by groups, slices and the threshold."""
    rows = make_reviews(120, seed=3)
    for at, row in enumerate(rows):
        row["source"] = "press" if at % 4 < 2 else "web"
        if at < 30:
            row["label"] = "pos"  # some are wrong
    run = train(
        tmp_path / "run",
        validation=rows,
        epochs=1,
        group_column="movie",
        slice_columns=["source"],
        threshold_aim="recall>=1",
        max_length=8,
        calibration="none",
    )
    record = read_record(run)
    judged = gather_facts(run, record, name="run")["judged"]
    columns = bertfit.Columns(group="movie")
    found = bertfit.evaluate(run, rows, columns=columns, slice_columns=["source"])
    assert (found.probabilities.argmax(axis=1) != found.predicted_ids).any()
    expected = found.to_json()
    of_rows = ("learned", "without_learned", "warning", "num_skipped", "skipped", "findings")
    for name in ("threshold", "dtype", *of_rows):
        del expected[name]
    assert judged.pop("part") == "validation"
    assert judged["interval_unit"] == "group"
    assert {one["by"] for one in judged["slices"]["slices"]} >= {"source", "label"}
    assert flatten(judged) == pytest.approx(flatten(expected), abs=1e-6)


@pytest.mark.usefixtures("without_figures")
def test_an_uncalibrated_run_shows_no_scores_of_before(train, tmp_path):
    run = train(tmp_path / "run", validation_fraction=0.4, epochs=1, calibration="none")
    record = read_record(run)
    record["calibration"] |= {"validation": {"before": {"ece": 0.5}}}
    facts = gather_facts(run, record, name="run")
    assert facts["judged"]["confidence"]["uncalibrated"] is None
    assert "Before calibration" not in render_report(facts)


@pytest.mark.parametrize("name", ["report.json", "training_history.json", "baselines.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_file_is_named(copy, name, content):
    (copy / name).write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=name):
        bertfit.report(copy)


@pytest.mark.parametrize("name", ["test_predictions.jsonl", "validation_predictions.jsonl"])
def test_a_file_that_lost_lines_makes_no_page(copy, name):
    lines = (copy / name).read_text(encoding="utf-8").splitlines(keepends=True)
    (copy / name).write_text("".join(lines[:7]), encoding="utf-8")
    page = (copy / "report.html").read_bytes()
    with pytest.raises(RunError, match=rf"{name}: it holds predictions of 7 rows; \d+ were kept"):
        bertfit.report(copy)
    assert (copy / "report.html").read_bytes() == page


def test_a_file_of_another_version_is_refused(copy):
    (copy / "report.json").write_text('{"format_version": 99}', encoding="utf-8")
    with pytest.raises(RunError, match="format 99, expected 1"):
        bertfit.report(copy)


def test_the_card_agrees_with_the_metrics(run):
    metadata, text = read_card(run)
    (result,) = metadata["model-index"][0]["results"]
    assert all("95 % interval" in metric["name"] for metric in result["metrics"])
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "text-classification"
    assert not {"license", "language", "base_model"} & set(metadata)
    assert "Leak" not in text


def test_rows_from_memory_have_no_file(run):
    page, (_, text) = read_page(run), read_card(run)
    assert "train in memory" in page.words
    assert "The test set was given in memory, 60 rows" in page.words
    assert "| train | in memory |" in text
    assert "On the test rows:" in text
    assert "1 row of test" in text
    assert "alert(1)" not in text


def test_a_card_lists_at_most_a_hundred_classes(run):
    facts = gather_facts(run, read_record(run), name="run")
    rates = next(iter(facts["judged"]["per_class"].values()))
    for num_classes, is_listed in ((100, True), (101, False)):
        facts["judged"]["per_class"] = {f"class-{at}": rates for at in range(num_classes)}
        assert ("class-99 |" in render_card(facts)) == is_listed


def test_curves_of_two_classes_are_those_of_the_second(scaled_apart):
    """Its validation rows are uneven; the test rows are judged."""
    run, rows = scaled_apart
    facts = gather_facts(run, read_record(run), name="run")
    false_rates, true_rates = np.asarray(facts["curves"]["roc"]).T
    area = auc(false_rates, true_rates)
    assert area == pytest.approx(facts["judged"]["auroc"])
    shutil.copytree(run, uneven := run.with_name("uneven"))
    (uneven / "test_predictions.jsonl").unlink()
    record = read_record(uneven)
    record["scores"]["test"] = None
    curves = gather_facts(uneven, record, name="run")["curves"]
    share = np.mean([row["label"] == "pos" for row in rows["validation"]])
    assert curves["positive_share"] == pytest.approx(share)


def test_the_command_names_validation_rows_that_were_given(scaled_apart, run):
    commands = [
        gather_facts(one, read_record(one), name="run")["command"] for one in (scaled_apart[0], run)
    ]
    assert ["validation=validation" in command for command in commands] == [True, False]


@pytest.mark.usefixtures("without_figures")
def test_lengths_are_those_before_texts_are_cut(train, tmp_path):
    run = train(tmp_path / "run", baseline=False, epochs=1, max_length=5)
    lengths = gather_facts(run, read_record(run), name="run")["lengths"]
    assert lengths["max_length"] == 5
    assert max(length for length, _ in lengths["counts"]) > 5


def test_a_full_disk_is_not_taken_for_a_report_that_fails(train, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reporting, "render_report", fail)
    with pytest.raises(OSError, match="No space left on device"):
        train(tmp_path / "run", baseline=False, epochs=1)


def test_a_report_that_fails_costs_no_training(train, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise ZeroDivisionError("no page today")

    monkeypatch.setattr(reporting, "render_report", fail)
    run = train(tmp_path / "run", baseline=False)
    assert (run / "bertfit.json").is_file()
    assert not (run / "report.html").exists()
    assert "the report could not be made (ZeroDivisionError" in (run / "train.log").read_text()


def test_ctrl_c_leaves_the_report_out(train, tmp_path, monkeypatch):
    def interrupt(*_args, **_options):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(reporting, "render_report", interrupt)
    run = train(tmp_path / "run", baseline=False)
    assert "Interrupted: the report was not made" in (run / "train.log").read_text()


def test_long_texts_are_kept_up_to_a_limit():
    text = "a" * (reporting.MAX_TEXT_CHARACTERS + 1234)
    assert reporting._cut(text).endswith("a [… 1,234 more characters]")
    assert reporting._cut(f"{text[:-1235]}e\u0301s").endswith("ae\u0301 [… 1 more character]")
    assert reporting._cut("half \ud83d of a pair") == "half ? of a pair"


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("BERTFIT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_lays_the_page_out_without_overflow(run, tmp_path, width):
    """What is wider than a phone scrolls in its own box, not the page."""
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium here: BERTFIT_CHROMIUM can name one")
    source = (run / "report.html").read_text(encoding="utf-8")
    source = re.sub(r"<meta http-equiv=[^>]*>", "", source)  # it would forbid the measuring script
    measure = "document.title = document.documentElement.scrollWidth + ' ' + innerWidth"
    page = tmp_path / "page.html"
    # A window is never as narrow as a phone, and a frame is.
    page.write_text(source.replace("</body>", f"<script>{measure}</script></body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="page.html" style="width:{width}px;height:800px;border:0"></iframe>'
        "<script>onload=()=>{document.title=document.getElementById('f').contentDocument.title}"
        "</script>"
    )
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, frame.as_uri()], capture_output=True, text=True, timeout=100, check=True
    )
    found = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert found is not None, done.stdout[:500]
    assert int(found[2]) == width
    assert int(found[1]) <= width
