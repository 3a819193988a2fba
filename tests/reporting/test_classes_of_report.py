"""The page and the model card list classes so that they can be read, and say what they omit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bertfit.evaluation.metrics import score
from bertfit.reporting.html import render_report
from bertfit.reporting.model_card import render_card


def make_facts(names: list[str], label_ids: list[int], predicted_ids: list[int]) -> dict[str, Any]:
    """Return the facts of an imported run of which only the scores on test rows are known."""
    scores = score(np.eye(len(names))[predicted_ids], label_ids, names).to_json()
    unknown = ("base_model", "baselines", "command", "curves", "errors", "history", "lengths")
    return {
        **dict.fromkeys((*unknown, "model", "validation_accuracy")),
        "name": "run",
        "label_names": names,
        "record": {"versions": {"bertfit": "0"}},
        "judged": {"part": "test", "intervals": {}, **scores},
        "suspects": [],
        "has_texts": False,
    }


def test_classes_without_rows_have_dashes() -> None:
    facts = make_facts(["seen", "taken", "unseen"], [0, 0], [0, 1])
    card, page = (render(facts).replace("\u00a0", " ") for render in (render_card, render_report))
    for name, cells in (
        ("seen", ["100.0 %", "50.0 %", "66.7 %", "2"]),
        ("taken", ["0.0 %", "–", "0.0 %", "0"]),
        ("unseen", ["–", "–", "–", "0"]),
    ):
        assert f"| {name} | {' | '.join(cells)} |" in card
        row = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        assert f"{name}</th>{row}</tr>" in page
    told = "2 of 3 classes have no rows here; 1 of them was predicted, and counts as 0 in macro"
    assert told in card
    assert told in page


def test_the_version_of_bertfit_is_escaped_like_all_that_a_record_says() -> None:
    facts = make_facts(["a", "b"], [0, 1], [0, 1])
    facts["record"]["versions"]["bertfit"] = "0 <img src=x> [a](b)\n\n<script>\n# Heading"
    card = render_card(facts)
    assert not {"<img", "<script", "\n# Heading", "[a](b)"} & {
        sign for sign in ("<img", "<script", "\n# Heading", "[a](b)") if sign in card
    }


@pytest.mark.parametrize("render", [render_card, render_report])
def test_names_with_commas_can_be_told_apart_in_a_list(render) -> None:
    page = render(make_facts(["fees, cash", "fees, card", "other"], [0, 1], [0, 1]))
    shown = page.replace("<bdi>", "").replace("</bdi>", "")
    assert "Classes: fees, cash · fees, card · other." in shown


@pytest.mark.parametrize("num_classes", [100, 101])
def test_a_card_without_the_table_of_classes_says_where_it_is(num_classes: int) -> None:
    names = [f"class-{at}" for at in range(num_classes)]
    card = render_card(make_facts(names, [0, 1], [0, 1]))
    told = f"each of the {num_classes} classes are in `report.html` in this folder, under Scores."
    assert (told in card) == (num_classes > 100)
    assert ("| class-99 |" in card) == (num_classes == 100)


def test_a_card_promises_no_table_that_the_page_has_not() -> None:
    facts = make_facts([f"class-{at}" for at in range(101)], [0, 1], [0, 1])
    facts["judged"].pop("confusion")  # a run of before
    assert "under Scores." not in render_card(facts)


def test_few_classes_are_all_in_one_table_of_the_page() -> None:
    page = render_report(make_facts(["a", "b"], [0, 1], [0, 1]))
    assert "<caption>Precision, recall and F1 of each class</caption>" in page
    assert "of lowest F1" not in page


def test_the_page_counts_all_classes_with_an_f1_of_0_and_lists_the_largest_first() -> None:
    names, num_rows = [f"class-{at:02}" for at in range(40)], [3] * 20 + [4] * 19 + [0]
    label_ids = np.repeat(np.arange(40), num_rows).tolist()
    predicted_ids = [label_id if label_id == 0 else 39 for label_id in label_ids]
    page = render_report(make_facts(names, label_ids, predicted_ids))
    title = "The 15 classes of lowest F1, of 40 (1 without rows, 38 others with F1 0)"
    first = page.partition(f"<caption>{title}</caption>")[2].partition("</table>")[0]
    assert [name for name in names if name in first] == names[20:35]


def test_a_name_turns_no_text_of_the_card_around() -> None:
    facts = make_facts(["good\u202e", "\u2066bad"], [0, 1], [0, 1]) | {"name": "run\u202d"}
    card = render_card(facts)
    assert "| good� |" in card
    assert not set("\u202d\u202e\u2066") & set(card)


def test_a_file_name_turns_neither_the_command_nor_the_table_of_parts_around() -> None:
    facts = make_facts(["good", "bad"], [0, 1], [0, 1])
    facts |= {"command": "bertfit train 'a\u202eb.csv' --output run"}
    part = {"source": "a\u202eb.csv", "num_rows": 2, "words_median": 3, "words_max": 4}
    part |= {"num_per_label": {"good": 1, "bad": 1}, "fingerprint": "0" * 64}
    facts["record"] = facts["record"] | {"data": {"train": part}}
    page = render_report(facts)
    assert "<bdi>a\u202eb.csv</bdi>" in page.replace("<wbr>", "")
    assert "bertfit train &#39;a�b.csv&#39; --output run" in page
