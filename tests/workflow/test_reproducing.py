"""The command that reproduces a run."""

from __future__ import annotations

import shlex

from bertfit.config import resolve_settings
from bertfit.workflow.reproducing import describe_command


def describe(record, **options):
    return describe_command(
        record, **{"name": "run", "was_split": "split off", "with_baseline": True, **options}
    )


def make_record(source="my train.csv", *, recipe="default", assignments=(), **options):
    resolved = resolve_settings(options, recipe=recipe, assignments=assignments)
    settings = resolved.settle("epochs", 3, origin="default for 9")
    return {
        "settings": settings.to_json(),
        "data": {"train": {"source": source}, "validation": {"source": source}},
    }


def test_the_command_names_files_and_settings_that_were_chosen():
    record = make_record(strict=True, threshold_aim="recall>=0.9")
    record["data"]["test"] = {"source": "test.csv"}
    assert shlex.split(describe(record)) == [
        *("bertfit", "train", "my train.csv", "--test", "test.csv", "--output", "run"),
        *("--set", "threshold_aim=recall>=0.9", "--set", "strict=true"),
    ]


def test_a_file_with_a_leading_dash_is_not_named_as_an_option():
    record = make_record("-a.csv")
    assert shlex.split(describe(record))[:4] == ["bertfit", "train", "./-a.csv", "--output"]


def test_a_recipe_stands_for_its_settings():
    assert describe(make_record(recipe="notebook", seed=4), with_baseline=False).endswith(
        "--output run --recipe notebook --no-baseline --set seed=4"
    )


def test_each_column_of_slices_is_named_whatever_it_is_called():
    record = make_record(slice_columns=["by, whom", "year"])
    assert shlex.split(describe(record))[-4:] == ["--slice", "by, whom", "--slice", "year"]
    call = describe(make_record("DataFrame", slice_columns=["year"]))
    assert "    slice_columns=['year']," in call.splitlines()


def test_a_column_is_found_again_whatever_it_is_called():
    record = make_record(text_column="none", label_column=" my label", group_column="-g")
    assert shlex.split(describe(record))[-3:] == [
        *("--text-column=none", "--label-column= my label", "--group-column=-g"),
    ]


def test_validation_rows_are_named_where_they_were_given():
    record = make_record()
    assert "--validation" not in describe(record)
    assert "--validation" in describe(record, was_split="given")
    assert "--validation" not in describe(record, was_split=None)
    record["data"]["validation"]["source"] = "v.csv"
    assert "--validation v.csv" in describe(record, was_split=None)


def test_seeds_are_counted_from_the_first():
    record = make_record()
    record["seeds"] = {"runs": [{"seed": 7}, {"seed": 8}]}
    assert describe(record).endswith("--seeds 2 --set seed=7")
    record["seeds"] = {"runs": [{"seed": 7}]}  # Ctrl-C came then
    assert describe(record).endswith("--set seed=7")
    assert "--seeds" not in describe(record)


def test_rows_from_memory_give_a_call_that_parses():
    record = make_record("rows", group_column="it's")
    call = describe(record, with_baseline=False)
    compile(call, "call", "exec")
    assert "    train,\n    'run',\n    baseline=False," in call


def test_the_call_names_every_part_and_choice():
    record = make_record("DataFrame", recipe="notebook", batch_size=8)
    record["data"] |= {"validation": {"source": "v.csv"}, "test": {"source": "rows"}}
    record["seeds"] = {"runs": [{"seed": 7}, {"seed": 8}]}
    assert describe(record, was_split="given").splitlines() == [
        *("import bertfit", "", "bertfit.train_seeds("),
        *("    train,", "    'run',", "    validation='v.csv',", "    test=test,"),
        *("    num_seeds=2,", "    recipe='notebook',", "    batch_size=8,", "    seed=7,", ")"),
    ]


def test_a_setting_that_was_undone_is_none_in_the_command():
    record = make_record(recipe="notebook", assignments=["max_length=none"])
    assert describe(record).endswith("--recipe notebook --set max_length=none")


def test_of_earlier_runs_the_command_names_what_was_chosen_by_other_rules():
    """With the defaults of now it made another model."""
    record = make_record()
    record["encoding"] = {"max_length": 128}
    record["settings"]["learning_rate"] = {"value": 5e-05, "origin": "default"}
    record["settings"]["text_cleaning"] = {"value": "none", "origin": "default"}
    assert shlex.split(describe(record))[-6:] == [
        *("--set", "learning_rate=5e-05", "--set", "text_cleaning=none"),
        *("--set", "max_length=128"),
    ]
    of_texts = "default, chosen for the texts and the model"
    for origin, value, is_told in (
        (of_texts, 128, True),
        ("default, chosen for the model", 128, False),
        ("--set", None, False),
    ):
        record["settings"]["max_length"] = {"value": value, "origin": origin}
        assert ("max_length=128" in describe(record)) == is_told


def test_the_demo_is_its_own_command():
    """Its rows come from memory, but not the user's."""
    record = make_record("rows")
    record["settings"]["batch_size"]["origin"] = "demo"
    assert describe(record, name="my demo") == "bertfit demo --output 'my demo'"


def test_an_imported_run_has_no_command():
    assert describe({"training": {"imported_from": "notebook"}}) is None
    assert describe(make_record() | {"data": {"test": {"source": "t.csv"}}}) is None


def test_what_is_no_setting_is_not_written_as_one():
    """A run may come from others, and its command is made to be copied."""
    record = make_record("rows", batch_size=8)
    name = "epochs=1)\nimport os\nprint(x"
    record["settings"][name] = record["settings"]["batch_size"]
    call = describe(record)
    assert "import os" not in call
    assert "batch_size=8" in call
