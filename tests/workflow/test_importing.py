"""Import of the notebook's folder: equal logits, no code executed, and error messages."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoTokenizer, BertModel
from typer.testing import CliRunner

from bertfit import TextClassifier, import_notebook
from bertfit.cli.main import app
from bertfit.cli.terminal import console
from bertfit.errors import BertfitError, ModelError, RunError
from bertfit.setting_problems import LEAST_LENGTH

TEXTS = ["a good film", "bad", "the plot of the movie was poor and the acting was awful"]
ONLY_BERT = "Only the notebook's BertModel + dropout + linear can be imported."
SAVE_WEIGHTS = "In the notebook, save it with torch.save(model.state_dict(), 'model.pth')."
SAVE_TOKENIZER = "In the notebook, save it with tokenizer.save_pretrained('tokenizer')."
HISTORY = {
    "train_losses": [0.6, 0.4],
    "val_losses": [0.6, 0.5],
    "train_acc": [0.6, 0.8],
    "val_acc": [0.6, 0.7],
    "train_f1": [0.6, 0.8],
    "val_f1": [0.6, 0.7],
}


class SentimentModel(torch.nn.Module):
    """What the notebook trains: BERT, dropout, one linear layer on the pooled output."""

    def __init__(self, model_dir, num_labels=2, width=8):
        super().__init__()
        self.encoder = BertModel.from_pretrained(model_dir)
        self.dropout = torch.nn.Dropout(0.1)
        self.head = torch.nn.Linear(width, num_labels)

    def forward(self, **inputs):
        return self.head(self.dropout(self.encoder(**inputs).pooler_output))


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = SentimentModel(tiny_model_dir).eval()
        for parameter in model.parameters():
            parameter.mul_(5)
    return model


@pytest.fixture
def folder(model, tiny_model_dir, tmp_path):
    """Give a folder as the notebook leaves it."""
    folder = tmp_path / "notebook"
    folder.mkdir()
    torch.save(model.state_dict(), folder / "model.pth")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder / "tokenizer")
    (folder / "training_history.json").write_text(json.dumps(HISTORY))
    return folder


@pytest.fixture
def run_import(folder, tmp_path):
    def run(**options):
        return import_notebook(
            folder, tmp_path / "run", **{"max_length": 20, "num_heads": 2, **options}
        )

    return run


@pytest.fixture
def notes_of(run_import):
    def run(**options):
        notes = []
        run_import(listener=SimpleNamespace(note=notes.append, progress=notes.append), **options)
        return notes

    return run


def error_of(run_import, **options) -> str:
    with pytest.raises(BertfitError) as caught:
        run_import(**options)
    return str(caught.value)


def test_the_run_gives_the_logits_of_the_notebooks_model(run_import, model, tiny_model_dir):
    run = run_import()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        logits = model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))
    found = torch.from_numpy(TextClassifier.load(run).predict_probabilities(TEXTS))
    torch.testing.assert_close(found.float(), torch.softmax(logits, dim=1), atol=1e-5, rtol=1e-5)
    assert found[:, 0].max() - found[:, 0].min() > 1e-4


@pytest.mark.parametrize("encoder", ["bert.", ""])
@pytest.mark.parametrize("wrapper", ["", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_the_names_of_the_modules_do_not_matter(run_import, folder, model, encoder, wrapper):
    """Also of a subclass of BertModel, and with what DataParallel and compile put before all."""
    names = {"encoder.": f"{wrapper}{encoder}", "head.": f"{wrapper}classifier."}
    state = {
        f"{names[key.partition('.')[0] + '.']}{key.partition('.')[2]}": value
        for key, value in model.state_dict().items()
    }
    torch.save(state, folder / "model.pth")
    assert len(TextClassifier.load(run_import()).predict(TEXTS)) == 3


def test_labels_and_rule_are_those_given(run_import):
    classifier = TextClassifier.load(run_import(label_names=("minus", "plus")))
    assert classifier.label_names == ("minus", "plus")
    assert classifier.rule.max_length == 20


def test_what_a_killed_import_left_is_told(notes_of, tmp_path):
    left = tmp_path / ".run.incomplete-abcd1234"
    left.mkdir()
    (left / "config.json").write_text("{}")
    assert [note.partition(" (")[0] for note in notes_of()] == [
        f"A training that was killed left {left}"
    ]


def test_the_history_comes_along(run_import):
    assert json.loads((run_import() / "training_history.json").read_text()) == HISTORY


def test_the_history_may_be_missing(run_import, folder):
    (folder / "training_history.json").unlink()
    assert not (run_import() / "training_history.json").exists()


def test_the_record_says_where_the_run_is_from(run_import):
    record = json.loads((run_import() / "bertfit.json").read_text())
    assert record["training"]["imported_from"] == "notebook"
    assert record["label_names"] == ["neg", "pos"]


@pytest.mark.parametrize(("width", "heads"), [(128, 2), (312, 12), (384, 12)])
def test_heads_are_as_many_as_published_berts_of_the_width_have(
    notes_of, folder, tmp_path, make_wider_model, width, heads
):
    """A state dict does not tell, and another number fits too."""
    sizes = {"hidden_size": width, "num_hidden_layers": 1, "intermediate_size": 16}
    wide = SentimentModel(make_wider_model(num_attention_heads=heads, **sizes), width=width)
    torch.save(wide.state_dict(), folder / "model.pth")
    told = (
        f"The number of attention heads was taken to be {heads}, as in published BERTs of the "
        f"width {width}: the weights do not say it. If it is another, every prediction is wrong: "
        "set --num-heads."
    )
    assert notes_of(num_heads=None) == [told]
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["num_attention_heads"] == heads


def test_heads_of_an_unusual_width_must_be_given(run_import):
    assert error_of(run_import, num_heads=None) == (
        "num_heads: a width of 8 does not tell how many attention heads there are\n"
        "In the notebook: model.bert.config.num_attention_heads"
    )


def test_a_single_head_is_a_number_of_heads(run_import):
    run = run_import(num_heads=1)
    assert json.loads((run / "config.json").read_text())["num_attention_heads"] == 1


@pytest.mark.parametrize("max_length", [LEAST_LENGTH, 64])
def test_a_run_may_read_as_few_tokens_as_make_sense_or_as_many_as_the_model(run_import, max_length):
    record = json.loads((run_import(max_length=max_length) / "bertfit.json").read_text())
    assert record["encoding"]["max_length"] == max_length


def test_an_existing_run_is_refused(run_import):
    run_import()
    assert "a run exists in" in error_of(run_import)
    run_import(overwrite=True)


def test_the_command_tells_what_the_weights_do_not_say(folder, tmp_path):
    """A linear layer on last_hidden_state has the same weights, but another meaning."""
    command = ["import", str(folder), "--output", str(tmp_path / "run"), "--max-length", "20"]
    told = " ".join(CliRunner().invoke(app, [*command, "--num-heads", "2"]).stdout.split())
    assert "the pooled output (pooler_output) was assumed" in told
    assert "train it again with bertfit train FILE --recipe notebook --output RUN." in told
    assert f"The run is in {tmp_path / 'run'}." in told


def test_a_note_that_cannot_be_written_is_no_success(folder, tmp_path, monkeypatch):
    """The console keeps silent afterwards; the command ended with exit code 0."""
    left = tmp_path / ".run.incomplete-abcd1234"
    left.mkdir()
    (left / "config.json").write_text("{}")
    command = ["import", str(folder), "--output", str(tmp_path / "run"), "--max-length", "20"]
    command += ["--num-heads", "2"]
    with os.fdopen(os.open("/dev/full", os.O_WRONLY), "w") as full:
        monkeypatch.setattr("bertfit.cli.terminal.console", type(console)(file=full, stderr=False))
        result = CliRunner().invoke(app, command)
    assert "standard output could not be written" in str(result.exception)
    assert (tmp_path / "run" / "bertfit.json").is_file()


@pytest.mark.parametrize("is_module", [True, False])
def test_what_is_no_tensor_is_refused_by_its_name(run_import, folder, model, is_module):
    """A whole module, or a best score that numpy computed."""
    checkpoint = {"model_state_dict": model.state_dict(), "best_f1": np.float64(0.9)}
    torch.save(model if is_module else checkpoint, folder / "model.pth")
    message, hint = error_of(run_import).split("\n")
    name = r"\S+\.SentimentModel" if is_module else r"numpy\.\S+\.scalar"
    told = "is not a plain state dict: reading it would run code from the file, as it holds"
    assert re.fullmatch(f"{re.escape(str(folder / 'model.pth'))} {told} {name}", message)
    assert hint == (
        "If you made the file yourself, load it in Python with torch.load('model.pth', "
        "weights_only=False), and save its state dict alone with torch.save(STATE_DICT, "
        "'model.pth')."
    )


class Evil:
    """What an attacker's pickle holds: a call of a function on being read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_a_pickle_runs_no_code(run_import, folder, tmp_path, save):
    save({"weight": Evil(tmp_path / "ran")}, folder / "model.pth")
    assert "reading it would run code from the file" in error_of(run_import)
    assert not (tmp_path / "ran").exists()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(RunError) as caught:
        import_notebook(tmp_path / "none", tmp_path / "run")
    assert str(caught.value) == (
        f"the folder {tmp_path / 'none'} does not exist\n"
        "Expected model.pth (a state dict), tokenizer/ and, if at hand, training_history.json."
    )


