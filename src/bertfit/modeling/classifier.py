"""The one place that loads models.

Responsible for float32 weights, the size and label names of the head, and the one-line notes on
new weights. Never runs code from a checkpoint and never unpickles one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bertfit.errors import ModelError
from bertfit.files import read_json
from bertfit.garbage import pause_collection
from bertfit.modeling.locating import (
    explaining_failures,
    find_file,
    import_transformers,
    locate_model,
    quieting_transformers,
)
from bertfit.modeling.outside_files import refuse_links
from bertfit.modeling.tokenizer_files import read_model_tokenizer
from bertfit.modeling.torch_defaults import usual_torch
from bertfit.modeling.weight_files import lacks_parts, measure_weights, refuse_other_weights
from bertfit.wording import list_some

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_COUNTS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_hidden_groups"),
    *("encoder_layers", "decoder_layers", "num_decoder_layers", "num_labels"),
)
"""Names that configurations give to the number of layers, and that of labels."""
_MOST_LAYERS, _MOST_LABELS = 10_000, 1_000_000
"""That make sense."""
_MOST_NEW = 64_000_000
"""Parameters that a checkpoint may lack, such as those of a new head."""
_MOST_NAMED = 4
"""Weights or labels that a note names."""


@dataclass(frozen=True, slots=True)
class LoadedClassifier:
    """A classifier with its tokenizer, and notes on how it was loaded."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    notes: tuple[str, ...]
    is_whole: bool
    """Whether the checkpoint had every weight, each with the right shape."""
    is_encoder: bool
    """Whether it had every weight except those of the head, and none of those."""


@pause_collection()
@usual_torch()
def load_classifier(
    name: str,
    label_names: Sequence[str] | None = None,
    *,
    dropout: float | None = None,
    seed: int = 0,
) -> LoadedClassifier:
    """Load a model with a classification head, in float32.

    Args:
        name: Hub name, local folder, or "embedded".
        label_names: Classes in the order of their ids, of a model to train; None keeps the
            checkpoint's own.
        dropout: If not None, replaces every dropout rate, also that of the head.
        seed: Seeds the weights that are missing from the checkpoint.

    Raises:
        ModelError: The model cannot be found or loaded, or no run can be made from it.
    """
    import_transformers()
    source, local_only = locate_model(name, lacks=lacks_parts)
    if label_names is not None:
        refuse_links(source)
    config = _load_config(name, source, local_only=local_only)
    # Code beside the model is never run, and a run would name it without having it.
    has_code = vars(config).pop("auto_map", None) is not None
    refuse_other_weights(name, source, config, local_only=local_only)
    known_names = [str(name) for _, name in sorted(config.id2label.items())]
    if label_names is not None:
        config.id2label = dict(enumerate(label_names))
        config.label2id = {label: index for index, label in enumerate(label_names)}
        config.problem_type = None  # if it was multi-label, loaders would apply sigmoids
    if dropout is not None:
        set_dropout(config, dropout)
    _refuse_oversized(name, source, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, loading = _load_model(name, source, config, local_only=local_only)
    _refuse_foreign_weights(name, model, loading)
    tokenizer = read_model_tokenizer(name, source, local_only=local_only)
    _settle_padding(name, model, tokenizer)
    is_whole = not (loading["missing_keys"] or loading["mismatched_keys"])
    notes = tuple(_describe_loading(model, loading))
    if is_whole and label_names is not None:
        notes += tuple(_fit_head(model, known_names, label_names))
    if has_code and label_names is not None:
        own = type(model).__name__
        notes += (f"Code beside the model is not run; {own} is transformers' own.",)
    is_encoder = _is_encoder(model, loading)
    return LoadedClassifier(model, tokenizer, notes, is_whole=is_whole, is_encoder=is_encoder)


@pause_collection()
def load_architecture(
    name: str, *, num_labels: int | None = None, dropout: float | None = None
) -> PreTrainedModel:
    """Build the model from config.json alone, without weights, for inspection.

    Args:
        name: As for `load_classifier`.
        num_labels: Number of classes; None keeps the checkpoint's own.
        dropout: As for `load_classifier`.

    Raises:
        ModelError: The model cannot be found, or its type is unknown.
    """
    import_transformers()
    from transformers import AutoModelForSequenceClassification

    source, local_only = locate_model(name)
    config = _load_config(name, source, local_only=local_only)
    if num_labels is not None:
        config.num_labels = num_labels
    if dropout is not None:
        set_dropout(config, dropout)
    with explaining_failures(name), torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
            config, trust_remote_code=False
        )
    return model.float()


