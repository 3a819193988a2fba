"""The weights in training: float32 masters, working copies that do the arithmetic, and the update.

Owns the path from gradients to new weights: the gradients of all micro-batches are summed in
float32, clipped by their global norm and given to AdamW; what it changed is copied to the working
weights.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from bertfit.modeling.compilation import compile_layers, undo_compiling
from bertfit.modeling.fast_path import copy_for_work
from bertfit.modeling.gradients import keep_master
from bertfit.modeling.graphs import GraphRecorder
from bertfit.training.compiled_adamw import compile_step
from bertfit.training.embedding_rows import EmbeddingRows
from bertfit.training.optimization import TorchAdamW, build_optimizer
from bertfit.training.recorded_passes import RecordedPasses, plan_passes
from bertfit.training.triton_adamw import launch_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.config import TrainSettings
    from bertfit.modeling.plan import Plan
    from bertfit.modeling.precision import Precision


class TrainedWeights:
    """A model's float32 weights, and its working copy where the arithmetic has another type."""

    def __init__(
        self, model: PreTrainedModel, settings: TrainSettings, precision: Precision
    ) -> None:
        """Take over `model`; `release` gives it back as it was, with its new weights.

        Of `settings.compile` auto is off here: the training's length decides before.
        """
        self.masters = model
        self.working = copy_for_work(model, precision)
        if settings.compile == "on":
            compile_layers(self.working)
        self._max_grad_norm = settings.max_grad_norm
        self._rows = _take_embedding_rows(self.masters, self.working, settings, precision)
        row_weights = {id(model.get_input_embeddings().weight)} if self._rows else set()
        self._dense = [
            (master, work)
            for master, work in zip(model.parameters(), self.working.parameters(), strict=True)
            if master.requires_grad and id(master) not in row_weights
        ]
        optimizer = build_optimizer(model, settings, leave_out=row_weights)
        quick = None
        if settings.fast_path == "auto":
            quick = compile_step(self._dense, optimizer) or launch_step(self._dense, optimizer)
        self._optimizer = quick or TorchAdamW(self._dense, optimizer)
        # A float, as the fused step of AdamW takes it: 1 where it shall do nothing.
        self._halted = torch.zeros((), device=precision.device)
        self._hooks = []
        if self.working is not model:
            self._hooks = [_add_gradients_to(master, work) for master, work in self._dense]
        self._recording = plan_passes(self.working, settings, precision)
        self.recorded: RecordedPasses | None = None
        if self._recording.is_on:
            self.recorded = RecordedPasses(
                self.working,
                self._dense,
                precision=precision,
                plan=self._recording,
                recorder=GraphRecorder(precision.device),
            )

    @property
    def recording(self) -> Plan:
        """Whether passes are recorded, and why."""
        return self._recording if self.recorded is None else self.recorded.plan

    def prepare(self, token_ids: np.ndarray) -> None:
        """Bring the embeddings of these token ids, any shape, up to date before they are read."""
        if self._rows is not None:
            self._rows.catch_up(torch.from_numpy(np.unique(token_ids)))

    def collect(self) -> torch.Tensor:
        """Clip the gradients collected so far to `max_grad_norm`; return their norm () before."""
        norm = self._optimizer.measure_norm()
        if self._rows is not None:  # on a CPU, where a number costs nothing to look at
            both = math.hypot(float(norm), self._rows.gather_gradient())
            self._rows.scale_gradient(min(1.0, self._max_grad_norm / (both + 1e-6)))
            norm = torch.tensor(both, dtype=torch.float64)
        self._optimizer.clip(self._max_grad_norm, norm)
        return norm

    def update(self, learning_rate: float, *, is_finite: torch.Tensor) -> None:
        """Take one step of AdamW with the gradients that `collect` clipped.

        Args:
            learning_rate: Of this step.
            is_finite: () bool on the device: whether loss and gradient are. Once they were not,
                no step changes a weight any more; the device decides that by itself.
        """
        self._halted.logical_or_(is_finite.logical_not())
        self._optimizer.step(learning_rate, halted=self._halted)
        if self._rows is not None and not self._halted:
            self._rows.update(learning_rate)
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget the gradients; the weights stay."""
        for master, work in self._dense:
            master.grad = work.grad = None
        if self._rows is not None:
            self._rows.drop_gradient()

    def forget_recorded(self, reason: str) -> bool:
        """Record no more; return whether that leaves memory which was held."""
        return self.recorded is not None and self.recorded.forget(reason)

    def settle(self) -> None:
        """Bring every weight up to date, for whoever reads them all: validation, saving."""
        if self._rows is not None:
            self._rows.catch_up_all()

    def release(self) -> None:
        """Settle, and leave the model as an ordinary one."""
        self.settle()
        self.drop_gradients()
        self._recording, self.recorded = self.recording, None
        undo_compiling(self.working)
        for hook in self._hooks:
            hook.remove()
        for master, work in self._dense:
            keep_master(work, None)
            # Some steps write by address, which autograd's count of changes does not see.
            torch.autograd.graph.increment_version(master)
        if self._rows is not None:
            self._rows.release()


def _add_gradients_to(
    master: torch.nn.Parameter, work: torch.nn.Parameter
) -> torch.utils.hooks.RemovableHandle:
    """Add each gradient of `work` to that of `master` in float32, as soon as it is there."""

    def move(parameter: torch.Tensor) -> None:
        if parameter.grad is None:  # a compiled operator has added it to the master's already
            return
        if master.grad is None:
            master.grad = parameter.grad.to(master.dtype)
        else:
            master.grad += parameter.grad
        parameter.grad = None

    # For those that make no gradient of `work`. What is recorded on a GPU writes to one place.
    keep_master(work, master, stays=master.is_cuda)
    handle: torch.utils.hooks.RemovableHandle = work.register_post_accumulate_grad_hook(move)
    return handle


def _take_embedding_rows(
    masters: PreTrainedModel,
    working: PreTrainedModel,
    settings: TrainSettings,
    precision: Precision,
) -> EmbeddingRows | None:
    """Return the update of the token embeddings by rows, where that is quicker and possible."""
    master, work = masters.get_input_embeddings(), working.get_input_embeddings()
    if settings.fast_path == "off" or precision.device.type != "cpu":
        return None
    if type(master) is not torch.nn.Embedding or not master.weight.requires_grad:
        return None
    num_owners = sum(
        parameter is master.weight
        for module in masters.modules()
        for parameter in module.parameters(recurse=False)
    )
    if num_owners != 1 or master.max_norm is not None or master.scale_grad_by_freq:
        return None
    table = master.weight
    assert isinstance(table, torch.nn.Parameter)
    assert isinstance(work, torch.nn.Embedding)  # a copy of `master`, or itself
    return EmbeddingRows(table, work, weight_decay=settings.weight_decay)
