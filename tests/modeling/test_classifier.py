"""Loading: float32 weights, a matching head, one line on new weights, and error messages."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bertfit.errors import BertfitError, ConfigError, ModelError
from bertfit.modeling import locating
from bertfit.modeling.classifier import load_architecture, load_classifier, set_dropout
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.input_limits import check_token_ids, find_length_limit
from bertfit.modeling.locating import quieting_transformers
from bertfit.modeling.saving import save_model
from bertfit.modeling.tokenizer_files import fast_tokenizer, load_tokenizer
from bertfit.modeling.weight_files import measure_weights
from tests.limits import holds_in_fork


@pytest.fixture
def model_dir(tiny_model_dir, tmp_path):
    """Give a copy of the tiny model that may be changed."""
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


@pytest.fixture
def classifier_dir(model_dir):
    """Give a tiny checkpoint that has a head for three classes."""
    loaded = load_classifier(str(model_dir), ["a", "b", "c"])
    save_model(loaded.model, model_dir)
    return model_dir


def error_of(name, **kwargs) -> str:
    with pytest.raises(ModelError) as caught:
        load_classifier(str(name), ["neg", "pos"], **kwargs)
    return str(caught.value)


def test_an_encoder_gets_a_head_for_the_labels(tiny_model_dir):
    config = load_classifier(str(tiny_model_dir), ["bad", "fair", "good"]).model.config
    assert config.num_labels == 3
    assert config.id2label == {0: "bad", 1: "fair", 2: "good"}
    assert config.label2id == {"bad": 0, "fair": 1, "good": 2}


def test_new_weights_are_said_in_one_line(tiny_model_dir, capsys):
    loaded = load_classifier(str(tiny_model_dir), ["neg", "pos"])
    assert loaded.notes == (
        "New weights, trained from scratch: classifier.bias, classifier.weight.",
    )
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_a_head_that_fits_is_kept(classifier_dir):
    loaded = load_classifier(str(classifier_dir), ["A", "b", "c"])
    stored = load_file(classifier_dir / "model.safetensors")
    assert loaded.notes == ()
    assert torch.equal(loaded.model.classifier.weight, stored["classifier.weight"])


@pytest.mark.parametrize("names", [["c", "a", "b"], ["B", "a", "C"]])
def test_a_head_for_the_same_labels_keeps_its_answers_in_another_order(classifier_dir, names):
    """In the old order, a good classifier would begin with its answers exchanged."""
    token_ids = torch.tensor([[2, 6, 7, 3]])
    before, after = (
        load_classifier(str(classifier_dir), labels).model.eval() for labels in (None, names)
    )
    with torch.no_grad():
        expected, found = before(token_ids).logits[0], after(token_ids).logits[0]
    assert found.tolist() == [expected["abc".index(name.lower())] for name in names]
    (note,) = load_classifier(str(classifier_dir), names).notes
    assert note == f"The checkpoint's head was put in the order {', '.join(names)}."


def test_a_head_for_other_labels_is_kept_with_a_note(classifier_dir):
    before, after = (
        load_classifier(str(classifier_dir), labels) for labels in (None, ["a", "b", "d"])
    )
    assert torch.equal(before.model.classifier.weight, after.model.classifier.weight)
    (note,) = after.notes
    assert note == (
        "The checkpoint's head was trained for the labels a, b, c; training starts from its "
        "weights."
    )


def test_a_head_of_another_size_is_replaced_with_a_note(classifier_dir):
    loaded = load_classifier(str(classifier_dir), ["neg", "pos"])
    assert loaded.model.classifier.weight.shape == (2, 8)
    assert loaded.notes == (
        (
            "The checkpoint's head has a different size, so it was replaced by a new one: "
            "classifier.bias, classifier.weight."
        ),
    )


def test_weights_of_the_encoder_of_another_size_are_not_called_the_head(classifier_dir):
    path = classifier_dir / "model.safetensors"
    name = "bert.embeddings.word_embeddings.weight"
    save_file(load_file(path) | {name: torch.zeros(5, 8)}, path, metadata={"format": "pt"})
    notes = load_classifier(str(classifier_dir), ["neg", "pos"]).notes
    assert notes == (
        (
            "The checkpoint's head has a different size, so it was replaced by a new one: "
            "classifier.bias, classifier.weight."
        ),
        (
            "Weights whose size in the checkpoint differs from that in config.json, replaced by "
            f"new ones, trained from scratch: {name}."
        ),
    )


def test_without_label_names_the_checkpoints_own_are_kept(classifier_dir):
    config = load_classifier(str(classifier_dir)).model.config
    assert list(config.id2label.values()) == ["a", "b", "c"]


def test_weights_that_a_classifier_does_not_use_are_named(model_dir):
    path = model_dir / "model.safetensors"
    extra = {f"cls.{n}": torch.zeros(1) for n in range(6)}
    save_file(load_file(path) | extra, path, metadata={"format": "pt"})
    notes = load_classifier(str(model_dir), ["neg", "pos"]).notes
    assert notes[-1] == (
        "Weights of the checkpoint that are not used: cls.0, cls.1, cls.2, cls.3 and 2 more."
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_float32_whatever_the_checkpoint_has(model_dir, dtype):
    transformers.AutoModel.from_pretrained(model_dir).to(dtype).save_pretrained(model_dir)
    model = load_classifier(str(model_dir), ["neg", "pos"]).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_loaded_from_half_precision_is_saved_as_float32(model_dir, tmp_path, dtype):
    transformers.AutoModel.from_pretrained(model_dir).to(dtype).save_pretrained(model_dir)
    save_model(load_classifier(str(model_dir), ["neg", "pos"]).model, tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_an_earlier_model_stays_if_another_cannot_be_written(tiny_model_dir, tmp_path, monkeypatch):
    """Its configuration was written first, and in place."""
    loaded, told = load_classifier(str(tiny_model_dir), ["neg", "pos"]), []
    save_model(loaded.model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(folder):
        (folder / "config.json").write_text("")
        raise OSError(28, "No space left on device", str(folder / "config.json"))

    monkeypatch.setattr(loaded.model, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        save_model(loaded.model, tmp_path, before=lambda: told.append(1))
    assert (caught.value.filename, told) == (str(tmp_path), [])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_comes_before_a_model_is_replaced_finds_the_earlier_one(tiny_model_dir, tmp_path):
    model, found = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model, []
    path = tmp_path / "model.safetensors"
    save_model(model, tmp_path)
    earlier = path.read_bytes()
    model.classifier.bias.data += 1
    save_model(model, tmp_path, before=lambda: found.append(path.read_bytes()))
    assert found == [earlier]
    assert path.read_bytes() != earlier


def test_the_seed_decides_the_new_weights(tiny_model_dir):
    a, b, c = (
        load_classifier(str(tiny_model_dir), ["neg", "pos"], seed=seed).model.classifier.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_loading_leaves_the_global_random_numbers_alone(tiny_model_dir):
    """A program that loads a classifier must not find its own dice loaded."""
    state = torch.get_rng_state()
    load_classifier(str(tiny_model_dir), ["neg", "pos"], seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_reaches_every_layer(tiny_model_dir):
    model = load_classifier(str(tiny_model_dir), ["neg", "pos"], dropout=0.3).model
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}
    assert model.config.attention_probs_dropout_prob == 0.3


def test_without_dropout_the_models_own_is_kept(tiny_model_dir):
    config = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model.config
    assert config.hidden_dropout_prob == 0.1


FAMILIES = {
    "albert": "AlbertConfig",
    "bert": "BertConfig",
    "deberta-v2": "DebertaV2Config",
    "distilbert": "DistilBertConfig",
    "electra": "ElectraConfig",
    "gpt2": "GPT2Config",
    "modernbert": "ModernBertConfig",
    "mpnet": "MPNetConfig",
    "roberta": "RobertaConfig",
    "xlm-roberta": "XLMRobertaConfig",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_dropout_means_none_in_every_family(family):
    """The gradient of a step is the same however it is cut only where nothing is drawn."""
    config = getattr(transformers, FAMILIES[family])()
    set_dropout(config, 0.0)
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    rates = {name: module.p for name, module in model.named_modules() if hasattr(module, "p")} | {
        name: module.drop_prob
        for name, module in model.named_modules()
        if hasattr(module, "drop_prob")
    }
    assert {name: rate for name, rate in rates.items() if rate} == {}


def test_a_saved_model_is_loaded_as_it_was(tiny_model_dir, tmp_path):
    loaded = load_classifier(str(tiny_model_dir), ["neg", "pos"], seed=5)
    save_model(loaded.model, tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    again = load_classifier(str(tmp_path)).model.state_dict()
    assert all(torch.equal(again[key], value) for key, value in loaded.model.state_dict().items())


def test_a_model_has_the_length_limit_of_its_positions(model_dir):
    loaded = load_classifier(str(model_dir), ["neg", "pos"])
    loaded.tokenizer.model_max_length = 10**30
    assert find_length_limit(loaded.model, loaded.tokenizer) == 64


def test_a_tokenizer_may_set_a_lower_length_limit(model_dir):
    loaded = load_classifier(str(model_dir), ["neg", "pos"])
    loaded.tokenizer.model_max_length = 20
    assert find_length_limit(loaded.model, loaded.tokenizer) == 20


@pytest.mark.parametrize("limit", ["512", 0, -1, float("nan")])
def test_a_length_limit_of_a_tokenizer_that_is_none_is_explained(model_dir, limit):
    path = model_dir / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": limit}))
    message = error_of(model_dir)
    assert f"says model_max_length {limit!r}, a number of tokens was expected" in message


def test_where_no_limit_is_stated_there_is_one(model_dir):
    loaded = load_classifier(str(model_dir), ["neg", "pos"])
    loaded.tokenizer.model_max_length = 10**30
    loaded.model.config = transformers.PretrainedConfig()  # which states none
    assert find_length_limit(loaded.model, loaded.tokenizer) == 8192


def test_less_than_no_positions_are_no_limit(model_dir):
    """XLNet says -1."""
    loaded = load_classifier(str(model_dir), ["neg", "pos"])
    loaded.tokenizer.model_max_length = 10**30
    loaded.model.config.max_position_embeddings = -1
    assert find_length_limit(loaded.model, loaded.tokenizer) == 8192


def make_decoder(folder, tokenizer):
    """Save a tiny GPT-2, whose configuration names no token that fills short rows."""
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2, n_positions=64
    )
    transformers.GPT2Model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_decoders_head_is_told_which_token_fills_short_rows(tiny_model_dir, tmp_path):
    """It reads the last token that is none, and refuses two rows at once where none is named."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model_dir)
    loaded = load_classifier(make_decoder(tmp_path, tokenizer), ["neg", "pos"])
    assert loaded.model.config.pad_token_id == tokenizer.pad_token_id
    assert loaded.model.eval()(torch.tensor([[5, 6, 0], [5, 6, 7]])).logits.shape == (2, 2)


