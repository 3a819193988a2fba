"""The result of a step: while still on the device, and as a report."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bertfit.errors import TrainingError
from bertfit.modeling.transfer import LateValues, Moment, seconds_between


@dataclass(frozen=True, slots=True, kw_only=True)
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
class TakenStep:
    """A step that the device has been given; it may still be at work on it."""

    known: Callable[..., StepReport]
    """Makes the report of what is not known yet: loss, norm, predicted classes and seconds."""
    numbers: LateValues
    """Loss (), norm () and predicted classes (B,)."""
    moments: tuple[Moment, Moment]
    """Start and end."""

    def read(self) -> StepReport:
        """Return the report, as soon as the step is done.

        Raises:
            NonFiniteLossError: Loss or gradient is not finite; the step changed no weight.
        """
        loss, grad_norm, predicted_ids = self.numbers.wait()
        report = self.known(
            loss=float(loss),
            grad_norm=float(grad_norm),
            predicted_ids=predicted_ids,
            seconds=seconds_between(*self.moments),
        )
        if not (math.isfinite(report.loss) and math.isfinite(report.grad_norm)):
            raise NonFiniteLossError(report)
        return report


class NonFiniteLossError(TrainingError):
    """A loss or a gradient became infinite or not a number; `indices` are the step's rows."""

    def __init__(self, report: StepReport) -> None:
        """Keep the rows, for the trainer to name their lines in the file."""
        super().__init__(
            f"training stopped at step {report.step + 1} (epoch {report.epoch + 1}): "
            f"loss {report.loss}, gradient norm {report.grad_norm}",
            hint="Lower learning_rate, or train with --dtype float32, and look at the rows named.",
        )
        self.indices = report.indices