def test_a_folder_without_weights_is_named(run_import, folder):
    (folder / "model.pth").unlink()
    assert error_of(run_import) == (
        f"{folder} has no model.pth\n"
        "Expected model.pth (a state dict), tokenizer/ and, if at hand, training_history.json."
    )


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["best_model.pth"], "It has best_model.pth: rename it to model.pth, if that is it."),
        (["model.safetensors"], "It has model.safetensors, but only files of torch.save are read."),
        (["a.pt", "b.bin"], "Expected model.pth (a state dict), tokenizer/ and"),
    ],
)
def test_weights_of_another_name_are_pointed_out(run_import, folder, names, hint):
    (folder / "model.pth").unlink()
    for name in names:
        (folder / name).touch()
    assert error_of(run_import).startswith(f"{folder} has no model.pth\n{hint}")


def test_a_folder_without_a_tokenizer_is_named(run_import, folder, tmp_path):
    (folder / "tokenizer").rename(folder / "other")
    assert error_of(run_import).startswith(f"{folder} has no folder tokenizer/\n")
    assert not (tmp_path / "run").exists()


def test_an_empty_tokenizer_folder_is_refused(run_import, folder):
    """Transformers makes an empty tokenizer of it, for which every word is unknown."""
    for path in (folder / "tokenizer").iterdir():
        path.unlink()
    assert f"the tokenizer in {folder / 'tokenizer'} cannot be loaded" in error_of(run_import)