def test_a_decoder_without_such_a_token_is_refused(tiny_model_dir, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model_dir, pad_token=None)
    message = error_of(make_decoder(tmp_path, tokenizer))
    assert "has no padding token" in message
    assert "tokenizer.pad_token = tokenizer.eos_token" in message


def test_a_multi_label_checkpoint_becomes_a_classifier_of_one_label(classifier_dir):
    """Or transformers would answer by sigmoids, and its Trainer learn by another loss."""
    config = json.loads((classifier_dir / "config.json").read_text())
    config["problem_type"] = "multi_label_classification"
    (classifier_dir / "config.json").write_text(json.dumps(config))
    assert load_classifier(str(classifier_dir), ["a", "b", "c"]).model.config.problem_type is None


def test_tokens_without_an_embedding_are_refused(tiny_model_dir):
    model = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model
    num_known = model.config.vocab_size
    check_token_ids(model, np.array([0, num_known - 1], dtype=np.int32))
    check_token_ids(model, np.empty(0, dtype=np.int32))
    with pytest.raises(ModelError, match=f"token {num_known}, but .* 0 to {num_known - 1}") as told:
        check_token_ids(model, np.array([num_known], dtype=np.int32))
    assert "resize_token_embeddings" in str(told.value)


def test_mpt_has_the_length_limit_that_it_calls_by_another_name(model_dir):
    loaded = load_classifier(str(model_dir), ["neg", "pos"])
    loaded.tokenizer.model_max_length = 10**30
    loaded.model.config = transformers.MptConfig(max_seq_len=32)
    assert find_length_limit(loaded.model, loaded.tokenizer) == 32


