"""Work recorded once as a CUDA graph, and done again without the CPU naming every kernel.

A step of a few thousand tokens is over on a fast GPU before the CPU has queued its thousand small
pieces of work. A graph holds them all, and one call does them again, on the numbers that the same
tensors hold by then.

Source: torch's notes on CUDA graphs (semantics, "whole-network capture").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from bertfit.modeling.plan import Plan

Work: TypeAlias = Callable[[], None]
"""Reads some tensors and writes to others, the same ones at every call."""
Record: TypeAlias = Callable[[Work], Work]
"""Takes work that was done once before, and returns what does it again."""


def plan_recording(device: torch.device, *, packs: bool, fast_path: bool = True) -> Plan:
    """Decide about recording a training's passes.

    Args:
        device: Where the model is trained.
        packs: Whether the model takes packs, by torch's own attention for them.
        fast_path: Whether the setting `fast_path` leaves it open.
    """
    if not fast_path:
        return Plan(is_on=False, reason="asked for")
    if device.type != "cuda":
        return Plan(is_on=False, reason="this is for a CUDA GPU")
    if not packs:
        return Plan(is_on=False, reason="texts are not packed, or torch has no kernel for it")
    return Plan(is_on=True, reason="packs of few sizes, each recorded when it comes again")


def make_recorder(device: torch.device) -> Record:
    """Return what records work of a GPU, all of it in one pool of memory.

    So no two pieces of work may run at once, and nothing that one leaves behind may be read after
    another one has run, but what lies in tensors made outside.
    """
    # torch's own stream for this is of the device that was current when it was first needed.
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def record(work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool, stream=stream):
            work()
        replay: Work = graph.replay
        return replay

    return record
