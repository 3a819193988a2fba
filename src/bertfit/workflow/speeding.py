"""Measures the speed of a training before it starts, and decides whether layers are compiled.

If passes are recorded or layers compiled, the speed without that is measured too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from bertfit.config import ResolvedSettings
from bertfit.modeling.compilation import cannot_compile, plan_compilation
from bertfit.modeling.fast_path import plan_operators_of
from bertfit.modeling.packing import takes_packs
from bertfit.modeling.plan import Plan
from bertfit.modeling.soundness import UNFIT, explain_failure
from bertfit.progress import Listener
from bertfit.training.measuring import SpeedEstimate, measure_speed
from bertfit.wording import format_count, format_seconds
from bertfit.workflow.preparing import PreparedModel


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """The measured speed, and the decision based on it."""

    speed: SpeedEstimate
    """Speed at which the training will run."""
    compilation: Plan
    as_written: SpeedEstimate
    """Speed with neither compilation nor recording."""

    def to_json(self) -> dict[str, Any]:
        """Return the entries of bertfit.json."""
        compiled = self.compilation.is_on
        return {
            "tokens_per_second": round(self.speed.tokens_per_second, 1),
            "compile": str(self.compilation),
            "cold_start_seconds": round(self.speed.first_step_seconds, 1) if compiled else None,
            "tokens_per_second_as_written": round(self.as_written.tokens_per_second, 1),
        }


def settle_speed(
    resolved: ResolvedSettings, model: PreparedModel, *, listener: Listener
) -> tuple[ResolvedSettings, MeasuredSpeed]:
    """Measure the speed, decide whether to compile, and note how long the training will take.

    Raises:
        ConfigError: Compiling was asked for and failed.
        ModelError: The model cannot be computed in the type of the training.
    """
    asked, precision = resolved.settings.compile, model.classifier.precision
    as_written = uncompiled = _measure(resolved, model, compiled=False)
    if uncompiled.recording.is_on:
        as_written = _measure(resolved, model, compiled=False, recorded=False)
        listener.note(
            f"Recording: {uncompiled.recording}. {uncompiled.tokens_per_second:,.0f} tokens a "
            f"second; without it, and with torch's AdamW, {as_written.tokens_per_second:,.0f}."
        )
    elif precision.device.type == "cuda":
        listener.note(f"Recording: {uncompiled.recording}.")
    plan = plan_compilation(
        precision.device,
        asked,
        packs=takes_packs(model.classifier.model),
        has_operators=resolved.settings.fast_path == "auto"
        and plan_operators_of(model.classifier.model, precision).is_on,
        train_seconds=uncompiled.train_seconds,
    )
    speed = uncompiled
    if plan.is_on:
        plan, speed = _measure_compiled(resolved, model, plan=plan, uncompiled=uncompiled)
    if plan.is_on:
        listener.note(
            f"Compiling: {plan}. The first step took {format_seconds(speed.first_step_seconds)}, "
            f"then {speed.tokens_per_second:,.0f} tokens a second; without, "
            f"{uncompiled.tokens_per_second:,.0f}."
        )
    elif precision.device.type != "cpu" or asked != "auto":
        listener.note(f"Compiling: {plan}.")
    assert resolved.settings.epochs is not None  # settled by now
    epochs = format_count(resolved.settings.epochs, "epoch")
    further = (
        " Batches of other lengths may be compiled anew, which adds to it." if plan.is_on else ""
    )
    listener.note(
        f"Training {epochs} will take about {format_seconds(speed.train_seconds)} "
        f"(measured here: {speed.tokens_per_second:,.0f} tokens a second).{further}"
    )
    if asked == "auto":
        state = "on" if plan.is_on else "off"
        resolved = resolved.settle(
            "compile", state, origin=f"{resolved.origins['compile']}: {plan.reason}"
        )
    return resolved, MeasuredSpeed(speed, plan, as_written)


def _measure(
    resolved: ResolvedSettings, model: PreparedModel, *, compiled: bool, recorded: bool = True
) -> SpeedEstimate:
    settings = dataclasses.replace(resolved.settings, compile="on" if compiled else "off")
    if not recorded:  # on a GPU, this turns off recording and the Triton kernels of AdamW
        settings = dataclasses.replace(settings, fast_path="off")
    classifier, precision = model.classifier, model.classifier.precision
    # The first steps in this type: FNet's Fourier transform, for one, has none in bfloat16.
    hint = f"It was computed in {precision.dtype_name}. Try --dtype float32."
    if precision.dtype_name == "float32":
        hint = UNFIT
    with explain_failure(settings.model, hint=hint):
        return measure_speed(classifier.model, model.train, settings=settings, precision=precision)


def _measure_compiled(
    resolved: ResolvedSettings,
    model: PreparedModel,
    *,
    plan: Plan,
    uncompiled: SpeedEstimate,
) -> tuple[Plan, SpeedEstimate]:
    """Measure with compiled layers; if torch cannot compile them, turn it off, or raise."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        return plan, _measure(resolved, model, compiled=True)
    except TorchDynamoException as error:
        # The first line may name only the backend; the next then has the cause.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = f"torch failed to compile: {' '.join(lines[:2])}"
        if resolved.settings.compile == "on":
            raise cannot_compile(why) from error
        torch._dynamo.reset()  # noqa: SLF001 (torch has no other way to reset after a failure)
        return Plan(is_on=False, reason=why), uncompiled
