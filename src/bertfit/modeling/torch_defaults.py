"""Computes as torch does by default, whatever the caller's process has set.

bertfit is called from notebooks and services that may be inside `torch.no_grad`,
`torch.inference_mode` or `torch.autocast`, or that have another default dtype or device, and
that may fork. A model may be in training mode: `evaluating` leaves it so.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from bertfit.process_wide import ProcessWide

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def _take_float32() -> torch.dtype:
    found = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    return found


def _set_back(found: torch.dtype) -> None:
    """Set the default to what it was, unless someone has changed it since."""
    if torch.get_default_dtype() is torch.float32:
        torch.set_default_dtype(found)


_dtype = ProcessWide(_take_float32, _set_back)


@contextlib.contextmanager
def usual_torch() -> Iterator[None]:
    """Enable gradients, disable autocast, and make float32 and the CPU the defaults.

    The default dtype is one for all threads of a process: the first that needs float32 sets it, and
    the last one sets it back. How exact products of float32 are is one for all as well, and is left
    as it is: torch has two ways to set it, and none to put back what the other one had set.
    """
    _prepare_for_forks()
    device = torch.get_default_device()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_dtype.changed())
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@functools.cache
def _prepare_for_forks() -> None:
    """Let processes that are forked from this one, from now on, begin as a process should.

    A fork copies the thread that forks and none of those that OpenMP started, for which the first
    computation of the child would wait forever: it computes on one thread, as the workers of
    torch's `DataLoader` do.
    """
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


@contextlib.contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, compute without dropout and gradients; then set the model's mode back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
        if hasattr(model.base_model, "set_attention_type"):  # BigBird's short texts change it
            model.base_model.set_attention_type(model.config.attention_type)


@usual_torch()
def build_model(
    kind: type[PreTrainedModel], config: PretrainedConfig, weights: Mapping[str, torch.Tensor]
) -> PreTrainedModel:
    """Return a float32 model with these weights; the caller's random numbers go on as before."""
    with torch.random.fork_rng(devices=[]):
        model = kind(config)
    model.load_state_dict(weights)
    return model
