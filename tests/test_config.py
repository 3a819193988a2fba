"""Settings: their ranges, the origin of each value, and messages for invalid values."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import bertfit
from bertfit.config import (
    RECIPES,
    TrainSettings,
    describe_settings,
    is_default,
    is_given,
    resolve_settings,
)
from bertfit.errors import ConfigError

SOURCE = Path(bertfit.__file__).parent
FIELDS = [field.name for field in dataclasses.fields(TrainSettings)]


def write_toml(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def error_of(*args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve_settings(*args, **kwargs)
    return caught.value.message


def test_a_path_called_embedded_is_that_of_a_folder():
    assert resolve_settings({"model": Path("embedded")}).settings.model == "./embedded"
    assert resolve_settings({"model": Path("other")}).settings.model == "other"
    assert resolve_settings({"model": "embedded"}).settings.model == "embedded"


@pytest.mark.parametrize("name", ["dtype", "max_length", "micro_batch_tokens"])
def test_an_array_is_no_setting(name):
    assert f"{name}: expected " in error_of({name: np.array([1, 2])})


@pytest.mark.parametrize(
    ("origin", "found"),
    [
        ("default", (True, False)),
        ("default for 9 rows", (True, False)),
        ("recipe notebook", (False, False)),
        ("--set, chosen on this machine", (False, True)),
        ("file defaults.toml", (False, True)),
    ],
)
def test_an_origin_tells_whether_the_user_gave_a_setting(origin, found):
    assert (is_default(origin), is_given(origin)) == found


def test_without_anything_given_every_value_is_a_default():
    resolved = resolve_settings()
    assert resolved.settings == TrainSettings()
    assert set(resolved.origins.values()) == {"default"}
    assert set(resolved.origins) == set(FIELDS)


def test_each_layer_overrides_the_one_below_it(tmp_path):
    """Default < recipe < file < --set < option, and each value says which of them it is from."""
    resolved = resolve_settings(
        {"learning_rate": 4e-4},
        recipe="notebook",
        config_file=write_toml(
            tmp_path, "epochs = 5\nbatch_size = 5\nlearning_rate = 0.5\nseed = 5\n"
        ),
        assignments=("batch_size=6", "learning_rate=0.25"),
    )
    names = ("dropout", "max_length", "epochs", "seed", "batch_size", "learning_rate")
    found = {name: (getattr(resolved.settings, name), resolved.origins[name]) for name in names}
    assert found == {
        "dropout": (None, "default"),
        "max_length": (128, "recipe notebook"),
        "epochs": (5, "file settings.toml"),
        "seed": (5, "file settings.toml"),
        "batch_size": (6, "--set"),
        "learning_rate": (4e-4, "option"),
    }


def test_an_option_that_is_none_was_not_given():
    resolved = resolve_settings({"max_length": None}, recipe="notebook")
    assert resolved.settings.max_length == 128


def test_a_device_may_be_that_of_torch():
    assert resolve_settings({"device": torch.device("cuda", 1)}).settings.device == "cuda:1"


def test_a_model_may_be_a_path():
    assert resolve_settings({"model": Path("models") / "mine"}).settings.model == str(
        Path("models/mine")
    )


def test_set_can_take_a_value_back_to_none():
    resolved = resolve_settings(recipe="notebook", assignments=("max_length=none",))
    assert resolved.settings.max_length is None
    assert resolved.origins["max_length"] == "--set"


def test_a_file_can_take_a_value_back_to_none(tmp_path):
    """TOML has no null, and no line at all leaves the value of the recipe."""
    path = write_toml(
        tmp_path, 'max_length = "none"\nlabel_column = "None"\nslice_columns = "none"'
    )
    resolved = resolve_settings(recipe="notebook", config_file=path)
    found = resolved.settings
    assert (found.max_length, found.label_column, found.slice_columns) == (None, None, ())
    assert resolved.origins["max_length"] == "file settings.toml"


def test_the_origin_of_options_can_be_named():
    resolved = resolve_settings({"epochs": 1}, options_origin="argument")
    assert resolved.to_json()["epochs"] == {"value": 1, "origin": "argument"}


def test_to_json_holds_every_field():
    assert list(resolve_settings().to_json()) == FIELDS


def test_to_json_gives_what_will_be_read_again():
    """A report made from the record is then the training's own, to the byte."""
    value = resolve_settings({"slice_columns": ["year", "by, whom"]}).to_json()
    assert json.loads(json.dumps(value)) == value


