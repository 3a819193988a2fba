"""Compiles an encoder's layers in place with torch.compile, and decides when that pays off.

One layer is compiled and the others run the same code (regional compilation). Token counts are
dynamic, so a step of another length triggers no recompilation. Attention is not compiled: in torch
it is a single operation already, and a pack's lengths would be compiled in. The keys of the state
dict do not change.

On an H100 this made steps 1.3 times as fast for ALBERT and 1.6 to 1.9 times for ModernBERT, after
12 to 17 seconds of compiling. BERT's family, whose layers use custom kernels, became slower.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

import torch

from bertfit.errors import ConfigError
from bertfit.modeling.forwards import bind_forwards
from bertfit.modeling.operators.loading import name_compiler
from bertfit.modeling.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.config import Compile

BACKEND = "inductor"
LEAST_SECONDS = 75.0
"""`auto` compiles if training would take at least this long without it. Saving a quarter of that
time, the smallest gain seen on an H100, pays for the longest compile time seen there."""

_Function = TypeVar("_Function")


def plan_compilation(
    device: torch.device,
    asked: Compile = "auto",
    *,
    packs: bool,
    has_operators: bool,
    train_seconds: float,
) -> Plan:
    """Decide whether to compile.

    Args:
        device: Device the model is trained on.
        asked: auto compiles only on a CUDA GPU, with packed texts, if training takes long enough.
        packs: Whether the model takes packs.
        has_operators: Whether custom operators compute its layers.
        train_seconds: Estimated training time without compiling.

    Raises:
        ConfigError: Compiling was requested but is not possible here.
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
    """Return why torch cannot compile for a device, or None if it can."""
    if device.type == "cpu":
        usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        compiler = name_compiler(usual)
        return None if shutil.which(compiler) else f"there is no C++ compiler {compiler!r}"
    if device.type != "cuda":
        return f"this is for a CPU or a CUDA GPU, and the device is {device.type}"
    from torch.utils._triton import has_triton

    return None if has_triton() else "torch finds no Triton that works here"


def cannot_compile(why: str) -> ConfigError:
    """Return the error to raise if compiling was requested but is not possible."""
    return ConfigError(
        f"compile: on was asked for, but {why}",
        hint="--compile off trains without; auto compiles where it can be done and pays.",
    )


def compile_layers(model: PreTrainedModel) -> int:
    """Set each layer of the encoder to be compiled on its first call; return their number.

    A last layer that computes only the first tokens is not compiled.
    """
    # Imported here because both import this module.
    from bertfit.modeling.first_token import is_short
    from bertfit.modeling.kernels.exchange import is_exchanged

    layers = [layer for layer in _find_layers(model) if not is_short(layer)]
    for layer in layers:
        if is_exchanged(layer):
            del layer.forward  # restores transformers' own forward, which is then compiled
        bind_forwards(layer.modules())
        layer.compile(dynamic=True, backend=BACKEND)
    return len(layers)


def undo_compiling(model: PreTrainedModel) -> None:
    """Make every layer run eagerly again."""
    for layer in _find_layers(model):
        layer._compiled_call_impl = None  # noqa: SLF001 (torch has no public way to undo it)


def run_as_written() -> AbstractContextManager[None]:
    """Return a context in which compiled layers run eagerly.

    Used for validation between epochs, which would need a compilation of its own.
    """
    context: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return context


def leave_out(function: _Function) -> _Function:
    """Exclude a function from compilation: compiled code calls it as it is."""
    left_out: _Function = torch.compiler.disable(function)
    return left_out


def _find_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """Return the members of the innermost module lists, which are the layers in all families."""
    lists = [
        module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList)
    ]
    return [
        layer
        for layers in lists
        for layer in layers
        if not any(isinstance(part, torch.nn.ModuleList) for part in layer.modules())
    ]