@pytest.mark.parametrize(
    "family", ["RobertaConfig", "XLMRobertaConfig", "MPNetConfig", "IBertConfig"]
)
def test_robertas_family_reads_two_tokens_less_than_its_table_is_long(tiny_model_dir, family):
    """Its positions are counted from padding_idx + 1: a 513th token would be out of the table."""
    config = getattr(transformers, family)(max_position_embeddings=514, pad_token_id=1)
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.model_max_length = 10**30
    assert find_length_limit(model, tokenizer) == 512


def test_the_inner_tokenizer_neither_truncates_nor_pads(tiny_model_dir):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer(["a", "a a a a a a"], truncation=True, padding=True, max_length=4)
    inner = fast_tokenizer(tokenizer)
    assert [len(encoding.ids) for encoding in inner.encode_batch(["a", "a a a a a a"])] == [3, 8]


def test_the_inner_tokenizer_reads_special_tokens_as_transformers_does(tiny_model_dir):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model_dir)
    read = []
    for splits in (False, True):
        tokenizer.split_special_tokens = splits
        ids = fast_tokenizer(tokenizer).encode("a good [SEP] film").ids
        assert ids == tokenizer("a good [SEP] film")["input_ids"]
        read.append(ids)
    assert read[0] != read[1]


def test_a_tokenizer_without_a_fast_form_is_refused():
    class SlowTokenizer:
        pass

    with pytest.raises(ModelError) as caught:
        fast_tokenizer(SlowTokenizer())
    assert str(caught.value) == (
        "the tokenizer SlowTokenizer has no fast form (tokenizer.json)\n"
        "Choose a checkpoint that carries tokenizer.json."
    )


