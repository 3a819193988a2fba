"""Writes a model's configuration and weights into a folder, and reads the weights back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bertfit.files import part_of, raising_system_errors
from bertfit.modeling.locating import explaining_failures, quieting_transformers
from bertfit.modeling.torch_defaults import usual_torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_OWN_ENTRIES = ("rope_theta", "partial_rotary_factor")
"""Of `rope_parameters`, those that were entries of the configuration itself."""
_OF_MODERNBERT = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
_BASES_BY_LAYER = {
    "modernbert": _OF_MODERNBERT,
    "modernbert-decoder": _OF_MODERNBERT,
    "gemma3_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
}
"""What the bases of two kinds of layers were called, by type of model."""


def save_model(
    model: PreTrainedModel, folder: Path, *, before: Callable[[], object] = lambda: None
) -> None:
    """Write config.json and model.safetensors into a folder; if that fails, earlier ones stay.

    Args:
        model: The model.
        folder: Is made if need be.
        before: Called once they are written, before they replace earlier ones.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    part = part_of(folder / "model")
    part.mkdir(parents=True)
    try:
        with quieting_transformers(), raising_system_errors(folder):
            model.save_pretrained(part)
            _tell_older_releases(part / "config.json")
        before()
        for path in part.iterdir():
            path.replace(folder / path.name)
    except OSError as error:
        error.filename = str(folder)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _tell_older_releases(path: Path) -> None:
    """Add to a configuration what transformers 4 looks for instead of `rope_parameters`.

    Without it, 4.5x takes the base of its family for rotary positions, without a message, and so do
    the exporters that need it. Where both are there, transformers 5 reads what is in both.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    added = _find_older_entries(config)
    if added.keys() - config.keys():
        whole = json.dumps({**added, **config}, indent=2, sort_keys=True)
        path.write_text(f"{whole}\n", encoding="utf-8")


def _find_older_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    rotary = config.get("rope_parameters") or {}
    of_layers = {kind: one for kind, one in rotary.items() if isinstance(one, dict)}
    if of_layers:
        names = _BASES_BY_LAYER.get(config.get("model_type", ""), {})
        return {
            names[kind]: one["rope_theta"]
            for kind, one in of_layers.items()
            if kind in names and "rope_theta" in one
        }
    found = {name: rotary[name] for name in _OWN_ENTRIES if name in rotary}
    if rotary.get("rope_type", "default") != "default":
        found["rope_scaling"] = {
            name: value for name, value in rotary.items() if name not in _OWN_ENTRIES
        }
    return found


@usual_torch()
def restore_model(model: PreTrainedModel, folder: Path) -> None:
    """Load weights written by `save_model` into a model of the same class."""
    with explaining_failures(str(folder)), quieting_transformers():
        saved = type(model).from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    model.load_state_dict(saved.state_dict())
