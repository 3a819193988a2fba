"""Rows of the report's tables: which are chosen, in what order, and of what each is a share."""

from __future__ import annotations

from typing import Any

import pytest

from bertfit.reporting import facts_tables as tables

CONFUSION = [[6, 2, 0], [1, 0, 3], [0, 0, 0]]
RATES = {"a": (0.8, 8), "b": (0.1, 4), "c": (0.0, 0)}


def make_facts(**record: Any) -> dict[str, Any]:
    """Return the facts of a run of three classes, one of which has no rows."""
    per_class = {
        name: {"precision": 0.5, "recall": 0.0, "f1": f1, "support": support}
        for name, (f1, support) in RATES.items()
    }
    judged = {"confusion": list(CONFUSION), "per_class": per_class}
    return {"label_names": ["a", "b", "c"], "judged": judged, "record": record}


def test_shares_are_percentages_and_losses_are_not() -> None:
    judged = {"loss": 1.23, "log_loss": 0.5, "auroc": 0.75, "accuracy": 0.9, "intervals": {}}
    assert tables.list_scores({"judged": judged}) == [
        ("Accuracy", "90.0 %"),
        ("AUROC", "0.7500"),
        ("Log loss (nats)", "0.5000"),
        ("Loss (nats)", "1.2300"),
    ]


def test_the_worst_classes_have_rows_and_keep_their_numbers() -> None:
    worst = tables.list_classes(make_facts(), worst=5)
    assert [(number, name) for number, name, _ in worst] == [(2, "b"), (1, "a")]
    assert [name for _, name, _ in tables.list_classes(make_facts(), worst=1)] == ["b"]
    assert [number for number, *_ in tables.list_classes(make_facts())] == [1, 2, 3]


def test_of_classes_of_equal_f1_the_largest_is_the_worst() -> None:
    facts = make_facts()
    facts["judged"]["per_class"]["b"]["f1"] = 0.8
    assert [name for _, name, _ in tables.list_classes(facts, worst=2)] == ["a", "b"]
    facts["judged"]["per_class"]["b"]["support"] = 9
    assert [name for _, name, _ in tables.list_classes(facts, worst=2)] == ["b", "a"]


def test_rates_that_are_undefined_without_rows_are_dashes() -> None:
    facts = make_facts()
    cells = [one["cells"] for *_, one in tables.list_classes(facts)]
    assert cells[1] == ["50.0\u00a0%", "0.0\u00a0%", "10.0\u00a0%"]
    assert cells[2] == ["50.0\u00a0%", "–", "0.0\u00a0%"]  # class c was predicted three times
    facts["judged"]["confusion"][1] = [4, 0, 0]
    assert tables.list_classes(facts)[2][2]["cells"] == ["–", "–", "–"]
    del facts["judged"]["confusion"]
    assert tables.list_classes(facts)[2][2]["cells"] == ["–", "–", "–"]


def test_each_cell_of_a_confusion_is_a_share_of_its_true_class() -> None:
    rows = tables.list_confusions(make_facts())
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert [cell["share"] for cell in rows[1]["cells"]] == [0.25, 0.0, 0.75]
    assert [cell["share"] for cell in rows[2]["cells"]] == [None, None, None]
    assert [cell["is_right"] for cell in rows[1]["cells"]] == [False, True, False]


def test_pairs_are_sorted_by_rows_and_hold_no_right_answers() -> None:
    found = [tuple(one.values()) for one in tables.list_confused_pairs(make_facts(), most=9)]
    assert found == [("b", "c", 3, 0.75), ("a", "b", 2, 0.25), ("b", "a", 1, 0.25)]
    assert len(tables.list_confused_pairs(make_facts(), most=2)) == 2


def test_a_column_has_its_own_slices_unless_all_are_among_the_worst() -> None:
    slices = [{"by": "label", "value": "x"}, {"by": "shop", "value": "a"}]
    slices += [{"by": "shop", "value": "b"}, {"by": "tokens", "value": "3 to 5"}]
    (worst,) = tables.group_slices(slices, most=3)
    assert worst == ("The worst 3 of 4 slices", slices[:3])
    (_, of_shop) = tables.group_slices(slices, most=2)
    assert of_shop == ("By the column shop, the worst first", slices[1:3])
    assert tables.group_slices(slices[:2], most=2) == [("The slices, the worst first", slices[:2])]


def test_settings_are_told_apart_by_where_they_come_from() -> None:
    settings = {
        "epochs": {"value": 2, "origin": "option"},
        "seed": {"value": 0, "origin": "default"},
        "device": {"value": "cpu", "origin": "default, chosen on this machine"},
        "gone": {"value": None, "origin": "--set"},
    }
    facts = make_facts(settings=settings)
    changed, others = (tables.list_settings(facts, changed=changed) for changed in (True, False))
    assert [one["name"] for one in changed] == ["epochs", "gone"]
    assert [one["name"] for one in others] == ["seed", "device"]
    assert changed[0]["meaning"].startswith("Passes over the rows")
    assert changed[1]["meaning"] == ""  # a setting of another version


def test_the_environment_tells_times_device_and_versions() -> None:
    training = {"train_seconds": 5, "total_seconds": 65, "dtype": "float32", "device": "cpu"}
    rows = tables.list_environment(make_facts(training=training, versions={"torch": "2.13"}))
    assert rows == [
        ("Arithmetic", "float32 on cpu"),
        ("Training", "5 s"),
        ("All in all", "1 min 5 s"),
        ("torch", "2.13"),
    ]


def test_the_environment_tells_after_which_steps_a_training_went_on() -> None:
    training = {"resumed_after": [43, 1200], "num_steps": 2406}
    assert tables.list_environment(make_facts(training=training)) == [
        ("Resumed", "after step 43, 1,200 of 2,406")
    ]
    assert tables.list_environment(make_facts(training=training | {"resumed_after": []})) == []


@pytest.mark.parametrize(
    ("training", "end"), [({"best_epoch": 2}, "; epoch 2 was kept."), ({}, "1,200 rows.")]
)
def test_the_task_is_told_in_a_sentence(training: dict[str, Any], end: str) -> None:
    settings = {"model": {"value": "/models/mini"}, "epochs": {"value": 1}}
    data = {"train": {"num_rows": 1200}}
    facts = make_facts(training=training, settings=settings, data=data)
    facts |= {"base_model": None, "history": None}
    told = tables.describe_task(facts)
    assert told.startswith("Fine-tune /models/mini to tell 3 classes apart, in 1 epoch over 1,200 ")
    assert told.endswith(end)
    assert tables.describe_task(facts, short=True).startswith("Fine-tune mini to tell")


@pytest.mark.parametrize("history", [None, {"val_losses": []}, {"val_losses": [0.5, 0.4, 0.3]}])
def test_epochs_that_were_not_taken_are_not_told_as_taken(history: dict[str, Any] | None) -> None:
    settings = {"model": {"value": "mini"}, "epochs": {"value": 3}}
    facts = make_facts(training={}, settings=settings, data={"train": {"num_rows": 20}})
    facts |= {"base_model": None, "history": history}
    assert tables.describe_task(facts).endswith("in 3 epochs over 20 rows.")
    facts["history"] = {"val_losses": [0.5]}
    told = tables.describe_task(facts)
    assert told.endswith("in 1 epoch over 20 rows (3 were asked for).")
    facts["record"]["training"]["unfinished_epoch"] = [1, 7]
    told = tables.describe_task(facts)
    assert told.endswith("(the last after 1 of 7 steps; 3 were asked for).")
