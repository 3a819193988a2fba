"""The weights in training: float32 masters, the working copies that compute, and the update.

Owns the path from gradients to new weights: the gradients of all micro-batches are summed in
float32, clipped by their global norm and given to AdamW; the updated weights are copied to the
working copies.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from bertfit.modeling.compilation import compile_layers, undo_compiling
from bertfit.modeling.fast_path import copy_for_work, give_up_copy
from bertfit.modeling.gradients import keep_master
from bertfit.modeling.graphs import GraphRecorder
from bertfit.modeling.kernels.launching import find_kernel_obstacle
from bertfit.training.compiled_adamw import CompiledAdamW, compile_step
from bertfit.training.embedding_rows import EmbeddingRows
from bertfit.training.gpu_embedding_rows import GpuEmbeddingRows
from bertfit.training.optimization import TorchAdamW, build_optimizer
from bertfit.training.recorded_passes import RecordedPasses, plan_passes
from bertfit.training.step_trial import find_step_fault
from bertfit.training.triton_adamw import TritonAdamW, can_launch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from bertfit.config import TrainSettings
    from bertfit.modeling.plan import Plan
    from bertfit.modeling.precision import Precision
    from bertfit.training.optimization import Pair


_LEAST_ON_GPU = 2**24
"""Numbers of an embedding table whose rows a GPU updates separately. For 23 million (BERT-base) an
H100 saves 0.37 ms a step; for fewer, sorting the tokens may cost the CPU more than that."""


_GROWING = {"rows.momentum_since", "rows.epsilon_since", "rows.log_decay", "rows.history"}
"""Parts of a state that are longer after more steps."""


class TrainedWeights:
    """A model's float32 weights, and its working copy if the computation uses another dtype."""

    def __init__(
        self, model: PreTrainedModel, settings: TrainSettings, precision: Precision
    ) -> None:
        """Take over `model`; `release` gives it back with its new weights, in evaluation mode.

        `settings.compile` of "auto" means off here; the caller decides by the training's length.
        """
        self.masters = model
        self.working = copy_for_work(model, precision)
        if settings.compile == "on":
            compile_layers(self.working)
        self._max_grad_norm = settings.max_grad_norm
        trained = _pair_trained(model, self.working)
        launches = settings.fast_path == "auto" and can_launch(trained)
        self.kernel_fault: str | None = None
        """Why AdamW's kernels are not used here, although they fit."""
        if launches:
            width = _find_width_on_gpu(model)
            has_copies = self.working is not model
            self.kernel_fault = find_step_fault(
                precision.device, has_copies=has_copies, width=width
            )
            launches = self.kernel_fault is None
        self._rows = _take_embedding_rows(
            self.masters,
            self.working,
            settings,
            precision,
            on_gpu=launches and len(trained) > 1,  # others are updated with them
        )
        row_weights = {id(model.get_input_embeddings().weight)} if self._rows else set()
        self._dense = [pair for pair in trained if id(pair[0]) not in row_weights]
        optimizer = build_optimizer(model, settings, leave_out=row_weights)
        on_gpu = self._rows if isinstance(self._rows, GpuEmbeddingRows) else None
        quick: TritonAdamW | CompiledAdamW | None = None
        if launches:
            quick = TritonAdamW(self._dense, optimizer, on_gpu)
        elif settings.fast_path == "auto":
            quick = compile_step(self._dense, optimizer)
        self._optimizer = quick or TorchAdamW(self._dense, optimizer)
        # A float, as AdamW's fused step expects; 1 makes the step a no-op.
        self._halted = torch.zeros((), device=precision.device)
        self._hooks = []
        if self.working is not model:
            self._hooks = [_add_gradients_to(master, work) for master, work in self._dense]
        self._recording = plan_passes(self.working, settings, precision)
        self.recorded: RecordedPasses | None = None
        if self._recording.is_on:
            self.recorded = RecordedPasses(
                self.working,
                trained,
                precision=precision,
                plan=self._recording,
                recorder=GraphRecorder(precision.device),
                sorts=on_gpu is not None,
            )

    @property
    def recording(self) -> Plan:
        """Whether passes are recorded, and why."""
        return self._recording if self.recorded is None else self.recorded.plan

    def tell_faults(self) -> list[str]:
        """Return a sentence on each kernel that fits, but is not used because its trial failed."""
        told = []
        if self.kernel_fault is not None:
            told.append(f"AdamW: torch's own, not the kernels; {self.kernel_fault}.")
        if self.recorded is not None and self.recorded.batch_fault is not None:
            told.append(
                "Weight gradients: of one layer at a time, not of several at once; "
                f"{self.recorded.batch_fault}."
            )
        return told

    def prepare(self, token_ids: np.ndarray) -> None:
        """Bring the embeddings of these token ids (any shape) up to date before they are read."""
        if self._rows is not None:
            self._rows.catch_up(torch.from_numpy(np.unique(token_ids)))

    def collect(self, loss: torch.Tensor) -> torch.Tensor:
        """Clip the collected gradients to `max_grad_norm`; halt if they or the loss are not finite.

        Once halted, neither this step nor a later one changes a weight; the device decides it.

        Args:
            loss: () of this step, on the device.

        Returns:
            (2,) norm of the gradients before clipping, and the loss; on the device.
        """
        if isinstance(self._optimizer, TritonAdamW):
            norm_and_loss = self._optimizer.measure_norm(loss, halted=self._halted)
            self._optimizer.clip(self._max_grad_norm, norm_and_loss[0])
            return norm_and_loss
        norm = self._optimizer.measure_norm()
        if isinstance(self._rows, EmbeddingRows):  # on a CPU, reading a number costs nothing
            both = math.hypot(float(norm), self._rows.gather_gradient())
            self._rows.scale_gradient(min(1.0, self._max_grad_norm / (both + 1e-6)))
            norm = torch.tensor(both, dtype=torch.float64)
        self._optimizer.clip(self._max_grad_norm, norm)
        self._halted.logical_or_((loss + norm).isfinite().logical_not())
        return torch.stack([norm, loss])

    def update(self, learning_rate: float) -> None:
        """Take one step of AdamW with the gradients that `collect` clipped."""
        self._optimizer.step(learning_rate, halted=self._halted)
        if isinstance(self._rows, EmbeddingRows) and not self._halted:
            self._rows.update(learning_rate)
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Discard the gradients; the weights stay."""
        for master, work in self._dense:
            master.grad = work.grad = None
        if self._rows is not None:
            self._rows.drop_gradient()

    def forget_recorded(self) -> bool:
        """Stop recording because memory ran out; return whether that frees any."""
        return self.recorded is not None and self.recorded.forget()

    @property
    def kind(self) -> str:
        """What computes the updates; a state fits only the kind that it came from."""
        parts = (self._optimizer, self._rows)
        return " and ".join(type(part).__name__ for part in parts if part is not None)

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that later steps depend on, apart from random numbers, by name.

        The tensors are those in use, not copies. Rows of the embeddings that are not up to date
        stay so: a training whose state was saved takes the same steps as one whose state was not.
        """
        parts: dict[str, Mapping[str, torch.Tensor]] = {
            "weight": dict(self.masters.named_parameters()),
            "buffer": dict(self.masters.named_buffers()),
            "adamw": self._optimizer.state(),
            "rows": {} if self._rows is None else self._rows.state(),
        }
        return {
            f"{part}.{name}": tensor.detach()
            for part, named in parts.items()
            for name, tensor in named.items()
        }

    def set_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` returned for the same model and `kind`, before the first step.

        Raises:
            KeyError: A part is missing.
            ValueError: A part is of another type or shape.
        """
        own = self.state()
        for name, tensor in own.items():
            known = state[name]
            if known.dtype != tensor.dtype or known.shape != tensor.shape:
                is_free = name in _GROWING and known.dtype == tensor.dtype
                if not is_free or known.shape[1:] != tensor.shape[1:]:
                    message = f"{name} is {known.dtype} of shape {tuple(known.shape)}"
                    raise ValueError(message)
        with torch.no_grad():
            for name, tensor in own.items():
                if name.startswith(("weight.", "buffer.")):
                    tensor.copy_(state[name])
            for master, work in zip(
                self.masters.parameters(), self.working.parameters(), strict=True
            ):
                if work is not master:
                    work.copy_(master)
        self._optimizer.set_state(pick(state, "adamw."))
        if self._rows is not None:
            self._rows.set_state(pick(state, "rows."))

    def settle(self) -> None:
        """Bring every weight up to date, before validation or saving."""
        if self._rows is not None:
            self._rows.catch_up_all()

    def release(self) -> None:
        """Bring every weight up to date, and leave an ordinary model, in evaluation mode."""
        self.settle()
        self.masters.eval()
        self.drop_gradients()
        self._recording, self.recorded = self.recording, None
        undo_compiling(self.working)
        for hook in self._hooks:
            hook.remove()
        for master, work in self._dense:
            keep_master(work, None)
            # Some steps write through raw pointers, which autograd's version counter misses.
            torch.autograd.graph.increment_version(master)
        if self._rows is not None:
            self._rows.release()
        if self.working is not self.masters:
            give_up_copy(self.working)


def updates_read_rows(num_numbers: int, device: torch.device) -> bool:
    """Return whether a step updates only those rows of the token embeddings that it reads.

    So it is with the fast path, unless the table is shared or of a special kind.

    Args:
        num_numbers: Numbers in the table.
        device: Device of the training.
    """
    if device.type != "cuda":
        return device.type == "cpu"
    return num_numbers >= _LEAST_ON_GPU and find_kernel_obstacle(device) is None


def pick(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def _add_gradients_to(
    master: torch.nn.Parameter, work: torch.nn.Parameter
) -> torch.utils.hooks.RemovableHandle:
    """Add each gradient of `work` to that of `master` in float32, as soon as it is computed."""

    def move(parameter: torch.Tensor) -> None:
        if parameter.grad is None:  # a compiled operator has already added it to the master's
            return
        if master.grad is None:
            master.grad = parameter.grad.to(master.dtype)
        else:
            master.grad += parameter.grad
        parameter.grad = None

    # For operators that set no gradient of `work`. A recording on a GPU needs a fixed address.
    keep_master(work, master, stays=master.is_cuda)
    handle: torch.utils.hooks.RemovableHandle = work.register_post_accumulate_grad_hook(move)
    return handle


def _pair_trained(masters: PreTrainedModel, working: PreTrainedModel) -> list[Pair]:
    """Return each trained weight with its copy, or with itself."""
    pairs = zip(masters.parameters(), working.parameters(), strict=True)
    return [(master, work) for master, work in pairs if master.requires_grad]


def _take_embedding_rows(
    masters: PreTrainedModel,
    working: PreTrainedModel,
    settings: TrainSettings,
    precision: Precision,
    *,
    on_gpu: bool,
) -> EmbeddingRows | GpuEmbeddingRows | None:
    """Return row-wise updates of the token embeddings, or None if slower or impossible."""
    master, work = masters.get_input_embeddings(), working.get_input_embeddings()
    if settings.fast_path == "off" or precision.device.type not in {"cpu", "cuda"}:
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
    if precision.device.type == "cpu":
        return EmbeddingRows(table, work, weight_decay=settings.weight_decay)
    if not on_gpu or _find_width_on_gpu(masters) is None:
        return None
    return GpuEmbeddingRows(table, work, weight_decay=settings.weight_decay)


def _find_width_on_gpu(model: PreTrainedModel) -> int | None:
    """Return the numbers per row of the token embeddings if a GPU may update them by rows."""
    weight = getattr(model.get_input_embeddings(), "weight", None)
    return weight.shape[1] if weight is not None and weight.numel() >= _LEAST_ON_GPU else None
