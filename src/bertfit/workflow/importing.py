"""Convert the notebook's artefacts (model.pth, tokenizer/, training_history.json) to a run."""

from __future__ import annotations

import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertfit.config import LEAST_LENGTH, check_flags, is_whole_number
from bertfit.data.encoding import EncodingRule
from bertfit.environment import describe_environment
from bertfit.errors import ConfigError, ModelError, RunError, is_out_of_memory
from bertfit.files import as_path, read_json, refuse_hidden, write_json
from bertfit.inference.predictor import TextClassifier
from bertfit.modeling.classifier import save_model
from bertfit.modeling.precision import choose_precision
from bertfit.modeling.tokenizer_files import VOCABULARY_FILES, lacks_vocabulary, read_tokenizer
from bertfit.progress import Listener, as_listener
from bertfit.run_directory import check_place, stage_run
from bertfit.wording import list_some

if TYPE_CHECKING:
    import torch
    from transformers import BertConfig

_EXPECTED = "Expected model.pth (a state dict), tokenizer/ and, if at hand, training_history.json."
_ONLY_BERT = "Only the notebook's BertModel + dropout + linear can be imported."
_WITHOUT_HISTORY = "Without this file the model is imported without a history."
_SAVE_HINT = "In the notebook, save it with torch.save(model.state_dict(), 'model.pth')."
_ANCHOR = "embeddings.word_embeddings.weight"
_HISTORY_FIELDS = ("train_losses", "val_losses", "train_acc", "val_acc", "train_f1", "val_f1")