def test_a_tokenizer_runs_no_code(run_import, folder, tmp_path, monkeypatch):
    """Transformers would ask whether to, and a `yes |` before the command would answer."""
    monkeypatch.setattr("builtins.input", lambda _prompt: "y")
    (folder / "tokenizer" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = {
        "tokenizer_class": "EvilTokenizer",
        "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    }
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    assert f"the tokenizer in {folder / 'tokenizer'} cannot be loaded" in error_of(run_import)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_without_its_vocabulary_is_refused(run_import, folder):
    """Transformers makes one of five special tokens, for which every word is unknown."""
    (folder / "tokenizer" / "tokenizer.json").unlink()
    config = folder / "tokenizer" / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "BertTokenizer"}')
    assert error_of(run_import) == (
        f"the tokenizer in {folder / 'tokenizer'} cannot be loaded: its vocabulary is missing or "
        f"empty (tokenizer.json, vocab.txt, vocab.json, *.model)\n{SAVE_TOKENIZER}"
    )


def test_an_empty_vocabulary_is_refused(run_import, folder):
    """It became a run that no command could load."""
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "vocab.txt").touch()
    config = folder / "tokenizer" / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "BertTokenizer"}')
    assert "its vocabulary is missing or empty" in error_of(run_import)


def test_a_tokenizers_limit_that_is_no_number_is_refused(run_import, folder):
    """So did it."""
    path = folder / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "64"}))
    assert error_of(run_import).startswith(
        f"the tokenizer in {folder / 'tokenizer'} cannot be loaded: its tokenizer_config.json says "
        "model_max_length '64', a number of tokens was expected\n"
    )