def test_an_architecture_has_no_weights(tiny_model_dir):
    model = load_architecture(str(tiny_model_dir), num_labels=5)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.config.num_labels == 5


def test_an_architecture_needs_no_weights_on_disk(model_dir):
    (model_dir / "model.safetensors").unlink()
    assert load_architecture(str(model_dir)).config.hidden_size == 8


@pytest.mark.parametrize("name", ["./no/such/model", "/no/such/model", "~/no/such/model"])
def test_a_missing_folder_is_named(name):
    assert error_of(name) == f"the model folder {name} does not exist"


def test_a_file_is_no_model(model_dir):
    path = model_dir / "model.safetensors"
    assert error_of(path) == f"expected a model folder, but {path} is a file"


def test_a_folder_without_config_is_no_model(tmp_path):
    assert error_of(tmp_path) == (
        f"the folder {tmp_path} is not a model: it has no config.json\n"
        "Expected a Hugging Face folder: config.json, weights and a tokenizer."
    )


def test_an_adapter_is_to_be_merged(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "merge it into its model (merge_and_unload)" in error_of(tmp_path)


def test_an_empty_name_is_not_the_current_folder(model_dir, monkeypatch):
    monkeypatch.chdir(model_dir)
    for load in (load_architecture, load_classifier, load_tokenizer):
        with pytest.raises(ConfigError, match="model: expected a path, got an empty string"):
            load("")


def test_a_folder_of_checkpoints_names_the_newest(tmp_path):
    """As Trainer leaves them; the pooling of sentence-transformers has another config.json."""
    for age, (name, text) in enumerate([("1_Pooling", "{}"), *CHECKPOINTS]):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "config.json"
        file.write_text(text)
        os.utime(file, (1000 - age, 1000 - age))
    assert error_of(tmp_path).endswith(
        f"Name a model folder in it, such as {tmp_path / 'checkpoint-9'}"
    )


CHECKPOINTS = [(f"checkpoint-{step}", '{"model_type": "bert"}') for step in (9, 10)]


def test_a_hub_name_without_network_says_how_to_go_on():
    message = error_of("no-such/model")
    assert message.startswith("the model 'no-such/model' cannot be loaded: OfflineModeIsEnabled: ")
    assert message.endswith(
        "It is neither a folder here nor complete in the local cache, and the hub did not give "
        "it. Check the spelling, go online once, name a local folder, or use --model embedded."
    )


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    """Its client tries a download again and again, and would let a misspelt name wait for it."""
    asked = []

    def fail(_self, name, *, timeout):
        asked.append((name, timeout))
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    message = error_of("no-such/model")
    assert asked == [("no-such/model", 10.0)]
    assert message.startswith("the model 'no-such/model' cannot be loaded: ConnectionError: Name")


@pytest.mark.parametrize(
    ("load", "needed"),
    [
        (load_classifier, ["config.json", "model.safetensors", "tokenizer.json"]),
        (load_tokenizer, ["config.json", "tokenizer.json"]),
        (load_architecture, ["config.json"]),
    ],
)
def test_what_the_cache_lacks_is_asked_of_the_hub(cached_model, load, needed):
    """Checking rows downloads a tokenizer alone; training on them then needs the weights, too."""
    for file in cached_model.iterdir():
        if file.name not in {*needed, "tokenizer_config.json"}:
            file.unlink()
    load("some/model")  # the hub is not asked, and cannot be
    for name in needed:
        kept = (cached_model / name).read_bytes()
        (cached_model / name).unlink()
        with pytest.raises(ModelError, match="OfflineModeIsEnabled: Cannot reach"):
            load("some/model")
        (cached_model / name).write_bytes(kept)


def test_a_model_of_the_hub_without_a_tokenizer_is_told(cached_model, monkeypatch):
    """Its words would all be unknown tokens."""
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_args, **_options: None)
    for file in cached_model.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="its folder has no tokenizer"):
        load_tokenizer("some/model")