def import_notebook(
    folder: str | Path,
    output: str | Path,
    *,
    label_names: Sequence[str] = ("neg", "pos"),
    max_length: int = 128,
    num_heads: int | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Path:
    """Convert a notebook's folder to a run.

    The weights are read with `weights_only=True`, which runs no code from the file. The head must
    be one linear layer on BERT's pooled output, as in `BertForSequenceClassification`.

    Args:
        folder: Holds model.pth, tokenizer/ and optionally training_history.json.
        output: Folder of the run to make.
        label_names: Classes in order of their ids; the notebook's are neg and pos.
        max_length: Tokens per text that the notebook trained with.
        num_heads: Attention heads, which a state dict does not record; None means width / 64,
            which holds for every BERT published by its authors.
        overwrite: Replace an existing run at `output`.
        listener: Receives notes.

    Raises:
        ConfigError: The label names are empty or repeated, or these, `max_length` or `num_heads` do
            not fit the weights or are of another type.
        ModelError: Weights or tokenizer are missing or damaged, or are not those of a BERT
            classifier, or reading the weights would run code.
        RunError: There is no such folder, its history is damaged, or `output` exists and may not be
            replaced, or cannot be written.
    """
    _check_arguments(label_names, max_length, num_heads)
    check_flags(overwrite=overwrite)
    check_place(as_path(output, "output"), overwrite=overwrite, listener=as_listener(listener))
    folder = as_path(folder, "folder")
    state = _read_state(folder)
    config = _infer_config(state, label_names, num_heads)
    history = _read_history(folder)
    staging = stage_run(as_path(output), overwrite=overwrite)
    try:
        classifier = _build_classifier(folder, state, config, max_length)
        save_model(classifier.model, staging.folder)
        classifier.save_tokenizer(staging.folder)
        if history is not None:
            write_json(staging.folder / "training_history.json", history)
        staging.publish(
            {
                "label_names": list(label_names),
                "encoding": classifier.encoding_record(),
                "training": {"imported_from": "notebook", "dtype": "float32"},
                "scores": {"validation": None, "test": None},
                **describe_environment(),
            }
        )
    except BaseException:
        staging.discard()
        raise
    return as_path(output)


def _check_arguments(label_names: Sequence[str], max_length: int, num_heads: int | None) -> None:
    if not _are_names(label_names):
        raise ConfigError(f"label_names: expected a list of names, got {label_names!r}")
    if not all(label_names) or len(set(label_names)) < len(label_names):
        raise ConfigError(
            f"--label-names: expected names that differ, got {', '.join(map(repr, label_names))}",
            hint="Name every class once, in order of their ids.",
        )
    if not is_whole_number(max_length) or max_length < LEAST_LENGTH:
        raise ConfigError(
            f"max_length: expected a whole number, at least {LEAST_LENGTH}, got {max_length!r}"
        )
    if num_heads is not None and (not is_whole_number(num_heads) or num_heads < 1):
        raise ConfigError(
            f"num_heads: expected a whole number, at least 1, or None, got {num_heads!r}"
        )


def _are_names(value: object) -> bool:
    """Return whether an argument is a list or the like of strings, and not one string."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    return all(isinstance(name, str) for name in value)


def _read_state(folder: Path) -> dict[str, torch.Tensor]:
    import torch

    path = folder / "model.pth"
    if folder.is_file():
        raise RunError(f"expected a folder, but {folder} is a file", hint=_EXPECTED)
    if not folder.is_dir():
        refuse_hidden(folder)
        raise RunError(f"the folder {folder} does not exist", hint=_EXPECTED)
    if not path.is_file():
        raise ModelError(f"{folder} has no model.pth", hint=_EXPECTED)
    try:
        with warnings.catch_warnings():
            # torch warns of unknown pickle protocols; a failure is explained below.
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is not a pickle can raise anything
        if is_out_of_memory(error):
            raise
        raise _explain_unread(path, error) from None
    if not isinstance(state, Mapping) or not all(hasattr(v, "shape") for v in state.values()):
        raise _explain_other(path, state)
    return _rename_weights({str(key): value for key, value in state.items()}, path)


def _explain_other(path: Path, found: object) -> ModelError:
    """Explain a file with more than weights; name the entry that holds them, if there is one."""
    what, hint = type(found).__name__, _SAVE_HINT
    if isinstance(found, Mapping):
        what = f"the entries {list_some(sorted(map(repr, found)), 5)}"
        for name, entry in found.items():
            if isinstance(entry, Mapping) and any(str(key).endswith(_ANCHOR) for key in entry):
                hint = (
                    f"The weights are its entry {name!r}. Save that alone in a new folder, beside "
                    f"a copy of tokenizer/: torch.save(torch.load('model.pth')[{name!r}], "
                    "'new/model.pth')."
                )
    return ModelError(f"{path}: expected a state dict of tensors, got {what}", hint=hint)


def _explain_unread(path: Path, error: Exception) -> ModelError:
    hint = _SAVE_HINT
    if isinstance(error, PermissionError):
        return ModelError(f"{path} cannot be read: permission denied")
    if isinstance(error, pickle.UnpicklingError) and "nsupported" in str(error):
        told = f"{path} is not a plain state dict: reading it would run code from the file"
        return ModelError(told, hint=hint)
    reason = "torch did not write it"
    if isinstance(error, OSError | RuntimeError | EOFError | zipfile.BadZipFile):
        reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ModelError(f"{path} cannot be read: {reason}", hint=hint)


def _rename_weights(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Rename the weights to the names used by `BertForSequenceClassification`."""
    anchor = next((k for k in state if k.endswith(_ANCHOR)), None)
    if anchor is None:
        raise ModelError(
            f"{path} has no BERT embeddings; its weights begin with {sorted(state)[:3]}",
            hint=_ONLY_BERT,
        )
    prefix = anchor.removesuffix(_ANCHOR)
    begins = (prefix,) if prefix else ("embeddings.", "encoder.", "pooler.")
    encoder = {key: value for key, value in state.items() if key.startswith(begins)}
    head = {key: value for key, value in state.items() if key not in encoder}
    kinds = sorted(key.rpartition(".")[2] for key in head)
    if kinds != ["bias", "weight"]:
        raise ModelError(
            f"{path}: expected one linear layer beside the encoder, found {sorted(head) or 'none'}"
        )
    renamed = {
        f"bert.{key.removeprefix(prefix)}": value
        for key, value in encoder.items()
        if not key.endswith("position_ids")
    }
    return renamed | {f"classifier.{key.rpartition('.')[2]}": v for key, v in head.items()}


def _infer_config(
    state: Mapping[str, torch.Tensor], label_names: Sequence[str], num_heads: int | None
) -> BertConfig:
    from transformers import BertConfig

    num_labels, width = _shape(state, "classifier.weight")
    if num_labels < 2:
        raise ModelError(
            "the head has one output, as for a sigmoid or a regression; expected one for each "
            "class, of two or more",
            hint="Train the notebook's model with one output for each class.",
        )
    if len(label_names) != num_labels:
        raise ConfigError(
            f"the weights have {num_labels} classes, but there are label names for "
            f"{len(label_names)}: {', '.join(label_names)}",
            hint="Name them in order of their ids with --label-names.",
        )
    num_token_types = _shape(state, "bert.embeddings.token_type_embeddings.weight")[0]
    if num_token_types == 1:
        # The names are BERT's, but RoBERTa counts positions from another number.
        raise ModelError(
            "the encoder has one token type, as RoBERTa and its relatives have; BERT has two",
            hint=_ONLY_BERT,
        )
    vocabulary_size, embedding_width = _shape(state, "bert.embeddings.word_embeddings.weight")
    if embedding_width != width:
        raise ModelError(f"the head reads {width} values, but the encoder gives {embedding_width}")
    layers = {int(m[1]) for key in state if (m := re.match(r"bert\.encoder\.layer\.(\d+)\.", key))}
    heads = int(num_heads or max(1, width // 64))  # the config refuses numpy's numbers
    if width % heads:
        raise ConfigError(f"--num-heads: the width {width} is not a multiple of {heads}")
    config: BertConfig = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=heads,
        intermediate_size=_shape(state, "bert.encoder.layer.0.intermediate.dense.weight")[0],
        max_position_embeddings=_shape(state, "bert.embeddings.position_embeddings.weight")[0],
        type_vocab_size=num_token_types,
        id2label=dict(enumerate(label_names)),
        label2id={name: index for index, name in enumerate(label_names)},
    )
    return config


def _shape(state: Mapping[str, torch.Tensor], name: str) -> tuple[int, int]:
    """Return the shape of a weight matrix."""
    if name not in state:
        raise ModelError(f"the weights do not fit a BERT classifier: {name} is missing")
    shape = tuple(state[name].shape)
    if len(shape) != 2:
        raise ModelError(f"{name}: expected a matrix, got a tensor of the shape {shape}")
    return shape[0], shape[1]


def _build_classifier(
    folder: Path, state: Mapping[str, torch.Tensor], config: BertConfig, max_length: int
) -> TextClassifier:
    from transformers import BertForSequenceClassification

    place = folder / "tokenizer"
    if not place.is_dir():
        raise ModelError(f"{folder} has no folder tokenizer/", hint=_EXPECTED)
    if lacks_vocabulary(place):
        raise ModelError(
            f"the tokenizer in {place} cannot be loaded: its vocabulary is missing "
            f"({', '.join(VOCABULARY_FILES)})",
            hint="In the notebook, save it with tokenizer.save_pretrained('tokenizer').",
        )
    try:
        tokenizer = read_tokenizer(str(place), local_only=True)
    except Exception as error:  # loading can raise anything: JSON, keys, missing files
        if is_out_of_memory(error):
            raise
        raise ModelError(f"the tokenizer in {place} cannot be loaded: {error}") from error
    model = BertForSequenceClassification(config)
    try:
        missing, unexpected = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise ModelError(f"the weights do not fit a BERT classifier: {detail}") from None
    problems = [f"{key} is missing" for key in missing if not key.endswith("position_ids")]
    problems += [f"{key} is not known to it" for key in unexpected]
    if problems:
        raise ModelError(f"the weights do not fit a BERT classifier: {list_some(problems, 5)}")
    damaged = [key for key, value in model.named_parameters() if not value.isfinite().all()]
    if damaged:
        raise ModelError(f"the weights have numbers that are not finite: {list_some(damaged, 5)}")
    if len(tokenizer) > config.vocab_size:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, but the weights have {config.vocab_size}"
        )
    if max_length > config.max_position_embeddings:
        raise ConfigError(
            f"--max-length {max_length}: the model reads {config.max_position_embeddings} tokens"
        )
    return TextClassifier(
        model.float().eval(),
        tokenizer,
        rule=EncodingRule(max_length=int(max_length)),
        precision=choose_precision("cpu", "float32"),
    )


def _read_history(folder: Path) -> dict[str, Any] | None:
    path = folder / "training_history.json"
    if not path.is_file():
        return None
    try:
        history = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    columns = [history.get(name) for name in _HISTORY_FIELDS] if isinstance(history, dict) else []
    if not columns or not all(_is_column(one, like=columns[0]) for one in columns):
        raise RunError(
            f"{path}: expected the lists {', '.join(_HISTORY_FIELDS)}, "
            "a finite number for each epoch",
            hint=_WITHOUT_HISTORY,
        )
    beyond = [one for name in _HISTORY_FIELDS[2:] for one in history[name] if not 0 <= one <= 1]
    if beyond:
        raise RunError(
            f"{path}: expected accuracies and F1 from 0 to 1, got {beyond[0]}",
            hint=f"If they are percentages, divide them by 100. {_WITHOUT_HISTORY}",
        )
    return dict(zip(_HISTORY_FIELDS, columns, strict=True))


def _is_column(value: object, *, like: object) -> bool:
    return (
        isinstance(value, list)
        and isinstance(like, list)
        and len(value) == len(like) > 0
        # JSON has no NaN, but Python writes and reads it.
        and all(type(one) in {int, float} and abs(one) <= sys.float_info.max for one in value)
    )
