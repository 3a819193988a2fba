"""Folds calibration into a model: finds, reads and changes the layer that outputs the logits.

A folded model gives calibrated logits to everyone who loads it. Which layer outputs the logits
depends on the family, so it is found by its behaviour, not by name: each candidate is rescaled to
see whether the logits rescale with it.

Shapes: T tokens, C classes, D input features of the layer, E additional outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from bertfit.modeling.torch_defaults import evaluating, usual_torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 1e-3
"""Of the probed logits, relative to the largest: allows for rounding on any device."""


@usual_torch()
def find_logit_layer(model: PreTrainedModel, token_ids_T: np.ndarray) -> str | None:
    """Return the name of the linear layer whose outputs are the logits, or None.

    Args:
        model: A sequence classifier; restored afterwards.
        token_ids_T: Token ids of any text, special tokens included, to probe the model with.
    """
    with evaluating(model):
        called = _find_called_layers(model, token_ids_T)
        plain_C = _give_logits(model, token_ids_T)
        for name in reversed(called):
            if _decides_logits(model, _find_linear(model, name), token_ids_T, plain_C):
                return name
    return None


def has_bias(model: PreTrainedModel, layer_name: str) -> bool:
    """Return whether the layer has a bias and so can shift logits."""
    return model.get_submodule(layer_name).bias is not None


def has_layer(model: PreTrainedModel, layer_name: str, shape: tuple[int, ...]) -> bool:
    """Return whether the model has a linear layer with this name and weight shape."""
    layer = dict(model.named_modules()).get(layer_name)
    return isinstance(layer, torch.nn.Linear) and tuple(layer.weight.shape) == shape


def read_layer(model: PreTrainedModel, layer_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a copy of the layer's weight (C, D) and bias (C,) in float32 (zeros if none)."""
    layer = _find_linear(model, layer_name)
    weight_CD = layer.weight.detach().float().cpu().numpy().copy()
    if layer.bias is None:
        return weight_CD, np.zeros(len(weight_CD), dtype=np.float32)
    return weight_CD, layer.bias.detach().float().cpu().numpy().copy()


@usual_torch()
def fold_scaling(
    model: PreTrainedModel,
    layer_name: str,
    *,
    weights: Sequence[float],
    biases: Sequence[float],
    added: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Change the layer so that each logit becomes weights[c] · logit + biases[c].

    Args:
        model: A sequence classifier, changed in place.
        layer_name: As returned by `find_logit_layer`.
        weights: One factor per class.
        biases: One offset per class; all 0 if the layer has no bias.
        added: A weight (C, D) and a bias (C,) to add to the rescaled layer's own.
    """
    layer = _find_linear(model, layer_name)
    with torch.no_grad():
        _rescale(layer, torch.tensor(weights), torch.tensor(biases))
        if added is not None:
            _add(layer, *map(torch.from_numpy, added))


@contextlib.contextmanager
def widened(
    model: PreTrainedModel, layer_name: str, weight_ED: np.ndarray, bias_E: np.ndarray
) -> Iterator[None]:
    """Make the model append E outputs to its C logits, linear in the logit layer's inputs.

    A single scoring pass can then also return those inputs, or the logits of another such layer.
    """
    layer = _find_linear(model, layer_name)
    old = layer.weight
    wide = torch.nn.utils.skip_init(  # draws no random numbers
        torch.nn.Linear,
        layer.in_features,
        len(old) + len(weight_ED),
        device=old.device,
        dtype=old.dtype,
    )
    with torch.no_grad():
        wide.weight[: len(old)], wide.bias[: len(old)] = old, 0.0
        for part, given in ((wide.weight, weight_ED), (wide.bias, bias_E)):
            # Converted on the CPU: not every device has float64.
            part[len(old) :] = torch.as_tensor(given, dtype=old.dtype, device="cpu").to(old.device)
        if layer.bias is not None:
            wide.bias[: len(old)] = layer.bias
    parent_name, _, name = layer_name.rpartition(".")
    parent = model.get_submodule(parent_name)
    setattr(parent, name, wide)
    try:
        yield
    finally:
        setattr(parent, name, layer)


def _find_linear(model: PreTrainedModel, layer_name: str) -> torch.nn.Linear:
    layer = model.get_submodule(layer_name)
    assert isinstance(layer, torch.nn.Linear)
    return layer


def _find_called_layers(model: PreTrainedModel, token_ids_T: np.ndarray) -> list[str]:
    """Return the names of the linear layers with C outputs, in call order."""
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == model.config.num_labels
    ]
    try:
        _give_logits(model, token_ids_T)
    finally:
        for hook in hooks:
            hook.remove()
    return called


def _decides_logits(
    model: PreTrainedModel,
    layer: torch.nn.Linear,
    token_ids_T: np.ndarray,
    plain_C: torch.Tensor,
) -> bool:
    """Return whether rescaling the layer's outputs, each differently, rescales the logits alike."""
    num_labels = len(plain_C)
    weights_C = torch.linspace(0.5, 2.0, num_labels, dtype=torch.float64)
    biases_C = torch.linspace(-1.0, 1.0, num_labels, dtype=torch.float64)
    if layer.bias is None:
        biases_C = torch.zeros_like(biases_C)
    kept = {name: value.clone() for name, value in layer.state_dict().items()}
    try:
        _rescale(layer, weights_C, biases_C)
        changed_C = _give_logits(model, token_ids_T)
    finally:
        layer.load_state_dict(kept)
    expected_C = plain_C * weights_C + biases_C
    tolerance = _TOLERANCE * float(expected_C.abs().max())
    return torch.allclose(changed_C, expected_C, rtol=0, atol=tolerance)


def _rescale(layer: torch.nn.Linear, weights_C: torch.Tensor, biases_C: torch.Tensor) -> None:
    """Scale and shift a layer's outputs, in float64 on the CPU (not every device has float64)."""
    weights_C, biases_C = weights_C.double(), biases_C.double()
    layer.weight.copy_(layer.weight.cpu().double() * weights_C[:, None])
    if layer.bias is not None:
        layer.bias.copy_(layer.bias.cpu().double() * weights_C + biases_C)


def _add(layer: torch.nn.Linear, weight_CD: torch.Tensor, bias_C: torch.Tensor) -> None:
    layer.weight.copy_(layer.weight.cpu().double() + weight_CD)
    if layer.bias is not None:
        layer.bias.copy_(layer.bias.cpu().double() + bias_C)


def _give_logits(model: PreTrainedModel, token_ids_T: np.ndarray) -> torch.Tensor:
    """Return logits_C of one text, computed in the weights' dtype, as float64 on the CPU."""
    device = next(model.parameters()).device
    token_ids = torch.as_tensor(token_ids_T, dtype=torch.int64, device=device)
    logits: torch.Tensor = model(input_ids=token_ids[None]).logits[0]
    return logits.cpu().double()  # not every device has float64