def find_hidden_size(model: PreTrainedModel) -> int:
    """Return the size of a token's hidden state between the encoder's layers."""
    size = getattr(model.config, "hidden_size", None)
    return int(size or model.get_input_embeddings().weight.shape[1])


def find_last_linear(model: torch.nn.Module) -> torch.nn.Linear | None:
    """Return the last linear layer of a classifier's head, which outputs the logits."""
    encoder = getattr(model, "base_model", None)
    of_head = [child for child in model.children() if child is not encoder]
    modules = [module for child in of_head for module in child.modules()]
    layers = [module for module in modules if isinstance(module, torch.nn.Linear)]
    return layers[-1] if layers else None


def set_dropout(config: PretrainedConfig, rate: float) -> None:
    """Set every dropout rate of the configuration to `rate`, in [0, 1).

    A rate of None falls back to another one of the same model and stays None. GPT-2 and others
    name theirs resid_pdrop and the like.
    """
    for name, value in config.to_dict().items():
        is_rate = "dropout" in name or name.endswith("_pdrop")
        if is_rate and isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(config, name, rate)


def _load_config(name: str, source: str, *, local_only: bool) -> PretrainedConfig:
    from transformers import AutoConfig

    with explaining_failures(name):
        _refuse_huge(name, find_file(source, "config.json", local_only=local_only))
        config: PretrainedConfig = AutoConfig.from_pretrained(
            source, local_files_only=local_only, trust_remote_code=False
        )
        # Only the logits are read, by name; attention weights would need slower attention.
        config.return_dict = True
        config.output_attentions = config.output_hidden_states = False
        # Other names than transformers' own are those of kernels, which it would get from the hub.
        for name_of_code in ("_attn_implementation", "_experts_implementation"):
            if getattr(config, name_of_code, None) is not None:
                setattr(config, name_of_code, None)
    kinds = config.architectures
    if kinds is not None and not (
        isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)
    ):
        raise ModelError(
            f"the model {name!r} cannot be loaded: its configuration says architectures {kinds!r}, "
            "a list of names was expected",
            hint="Get a good copy of it.",
        )
    return config


def _refuse_huge(name: str, file: Path | None) -> None:
    """Refuse a configuration of so many layers or labels that building them would not end."""
    entries: Any = {}
    if file is not None:
        with contextlib.suppress(OSError, ValueError):  # transformers says what is wrong
            entries = read_json(file)
    for entry in _COUNTS if isinstance(entries, dict) else ():
        count = entries.get(entry)
        if isinstance(count, int) and count > (_MOST_LABELS if "label" in entry else _MOST_LAYERS):
            told = f"{count:,}" if count < 10**15 else f"with {len(str(count))} digits"
            raise ModelError(
                f"the model {name!r} cannot be loaded: its configuration says {entry} {told}",
                hint="Get a good copy of it.",
            )


def _refuse_oversized(name: str, source: str, config: PretrainedConfig) -> None:
    """Refuse a configuration of more parameters than its weights can have; all would be made."""
    num_bytes = measure_weights(source)
    if num_bytes is None:
        return
    from transformers import AutoModelForSequenceClassification

    with explaining_failures(name), torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if num_parameters > num_bytes + _MOST_NEW:
        raise ModelError(
            f"the model {name!r} cannot be loaded: by its config.json it has {num_parameters:,} "
            f"parameters, and its weights are {num_bytes:,} bytes",
            hint="The files do not belong together. Get a good copy of it.",
        )


def _load_model(
    name: str, source: str, config: PretrainedConfig, *, local_only: bool
) -> tuple[PreTrainedModel, dict[str, Any]]:
    from transformers import AutoModelForSequenceClassification

    with explaining_failures(name), quieting_transformers():
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            local_files_only=local_only,
            trust_remote_code=False,
            use_safetensors=True,
        )
    return model, loading


