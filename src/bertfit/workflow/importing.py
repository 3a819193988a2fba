"""Convert the notebook's artefacts (model.pth, tokenizer/, training_history.json) to a run."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertfit.config import check_flags, is_whole_number
from bertfit.data.encoding import EncodingRule
from bertfit.environment import describe_environment
from bertfit.errors import ConfigError, ModelError, RunError, is_out_of_memory
from bertfit.files import as_path, read_json, write_json
from bertfit.inference.predictor import TextClassifier
from bertfit.modeling.outside_files import refuse_links
from bertfit.modeling.precision import choose_precision
from bertfit.modeling.saving import save_model
from bertfit.modeling.tokenizer_files import check_tokenizer, lacks_vocabulary, read_tokenizer
from bertfit.progress import Listener, as_listener
from bertfit.run_directory import Staging, check_place, stage_run
from bertfit.run_files import HISTORY_NAME
from bertfit.setting_problems import LEAST_LENGTH
from bertfit.training.interruption import catch_interrupts
from bertfit.wording import list_some
from bertfit.workflow.notebook_weights import EXPECTED, ONLY_BERT, read_weights

if TYPE_CHECKING:
    import torch
    from transformers import BertConfig, PreTrainedTokenizerBase

_WITHOUT_HISTORY = "Without this file the model is imported without a history."
_SAVE_HINT = "In the notebook, save it with tokenizer.save_pretrained('tokenizer')."
_HEADS_HINT = "In the notebook: model.bert.config.num_attention_heads"
_HEADS_OF_WIDTH = {312: 12, 384: 12}
"""TinyBERT and rubert-tiny; MiniLM, bge-small and e5-small, by their config.json. Of other widths,
the published BERTs have one head per 64."""
_MOST_PADDING = 127
"""Rows of the word embeddings without a token, where their number is a multiple of 128."""
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
        num_heads: Attention heads, which a state dict does not record; None means as in published
            BERTs: 12 for a width of 312 or 384, else one per 64.
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
    listener = as_listener(listener)
    check_place(as_path(output, "output"), overwrite=overwrite, listener=listener)
    folder = as_path(folder, "folder")
    state = read_weights(folder, listener)
    config = _infer_config(state, label_names, num_heads)
    history = _read_history(folder)
    staging = stage_run(as_path(output), overwrite=overwrite)
    try:
        classifier = _build_classifier(folder, state, config, max_length, listener)
        with catch_interrupts():  # publishing must not stop half-way
            _publish(staging, classifier, history)
    except BaseException:
        staging.discard()
        raise
    if num_heads is None:
        listener.note(
            f"The number of attention heads was taken to be {config.num_attention_heads}, as in "
            f"published BERTs of the width {config.hidden_size}: the weights do not say it. If it "
            "is another, every prediction is wrong: set --num-heads."
        )
    return as_path(output)


def _publish(staging: Staging, classifier: TextClassifier, history: dict[str, Any] | None) -> None:
    save_model(classifier.model, staging.folder)
    classifier.save_tokenizer(staging.folder)
    if history is not None:
        write_json(staging.folder / HISTORY_NAME, history)
    staging.publish(
        {
            "label_names": list(classifier.label_names),
            "encoding": classifier.encoding_record(),
            "training": {"imported_from": "notebook", "dtype": "float32"},
            "scores": {"validation": None, "test": None},
            **describe_environment(),
        }
    )


def _check_arguments(label_names: Sequence[str], max_length: int, num_heads: int | None) -> None:
    if not _are_names(label_names):
        raise ConfigError(f"label_names: expected a list of names, got {label_names!r}")
    told = ""
    if not all(label_names):
        told = f"the name of class {list(label_names).index('')} is empty"
    elif len(set(label_names)) < len(label_names):
        told = f"expected names that differ, got {', '.join(map(repr, label_names))}"
    if told:
        raise ConfigError(
            f"label_names: {told}", hint="Name every class once, in order of their ids."
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
            hint=ONLY_BERT,
        )
    vocabulary_size, embedding_width = _shape(state, "bert.embeddings.word_embeddings.weight")
    if embedding_width != width:
        raise ModelError(f"the head reads {width} values, but the encoder gives {embedding_width}")
    pattern = re.compile(r"bert\.encoder\.layer\.(\d{1,9})\.")
    layers = {int(found[1]) for key in state if (found := pattern.match(key))}
    config: BertConfig = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=_choose_heads(width, num_heads),
        intermediate_size=_shape(state, "bert.encoder.layer.0.intermediate.dense.weight")[0],
        max_position_embeddings=_shape(state, "bert.embeddings.position_embeddings.weight")[0],
        type_vocab_size=num_token_types,
        id2label=dict(enumerate(label_names)),
        label2id={name: index for index, name in enumerate(label_names)},
    )
    return config


def _choose_heads(width: int, num_heads: int | None) -> int:
    """Return the number of attention heads: as given, or else as in published BERTs."""
    usual = _HEADS_OF_WIDTH.get(width, 0 if width % 64 else width // 64)
    heads = int(num_heads or usual)  # the config refuses numpy's numbers
    if heads == 0:
        raise ConfigError(
            f"num_heads: a width of {width} does not tell how many attention heads there are",
            hint=_HEADS_HINT,
        )
    if width % heads:
        raise ConfigError(
            f"num_heads: the width {width} is not a multiple of {heads}", hint=_HEADS_HINT
        )
    return heads


def _shape(state: Mapping[str, torch.Tensor], name: str) -> tuple[int, int]:
    """Return the shape of a weight matrix."""
    if name not in state:
        raise _misfit(f"{name} is missing")
    shape = tuple(state[name].shape)
    if len(shape) != 2:
        raise ModelError(f"{name}: expected a matrix, got a tensor of the shape {shape}")
    return shape[0], shape[1]


def _misfit(detail: str) -> ModelError:
    return ModelError(f"the weights do not fit a BERT classifier: {detail}", hint=ONLY_BERT)


def _build_classifier(
    folder: Path,
    state: Mapping[str, torch.Tensor],
    config: BertConfig,
    max_length: int,
    listener: Listener,
) -> TextClassifier:
    from transformers import BertForSequenceClassification

    tokenizer = _read_tokenizer(folder)
    model = BertForSequenceClassification(config)
    try:
        missing, unexpected = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise _misfit(str(error).splitlines()[-1].strip()) from None
    problems = [f"{key} is missing" for key in missing if not key.endswith("position_ids")]
    problems += [f"{key} is not known to it" for key in unexpected]
    if problems:
        raise _misfit(list_some(problems, 5))
    damaged = [key for key, value in model.named_parameters() if not value.isfinite().all()]
    if damaged:
        raise ModelError(f"the weights have numbers that are not finite: {list_some(damaged, 5)}")
    _compare_vocabulary(len(tokenizer), config.vocab_size, listener)
    if max_length > config.max_position_embeddings:
        raise ConfigError(
            f"max_length: the model reads at most {config.max_position_embeddings} tokens, got "
            f"{max_length:,}"
        )
    return TextClassifier(
        model.float().eval(),
        tokenizer,
        rule=EncodingRule(max_length=int(max_length)),
        precision=choose_precision("cpu", "float32"),
    )


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    place = folder / "tokenizer"
    if not place.is_dir():
        raise ModelError(f"{folder} has no folder tokenizer/", hint=EXPECTED)
    refuse_links(str(place))
    tokenizer = None
    try:
        if not lacks_vocabulary(place):
            tokenizer = read_tokenizer(str(place), local_only=True)
    except ModelError:
        raise
    except Exception as error:  # loading can raise anything: JSON, keys, missing files
        if is_out_of_memory(error):
            raise
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        told = re.sub(r":\s*$", " …", first_line)
        raise ModelError(
            f"the tokenizer in {place} cannot be loaded: {_name_broken(place)}{told}",
            hint=_SAVE_HINT,
        ) from error
    return check_tokenizer(
        tokenizer,
        f"the tokenizer in {place}",
        lack="its vocabulary is missing or empty",
        hint=_SAVE_HINT,
    )


def _name_broken(place: Path) -> str:
    """Return the name of the first file that is not JSON, for the start of what is said of it."""
    for path in sorted(place.glob("*.json")):
        try:
            read_json(path)
        except (OSError, ValueError):
            return f"{path.name}: "
    return ""


def _compare_vocabulary(num_tokens: int, num_rows: int, listener: Listener) -> None:
    if num_tokens > num_rows:
        raise ModelError(
            f"the tokenizer has {num_tokens:,} tokens, but the weights have {num_rows:,}",
            hint="Save the tokenizer that the model was trained with.",
        )
    if num_rows - num_tokens > _MOST_PADDING:
        listener.note(
            f"The tokenizer has {num_tokens:,} tokens, the weights have {num_rows:,} rows: if it "
            "is not the notebook's, every prediction is wrong."
        )


def _read_history(folder: Path) -> dict[str, Any] | None:
    path = folder / HISTORY_NAME
    if not path.is_file():
        return None
    try:
        history = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}", hint=_WITHOUT_HISTORY) from None
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
