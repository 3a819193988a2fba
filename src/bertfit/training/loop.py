"""The training loop: a generator that takes a step, reports on it, and does no I/O.

Within a step the CPU never waits for the device: `weights.TrainedWeights.collect` checks on the
device whether loss and gradient are finite, and results are fetched when they are read.

A step is a fixed set of rows. It is split into micro-batches by a token budget. The loss of each is
the sum over its rows divided by the number of rows of the whole step, so the gradient is that of
the step's mean loss however it is split (dropout masks differ, with the same distribution). If
memory runs out, the step is therefore repeated in smaller pieces, with the same result.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from bertfit.data.batching import iter_packs
from bertfit.errors import is_out_of_memory
from bertfit.inference.micro_batches import TokenBudget, iter_logits
from bertfit.modeling.allocation import return_cached_memory
from bertfit.modeling.precision import quick_float32
from bertfit.modeling.transfer import LateValues, mark_moment, to_device
from bertfit.training.reports import StepReport, TakenStep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PreTrainedModel

    from bertfit.data.batching import Batch, Pack
    from bertfit.data.encoding import EncodedTexts
    from bertfit.modeling.precision import Precision
    from bertfit.training.recorded_passes import RecordedPasses
    from bertfit.training.weights import TrainedWeights


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Encoded rows with their label ids (n,), and the id of the padding token."""

    encoded: EncodedTexts
    label_ids: np.ndarray
    pad_id: int


def train_steps(
    weights: TrainedWeights,
    data: TrainingData,
    epochs: Iterable[Sequence[np.ndarray]],
    *,
    learning_rate: Callable[[int], float],
    precision: Precision,
    max_tokens: int,
    num_taken: int = 0,
) -> Iterator[TakenStep]:
    """Take one optimizer step for each set of rows in each epoch; yield each step's result.

    If a loss or gradient is not finite, neither that step nor a later one changes any weight, and
    reading the step raises.

    Args:
        weights: The model, which is put into train mode if it is not, and its optimizer.
        data: What the rows of `epochs` index.
        epochs: For each epoch, the rows of each of its steps.
        learning_rate: Learning rate of a 0-based step.
        precision: Device and dtype of the computation.
        max_tokens: Tokens per micro-batch, padding included. If a step does not fit into
            memory, this is halved permanently and the step is repeated.
        num_taken: The first steps, which were taken earlier: they are counted, but not taken.

    Raises:
        RuntimeError: Memory ran out: not even the longest row of a step fits alone.
    """
    step, budget = 0, TokenBudget(max_tokens)
    for epoch, steps in enumerate(epochs):
        for indices in steps:
            if step < num_taken:
                step += 1
                continue
            if not weights.working.training:  # `train` visits every module, which takes a while
                weights.working.train()
            yield _take_step(
                weights,
                data,
                indices,
                precision=precision,
                budget=budget,
                place=(step, epoch, learning_rate(step)),
            )
            step += 1


@dataclass(frozen=True, slots=True)
class Accumulated:
    """Results that come with the gradient of a step's rows; tensors stay on the device."""

    loss: torch.Tensor
    """() mean cross-entropy, in nats."""
    indices: np.ndarray
    """(B,) the rows, in the order of the next field."""
    predicted_ids: torch.Tensor
    """(B,)."""
    num_tokens: int
    num_pad_tokens: int


def accumulate_gradients(
    model: PreTrainedModel,
    data: TrainingData,
    indices: np.ndarray,
    *,
    precision: Precision,
    max_tokens: int,
    recorded: RecordedPasses | None = None,
) -> Accumulated:
    """Add the gradient of the rows' mean loss to the parameters' `.grad`.

    With recorded passes, it is computed from packs and left in the `.grad` of the masters.
    """
    losses, rows, predicted = [], [], []
    num_tokens = num_cells = 0
    if recorded is None:
        passes = _iter_passes(model, data, indices, precision=precision, max_tokens=max_tokens)
    else:
        passes = _iter_recorded(recorded, data, indices, max_tokens=max_tokens)
    for batch, loss, predicted_ids, cells in passes:
        losses.append(loss)
        rows.append(batch.indices)
        predicted.append(predicted_ids)
        num_tokens += batch.num_tokens
        num_cells += cells
    is_whole = len(losses) == 1  # most steps; each launch on a GPU costs some microseconds
    return Accumulated(
        losses[0] if is_whole else torch.stack(losses).sum(),
        np.concatenate(rows),
        predicted[0] if is_whole else torch.cat(predicted),
        num_tokens,
        num_cells - num_tokens,
    )


