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


_OWN_ENTRIES = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
"""What of `rope_parameters` was an entry of the configuration itself: by the same name, or, in
GPT-NeoX, by the other."""
_SCALINGS = {"linear", "dynamic", "yarn", "llama3"}
"""Kinds of scaling that 4.5x reads by the same names; that of longrope has others."""
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
    the exporters that need it. Nothing is added if transformers 5 would read other positions then.
    """
    from transformers import AutoConfig

    own = path.read_text(encoding="utf-8")
    config = json.loads(own)
    added = _find_older_entries(config)
    if not added.keys() - config.keys():
        return
    before = AutoConfig.from_pretrained(path.parent).rope_parameters
    whole = json.dumps({**added, **config}, indent=2, sort_keys=True)
    path.write_text(f"{whole}\n", encoding="utf-8")
    if AutoConfig.from_pretrained(path.parent).rope_parameters != before:
        path.write_text(own, encoding="utf-8")


def _find_older_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    rotary, kind = config.get("rope_parameters") or {}, config.get("model_type", "")
    of_layers = {layer: one for layer, one in rotary.items() if isinstance(one, dict)}
    if of_layers:
        names = _BASES_BY_LAYER.get(kind, {})
        found = {
            names[layer]: one["rope_theta"]
            for layer, one in of_layers.items()
            if layer in names and "rope_theta" in one
        }
        scaled = of_layers.get("full_attention", {}) if kind == "gemma3_text" else {}
    else:
        names = _OWN_ENTRIES if kind == "gpt_neox" else {name: name for name in _OWN_ENTRIES}
        found = {older: rotary[name] for name, older in names.items() if name in rotary}
        scaled = rotary
    if scaled.get("rope_type") in _SCALINGS:
        found["rope_scaling"] = {
            name: value for name, value in scaled.items() if name not in _OWN_ENTRIES
        }
    return found


@usual_torch()
def restore_model(model: PreTrainedModel, folder: Path) -> None:
    """Load weights written by `save_model` into a model of the same class."""
    with explaining_failures(str(folder)), quieting_transformers():
        saved = type(model).from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    model.load_state_dict(saved.state_dict())