def test_a_vocabulary_alone_is_explained_in_one_line(run_import, folder):
    for path in (folder / "tokenizer").iterdir():
        path.unlink()
    (folder / "tokenizer" / "vocab.txt").write_text("[UNK]\ngood\n")
    message, hint = error_of(run_import).split("\n")
    assert message.startswith(f"the tokenizer in {folder / 'tokenizer'} cannot be loaded: ")
    assert hint == SAVE_TOKENIZER


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizers_file_that_is_not_json_is_named(run_import, folder, name):
    (folder / "tokenizer" / name).write_text("{")
    told = f"the tokenizer in {folder / 'tokenizer'} cannot be loaded: {name}: "
    assert error_of(run_import).startswith(told)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be read: the file is empty\nCopy it again."),
        (b"PK\x03\x04 half a", "cannot be read: it is damaged or cut off\nCopy it again."),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "is a Git LFS pointer, not the file itself\ngit lfs pull fetches it.",
        ),
        (b"<!DOCTYPE html>", f"cannot be read: torch did not write it\n{SAVE_WEIGHTS}"),
        (
            safetensors.torch.save({"a": torch.zeros(1)}),
            f"is a safetensors file; only files of torch.save are read\n{SAVE_WEIGHTS}",
        ),
    ],
    ids=["empty", "half", "pointer", "page", "safetensors"],
)
def test_what_torch_did_not_write_is_told_apart(run_import, folder, content, told):
    (folder / "model.pth").write_bytes(content)
    assert error_of(run_import) == f"{folder / 'model.pth'} {told}"


@pytest.mark.parametrize("is_zip", [True, False])
def test_truncated_weights_are_named(run_import, folder, model, is_zip):
    path = folder / "model.pth"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(path.read_bytes()[:-2000])
    told = f"{path} cannot be read: it is damaged or cut off\nCopy it again."
    assert error_of(run_import) == told


def change_a_weight(path, model):
    content = path.read_bytes()
    weights = model.state_dict()["head.weight"].numpy().tobytes()
    assert content.count(weights) == 1
    path.write_bytes(content.replace(weights, bytes([weights[0] ^ 1]) + weights[1:]))


def test_a_weight_that_changed_is_noticed(run_import, folder, model):
    """Torch reads the file without comparing its checksums: other predictions, and no error."""
    path = folder / "model.pth"
    change_a_weight(path, model)
    message, hint = error_of(run_import).split("\n")
    told = rf"{re.escape(str(path))} is damaged: its part model/data/\d+ does not have the checksum"
    assert re.match(told, message)
    assert hint == "Copy it again."


def test_weights_saved_without_checksums_are_imported(run_import, folder, model):
    computes = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(model.state_dict(), folder / "model.pth")
    finally:
        torch.serialization.set_crc32_options(computes)
    with zipfile.ZipFile(folder / "model.pth") as archive:
        assert archive.testzip() is not None  # taken at its word, the file would be damaged
    run_import()


def test_compressed_weights_are_refused_before_they_are_unpacked(run_import, folder, model):
    """torch.save compresses nothing; nine megabytes may unpack to gigabytes."""
    path = folder / "model.pth"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert error_of(run_import).startswith(f"{path} cannot be read: torch did not write it\n")


