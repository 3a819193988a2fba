"""An encoder's layers compiled by torch.compile, in place, and when that pays.

One layer is compiled, and the others run the same code (regional compilation); token counts are
symbols in it, so a step of another length compiles nothing. Attention stays a call: torch has it in
one operation already, and a pack's lengths would be compiled in. The state dict keeps its names.

On an H100 it made steps of ALBERT 1.3 times as quick and of ModernBERT 1.6 to 1.9 times, after 12
to 17 seconds; those of BERT's family, whose layers are kernels of our own, it made slower.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

import torch

from bertfit.errors import ConfigError
from bertfit.modeling.operators.loading import name_compiler
from bertfit.modeling.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.config import Compile

BACKEND = "inductor"
LEAST_SECONDS = 75.0
"""`auto` compiles a training that would take this long without: of them a quarter saved pays for
the start, the least and the most that were seen on an H100."""

_Function = TypeVar("_Function")


def plan_compilation(
    device: torch.device,
    asked: Compile = "auto",
    *,
    packs: bool,
    has_operators: bool,
    train_seconds: float,
) -> Plan:
    """Decide about compiling.

    Args:
        device: Where the model is trained.
        asked: auto compiles on a CUDA GPU alone, packed texts, and a training that is long enough.
        packs: Whether the model takes packs.
        has_operators: Whether operators of our own do its layers.
        train_seconds: What the training would take without.

    Raises:
        ConfigError: Compiling was asked for, and cannot be done here.
    """
    if asked == "off":
        return Plan(is_on=False, reason="asked for")
    obstacle = find_compile_obstacle(device)
    if asked == "on":
        if obstacle is not None:
            raise cannot_compile(obstacle)
        return Plan(is_on=True, reason="asked for")
    if device.type == "cpu":
        return Plan(is_on=False, reason="compiled, training was slower on a CPU")
    if obstacle is not None:
        return Plan(is_on=False, reason=obstacle)
    if not packs:
        return Plan(is_on=False, reason="texts are not packed")
    if has_operators:
        return Plan(is_on=False, reason="operators do the layers, and are quicker")
    if train_seconds < LEAST_SECONDS:
        return Plan(is_on=False, reason=f"a training of less than {LEAST_SECONDS:.0f} s")
    return Plan(is_on=True, reason=f"a training of at least {LEAST_SECONDS:.0f} s")


def find_compile_obstacle(device: torch.device) -> str | None:
    """Say why torch cannot compile for a device; None where nothing speaks against it."""
    if device.type == "cpu":
        usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        compiler = name_compiler(usual)
        return None if shutil.which(compiler) else f"there is no C++ compiler {compiler!r}"
    if device.type != "cuda":
        return f"this is for a CPU or a CUDA GPU, and the device is {device.type}"
    from torch.utils._triton import has_triton

    return None if has_triton() else "torch finds no Triton that works here"


def cannot_compile(why: str) -> ConfigError:
    """Return the error of a training that was told to compile."""
    return ConfigError(
        f"compile: on was asked for, but {why}",
        hint="--compile off trains without; auto compiles where it can be done and pays.",
    )


def compile_layers(model: PreTrainedModel) -> int:
    """Compile each layer of the encoder when it first runs; return how many that are.

    A last layer that computes the first tokens alone is left as it is.
    """
    # Both import this module.
    from bertfit.modeling.first_token import is_short
    from bertfit.modeling.kernels.exchange import is_exchanged

    layers = [layer for layer in _find_layers(model) if not is_short(layer)]
    for layer in layers:
        if is_exchanged(layer):
            del layer.forward  # back to what transformers wrote, which is to be compiled
        layer.compile(dynamic=True, backend=BACKEND)
    return len(layers)


def undo_compiling(model: PreTrainedModel) -> None:
    """Let every layer run as it was written again."""
    for layer in _find_layers(model):
        layer._compiled_call_impl = None  # noqa: SLF001 (torch has no other way back)


def run_as_written() -> AbstractContextManager[None]:
    """Return the context in which compiled layers run uncompiled.

    For validation between epochs: code for it would have to be compiled as well.
    """
    context: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return context


def leave_out(function: _Function) -> _Function:
    """Return a function that compiled code calls as it is."""
    left_out: _Function = torch.compiler.disable(function)
    return left_out


def _find_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """Return the members of the innermost lists of modules: the layers, in all families."""
    lists = [
        module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList)
    ]
    return [
        layer
        for layers in lists
        for layer in layers
        if not any(isinstance(part, torch.nn.ModuleList) for part in layer.modules())
    ]
