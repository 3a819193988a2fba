"""Plugs faster parts into transformers' encoder modules.

Decides which families get which parts, and makes the working copy of the model.
tests/modeling/test_fast_path.py checks each part against the plain module.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from bertfit.modeling import attention
from bertfit.modeling.dropout import exchange_dropout
from bertfit.modeling.first_token import can_shorten, shorten_last_layer
from bertfit.modeling.forward import keep_exact
from bertfit.modeling.forwards import restore_forwards, restore_when_dropped
from bertfit.modeling.kernels.exchange import exchange_layers, find_kernel_fault
from bertfit.modeling.kernels.launching import find_kernel_obstacle
from bertfit.modeling.kernels.parts import HEAD_SIZES, KERNEL_FAMILIES, join_projections
from bertfit.modeling.operators.exchange import exchange_modules
from bertfit.modeling.operators.loading import get_operators, plan_operators
from bertfit.modeling.packing import LAST_BEFORE_HEAD, takes_packs
from bertfit.modeling.plan import Plan
from bertfit.modeling.small_embeddings import exchange_small_embeddings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from bertfit.modeling.precision import Precision

ATTENTION_FAMILIES = frozenset(LAST_BEFORE_HEAD)
"""Values of `config.model_type` whose attention uses transformers' registry and is bidirectional;
that of decoders uses it too, but would need a causal mask."""

_Module = TypeVar("_Module", bound=torch.nn.Module)


@dataclass(frozen=True, slots=True)
class FastPath:
    """Readable descriptions of what was plugged in."""

    attention: str
    dropout: str
    last_layer: str
    is_whole: bool
    """False if a part was left as transformers has it."""


def plan_fast_path(config: PretrainedConfig, device: torch.device) -> FastPath:
    """Describe what `plug_in` would do."""
    is_short = device.type in {"cpu", "cuda"} and can_shorten(config)
    last_layer = "the first token, which the head reads" if is_short else "every token"
    if device.type != "cpu":
        of_packs = "; of packs see Packing" if device.type == "cuda" else ""
        own = f"transformers' own{of_packs}"
        return FastPath(own, "torch's own", last_layer, is_whole=False)
    takes_attention = config.model_type in ATTENTION_FAMILIES
    own = f"transformers' own ({config.model_type} does not take another)"
    return FastPath(
        "bertfit's" if takes_attention else own,
        "16 random bits per element",
        last_layer,
        is_whole=takes_attention,
    )


def plug_in(model: PreTrainedModel, device: torch.device) -> FastPath:
    """Plug the fast parts for `device` into `model`; parts that do not fit stay as they are.

    The model's outputs are the same up to rounding, and its saved files the same to the byte.
    """
    plan = plan_fast_path(model.config, device)
    if plan.is_whole:
        attention.register()
        model.set_attn_implementation(attention.NAME)
    if device.type == "cpu":
        exchange_dropout(model)
        exchange_modules(model)
    if device.type == "cuda":
        exchange_layers(model)
    if device.type in {"cpu", "cuda"}:
        exchange_small_embeddings(model, device)
        shorten_last_layer(model)
    restore_when_dropped(model)
    return plan


def plan_operators_for(config: PretrainedConfig, precision: Precision) -> Plan:
    """Return whether such a model would use custom operators, and why.

    They are in C++ on a CPU, where this builds none, and in Triton on a CUDA GPU.
    """
    if is_for_operators(precision):
        return plan_operators()
    if precision.device.type != "cuda" or precision.weight_dtype != torch.bfloat16:
        return Plan(is_on=False, reason="they are for bfloat16 on a CPU or a CUDA GPU")
    obstacle = find_kernel_obstacle(precision.device)
    if obstacle is not None:
        return Plan(is_on=False, reason=obstacle)
    if config.model_type not in KERNEL_FAMILIES:
        return Plan(is_on=False, reason=f"there are none for a layer of {config.model_type}")
    head_size = config.hidden_size // config.num_attention_heads
    if head_size not in HEAD_SIZES:
        return Plan(is_on=False, reason=f"there are none for heads of {head_size} numbers")
    return Plan(is_on=True, reason="a layer of a pack as one function, by Triton's kernels")


def plan_operators_of(model: PreTrainedModel, precision: Precision) -> Plan:
    """Return whether custom operators compute the layers of a set-up model, and why."""
    plan = plan_operators_for(model.config, precision)
    if precision.device.type != "cuda" or not plan.is_on:
        return plan
    if not takes_packs(model):
        return Plan(is_on=False, reason="texts are not packed")
    fault = find_kernel_fault(model, device=precision.device)
    return plan if fault is None else Plan(is_on=False, reason=fault)


def takes_operators(model: PreTrainedModel, precision: Precision) -> bool:
    """Return whether compiled operators would compute attention, and so most of a layer."""
    is_plugged_in = getattr(model.config, "_attn_implementation", None) == attention.NAME
    return is_plugged_in and is_for_operators(precision)


def is_compiled(model: PreTrainedModel, precision: Precision) -> bool:
    """Return whether compiled operators do compute it, that is, are also loaded."""
    return takes_operators(model, precision) and get_operators() is not None


def is_for_operators(precision: Precision) -> bool:
    """Return whether the compiled operators support this device and dtype."""
    return precision.device.type == "cpu" and precision.weight_dtype == torch.bfloat16


def copy_for_work(model: _Module, precision: Precision) -> _Module:
    """Return the model with weights in the working dtype: itself, or a copy.

    Casting the weights once is cheaper than casting them for every product, as autocast does.
    Buffers keep their dtype: the frequencies of rotary positions, for example, must not be rounded.
    """
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if dtypes == {precision.weight_dtype}:
        return model
    working = copy.deepcopy(model)
    for parameter in working.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(precision.weight_dtype)
    keep_exact(model, working)
    if precision.device.type == "cuda":
        join_projections(working)
    restore_when_dropped(working)
    return working


def give_up_copy(working: torch.nn.Module) -> None:
    """Unplug a working copy that is no longer used, so that its memory is freed at once.

    An error may still refer to it; and a GPU whose memory runs out starts no search for garbage.
    """
    restore_forwards(working.modules())
