"""Replaces the forward of single modules, so that a model is still copied, pickled and freed.

A module keeps its class, its weights and their names. What replaces its forward refers to it, in a
circle that only a search for garbage would find, so whoever drops a model restores its modules.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch


class _Forward:
    """A function with the module whose forward it is."""

    __slots__ = ("function", "module")

    def __init__(self, function: Callable[..., Any], module: torch.nn.Module) -> None:
        self.function = function
        self.module = module

    def __call__(self, *inputs: Any, **named: Any) -> Any:  # noqa: ANN401 (those of the module)
        return self.function(self.module, *inputs, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy both; a bound method would be sought in the class of the module."""
        return _rebuild, (self.function, self.module)


def _rebuild(function: Callable[..., Any], module: torch.nn.Module) -> _Forward:
    """Make the same again, perhaps in a process in which nothing was plugged in yet."""
    from bertfit.modeling import attention, packing  # both import modules that import this one

    attention.register()
    packing.register()
    return _Forward(function, module)


def replace_forward(module: torch.nn.Module, function: Callable[..., Any]) -> None:
    """Make a module call `function`, with itself as the first argument, as its forward."""
    vars(module)["forward"] = _Forward(function, module)


def find_replacement(module: torch.nn.Module) -> Callable[..., Any] | None:
    """Return the function that replaces a module's forward, or None."""
    forward = vars(module).get("forward")
    if isinstance(forward, types.MethodType):
        return forward.__func__
    return forward.function if isinstance(forward, _Forward) else None


def bind_forwards(modules: Iterable[torch.nn.Module]) -> None:
    """Make what replaces forwards methods, for torch.compile.

    It takes the code of one layer for others that have methods of the same function, and not for
    those that have other objects. Methods cannot be pickled.
    """
    for module in modules:
        forward = vars(module).get("forward")
        if isinstance(forward, _Forward):
            vars(module)["forward"] = types.MethodType(forward.function, module)


def restore_forwards(modules: Iterable[torch.nn.Module]) -> None:
    """Make modules call the forward of their class again."""
    for module in modules:
        vars(module).pop("forward", None)


def restore_when_dropped(model: torch.nn.Module) -> None:
    """Free a model as soon as nothing refers to it; a part that someone keeps computes as before.

    So a service that loads one model after another has one in memory, not several.
    """
    modules = [weakref.ref(module) for module in model.modules()]
    weakref.finalize(model, _restore_left, modules).atexit = False


def _restore_left(modules: Iterable[weakref.ref[torch.nn.Module]]) -> None:
    found = (module() for module in modules)
    restore_forwards(module for module in found if module is not None)