_Passed: TypeAlias = tuple["Batch | Pack", torch.Tensor, torch.Tensor, int]
"""A micro-batch, its part of the loss (), its predicted classes, its tokens with padding."""


def _iter_passes(
    model: PreTrainedModel,
    data: TrainingData,
    indices: np.ndarray,
    *,
    precision: Precision,
    max_tokens: int,
) -> Iterator[_Passed]:
    for batch, logits in iter_logits(
        model,
        data.encoded,
        indices,
        max_tokens=max_tokens,
        pad_id=data.pad_id,
        precision=precision,
    ):
        targets = to_device(data.label_ids[batch.indices], logits.device)
        loss = cross_entropy(logits, targets, reduction="sum") / len(indices)
        loss.backward()
        yield batch, loss.detach(), logits.detach().argmax(dim=1), batch.num_cells


def _iter_recorded(
    recorded: RecordedPasses, data: TrainingData, indices: np.ndarray, *, max_tokens: int
) -> Iterator[_Passed]:
    for pack in iter_packs(data.encoded, indices, max_tokens=max_tokens):
        label_ids = data.label_ids[pack.indices]
        yield (
            pack,
            *recorded.take(pack, label_ids, num_rows=len(indices), pad_id=data.pad_id),
        )


def accumulate_within_memory(
    weights: TrainedWeights,
    data: TrainingData,
    indices: np.ndarray,
    *,
    precision: Precision,
    budget: TokenBudget,
) -> Accumulated:
    """Call `accumulate_gradients`; if memory runs out, halve the budget and start over.

    Recorded passes hold memory and are dropped first. The random state is restored too, so the step
    equals one taken with the smaller budget from the start.

    Raises:
        RuntimeError: Memory ran out: not even the longest row fits alone.
    """
    numbers = RandomNumbers.keep(precision.device)
    longest = int(data.encoded.lengths[indices].max())
    while True:
        try:
            with quick_float32(precision.device):
                return accumulate_gradients(
                    weights.working,
                    data,
                    indices,
                    precision=precision,
                    max_tokens=budget.tokens,
                    recorded=weights.recorded,
                )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not (weights.forget_recorded() or budget.halve(longest)):
                raise
        # Outside the except clause: the error kept the tensors of the failed micro-batch alive.
        weights.drop_gradients()
        numbers.set_back()
        return_cached_memory(precision.device)


@dataclass(frozen=True, slots=True)
class RandomNumbers:
    """The state of torch's random number generators, to draw the same numbers again."""

    device: torch.device
    on_cpu: torch.Tensor
    on_device: torch.Tensor | None

    @classmethod
    def keep(cls, device: torch.device) -> RandomNumbers:
        """Keep the state of the CPU's generator and, for a GPU, of the device's."""
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(device, torch.get_rng_state(), on_device)

    @classmethod
    def of(cls, device: torch.device, state: Mapping[str, torch.Tensor]) -> RandomNumbers:
        """Return what `state` returned."""
        return cls(device, state["cpu"], state.get("device"))

    def state(self) -> dict[str, torch.Tensor]:
        """Return the states (uint8) by name."""
        named = {"cpu": self.on_cpu, "device": self.on_device}
        return {name: state for name, state in named.items() if state is not None}

    def set_back(self) -> None:
        """Draw the same numbers again."""
        torch.set_rng_state(self.on_cpu)
        if self.on_device is not None:
            torch.cuda.set_rng_state(self.on_device, self.device)


def _take_step(
    weights: TrainedWeights,
    data: TrainingData,
    indices: np.ndarray,
    *,
    precision: Precision,
    budget: TokenBudget,
    place: tuple[int, int, float],
) -> TakenStep:
    started = mark_moment(precision.device)
    weights.prepare(np.append(data.encoded.gather(indices), data.pad_id))
    made = accumulate_within_memory(weights, data, indices, precision=precision, budget=budget)
    norm_and_loss = weights.collect(made.loss)
    step, epoch, rate = place
    weights.update(rate)
    moments = (started, mark_moment(precision.device))
    make_report = functools.partial(
        StepReport,
        step=step,
        epoch=epoch,
        learning_rate=rate,
        indices=made.indices,
        num_tokens=made.num_tokens,
        num_pad_tokens=made.num_pad_tokens,
        max_tokens=budget.tokens,
    )
    return TakenStep(
        make_report, LateValues.send(norm_and_loss, made.predicted_ids), moments, precision
    )
