"""The training loop: a generator that takes a step, says what happened, and does no I/O.

A step is a fixed set of rows. It is cut into micro-batches by a token budget; the loss of each is
the sum over its rows divided by the number of rows of the whole step, so the gradient is that of
the mean over the step however it was cut (dropout draws other masks, of the same distribution).
So where memory runs out, the step is taken again in smaller pieces, and comes to the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from bertfit.errors import TrainingError
from bertfit.inference.micro_batches import iter_logits
from bertfit.training.token_budget import TokenBudget

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from bertfit.data.encoding import EncodedTexts
    from bertfit.modeling.precision import Precision
    from bertfit.training.weights import TrainedWeights


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did."""

    step: int
    """0-based, counted over the whole run."""
    epoch: int
    """0-based."""
    loss: float
    """Mean cross-entropy of the step's rows, in nats."""
    grad_norm: float
    """Global norm of the gradient before clipping."""
    learning_rate: float
    indices: np.ndarray
    """(B,) the step's rows, in the order of the next field."""
    predicted_ids: np.ndarray
    """(B,) classes predicted in the forward pass of training, dropout on."""
    num_tokens: int
    """Tokens without padding."""
    num_pad_tokens: int
    max_tokens: int
    """The token budget that the step was cut by; less than before where memory ran out."""
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Encoded rows with their label ids (n,), and the id that pads them."""

    encoded: EncodedTexts
    label_ids: np.ndarray
    pad_id: int


def train_steps(
    weights: TrainedWeights,
    data: TrainingData,
    epochs: Sequence[Sequence[np.ndarray]],
    *,
    learning_rate: Callable[[int], float],
    precision: Precision,
    max_tokens: int,
) -> Iterator[StepReport]:
    """Take one optimizer step for each set of rows in each epoch, yielding a report of each.

    Args:
        weights: The model, which is put into train mode before each step, and its optimizer.
        data: What the rows of `epochs` index.
        epochs: For each epoch, the rows of each of its steps.
        learning_rate: Learning rate of a 0-based step.
        precision: Device and type of the arithmetic.
        max_tokens: Tokens per micro-batch, padding included. Where a step does not fit into a
            GPU's memory they are halved, for good, and the step is taken again.

    Raises:
        torch.OutOfMemoryError: Not even the longest row of a step fits alone.
        TrainingError: A loss or gradient is not finite; the weights are those of the step before.
    """
    step, budget = 0, TokenBudget(max_tokens)
    for epoch, steps in enumerate(epochs):
        for indices in steps:
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


def accumulate_gradients(
    model: PreTrainedModel,
    data: TrainingData,
    indices: np.ndarray,
    *,
    precision: Precision,
    max_tokens: int,
) -> tuple[float, list[tuple[np.ndarray, np.ndarray]], int, int]:
    """Add the gradient of the rows' mean loss to the parameters' `.grad`.

    Returns:
        The mean loss; (rows, predicted ids) of each micro-batch; tokens; padding tokens.
    """
    losses, predictions = [], []
    num_tokens = num_cells = 0
    for batch, logits in iter_logits(
        model,
        data.encoded,
        indices,
        max_tokens=max_tokens,
        pad_id=data.pad_id,
        precision=precision,
    ):
        targets = torch.from_numpy(data.label_ids[batch.indices]).to(logits.device)
        loss = cross_entropy(logits, targets, reduction="sum") / len(indices)
        loss.backward()
        losses.append(loss.detach())
        predictions.append((batch.indices, logits.detach().argmax(dim=1)))
        num_tokens += batch.num_tokens
        num_cells += batch.num_cells
    total = float(torch.stack(losses).sum())
    on_cpu = [(rows, predicted.cpu().numpy()) for rows, predicted in predictions]
    return total, on_cpu, num_tokens, num_cells - num_tokens


def accumulate_within_memory(
    weights: TrainedWeights,
    data: TrainingData,
    indices: np.ndarray,
    *,
    precision: Precision,
    budget: TokenBudget,
) -> tuple[float, list[tuple[np.ndarray, np.ndarray]], int, int]:
    """As `accumulate_gradients`; where a GPU's memory runs out, halve the budget and begin anew.

    The random numbers are set back as well, so the step is the one that the smaller budget gives.

    Raises:
        torch.OutOfMemoryError: Not even the longest row fits alone.
    """
    numbers = _RandomNumbers.keep(precision.device)
    longest = int(data.encoded.lengths[indices].max())
    while True:
        try:
            return accumulate_gradients(
                weights.working, data, indices, precision=precision, max_tokens=budget.tokens
            )
        except torch.OutOfMemoryError:
            if not budget.halve(longest):
                raise
        # Out of the except clause: the error held on to the tensors of the failed micro-batch.
        weights.drop_gradients()
        numbers.set_back()
        if precision.device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class _RandomNumbers:
    """The state of torch's generators, to draw the same numbers again."""

    device: torch.device
    on_cpu: torch.Tensor
    on_device: torch.Tensor | None

    @classmethod
    def keep(cls, device: torch.device) -> _RandomNumbers:
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(device, torch.get_rng_state(), on_device)

    def set_back(self) -> None:
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
) -> StepReport:
    started = time.perf_counter()
    weights.prepare(np.append(data.encoded.gather(indices), data.pad_id))
    loss, predictions, num_tokens, num_pad_tokens = accumulate_within_memory(
        weights, data, indices, precision=precision, budget=budget
    )
    grad_norm = weights.collect()
    step, epoch, rate = place
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        weights.drop_gradients()
        raise NonFiniteLossError(step, epoch=epoch, loss=loss, grad_norm=grad_norm, indices=indices)
    weights.update(rate)
    return StepReport(
        step=step,
        epoch=epoch,
        loss=loss,
        grad_norm=grad_norm,
        learning_rate=rate,
        indices=np.concatenate([rows for rows, _ in predictions]),
        predicted_ids=np.concatenate([predicted for _, predicted in predictions]),
        num_tokens=num_tokens,
        num_pad_tokens=num_pad_tokens,
        max_tokens=budget.tokens,
        seconds=time.perf_counter() - started,
    )


class NonFiniteLossError(TrainingError):
    """A loss or a gradient became infinite or not a number; `indices` are the step's rows."""

    def __init__(
        self, step: int, *, epoch: int, loss: float, grad_norm: float, indices: np.ndarray
    ) -> None:
        """Keep the rows, for the trainer to name their lines in the file."""
        super().__init__(
            f"training stopped at step {step + 1} (epoch {epoch + 1}): "
            f"loss {loss}, gradient norm {grad_norm}",
            hint="Lower learning_rate, or train with --dtype float32, and look at the rows named.",
        )
        self.indices = indices
