"""Calibration folded into a model: the layer that gives the logits is found and rescaled.

A model that was folded gives calibrated logits to whoever loads it. Which layer that is depends on
the family; instead of names, behaviour decides: rescaling the layer must rescale the logits, and
the model is asked whether it does.

Shapes: T tokens, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

_TOLERANCE = 1e-3
"""Of probed logits, as a share of the largest: room for the rounding of any device."""


def find_logit_layer(model: PreTrainedModel, token_ids_T: np.ndarray) -> str | None:
    """Return the name of the linear layer whose outputs are the logits, or None.

    Args:
        model: A sequence classifier; left as it was.
        token_ids_T: Token ids of any text, special tokens included, to try the model with.
    """
    with _in_eval_mode(model), torch.no_grad():
        called = _find_called_layers(model, token_ids_T)
        plain_C = _give_logits(model, token_ids_T)
        for name in reversed(called):
            layer = model.get_submodule(name)
            assert isinstance(layer, torch.nn.Linear)
            if _decides_logits(model, layer, token_ids_T, plain_C):
                return name
    return None


def has_bias(model: PreTrainedModel, layer_name: str) -> bool:
    """Return whether the layer adds a bias, and so can shift logits."""
    return model.get_submodule(layer_name).bias is not None


def fold_scaling(
    model: PreTrainedModel, layer_name: str, *, weights: Sequence[float], biases: Sequence[float]
) -> None:
    """Change the layer so that each logit becomes weights[c] · logit + biases[c].

    Args:
        model: A sequence classifier, changed in place.
        layer_name: As `find_logit_layer` returns it.
        weights: C factors.
        biases: C summands; all 0 for a layer without a bias.
    """
    layer = model.get_submodule(layer_name)
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        _rescale(layer, torch.tensor(weights), torch.tensor(biases))


def _find_called_layers(model: PreTrainedModel, token_ids_T: np.ndarray) -> list[str]:
    """Return the linear layers of C outputs, in the order in which they are called."""
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
    """Rescale each output by another factor, look at the logits, and put the layer back."""
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
    """Scale and shift the outputs of a layer, computing in float64, which only CPUs surely have."""
    weights_C, biases_C = weights_C.double(), biases_C.double()
    layer.weight.copy_(layer.weight.cpu().double() * weights_C[:, None])
    if layer.bias is not None:
        layer.bias.copy_(layer.bias.cpu().double() * weights_C + biases_C)


def _give_logits(model: PreTrainedModel, token_ids_T: np.ndarray) -> torch.Tensor:
    """Return logits_C of one text in the type of the weights, as float64 on the CPU."""
    device = next(model.parameters()).device
    token_ids = torch.as_tensor(token_ids_T, dtype=torch.int64, device=device)
    logits: torch.Tensor = model(input_ids=token_ids[None]).logits[0]
    return logits.double().cpu()


@contextlib.contextmanager
def _in_eval_mode(model: PreTrainedModel) -> Iterator[Any]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