def test_a_nested_tensor_and_a_layer_of_thousands_of_digits_are_refused(run_import, folder, model):
    state = model.state_dict()
    parts = [torch.ones(1), torch.ones(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them a prototype
        nested = torch.nested.nested_tensor(parts)
    torch.save({**state, "odd": nested}, folder / "model.pth")
    told = error_of(run_import)  # torch 2.15 does not read it
    assert "got the entries 'odd'" in told or "is not a plain state dict" in told
    encoder = next(name for name in state if ".encoder.layer.0." in name).partition("encoder.")[0]
    odd = f"{encoder}encoder.layer.{'9' * 5000}.x"
    torch.save({**state, odd: torch.ones(1)}, folder / "model.pth")
    assert "do not fit" in error_of(run_import)


def test_the_weights_of_a_checkpoint_are_imported(notes_of, folder, model, tmp_path):
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    checkpoint = {"model_state_dict": model.state_dict(), "optimizer": optimizer, "epoch": 3}
    torch.save(checkpoint, folder / "model.pth")
    told = f"The weights are the entry 'model_state_dict' of {folder / 'model.pth'}."
    assert notes_of() == [told]
    classifier = TextClassifier.load(tmp_path / "run")
    assert torch.equal(classifier.model.classifier.bias, model.head.bias)


def test_a_checkpoint_of_two_models_is_refused(run_import, folder, model):
    torch.save({"last": model.state_dict(), "best": model.state_dict()}, folder / "model.pth")
    assert "nothing else, got the entries 'best', 'last'\n" in error_of(run_import)


def test_what_stands_among_the_weights_is_named(run_import, folder, model):
    torch.save({**model.state_dict(), "epoch": 3}, folder / "model.pth")
    assert "of tensors and nothing else, got the entries 'epoch'\n" in error_of(run_import)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "list"),
        ({"epoch": 3}, "the entries 'epoch'"),
        (dict.fromkeys("abcdefg", 0), "the entries 'a', 'b', 'c', 'd', 'e' and 2 more"),
    ],
)
def test_a_file_without_weights_is_refused(run_import, folder, content, found):
    torch.save(content, folder / "model.pth")
    assert error_of(run_import) == (
        f"{folder / 'model.pth'}: expected a state dict of tensors and nothing else, got {found}\n"
        f"{SAVE_WEIGHTS}"
    )


def test_weights_without_permission_are_named(run_import, folder, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", refuse)
    assert error_of(run_import) == f"{folder / 'model.pth'} cannot be read: permission denied"


def test_memory_that_runs_out_is_not_called_a_damaged_file(run_import, monkeypatch):
    def fail(*_arguments, **_options):
        message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"
        raise RuntimeError(message)

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        run_import()


def test_a_file_in_the_place_of_the_folder_is_named(folder, tmp_path):
    with pytest.raises(RunError) as caught:
        import_notebook(folder / "model.pth", tmp_path / "run")
    told = f"expected a folder, but {folder / 'model.pth'} is a file\n"
    assert str(caught.value).startswith(told)


def test_weights_of_another_kind_are_refused(run_import, folder):
    torch.save({"lstm.weight": torch.zeros(2, 2)}, folder / "model.pth")
    assert error_of(run_import) == (
        f"{folder / 'model.pth'} has no BERT embeddings; its weights begin with ['lstm.weight']\n"
        "Only the notebook's BertModel + dropout + linear can be imported."
    )


def test_an_encoder_of_robertas_family_is_refused(run_import, folder, model):
    """Its weights have BERT's names, but BERT would read other positions: wrong predictions."""
    state = dict(model.state_dict())
    key = "encoder.embeddings.token_type_embeddings.weight"
    state[key] = state[key][:1]
    torch.save(state, folder / "model.pth")
    assert error_of(run_import) == (
        "the encoder has one token type, as RoBERTa and its relatives have; BERT has two\n"
        "Only the notebook's BertModel + dropout + linear can be imported."
    )


def test_a_head_of_two_layers_is_refused(run_import, folder, model):
    state = model.state_dict()
    extra = {"head2.weight": torch.zeros(2, 2), "head2.bias": torch.zeros(2)}
    torch.save(state | extra, folder / "model.pth")
    assert error_of(run_import).endswith(
        "expected one linear layer beside the encoder, found head.bias, head.weight, head2.bias, "
        f"head2.weight\n{ONLY_BERT}"
    )


def test_the_weights_of_a_loss_are_left_out(notes_of, folder, model):
    torch.save({**model.state_dict(), "loss.weight": torch.ones(2)}, folder / "model.pth")
    assert notes_of() == ["loss.weight was left out: it weights the classes in the loss."]


def test_a_norm_before_the_head_is_not_taken_for_the_weights_of_a_loss(run_import, folder, model):
    torch.save({**model.state_dict(), "norm.weight": torch.ones(8)}, folder / "model.pth")
    assert "found head.bias, head.weight, norm.weight\n" in error_of(run_import)


def test_an_encoder_without_a_pooler_is_explained(run_import, folder, model):
    state = {key: value for key, value in model.state_dict().items() if ".pooler." not in key}
    torch.save(state, folder / "model.pth")
    assert error_of(run_import) == (
        f"{folder / 'model.pth'}: the encoder has no pooler, so the head reads last_hidden_state; "
        "only a head on pooler_output can be imported\n"
        "Train it again: bertfit train FILE --recipe notebook --output RUN"
    )


def test_a_distilbert_is_named(run_import, folder):
    names = ["embeddings.word_embeddings", "transformer.layer.0.ffn.lin1"]
    state = {f"distilbert.{name}.weight": torch.zeros(2, 2) for name in names}
    torch.save(state, folder / "model.pth")
    told = f"{folder / 'model.pth'}: the encoder is a DistilBERT\n{ONLY_BERT}"
    assert error_of(run_import) == told


def test_an_encoder_without_a_head_is_refused(run_import, folder, model):
    torch.save(model.encoder.state_dict(), folder / "model.pth")
    told = f"expected one linear layer beside the encoder, found none\n{ONLY_BERT}"
    assert error_of(run_import).endswith(told)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("head.weight", torch.zeros(8), "expected a matrix, got a tensor of the shape"),
        ("head.weight", torch.zeros(2, 24), "the head reads 24 values, but the encoder gives"),
        ("head.bias", torch.zeros(3), "size mismatch for classifier.bias"),
        (
            "encoder.encoder.layer.0.output.dense.weight",
            torch.zeros(3, 3),
            "size mismatch for bert",
        ),
        ("encoder.encoder.layer.0.intermediate.dense.weight", None, "is missing"),
        ("encoder.embeddings.position_embeddings.weight", None, "is missing"),
        ("encoder.pooler.dense.extra", torch.zeros(8), "extra is not known to it"),
        ("encoder.pooler.dense.weight", None, "classifier: bert.pooler.dense.weight is missing\n"),
    ],
)
def test_weights_that_do_not_fit_are_explained(run_import, folder, model, key, value, told):
    """A shape that is wrong or a tensor that is missing is never a traceback."""
    state = dict(model.state_dict())
    if value is None:
        del state[key]
    else:
        state[key] = value
    torch.save(state, folder / "model.pth")
    with pytest.raises(ModelError, match=told):
        run_import()