def test_the_notebook_recipe_has_the_notebooks_values():
    settings = resolve_settings(recipe="notebook").settings
    assert (settings.learning_rate, settings.warmup_fraction, settings.max_grad_norm) == (
        2e-5,
        0.0,
        1.0,
    )
    assert (settings.batch_size, settings.epochs, settings.max_length) == (16, 3, 128)
    assert (settings.truncation, settings.selection_metric) == ("head", "macro_f1")


def test_the_notebook_recipe_keeps_the_weight_decay_of_torchs_adamw():
    """The notebook calls AdamW(lr=2e-5) and leaves the rest to torch."""
    torch = pytest.importorskip("torch")
    default = torch.optim.AdamW([torch.zeros(1)]).defaults["weight_decay"]
    assert resolve_settings(recipe="notebook").settings.weight_decay == default


def test_the_notebook_recipe_calibrates_nothing():
    """The notebook takes its softmax as it is."""
    assert resolve_settings(recipe="notebook").settings.calibration == "none"


def test_an_aim_that_is_malformed_says_which_setting_it_is():
    assert error_of({"threshold_aim": "f2", "epochs": 0}) == (
        "epochs: expected a number at least 1, got 0\n"
        "threshold_aim: expected f1, precision>=0.95, recall>=0.9 or cost:FP,FN, got 'f2'."
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_names_existing_settings(recipe):
    assert set(RECIPES[recipe]) <= set(FIELDS)


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("epochs=7", 7),
        ("learning_rate=3e-5", 3e-5),
        (" learning_rate = 0.5 ", 0.5),
        ("dropout=0", 0.0),
        ("dropout=None", None),
        ("patience=2", 2),
        ("model=a=b", "a=b"),
        ("text_cleaning=none", "none"),
        ("text_column=none", None),
        ("text_column=true", "true"),
        ("truncation=head+tail", "head+tail"),
    ],
)
def test_set_reads_a_value_by_the_fields_type(assignment, value):
    name = assignment.partition("=")[0].strip()
    assert getattr(resolve_settings(assignments=(assignment,)).settings, name) == value


def test_the_last_of_two_assignments_counts():
    assert resolve_settings(assignments=("epochs=2", "epochs=4")).settings.epochs == 4


@pytest.mark.parametrize("options", [{"dropout": 0}, {"weight_decay": 0}])
def test_a_whole_number_may_stand_for_a_fraction(options):
    settings = resolve_settings(options).settings
    assert [type(getattr(settings, name)) for name in options] == [float]


@pytest.mark.parametrize("assignment", ["epochs", "=3", " =3"])
def test_set_without_a_key_or_a_value_is_explained(assignment):
    assert error_of(assignments=(assignment,)) == f"expected --set key=value, got {assignment!r}"


def test_an_unknown_option_names_the_near_one():
    assert error_of({"learning_rte": 1e-5}) == (
        "option: there is no setting 'learning_rte'. Did you mean 'learning_rate'?"
    )


@pytest.mark.parametrize("kind", [Path, str])  # typer 0.19 gives a string
def test_an_unknown_key_in_a_file_names_the_file(tmp_path, kind):
    path = write_toml(tmp_path, "epoch = 3\n")
    assert error_of(config_file=kind(path)) == (
        "file settings.toml: there is no setting 'epoch'. Did you mean 'epochs'?"
    )