def _refuse_foreign_weights(name: str, model: PreTrainedModel, loading: dict[str, Any]) -> None:
    """Refuse a checkpoint without a single weight of the encoder: all would be random numbers."""
    encoder = f"{model.base_model_prefix}."
    of_encoder = [key for key, _ in model.named_parameters() if key.startswith(encoder)]
    if not of_encoder or not set(loading["missing_keys"]).issuperset(of_encoder):
        return
    found = sorted(loading["unexpected_keys"])
    raise ModelError(
        f"the model {name!r} cannot be loaded: its weights are not those of its kind "
        f"({model.config.model_type}): expected names such as {of_encoder[0]}, got "
        f"{found[0] if found else 'none'}",
        hint="Save the model by its save_pretrained, which gives the weights these names; or "
        "correct the model_type in config.json.",
    )


def _fit_head(model: PreTrainedModel, old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Put a loaded head in the order of the labels `new`, or say that it knows others."""
    if _reorder_head(model, old, new):
        yield f"The checkpoint's head was put in the order {list_some(new, _MOST_NAMED)}."
    elif [name.casefold() for name in old] != [name.casefold() for name in new]:
        yield (
            f"The checkpoint's head was trained for the labels {list_some(old, _MOST_NAMED)}; "
            "training starts from its weights."
        )


def _reorder_head(model: PreTrainedModel, old: Sequence[str], new: Sequence[str]) -> bool:
    """Put the outputs of a head that knows these labels, in another order, in the order of `new`.

    Otherwise it would begin with its answers exchanged.

    Args:
        model: A model whose head was loaded, changed in place.
        old: The labels of that head, in the order of its outputs.
        new: The labels of the data.

    Returns:
        Whether the outputs were put in another order.
    """
    known = [name.casefold() for name in old]
    wanted = [name.casefold() for name in new]
    if known == wanted or sorted(known) != sorted(wanted) or len(set(known)) < len(known):
        return False
    last = find_last_linear(model)
    if last is None or last.out_features != len(known):
        return False
    order = [known.index(name) for name in wanted]
    with torch.no_grad():
        for parameter in last.parameters():  # weight and, in most families, bias
            parameter.copy_(parameter[order].clone())
    return True


def _settle_padding(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the padding token in a decoder's configuration, since its head looks for it."""
    if getattr(model.config, "pad_token_id", None) is not None:
        return
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"the model {name!r} has no padding token, and models of its kind "
            f"({model.config.model_type}) need one",
            hint="Choose one and save it: tokenizer.pad_token = tokenizer.eos_token; "
            "tokenizer.save_pretrained(FOLDER). Or take an encoder, such as BERT.",
        )
    model.config.pad_token_id = tokenizer.pad_token_id


def _is_encoder(model: PreTrainedModel, loading: dict[str, Any]) -> bool:
    """Return whether a checkpoint lacks only the head and perhaps the pooler."""
    encoder = f"{model.base_model_prefix}."
    of_head = {name for name in model.state_dict() if not name.startswith(encoder)}
    missing = set(loading["missing_keys"])
    return (
        bool(of_head)
        and not loading["mismatched_keys"]
        and of_head <= missing
        and all(name.startswith(f"{encoder}pooler.") for name in missing - of_head)
    )


def _describe_loading(model: PreTrainedModel, loading: dict[str, Any]) -> Iterator[str]:
    mismatched = sorted(
        key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"]
    )
    missing = sorted(set(loading["missing_keys"]) - set(mismatched))
    of_encoder = [name for name in mismatched if name.startswith(f"{model.base_model_prefix}.")]
    of_head = [name for name in mismatched if name not in of_encoder]
    if of_head:
        yield (
            f"The checkpoint's head has a different size, so it was replaced by a new one: "
            f"{list_some(of_head, _MOST_NAMED)}."
        )
    if of_encoder:
        yield (
            "Weights whose size in the checkpoint differs from that in config.json, replaced by "
            f"new ones, trained from scratch: {list_some(of_encoder, _MOST_NAMED)}."
        )
    if missing:
        yield f"New weights, trained from scratch: {list_some(missing, _MOST_NAMED)}."
    if loading["unexpected_keys"]:
        unused = list_some(sorted(loading["unexpected_keys"]), _MOST_NAMED)
        yield f"Weights of the checkpoint that are not used: {unused}."