def test_weights_in_several_files_are_needed_whole(cached_model):
    loaded = load_classifier("some/model")
    (cached_model / "model.safetensors").unlink()
    loaded.model.save_pretrained(cached_model, max_shard_size="4KB")
    load_classifier("some/model")
    index = cached_model / "model.safetensors.index.json"
    kept = index.read_text()
    for damaged in ("{", "{}", "[]", '{"weight_map": 1}'):
        index.write_text(damaged)
        with pytest.raises(ModelError, match="OfflineModeIsEnabled: Cannot reach"):
            load_classifier("some/model")
    index.write_text(kept)
    load_classifier("some/model")
    min(cached_model.glob("model-*.safetensors")).unlink()
    with pytest.raises(ModelError, match="OfflineModeIsEnabled: Cannot reach"):
        load_classifier("some/model")


@pytest.mark.parametrize("name", ["bert--base", "-bert", "bert.git", "bert..base", "b" * 90])
def test_what_cannot_be_a_hub_name_is_explained(name):
    assert repr(name) in error_of(name) or name in error_of(name)


def test_a_damaged_config_is_explained(model_dir):
    (model_dir / "config.json").write_text("{")
    message = error_of(model_dir)
    assert message.startswith(f"the model '{model_dir}' cannot be loaded: OSError: ")
    assert message.endswith(
        "The folder is damaged, or of a kind that this transformers does not know: copy it again, "
        "or name another model."
    )


def test_a_system_that_allows_no_more_threads_is_not_a_damaged_model():
    with (
        pytest.raises(BertfitError, match="allows this process no more threads") as caught,
        locating.explaining_failures("a-model"),
    ):
        raise RuntimeError("can't start new thread")
    assert caught.value.exit_code == 1


def test_an_unknown_kind_of_model_is_explained(model_dir):
    (model_dir / "config.json").write_text('{"model_type": "nonesuch"}')
    message = error_of(model_dir)
    assert "nonesuch" in message
    assert "of a kind that this transformers does not know" in message


def test_damaged_weights_are_explained(model_dir):
    path = model_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    message = error_of(model_dir)
    assert message.startswith(f"the model '{model_dir}' cannot be loaded: SafetensorError: ")


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_a_machine_that_is_out_of_memory_or_disk_is_not_called_a_wrong_name(
    model_dir, monkeypatch, failure
):
    def fail(*_arguments, **_options):
        raise failure

    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", fail)
    with pytest.raises(type(failure)) as caught:
        load_classifier(str(model_dir), ["a", "b"])
    assert caught.value is failure


def test_a_folder_that_may_not_be_read_is_not_called_damaged(model_dir, monkeypatch):
    def refuse(path, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "iterdir", refuse)
    assert error_of(model_dir) == (
        f"the model '{model_dir}' cannot be loaded: no permission to read {model_dir}\n"
        "Ask its owner for permission to read it."
    )


def test_weights_that_may_not_be_read_are_not_called_missing(model_dir, monkeypatch):
    """Writers of weights leave them readable by their owner alone; root may read all."""
    path = model_dir / "model.safetensors"
    path.write_bytes(b"")
    monkeypatch.setattr(os, "access", lambda file, _mode: file != path)
    assert error_of(model_dir) == (
        f"the model '{model_dir}' cannot be loaded: no permission to read {path}\n"
        "Ask its owner for permission to read it."
    )


def test_a_missing_file_of_several_is_not_called_pickled(model_dir):
    (model_dir / "model.safetensors").unlink()
    loaded = transformers.BertModel(transformers.AutoConfig.from_pretrained(model_dir))
    loaded.save_pretrained(model_dir, max_shard_size="2KB")
    missing = next(model_dir.glob("model-00002-*"))
    missing.unlink()
    message = error_of(model_dir)
    assert missing.name in message
    assert "The folder is damaged" in message