def test_a_wrong_value_in_a_file_names_the_file_unless_an_option_overrides_it(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('epochs = "3"\nseed = -1\nhead_fraction = 2', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        resolve_settings({"head_fraction": 3.0}, config_file=path, assignments=["seed=-2"])
    assert caught.value.message.splitlines() == [
        "file s.toml: epochs: expected int or none, got '3'",
        "head_fraction: expected a number in (0, 1), got 3.0",
        "seed: expected a number at least 0 and below 2**32, got -2",
    ]
    assert caught.value.hint == "bertfit settings says what each one takes."


def test_an_unknown_key_in_set_is_refused():
    assert error_of(assignments=("zzz=1",)) == "--set: there is no setting 'zzz'."
    for option, setting in (("token_budget", "micro_batch_tokens"), ("slice", "slice_columns")):
        assert f"'{setting}'" in error_of(assignments=(f"{option}=1",))


def test_all_unknown_settings_are_told():
    assert error_of(assignments=("epoch=3", "sed=1")).splitlines() == [
        "--set: there is no setting 'epoch'. Did you mean 'epochs'?",
        "--set: there is no setting 'sed'. Did you mean 'seed'?",
    ]


def test_what_is_no_path_of_a_file_of_settings_is_refused():
    assert error_of(config_file=5) == "config_file: expected a path, got int"


def test_an_unknown_recipe_names_the_near_one():
    assert error_of(recipe="notebok") == (
        "expected a recipe of default, notebook, got 'notebok'. Did you mean 'notebook'?"
    )


@pytest.mark.parametrize("recipe", [None, 3, []])
def test_a_recipe_that_is_no_name_is_refused(recipe):
    expected = f"expected a recipe of default, notebook, got {recipe!r}."
    assert error_of(recipe=recipe) == expected


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "none.toml"
    assert error_of(config_file=path) == f"the settings file {path} does not exist"


def test_a_byte_order_mark_before_the_settings_is_not_read(tmp_path):
    """Editors on Windows write one, and show it to nobody."""
    path = write_toml(tmp_path, "\ufeffepochs = 4\n")
    assert resolve_settings(config_file=path).settings.epochs == 4


def test_a_file_that_is_no_toml_is_named_with_the_place(tmp_path):
    path = write_toml(tmp_path, "epochs = \n")
    message = error_of(config_file=path)
    assert message.startswith(f"the settings file {path} cannot be read as TOML: ")
    assert "line 1" in message


@pytest.mark.parametrize("content", ["seed = " + "1" * 5001, "slice_columns = " + "[" * 3000])
def test_a_file_that_python_does_not_read_is_named(tmp_path, content):
    path = write_toml(tmp_path, content)
    assert error_of(config_file=path).startswith(f"the settings file {path} cannot be read as TOML")


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_too_large_for_a_float_is_out_of_range(tmp_path, sign):
    path = write_toml(tmp_path, f"weight_decay = {sign}1{'0' * 400}\n")
    message = f"weight_decay: expected a number in [0, 1), got {sign}1e+300"
    assert message in error_of(config_file=path)


def test_a_file_that_is_no_utf8_is_explained(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_bytes(b"model = '\xff'\n")
    assert "cannot be read as TOML" in error_of(config_file=path)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("learning_rate", 0.0, "above 0 and below 1"),
        ("learning_rate", 1.0, "above 0 and below 1"),
        ("learning_rate", float("nan"), "above 0 and below 1"),
        ("warmup_fraction", 1.0, "in [0, 1)"),
        ("warmup_fraction", -0.1, "in [0, 1)"),
        ("weight_decay", -1.0, "in [0, 1)"),
        ("weight_decay", 1.0, "in [0, 1)"),
        ("max_grad_norm", 0.0, "above 0 and finite"),
        ("dropout", 1.0, "in [0, 1)"),
        ("max_length", 3, "at least 4"),
        ("head_fraction", 0.0, "in (0, 1)"),
        ("head_fraction", 1.0, "in (0, 1)"),
        ("seed", -1, "at least 0 and below 2**32"),
        ("seed", 2**32, "at least 0 and below 2**32"),
        ("validation_fraction", 0.6, "in (0, 0.5]"),
        ("patience", 0, "at least 1"),
        ("micro_batch_tokens", 0, "at least 1"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_range(name, value, expected):
    with pytest.raises(ConfigError) as caught:
        TrainSettings(**{name: value})
    assert caught.value.message == f"{name}: expected a number {expected}, got {value!r}"


def test_an_infinite_clip_is_refused():
    """A run stores its settings as JSON, which has no infinity: training would end in an error."""
    with pytest.raises(ConfigError, match="max_grad_norm: expected a number above 0 and finite"):
        TrainSettings(max_grad_norm=float("inf"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", "three", "epochs: expected int or none, got 'three'"),
        ("epochs", 2.5, "epochs: expected int or none, got 2.5"),
        ("epochs", True, "epochs: expected int or none, got True"),
        ("dropout", "x", "dropout: expected float or none, got 'x'"),
        ("model", 3, "model: expected str, got 3"),
        (
            "micro_batch_tokens",
            "most",
            "micro_batch_tokens: expected int or none or auto, got 'most'",
        ),
        ("text_column", 1, "text_column: expected str or none, got 1"),
        (
            "truncation",
            "heads",
            "truncation: expected one of head, tail, head+tail, got 'heads'. Did you mean 'head'?",
        ),
        (
            "dtype",
            "float16",
            (
                "dtype: expected one of auto, float32, bfloat16, got 'float16'. "
                "Did you mean 'bfloat16'?"
            ),
        ),
        (
            "on_bad_row",
            "ignore",
            "on_bad_row: expected one of error, skip, got 'ignore'.",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_the_right_one(name, value, expected):
    with pytest.raises(ConfigError) as caught:
        TrainSettings(**{name: value})
    assert caught.value.message == expected


def test_all_problems_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        TrainSettings(epochs=0, batch_size="x", truncation="middle")
    assert [line.partition(":")[0] for line in caught.value.message.splitlines()] == [
        "batch_size",
        "truncation",
        "epochs",
    ]


def test_every_setting_has_a_help_text():
    described = describe_settings()
    assert list(described) == FIELDS
    assert all(text.endswith(".") for _, text in described.values())


def test_a_described_default_is_the_real_one():
    settings = TrainSettings()
    described = describe_settings()
    shown = {name: (default, getattr(settings, name)) for name, (default, _) in described.items()}
    for name, (default, value) in shown.items():
        parsed = default if isinstance(value, str) else ast.literal_eval(default)
        assert parsed == value, name


def test_every_setting_is_read_somewhere():
    """A setting that nothing reads promises what it does not do."""
    read = {
        node.attr
        for file in SOURCE.rglob("*.py")
        if file.name != "config.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert set(FIELDS) - read == set()


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False)])
def test_a_switch_is_set_by_true_or_false(text, value):
    assert resolve_settings(assignments=(f"strict={text}",)).settings.strict is value


def test_a_switch_takes_nothing_else():
    with pytest.raises(ConfigError, match="strict: expected true or false, got 'yes'"):
        resolve_settings(assignments=("strict=yes",))


def test_a_number_is_no_switch_and_a_switch_no_number():
    with pytest.raises(ConfigError, match="drop_duplicates: expected true or false, got 1"):
        TrainSettings(drop_duplicates=1)
    with pytest.raises(ConfigError, match="batch_size: expected int, got True"):
        TrainSettings(batch_size=True)


def test_a_word_stands_beside_a_number():
    assert TrainSettings(micro_batch_tokens="auto").micro_batch_tokens == "auto"
    for text, value in (("auto", "auto"), ("512", 512), ("none", None)):
        resolved = resolve_settings(assignments=[f"micro_batch_tokens={text}"])
        assert resolved.settings.micro_batch_tokens == value


def test_a_list_of_columns_is_taken_from_every_layer(tmp_path):
    """A name with a comma can be given in a list alone."""
    file = write_toml(tmp_path, 'slice_columns = ["a, b", "c"]\n')
    assert resolve_settings(config_file=file).settings.slice_columns == ("a, b", "c")
    given = resolve_settings({"slice_columns": ["d"]}, config_file=file)
    assert given.settings.slice_columns == ("d",)
    for text, names in (("a, b", ("a", "b")), ("a", ("a",)), ("none", ()), ("", ())):
        settings = resolve_settings(
            config_file=file, assignments=[f"slice_columns={text}"]
        ).settings
        assert settings.slice_columns == names


@pytest.mark.parametrize("value", [5, ["a", 1], {"a"}])
def test_what_is_no_list_of_columns_is_refused(value):
    message = error_of({"slice_columns": value})
    assert message == f"slice_columns: expected a list of names, got {adapted(value)!r}"


def adapted(value):
    return tuple(value) if isinstance(value, list) else value


def test_numbers_of_numpy_are_numbers():
    settings = resolve_settings({"epochs": np.int64(2), "dropout": np.float32(0.5)}).settings
    assert (settings.epochs, settings.dropout) == (2, 0.5)
    assert type(settings.epochs) is int


@pytest.mark.parametrize("given", ["kind, year", ["kind", "year"], ("kind", "year")])
def test_names_of_columns_are_a_list_or_stand_between_commas(given):
    assert resolve_settings({"slice_columns": given}).settings.slice_columns == ("kind", "year")
