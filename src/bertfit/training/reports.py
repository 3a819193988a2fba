"""The result of a step: first on the device, then as a report."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bertfit.errors import TrainingError
from bertfit.modeling.transfer import (
    LateValues,
    Moment,
    count_ahead,
    seconds_between,
    stay_ahead,
)

if TYPE_CHECKING:
    from bertfit.modeling.precision import Precision


_NUM_LATEST = 9
"""Steps by whose median the length of the next ones is judged: a recording, or a step of a few
texts, is none of the others' length."""


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
    """(B,) classes predicted in the training forward pass, with dropout."""
    num_tokens: int
    """Tokens without padding."""
    num_pad_tokens: int
    max_tokens: int
    """The token budget used to split the step; lower than before if memory ran out."""
    seconds: float


_NUMBERS: dict[str, Callable[[float], Any]] = {
    **dict.fromkeys(("step", "epoch", "num_tokens", "num_pad_tokens", "max_tokens"), int),
    **dict.fromkeys(("loss", "grad_norm", "learning_rate", "seconds"), float),
}
"""The fields of a report that are one number, with their types."""


@dataclass(frozen=True, slots=True)
class TakenStep:
    """A step that was queued on the device, and may still be running."""

    make_report: Callable[..., StepReport]
    """Given what is not known yet: loss, norm, predicted classes and seconds."""
    numbers: LateValues
    """Norm and loss (2,), and predicted classes (B,)."""
    moments: tuple[Moment, Moment]
    """Start and end."""
    precision: Precision

    def read(self) -> StepReport:
        """Wait for the step and return its report.

        Raises:
            NonFiniteLossError: Loss or gradient is not finite; the step changed no weight.
        """
        (grad_norm, loss), predicted_ids = self.numbers.wait()
        report = self.make_report(
            loss=float(loss),
            grad_norm=float(grad_norm),
            predicted_ids=predicted_ids,
            seconds=seconds_between(*self.moments),
        )
        if not (math.isfinite(report.loss) and math.isfinite(report.grad_norm)):
            raise NonFiniteLossError(report, self.precision)
        return report


def read_steps(
    steps: Iterator[TakenStep],
    device: torch.device,
    *,
    is_over: Callable[[], bool] = lambda: False,
) -> Iterator[StepReport]:
    """Yield the report of each step; on a GPU, once more steps are queued.

    Args:
        steps: From `loop.train_steps`.
        device: Device that takes them.
        is_over: Called before each further step; once it returns True, no more are taken.

    Raises:
        NonFiniteLossError: Loss or gradient of a step is not finite.
    """
    latest = deque[float](maxlen=_NUM_LATEST)

    def num_ahead() -> int:
        return count_ahead(statistics.median(latest) if latest else math.inf)

    for step in stay_ahead(steps, device, is_over=is_over, num_ahead=num_ahead):
        report = step.read()
        latest.append(report.seconds)
        yield report


def join_reports(reports: Sequence[StepReport]) -> dict[str, np.ndarray]:
    """Return reports as arrays by name, for `split_reports`: (S,) numbers, (S·B,) rows."""
    numbers = {
        name: np.array([getattr(report, name) for report in reports], np.float64)
        for name in _NUMBERS
    }
    rows = {
        name: np.concatenate([np.zeros(0, np.int64), *(getattr(one, name) for one in reports)])
        for name in ("indices", "predicted_ids")
    }
    sizes = np.array([len(report.indices) for report in reports], np.int64)
    return {**numbers, **rows, "sizes": sizes}


def split_reports(arrays: Mapping[str, np.ndarray]) -> list[StepReport]:
    """Return the reports that `join_reports` made arrays of."""
    ends = np.cumsum(arrays["sizes"])[:-1]
    indices, predicted_ids = (np.split(arrays[name], ends) for name in ("indices", "predicted_ids"))
    return [
        StepReport(
            indices=indices[place],
            predicted_ids=predicted_ids[place],
            **{name: kind(arrays[name][place]) for name, kind in _NUMBERS.items()},
        )
        for place in range(len(arrays["sizes"]))
    ]


class NonFiniteLossError(TrainingError):
    """A loss or a gradient became infinite or not a number; `indices` are the step's rows."""

    def __init__(self, report: StepReport, precision: Precision) -> None:
        """Keep the rows, so that their lines in the file can be named."""
        super().__init__(
            f"training stopped at step {report.step + 1} (epoch {report.epoch + 1}): "
            f"loss {report.loss}, gradient norm {report.grad_norm}",
            hint=f"{advise_smaller_steps(precision)}, and look at the rows named.",
        )
        self.indices = report.indices


def advise_smaller_steps(precision: Precision) -> str:
    """Return what to do about numbers that became infinite, without a full stop."""
    if precision.dtype_name == "float32":
        return "Lower learning_rate"
    return "Lower learning_rate, or train with --dtype float32"
