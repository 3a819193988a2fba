"""Look at a model or a run without loading its weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertfit.assets import find_model_path, name_model
from bertfit.config import is_whole_number
from bertfit.errors import ConfigError
from bertfit.inference.confidence import read_confidence
from bertfit.modeling.classifier import load_architecture
from bertfit.modeling.input_limits import find_position_limit
from bertfit.modeling.tree import (
    MemoryEstimate,
    ModuleNode,
    build_tree,
    count_parameters,
    estimate_memory,
)
from bertfit.run_directory import read_record, telling_of_unfinished
from bertfit.run_files import find_changed_files, is_run

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_NUM_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model's tree and memory estimate; for a run also its record and its changed files."""

    name: str
    tree: ModuleNode
    num_parameters: int
    num_trainable: int
    memory: MemoryEstimate | None
    record: dict[str, Any]
    label_names: tuple[str, ...]
    """Of its classes, in the order of their ids; empty if it has no head of its own yet."""
    changed_files: tuple[str, ...]
    """Files of the model that were changed after the run was made."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "name": self.name,
            "num_parameters": self.num_parameters,
            "num_trainable": self.num_trainable,
            "memory": dataclasses.asdict(self.memory) if self.memory else None,
            "tree": self.tree.to_json(),
            "label_names": list(self.label_names),
            "run": self.record or None,
            "changed_files": list(self.changed_files) if "sha256" in self.record else None,
        }


def inspect(
    name: str | Path,
    *,
    depth: int | None = None,
    num_labels: int | None = None,
    batch_size: int = 32,
    num_tokens: int | None = None,
) -> Inspection:
    """Return the tree of a model, a run, or "embedded".

    Args:
        name: Hub name, local folder, a run, or "embedded".
        depth: Levels below the root; None means all.
        num_labels: Classes of the head; None takes the number from the configuration. Not for a
            run, whose head is trained.
        batch_size: Rows for the memory estimate.
        num_tokens: Tokens per row for the memory estimate; None means 128, or as many as the model
            reads.

    Raises:
        ConfigError: A size is impossible, `num_labels` is given for a run, or the model reads fewer
            than `num_tokens`.
        ModelError: The model cannot be found or is of an unknown kind.
        RunError: The run's bertfit.json is damaged, or a killed training left it unfinished.
    """
    _check_sizes(depth=(depth, 0), num_labels=(num_labels, 2))
    _check_sizes(batch_size=(batch_size, 1), num_tokens=(num_tokens, 1))
    name = name_model(name)
    path = find_model_path(name)
    record: dict[str, Any] = {}
    if path and is_run(path):
        record = read_record(path)
        if num_labels is not None:
            raise ConfigError(f"num_labels: {path} is a run, which has its labels")
        num_names = len(record.get("label_names", ()))
        read_confidence(record, num_labels=num_names, run=path)  # says what is damaged
    with telling_of_unfinished(name):
        model = load_architecture(name, num_labels=num_labels)
    limit = find_position_limit(model)
    if num_tokens is not None and num_tokens > limit:
        raise ConfigError(f"num_tokens: {name} reads at most {limit:,} tokens, got {num_tokens:,}")
    has_shape = all(
        hasattr(model.config, field)
        for field in ("hidden_size", "num_attention_heads", "num_hidden_layers")
    )
    return Inspection(
        name=name,
        tree=build_tree(model, depth=depth),
        num_parameters=count_parameters(model),
        num_trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        memory=estimate_memory(
            model, batch_size=batch_size, num_tokens=num_tokens or min(_NUM_TOKENS, limit)
        )
        if has_shape
        else None,
        record=record,
        label_names=_list_label_names(model.config) if num_labels is None else (),
        changed_files=find_changed_files(path, record) if path else (),
    )


def _check_sizes(**sizes: tuple[object, int]) -> None:
    """Raise if a size that is given is not a whole number, or below the least that makes sense."""
    for name, (size, least) in sizes.items():
        if size is not None and not (is_whole_number(size) and size >= least):
            raise ConfigError(f"{name}: expected a whole number, at least {least}, got {size!r}")


def _list_label_names(config: PretrainedConfig) -> tuple[str, ...]:
    """Return the names of a classifier's classes, in the order of their ids from 0 on.

    None for an encoder, which has no head yet, and if the ids are others: predict refuses these.
    """
    kinds = config.architectures or ()
    is_classifier = any(kind.endswith("ForSequenceClassification") for kind in kinds)
    if not is_classifier or sorted(config.id2label) != list(range(len(config.id2label))):
        return ()
    return tuple(str(name) for _, name in sorted(config.id2label.items()))