@pytest.mark.parametrize("found", ["model.embeddings.LayerNorm.bias", "none"])
def test_a_checkpoint_without_any_weight_of_the_encoder_is_refused(model_dir, found):
    """Or a model of random numbers would be trained: DataParallel writes names of its own."""
    path = model_dir / "model.safetensors"
    state = {f"model.{key}": value for key, value in load_file(path).items()}
    save_file(state if found in state else {}, path, metadata={"format": "pt"})
    message = error_of(model_dir)
    assert "expected names such as bert.embeddings.word_embeddings.weight" in message
    assert f"got {found}\n" in message


def test_pickled_weights_are_not_read(model_dir):
    state = load_file(model_dir / "model.safetensors")
    (model_dir / "model.safetensors").unlink()
    torch.save(state, model_dir / "pytorch_model.bin")
    message = error_of(model_dir)
    assert message.endswith(
        "Only safetensors weights are read; convert a pickled pytorch_model.bin first."
    )


@pytest.mark.parametrize("other", [None, "model.onnx"])
def test_a_folder_without_weights_has_nothing_to_convert(model_dir, other):
    (model_dir / "model.safetensors").unlink()
    if other is not None:
        (model_dir / other).write_bytes(b"onnx")
    assert error_of(model_dir).endswith(
        "Copy model.safetensors of the same checkpoint into the folder; weights of other kinds, "
        "such as model.onnx or tf_model.h5, are not read."
    )


def test_code_in_a_checkpoint_is_never_run(model_dir):
    """A config may name a Python file beside it; that file must stay text."""
    (model_dir / "evil.py").write_text(f"open({str(model_dir / 'ran')!r}, 'w')\n")
    (model_dir / "config.json").write_text(
        '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}'
    )
    assert "Code from a checkpoint is never run." in error_of(model_dir)
    assert not (model_dir / "ran").exists()


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8"])
def test_quantized_weights_are_refused(model_dir, method):
    """transformers says which package to install, which is not enough to train such a model."""
    path = model_dir / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": {"quant_method": method}}
    path.write_text(json.dumps(config))
    message = error_of(model_dir)
    assert f"its weights are quantized ({method})" in message
    assert "Name the checkpoint that it was made from." in message


def test_code_that_is_not_run_is_said_and_not_named_in_what_is_saved(model_dir, tmp_path):
    """Or whoever loads the run with trust_remote_code would look for a file that is not there."""
    named = {"config.json": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    named["tokenizer_config.json"] = {"AutoTokenizer": ["own.Own", "own.Own"]}
    for file, code in named.items():
        content = json.loads((model_dir / file).read_text())
        (model_dir / file).write_text(json.dumps(content | {"auto_map": code}))
    loaded = load_classifier(str(model_dir), ["neg", "pos"])
    assert "BertForSequenceClassification is transformers' own." in loaded.notes[-1]
    save_model(loaded.model, tmp_path / "saved")
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    for file in named:
        assert "auto_map" not in (tmp_path / "saved" / file).read_text()


@pytest.mark.parametrize("name", ["output_attentions", "output_hidden_states", "return_dict"])
def test_outputs_that_a_checkpoint_asks_for_are_turned_off(model_dir, tmp_path, name):
    """Or the model could not be saved under the fast path, which gives no attention weights."""
    path = model_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: name != "return_dict"}))
    loaded = load_classifier(str(model_dir), ["neg", "pos"])
    plug_in(loaded.model, torch.device("cpu"))
    outputs = loaded.model(torch.tensor([[2, 6, 3]]))
    assert list(outputs) == ["logits"]
    save_model(loaded.model, tmp_path / "saved")


def test_a_folder_without_a_tokenizer_is_explained(model_dir):
    """Transformers makes an empty one instead, for which every word is unknown."""
    for path in model_dir.glob("*token*"):
        path.unlink()
    assert error_of(model_dir).startswith(f"the model '{model_dir}' cannot be loaded: ")


def test_a_tokenizer_that_needs_no_files_is_not_called_lost(model_dir):
    for path in model_dir.glob("*token*"):
        path.unlink()
    transformers.CanineTokenizer().save_pretrained(model_dir)
    message = error_of(model_dir)
    assert "Models of bytes or characters, such as ByT5 and CANINE" in message