def test_a_wrong_number_of_label_names_is_explained(run_import):
    assert error_of(run_import, label_names=("a", "b", "c")) == (
        "the weights have 2 classes, but there are label names for 3: a, b, c\n"
        "Name them in order of their ids with --label-names."
    )


@pytest.mark.parametrize("names", [("neg", "pos"), ("pos",)])
def test_a_head_of_one_output_is_refused(run_import, folder, model, names):
    """The notebook took a sigmoid of it; a softmax over one class is always 1."""
    one = {"head.weight": torch.zeros(1, 8), "head.bias": torch.zeros(1)}
    torch.save(model.state_dict() | one, folder / "model.pth")
    assert error_of(run_import, label_names=names) == (
        "the head has one output, as for a sigmoid or a regression; expected one for each class, "
        "of two or more\nTrain the notebook's model with one output for each class."
    )


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("neg", "neg"), "expected names that differ, got 'neg', 'neg'"),
        (("neg", ""), "the name of class 1 is empty"),
    ],
)
def test_label_names_that_are_equal_or_empty_are_refused(run_import, names, told):
    assert error_of(run_import, label_names=names) == (
        f"label_names: {told}\nName every class once, in order of their ids."
    )


@pytest.mark.parametrize("names", ["np", None, (1, 2), 2])
def test_label_names_that_are_no_names_are_refused(run_import, names):
    expected = f"label_names: expected a list of names, got {names!r}"
    assert error_of(run_import, label_names=names) == expected


@pytest.mark.parametrize("name", ["max_length", "num_heads"])
@pytest.mark.parametrize("value", [0, -1, "20", 2.0, True])
def test_numbers_that_are_none_are_refused(run_import, tmp_path, name, value):
    told = error_of(run_import, **{name: value})
    assert told.startswith(f"{name}: expected a whole number, at least ")
    assert told.endswith(f", got {value!r}")
    assert not (tmp_path / "run").exists()


