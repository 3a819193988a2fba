"""What a run is made from lies in the folder of its model."""

from __future__ import annotations

import json
import shutil

import pytest

from bertfit.errors import ModelError
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.tokenizer_files import load_tokenizer

NAMES = ["neg", "pos"]


@pytest.fixture
def model_dir(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "credentials"
    path.write_text("[default]\nkey = secret\n")
    return path


def add_entries(path, **entries):
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**before, **entries}))


def error_of(folder, names=NAMES):
    with pytest.raises(ModelError) as caught:
        load_classifier(str(folder), names)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        *(("special_tokens_map.json", name) for name in ("vocab", "vocab_file", "tokenizer_file")),
        *(
            ("tokenizer_config.json", name)
            for name in ("vocab", "merges", "monolingual_vocab_file")
        ),
    ],
)
def test_a_tokenizer_is_not_read_from_elsewhere(model_dir, secret, file, name):
    add_entries(model_dir / file, **{name: str(secret), "unk_token": "[default]"})
    for load in (error_of, lambda folder: error_of(folder, None)):
        assert load(model_dir) == (
            f"the tokenizer of {str(model_dir)!r} cannot be loaded: by {name} in {file}, it would "
            f"be read from {str(secret)!r}\n"
            "Only files in the model's own folder are read. Remove that entry, or get a good copy "
            "of the model."
        )


def test_a_tokenizer_of_the_hub_is_not_read_from_elsewhere(cached_model, secret):
    load_tokenizer("some/model")
    add_entries(cached_model / "special_tokens_map.json", vocab=str(secret))
    with pytest.raises(ModelError, match="by vocab in special_tokens_map"):
        load_tokenizer("some/model")


def test_versions_of_a_tokenizer_are_files_of_its_folder(model_dir):
    path = model_dir / "tokenizer_config.json"
    add_entries(path, fast_tokenizer_files=["tokenizer.json"])
    load_classifier(str(model_dir), NAMES)
    add_entries(path, fast_tokenizer_files=["tokenizer.4.0/../../outside.json"])
    assert "by fast_tokenizer_files in tokenizer_config.json" in error_of(model_dir)


def test_paths_that_earlier_versions_wrote_do_not_matter(model_dir, secret):
    path = model_dir / "tokenizer_config.json"
    add_entries(path, special_tokens_map_file=str(secret), tokenizer_file=str(secret))
    add_entries(path, vocab_file="/nowhere/vocab.txt", merges_file=str(model_dir / "config.json"))
    add_entries(path, spm_file="x" * 5000, name_or_path=str(secret), custom_file=5)
    entries = {"unk_token": "[UNK]", "extra_special_tokens": []}
    add_entries(model_dir / "special_tokens_map.json", **entries)
    load_classifier(str(model_dir), NAMES)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_damaged_json_is_left_to_transformers(model_dir, content):
    (model_dir / "special_tokens_map.json").write_text(content)
    (model_dir / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded: "):
        load_classifier(str(model_dir), NAMES)


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "config.json", "vocab.txt", "additional_chat_templates/a.jinja"]
)
def test_no_run_is_made_from_links_out_of_a_folder(model_dir, secret, name):
    path = model_dir / name
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        shutil.move(path, secret)
    path.symlink_to(secret)
    told = error_of(model_dir)
    assert told.startswith(f"no run is made from {str(model_dir)!r}: {path.name} is a link to ")
    assert str(secret) in told
    load_classifier(str(model_dir))  # to predict with it


def test_links_within_a_folder_and_into_the_cache_of_the_hub_are_followed(model_dir, tmp_path):
    blobs = tmp_path / "models--some--model" / "blobs"
    blobs.mkdir(parents=True)
    shutil.move(model_dir / "tokenizer.json", blobs / "0123")
    (model_dir / "tokenizer.json").symlink_to(blobs / "0123")
    (model_dir / "config.json").rename(model_dir / "own.json")
    (model_dir / "config.json").symlink_to("own.json")
    shutil.move(model_dir / "model.safetensors", tmp_path / "weights")
    (model_dir / "model.safetensors").symlink_to(tmp_path / "weights")
    (model_dir / "README.md").symlink_to("/etc/hostname")
    (tmp_path / "link").symlink_to(model_dir)
    load_classifier(str(tmp_path / "link"), NAMES)


def test_a_template_of_chats_is_not_saved(model_dir, tmp_path):
    from bertfit.modeling.tokenizer_files import save_tokenizer

    (model_dir / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer = load_tokenizer(str(model_dir))
    assert tokenizer.chat_template == "{{ messages }}"
    save_tokenizer(tokenizer, tmp_path / "saved")
    assert not (tmp_path / "saved" / "chat_template.jinja").exists()
    assert "messages" not in (tmp_path / "saved" / "tokenizer_config.json").read_text()


def test_a_name_is_that_of_a_file_in_the_folder_wherever_one_works(
    model_dir, tmp_path, monkeypatch
):
    (model_dir / "vocab.txt").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "vocab.txt").touch()
    monkeypatch.chdir(tmp_path / "here")
    path = model_dir / "tokenizer_config.json"
    add_entries(path, vocab_file="vocab.txt")
    load_classifier(str(model_dir), NAMES)
    add_entries(path, vocab_file="../here/vocab.txt")
    assert "by vocab_file in tokenizer_config.json" in error_of(model_dir)


def test_links_to_nothing_are_left_to_transformers(model_dir):
    (model_dir / "circle.json").symlink_to("circle.json")
    (model_dir / "notes.txt").symlink_to("/nowhere/notes.txt")
    load_classifier(str(model_dir), NAMES)
