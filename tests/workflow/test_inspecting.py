"""`inspect`: a model, or a run with its record, without loading weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import BertConfig

from bertfit.errors import ConfigError, ModelError, RunError
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.saving import save_model
from bertfit.run_directory import stage_run
from bertfit.workflow.inspecting import inspect


@pytest.fixture
def model_dir(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def test_bert_base_is_counted_from_its_config_alone(tmp_path):
    BertConfig(vocab_size=28_996).save_pretrained(tmp_path)
    inspection = inspect(tmp_path, num_labels=2)
    assert inspection.num_parameters == inspection.num_trainable == 108_311_810


def test_the_number_of_labels_decides_the_head(model_dir):
    two, five = (inspect(model_dir, num_labels=count).num_parameters for count in (2, 5))
    assert five - two == 3 * (8 + 1)


def test_depth_limits_the_tree(model_dir):
    assert inspect(model_dir, depth=0).tree.children == ()


def test_memory_is_for_the_batch_that_is_asked_for(model_dir):
    memory = inspect(model_dir, batch_size=3, num_tokens=5).memory
    assert (memory.batch_size, memory.num_tokens) == (3, 5)


def test_memory_is_for_no_more_tokens_than_the_model_reads(model_dir):
    assert inspect(model_dir).memory.num_tokens == 64
    with pytest.raises(ConfigError) as caught:
        inspect(model_dir, num_tokens=1000)
    assert str(caught.value) == f"num_tokens: {model_dir} reads at most 64 tokens, got 1,000"


@pytest.mark.parametrize(
    ("size", "least"),
    [
        ({"depth": -1}, 0),
        ({"num_labels": 1}, 2),
        ({"batch_size": 0}, 1),
        ({"num_tokens": 0}, 1),
        ({"num_tokens": 2.5}, 1),
    ],
)
def test_an_impossible_size_is_refused(model_dir, size, least):
    ((name, value),) = size.items()
    with pytest.raises(ConfigError) as caught:
        inspect(model_dir, **size)
    assert str(caught.value) == f"{name}: expected a whole number, at least {least}, got {value!r}"


def test_a_model_has_no_record(model_dir):
    assert inspect(model_dir).to_json()["run"] is None


def test_a_run_shows_its_record(model_dir):
    record = {"format_version": 1, "label_names": ["neg", "pos"]}
    (model_dir / "bertfit.json").write_text(json.dumps(record))
    assert inspect(str(model_dir)).record == record
    with pytest.raises(ConfigError, match="is a run, which has its labels"):
        inspect(model_dir, num_labels=5)


def test_embedded_is_the_embedded_model_beside_a_run_of_that_name(model_dir, monkeypatch):
    run = model_dir.rename(model_dir.with_name("embedded"))
    (run / "bertfit.json").write_text(json.dumps({"format_version": 1}))
    monkeypatch.chdir(run.parent)
    found = inspect("embedded", num_labels=2)
    assert (found.num_parameters > 20_000_000, found.record) == (True, {})
    for name in ("./embedded", Path("embedded")):
        found = inspect(name)
        assert (found.num_parameters < 10_000, found.record) == (True, {"format_version": 1})


def test_a_run_tells_which_files_were_changed(model_dir, tmp_path):
    staging = stage_run(tmp_path / "run", overwrite=False)
    shutil.copytree(model_dir, staging.folder, dirs_exist_ok=True)
    staging.publish({})
    assert inspect(tmp_path / "run").to_json()["changed_files"] == []
    with (tmp_path / "run" / "config.json").open("a") as file:
        file.write("\n")
    assert inspect(tmp_path / "run").changed_files == ("config.json",)


def test_whether_files_were_changed_is_unknown_without_digests(model_dir):
    assert inspect(model_dir).to_json()["changed_files"] is None


def test_everything_can_be_written_as_json(model_dir):
    value = json.loads(json.dumps(inspect(model_dir).to_json()))
    assert value["num_parameters"] == value["tree"]["num_parameters"]
    assert value["name"] == str(model_dir)


def test_a_folder_that_is_no_model_is_explained(tmp_path):
    with pytest.raises(ModelError, match="is not a model: it has no config"):
        inspect(tmp_path)


@pytest.mark.parametrize("name", ["calibration", "threshold", "selective"])
def test_damaged_rules_of_a_run_are_explained(model_dir, name):
    record = {"format_version": 1, "label_names": ["neg", "pos"], name: {"wrong": 1}}
    (model_dir / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(RunError, match="calibration, threshold or selective curve cannot be read"):
        inspect(model_dir)


def test_a_damaged_record_is_explained(model_dir):
    (model_dir / "bertfit.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        inspect(model_dir)


def test_a_model_of_the_hub_may_have_the_name_of_a_run_that_was_killed(
    tiny_model_dir, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    left = tmp_path / ".tiny.incomplete-abc"
    left.mkdir()
    (left / "config.json").write_text("{}")
    monkeypatch.setattr(
        "bertfit.modeling.classifier.locate_model", lambda _name: (str(tiny_model_dir), True)
    )
    assert inspect("tiny").record == {}


def test_what_a_killed_training_left_is_told_instead_of_asking_the_hub(tmp_path):
    left = tmp_path / ".run.incomplete-abc"
    left.mkdir()
    (left / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match=r"A training that was killed left .*\.run\.incomplete-abc"):
        inspect(tmp_path / "run")


def test_a_classifier_that_is_no_run_shows_the_names_of_its_classes(tmp_path, tiny_model_dir):
    loaded = load_classifier(str(tiny_model_dir), ["neg", "pos"])
    save_model(loaded.model, tmp_path / "model")
    assert inspect(tmp_path / "model").label_names == ("neg", "pos")
    assert inspect(tmp_path / "model", num_labels=3).label_names == ()
    assert inspect("embedded").label_names == ()


def test_ids_that_do_not_count_from_0_are_not_shown_as_if_they_did(tmp_path, tiny_model_dir):
    loaded = load_classifier(str(tiny_model_dir), ["neg", "pos"])
    save_model(loaded.model, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["id2label"] = {"1": "neg", "2": "pos"}
    path.write_text(json.dumps(config), encoding="utf-8")
    assert inspect(tmp_path / "model").label_names == ()