def test_transformers_is_quiet_only_while_loading(tiny_model_dir):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_classifier(str(tiny_model_dir), ["neg", "pos"])
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_of_threads_that_load_at_once_the_last_sets_transformers_back():
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    for one in (first, second):
        one.enter_context(quieting_transformers())
    first.close()
    assert not logging.is_progress_bar_enabled()
    second.close()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize(
    ("text", "code"),
    [("I/O error: No space left on device (os error 28)", errno.ENOSPC), ("odd", errno.EIO)],
)
def test_a_full_disk_is_an_error_of_the_system(tiny_model_dir, tmp_path, monkeypatch, text, code):
    """The library that writes the weights has an error class of its own."""
    model = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model

    def fail(*_args, **_options):
        raise SafetensorError(text)

    monkeypatch.setattr(type(model), "save_pretrained", fail)
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        save_model(model, tmp_path)
    assert caught.value.errno == code


def test_a_password_in_the_address_of_the_hub_is_not_shown(monkeypatch):
    def fail(*_arguments, **_options):
        raise OSError("Cannot reach http://user:secret@hub.example/api: no route")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    assert "Cannot reach http://…@hub.example/api" in error_of("some/model")


def test_a_pipe_in_a_folder_of_a_folder_is_not_waited_for(tmp_path):
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "sub" / "config.json")
    assert "it has no config.json" in error_of(tmp_path)


@pytest.mark.parametrize("entry", ["num_hidden_layers", "encoder_layers", "num_labels"])
def test_layers_and_labels_without_end_are_not_built(model_dir, entry):
    path = model_dir / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, entry: 10**30}), encoding="utf-8")
    for load in (load_classifier, load_architecture):
        with pytest.raises(ModelError, match=f"its configuration says {entry} with 31 digits"):
            load(str(model_dir))


def test_labels_without_end_of_a_model_of_the_hub_are_not_built(cached_model):
    path = cached_model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_labels": 10**7}))
    with pytest.raises(ModelError, match="its configuration says num_labels 10,000,000"):
        load_classifier("some/model")


@pytest.mark.parametrize("entry", ["vocab_size", "intermediate_size", "max_position_embeddings"])
def test_more_parameters_than_the_weights_can_have_are_not_made(model_dir, entry):
    path = model_dir / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), entry: 10**9}))
    num_bytes = (model_dir / "model.safetensors").stat().st_size
    told = error_of(model_dir)
    assert f"parameters, and its weights are {num_bytes:,} bytes" in told


def test_weights_of_which_a_part_is_missing_are_not_measured(cached_model):
    """An interrupted download is to go on."""
    loaded = load_classifier("some/model")
    num_bytes = measure_weights("some/model")
    assert (
        num_bytes
        == measure_weights(str(cached_model))
        == sum(path.stat().st_size for path in cached_model.glob("*.safetensors"))
    )
    (cached_model / "model.safetensors").unlink()
    loaded.model.save_pretrained(cached_model, max_shard_size="4KB")
    assert measure_weights("some/model") is not None
    min(cached_model.glob("model-*.safetensors")).unlink()
    assert measure_weights("some/model") is None
    assert measure_weights("other/model") is None


def test_a_process_forked_while_another_thread_imports_does_not_wait_for_it():
    with locating._importing:
        assert holds_in_fork(lambda: locating.import_transformers() is None)


def test_an_address_that_is_none_is_not_shown(monkeypatch):
    """It may have a part of a password in it."""

    class InvalidURL(Exception):  # noqa: N818 (the name that counts)
        """As the package that asks the hub raises it."""

    def fail(*_arguments, **_options):
        raise InvalidURL("Invalid port: 'secret'")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    told = error_of("some/model")
    assert "secret" not in told
    assert "HTTPS_PROXY, is no valid address" in told


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ValueError("`tiktoken` is required to read a `tiktoken` file."), "pip install"),
        (ValueError("`vocab` and `merges` must be both be from memory"), "merges.txt is missing"),
        (ImportError("You need to install rjieba"), "Install the package that the message names."),
    ],
)
def test_what_a_tokenizer_lacks_is_told_and_no_folder_is_called_damaged(
    model_dir, monkeypatch, error, hint
):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    (model_dir / "spm.model").write_bytes(b"a sentencepiece file")
    message = error_of(model_dir)
    assert hint in message
    assert "damaged" not in message