def test_numbers_may_be_those_of_numpy(run_import):
    run = run_import(max_length=np.int64(20), num_heads=np.int8(2))
    assert json.loads((run / "bertfit.json").read_text())["encoding"]["max_length"] == 20


def test_weights_that_are_not_finite_are_refused(run_import, folder, model, tmp_path):
    state = model.state_dict() | {"head.bias": torch.tensor([0.0, float("nan")])}
    torch.save(state, folder / "model.pth")
    told = "the weights have numbers that are not finite: classifier.bias"
    assert error_of(run_import).startswith(told)
    torch.save({name: one * float("nan") for name, one in state.items()}, folder / "model.pth")
    num_more = len(state) - 5
    assert re.search(rf"not finite: (\S+, ){{4}}\S+ and {num_more} more$", error_of(run_import))
    assert not (tmp_path / "run").exists()


def test_a_wrong_number_of_heads_is_explained(run_import):
    assert error_of(run_import, num_heads=3) == (
        "num_heads: the width 8 is not a multiple of 3\n"
        "In the notebook: model.bert.config.num_attention_heads"
    )


def test_more_tokens_than_the_model_reads_are_refused(run_import, tmp_path):
    told = "max_length: the model reads at most 64 tokens, got 65"
    assert error_of(run_import, max_length=65) == told
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_of_another_model_is_refused(run_import, folder, model):
    state = dict(model.state_dict())
    key = "encoder.embeddings.word_embeddings.weight"
    state[key] = state[key][:10]
    torch.save(state, folder / "model.pth")
    message, hint = error_of(run_import).split("\n")
    assert message.startswith("the tokenizer has ")
    assert message.endswith(" tokens, but the weights have 10")
    assert hint == "Save the tokenizer that the model was trained with."


@pytest.mark.parametrize(("num_more", "is_told"), [(127, False), (128, True)])
def test_a_tokenizer_of_far_fewer_tokens_is_told(
    notes_of, folder, model, tiny_model_dir, num_more, is_told
):
    """The embeddings may be padded to a multiple of 128."""
    num_tokens = len(AutoTokenizer.from_pretrained(tiny_model_dir))
    key = "encoder.embeddings.word_embeddings.weight"
    more = {key: torch.zeros(num_tokens + num_more, 8)}
    torch.save(model.state_dict() | more, folder / "model.pth")
    told = (
        f"The tokenizer has {num_tokens} tokens, the weights have {num_tokens + num_more} rows: if "
        "it is not the notebook's, every prediction is wrong."
    )
    assert notes_of() == [told] * is_told


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0.5", True, 10**400])
def test_a_history_without_a_finite_number_is_refused(run_import, folder, value):
    """A loss that was NaN: Python's json writes it, but a run holds plain JSON."""
    path = folder / "training_history.json"
    path.write_text(json.dumps(HISTORY | {"val_losses": [0.6, value]}))
    assert error_of(run_import) == (
        f"{path}: expected the lists train_losses, val_losses, train_acc, val_acc, train_f1, "
        "val_f1, a finite number for each epoch\n"
        "Without this file the model is imported without a history."
    )


def test_a_history_in_percent_is_refused(run_import, folder):
    path = folder / "training_history.json"
    path.write_text(json.dumps(HISTORY | {"val_acc": [50, 60.5]}))
    assert error_of(run_import) == (
        f"{path}: expected accuracies and F1 from 0 to 1, got 50\n"
        "If they are percentages, divide them by 100. "
        "Without this file the model is imported without a history."
    )


def test_losses_of_a_history_may_exceed_1(run_import, folder):
    history = HISTORY | {"train_losses": [2.5, 1.5], "val_losses": [1.25, 1.5]}
    (folder / "training_history.json").write_text(json.dumps(history))
    assert json.loads((run_import() / "training_history.json").read_text()) == history


@pytest.mark.parametrize("content", ["", "{", "[]", '{"train_losses": []}', "[" * 100_000])
def test_a_history_of_another_shape_is_refused(run_import, folder, content):
    (folder / "training_history.json").write_text(content)
    message, hint = error_of(run_import).split("\n")
    assert str(folder / "training_history.json") in message
    assert hint == "Without this file the model is imported without a history."
