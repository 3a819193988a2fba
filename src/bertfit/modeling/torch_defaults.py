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
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(slots=True)
class _Dtype:
    """How many threads need float32 as the default dtype, and what the first of them found."""

    num_users: int = 0
    found: torch.dtype = torch.float32
    lock: threading.Lock = field(default_factory=threading.Lock)


_dtype = _Dtype()


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
        stack.enter_context(_float32_by_default())
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextlib.contextmanager
def _float32_by_default() -> Iterator[None]:
    with _dtype.lock:
        if _dtype.num_users == 0:
            _dtype.found = torch.get_default_dtype()
        _dtype.num_users += 1
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        with _dtype.lock:
            _dtype.num_users = max(_dtype.num_users - 1, 0)  # 0 before in a forked process
            if _dtype.num_users == 0:
                _set_back()


def _set_back() -> None:
    """Set the default to what it was, unless someone has changed it since."""
    if torch.get_default_dtype() is torch.float32:
        torch.set_default_dtype(_dtype.found)


@functools.cache
def _prepare_for_forks() -> None:
    """Let processes that are forked from this one, from now on, begin as a process should.

    A fork copies the thread that forks and none of those that OpenMP started, for which the first
    computation of the child would wait forever: it computes on one thread, as the workers of
    torch's `DataLoader` do. Nor has it the threads that may have needed another default dtype.
    """
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=_begin_anew)


def _begin_anew() -> None:
    torch.set_num_threads(1)
    if _dtype.num_users:
        _set_back()
    _dtype.num_users, _dtype.lock = 0, threading.Lock()


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
