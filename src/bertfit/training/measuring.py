"""Measurements before the first step: the speed, and the token budget of a GPU.

Both take real steps whose gradients are discarded; the model stays as it was.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from bertfit.config import TrainSettings
from bertfit.data.batching import plan_epoch
from bertfit.inference.micro_batches import TokenBudget
from bertfit.modeling.allocation import keep_freed_memory, return_cached_memory
from bertfit.modeling.packing import takes_packs
from bertfit.modeling.precision import quick_float32
from bertfit.modeling.torch_defaults import usual_torch
from bertfit.modeling.transfer import wait_for
from bertfit.training.choices import choose_epochs
from bertfit.training.loop import TrainingData, accumulate_gradients, accumulate_within_memory
from bertfit.training.token_budget import (
    DEFAULT_TOKENS,
    find_fastest_budget,
    starting_budget,
)
from bertfit.training.weights import TrainedWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.modeling.plan import Plan
    from bertfit.modeling.precision import Precision


_LEAST_SECONDS, _MOST_STEPS = 0.25, 64
"""So long are steps of a GPU timed, or so many."""


@dataclass(frozen=True, slots=True)
class SpeedEstimate:
    """Measured speed on this machine, and the time projected for the whole run."""

    tokens_per_second: float
    train_seconds: float
    first_step_seconds: float
    """Time of the first step, which includes start-up, and compilation if that is on."""
    recording: Plan
    """Whether passes were recorded, and why."""


@keep_freed_memory()
@usual_torch()
@torch.random.fork_rng(devices=[])
def measure_speed(
    model: PreTrainedModel, train: TrainingData, *, settings: TrainSettings, precision: Precision
) -> SpeedEstimate:
    """Time a few real steps, whose gradients are discarded, and project the run from them.

    This changes neither the model nor the random numbers of the training to come.
    """
    lengths = train.encoded.lengths
    steps = plan_epoch(lengths, settings.batch_size, seed=settings.seed, epoch=0)
    weights = TrainedWeights(model, settings, precision)
    on_gpu = precision.device.type == "cuda"
    num_taken = 8 if on_gpu else 4
    if on_gpu or settings.compile == "on":
        # Repeat the step of median length: the first time sets up, or compiles, for this number of
        # rows; on a GPU, the second may be recorded, and the others are queued while the GPU
        # computes, as in a training.
        median = sorted(steps, key=lambda rows: int(lengths[rows].sum()))[len(steps) // 2]
        steps = [median] * num_taken
    steps = steps[:num_taken]
    num_first = min(2 if on_gpu else 1, len(steps) - 1)  # include start-up
    budget = TokenBudget(starting_budget(settings.micro_batch_tokens))
    time_steps = functools.partial(_time_steps, weights, train, precision=precision, budget=budget)
    weights.working.train()
    if weights.recorded is not None:  # each size by now, not in the middle of what is timed
        weights.recorded.set_worth(0)
    try:
        starts = [time_steps([indices]) for indices in steps[:num_first]]
        timed = steps[num_first:]
        seconds = time_steps(timed)
        if on_gpu and seconds < _LEAST_SECONDS:
            timed = timed[:1] * count_steps_to_time(seconds / len(timed))
            seconds = time_steps(timed)
    finally:
        weights.release()
    rate = sum(int(lengths[indices].sum()) for indices in timed) / seconds
    num_epochs = choose_epochs(settings, len(lengths), num_labels=model.config.num_labels)
    num_tokens_in_all = int(lengths.sum()) * num_epochs
    first_seconds = (starts or [seconds])[0]
    return SpeedEstimate(rate, num_tokens_in_all / rate, first_seconds, weights.recording)


def count_steps_to_time(seconds: float) -> int:
    """Return how many steps of about so many seconds are timed on a GPU.

    Of the six at first, 22 ms on an H200, a single stall made the speed seem half of what it was.

    Example:
        >>> count_steps_to_time(0.004), count_steps_to_time(0.0001)
        (63, 64)
    """
    return min(_MOST_STEPS, math.ceil(_LEAST_SECONDS / max(seconds, 1e-6)))


def _time_steps(
    weights: TrainedWeights,
    train: TrainingData,
    steps: Sequence[np.ndarray],
    *,
    precision: Precision,
    budget: TokenBudget,
) -> float:
    """Take steps that change nothing, one queued after the other; return the seconds of all."""
    started = time.perf_counter()
    for indices in steps:
        weights.prepare(np.append(train.encoded.gather(indices), train.pad_id))
        made = accumulate_within_memory(weights, train, indices, precision=precision, budget=budget)
        if precision.device.type == "cuda":  # a third of a small step there; a rate of 0 is none
            weights.collect(made.loss)
            weights.update(0.0)
        weights.drop_gradients()
    wait_for(precision.device)
    return time.perf_counter() - started


@usual_torch()
@torch.random.fork_rng(devices=[])
def measure_token_budget(
    model: PreTrainedModel, train: TrainingData, *, settings: TrainSettings, precision: Precision
) -> int | None:
    """Return the budget with which the largest step of an epoch is fastest and fits into memory.

    Return None, without measuring, if the default holds every step. By default only on a GPU: on a
    CPU the default is as fast as any other (docs/performance.md).
    """
    lengths = train.encoded.lengths
    steps = plan_epoch(lengths, settings.batch_size, seed=settings.seed, epoch=0)

    def count_cells(rows: np.ndarray) -> int:  # what a budget limits
        if takes_packs(model):
            return int(lengths[rows].sum())
        return len(rows) * int(lengths[rows].max())

    largest = max(steps, key=count_cells)
    if count_cells(largest) <= DEFAULT_TOKENS:
        return None
    num_tokens = int(lengths[largest].sum())
    weights = TrainedWeights(model, settings, precision)
    weights.working.train()

    def rate_of(max_tokens: int) -> float:
        seconds = []
        for _ in range(3):  # the first includes start-up
            started = time.perf_counter()
            weights.prepare(np.append(train.encoded.gather(largest), train.pad_id))
            try:
                with quick_float32(precision.device):  # as in the training
                    accumulate_gradients(
                        weights.working, train, largest, precision=precision, max_tokens=max_tokens
                    )
                wait_for(precision.device)
            finally:
                weights.drop_gradients()
            seconds.append(time.perf_counter() - started)
        return num_tokens / min(seconds[1:])

    try:
        return find_fastest_budget(rate_of, enough=count_cells(largest))
    finally:
        weights.release()
        return_cached_memory(precision.device)
