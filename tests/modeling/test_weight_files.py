"""Weights are read from safetensors in the model's own folder, whatever its files name."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from bertfit.errors import ModelError
from bertfit.modeling.classifier import load_classifier


@pytest.fixture
def model_dir(tiny_model_dir, tmp_path):
    """Give a copy of the tiny model whose weights have another name, and are a pickle too."""
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    torch.save(load_file(folder / "model.safetensors"), folder / "adapter_model.bin")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    return folder


def name_in_config(folder, name):
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "transformers_weights": name}), encoding="utf-8")


def name_in_index(folder, name, *, index="model.safetensors.index.json"):
    weights = load_file(folder / "part.safetensors")
    content = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, name)}
    (folder / index).write_text(json.dumps(content), encoding="utf-8")


def error_of(folder):
    with pytest.raises(ModelError) as caught:
        load_classifier(str(folder), ["neg", "pos"])
    return str(caught.value)


@pytest.mark.parametrize("name_weights", [name_in_config, name_in_index])
@pytest.mark.parametrize(
    "name",
    ["adapter_model.bin", "../outside.safetensors", "outside.safetensors", "part.safetensors.bin"],
)
def test_other_weights_are_refused_before_they_are_read(
    model_dir, tmp_path, monkeypatch, name_weights, name
):
    """As `weights_only` is all that keeps torch from running what is in a pickle."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpickled"))
    name = str(tmp_path / name) if name == "outside.safetensors" else name
    name_weights(model_dir, name)
    assert error_of(model_dir) == (
        f"the model {str(model_dir)!r} cannot be loaded: its weights would be read from {name!r}\n"
        "Only safetensors weights in its own folder are read."
    )


@pytest.mark.parametrize("name_weights", [name_in_config, name_in_index])
def test_safetensors_of_another_name_are_read(model_dir, name_weights):
    name_weights(model_dir, "part.safetensors")
    found = load_classifier(str(model_dir), ["neg", "pos"]).model.state_dict()
    expected = load_file(model_dir / "part.safetensors")
    assert expected
    for name, tensor in expected.items():
        assert torch.equal(found[f"bert.{name.removeprefix('bert.')}"], tensor)


def test_an_index_that_the_configuration_names_is_looked_into(model_dir):
    name_in_config(model_dir, "other.safetensors.index.json")
    name_in_index(model_dir, "adapter_model.bin", index="other.safetensors.index.json")
    assert "its weights would be read from 'adapter_model.bin'" in error_of(model_dir)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 1}'])
def test_a_damaged_index_is_named(model_dir, content):
    (model_dir / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    assert "model.safetensors.index.json is damaged" in error_of(model_dir)


def test_an_index_beside_whole_weights_is_not_read(model_dir):
    (model_dir / "part.safetensors").rename(model_dir / "model.safetensors")
    (model_dir / "model.safetensors.index.json").write_text("{", encoding="utf-8")
    load_classifier(str(model_dir), ["neg", "pos"])


def test_an_adapter_beside_weights_is_refused(model_dir):
    """With peft installed, transformers would add it to the weights; without it would not."""
    (model_dir / "part.safetensors").rename(model_dir / "model.safetensors")
    (model_dir / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert "there is an adapter beside its weights\n" in error_of(model_dir)


def test_parts_of_a_distributed_checkpoint_are_refused(tiny_model_dir, tmp_path):
    """transformers reads them, and the weights beside them no more."""
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    part = folder / "shard-00001-model-00001-of-00001.safetensors"
    shutil.copy(folder / "model.safetensors", part)
    assert "there are parts of a distributed checkpoint in its folder" in error_of(folder)
    part.rename(folder / "shard-1-model-1-of-1.safetensors")
    load_classifier(str(folder), ["neg", "pos"])


def test_an_adapter_beside_the_weights_of_a_model_of_the_hub_is_refused(cached_model):
    (cached_model / "adapter_config.json").write_text("{}")
    assert "there is an adapter beside its weights" in error_of("some/model")
