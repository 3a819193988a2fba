"""Forward and backward passes of packs, recorded once per pack size and replayed with other texts.

Packs are filled up with rows of padding so that only a few sizes occur (`pack_sizes`); such a row
has weight 0 in the loss. The first pack of a size runs eagerly, from static tensors; the
second is recorded; from then on texts are written into those tensors, with one copy to the device,
and the recording is replayed.
Gradients also go to static float32 tensors: the first pack of a step overwrites them, and later
ones add to them.

Shapes: S rows of a pack and N tokens, both including padding.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from bertfit.data.batching import fill_pack
from bertfit.errors import TrainingError, find_first_line
from bertfit.modeling import pack as packs
from bertfit.modeling.backlog import (
    find_batch_fault,
    find_stream_beside,
    start_backlog,
    working_off,
)
from bertfit.modeling.classifier import find_hidden_size
from bertfit.modeling.fast_path import plan_operators_of
from bertfit.modeling.forward import compute_logits_of_pack
from bertfit.modeling.graphs import plan_recording
from bertfit.modeling.kernels.exchange import lay_out_gradients, list_exchanged
from bertfit.modeling.packing import has_kernel, number_positions, takes_packs
from bertfit.modeling.plan import Plan
from bertfit.modeling.transfer import write_to
from bertfit.training.gpu_embedding_rows import sort_by_id
from bertfit.training.pack_sizes import PackSize, PackSizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.config import TrainSettings
    from bertfit.data.batching import Pack
    from bertfit.modeling.backlog import Backlog
    from bertfit.modeling.graphs import Recorder, Work
    from bertfit.modeling.precision import Precision
    from bertfit.training.optimization import Pair

_MOST_TOKENS, _MOST_OF_LARGE, _LARGE_BYTES = 16_384, 32_768, 64 * 2**30
"""Larger packs run eagerly. With 64 texts of up to 512 tokens, an H100 took 24.2 ms a step if they
were recorded whole, 25.0 in two packs, and 32.6 eagerly. But recordings of up to 32,768 tokens
hold 11 GiB more, which a smaller GPU needs for other packs."""
_MOST_WAITING, _MOST_WAITING_OF_LARGE = 2**24, 2**26
"""On the same GPUs, how many weight gradients wait (`backlog.start_backlog`): for BERT-base, 0.3
and 1.2 GB, and up to 0.2 GB of partial sums."""
_MOST_SIZES = 128
"""Packs that none of them takes then run eagerly."""
_ALIGNMENT = 16
"""Bytes: the input tensors start at multiples of it, as Triton's kernels are compiled for."""

_Array = TypeVar("_Array", torch.Tensor, np.ndarray)


def plan_passes(model: PreTrainedModel, settings: TrainSettings, precision: Precision) -> Plan:
    """Decide whether to record the passes of a model."""
    return plan_recording(
        precision.device,
        packs=takes_packs(model) and has_kernel(model, precision),
        fast_path=settings.fast_path == "auto",
    )


class _Inputs(NamedTuple, Generic[_Array]):
    """What the passes of one pack size read."""

    memory: _Array
    """(bytes,) uint8: the others are parts of it, so that one copy fills them all."""
    token_ids: _Array
    """(N,) int64."""
    positions: _Array
    """(N,) int64."""
    cu_seqlens: _Array
    """(S + 1,) int32."""
    label_ids: _Array
    """(S,) int64."""
    shares: _Array
    """(S,) float32: weight of each row in the loss."""
    by_id: _Array
    """(2, N) int32, see `Pack.by_id`; (2, 0) if no embedding needs it."""


def _allocate(size: PackSize, device: torch.device, *, sorts: bool) -> _Inputs[torch.Tensor]:
    """Return inputs of zeros."""
    num_tokens, num_rows = size.num_tokens, size.num_rows
    kinds = (
        ((num_tokens,), torch.int64),
        ((num_tokens,), torch.int64),
        ((num_rows + 1,), torch.int32),
        ((num_rows,), torch.int64),
        ((num_rows,), torch.float32),
        ((2, num_tokens if sorts else 0), torch.int32),
    )
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in kinds]
    padded = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    memory = torch.zeros(sum(padded), dtype=torch.uint8, device=device)
    parts = [
        part[:size].view(dtype).view(shape)
        for part, size, (shape, dtype) in zip(memory.split(padded), sizes, kinds, strict=True)
    ]
    return _Inputs(memory, *parts)


@dataclass(slots=True, eq=False)
class _Place:
    """The static input and output tensors of one pack size."""

    inputs: _Inputs[torch.Tensor]
    staged: _Inputs[np.ndarray]
    """The same on the CPU, where a pack is written first.

    `write_to` pins a copy, so the next pack may be written while this one is on its way.
    """
    loss: torch.Tensor
    """()."""
    predicted_ids: torch.Tensor
    """(S,) int64."""
    replay: Work | None = None
    """Replays the recorded passes; None before they are recorded."""

    @classmethod
    def make(cls, size: PackSize, device: torch.device, *, sorts: bool) -> _Place:
        on_cpu = _allocate(size, torch.device("cpu"), sorts=sorts)
        return cls(
            _allocate(size, device, sorts=sorts),
            _Inputs(*(part.numpy() for part in on_cpu)),
            torch.zeros((), device=device),
            torch.zeros(size.num_rows, dtype=torch.int64, device=device),
        )


class RecordedPasses:
    """Forward and backward passes of the packs of a training."""

    def __init__(
        self,
        model: PreTrainedModel,
        pairs: Sequence[Pair],
        *,
        precision: Precision,
        plan: Plan,
        recorder: Recorder,
        sorts: bool = False,
    ) -> None:
        """Take what is trained.

        Args:
            model: Takes packs, with attention that reads `cu_seqlens` on the device.
            pairs: Each trained float32 master with its copy in `model`, or with itself.
            precision: Device and dtype of the computation.
            plan: Why passes are recorded.
            recorder: Runs passes and records them (`modeling.graphs`).
            sorts: Whether the token embeddings need the tokens of a pack sorted by id
                (`gpu_embedding_rows`), which costs the CPU a while.
        """
        self._model, self._pairs, self._precision = model, pairs, precision
        self._recorder, self.plan, self._sorts = recorder, plan, sorts
        self._gradients: list[torch.Tensor | None] = [None] * len(pairs)
        self._places: dict[PackSize, _Place] = {}
        self._sizes = PackSizes()
        is_large = _is_large(precision.device)
        self._most_tokens = _MOST_OF_LARGE if is_large else _MOST_TOKENS
        self._most_waiting = _MOST_WAITING_OF_LARGE if is_large else _MOST_WAITING
        self._num_layers, self.batch_fault = _lay_out_layers(model, precision)
        """Layers whose weight gradients may wait; and why there are none, if a trial failed."""
        device = next(model.parameters()).device  # with its index, which "cuda" lacks
        has_stream = device.type == "cuda" and self._num_layers
        self._beside = find_stream_beside(device) if has_stream else None
        self.seconds = 0.0
        """Time spent recording so far, replays not included."""

    def take(
        self, pack: Pack, label_ids: np.ndarray, *, num_rows: int, pad_id: int
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Leave the gradient of a pack's part of a step's mean loss in the masters' `.grad`.

        Args:
            pack: Some rows of a step.
            label_ids: (rows of the pack,).
            num_rows: Rows of the whole step.
            pad_id: Token id of the rows of padding.

        Returns:
            The part of the loss (), the predicted classes (rows of the pack,), and the number of
            tokens computed, padding included.
        """
        is_small = pack.num_tokens <= self._most_tokens
        size = self._choose_size(pack, is_small=is_small)
        filled = fill_pack(pack, pad_id=pad_id, num_tokens=size.num_tokens, num_rows=size.num_rows)
        place = self._places.get(size)
        is_known = place is not None
        if place is None:
            place = _Place.make(size, self._precision.device, sorts=self._sorts)
        self._write(filled, label_ids, num_rows, place)
        work = functools.partial(self._run, size, place)
        if is_known and place.replay is None and self.plan.is_on:
            self._record(work, place)
        if place.replay is None:
            self._recorder.run(work)
        else:
            place.replay()
        if is_small and self.plan.is_on and len(self._places) < _MOST_SIZES:
            self._places[size] = place  # not earlier: only what ran to its end may be recorded
        for (master, _), gradient in zip(self._pairs, self._gradients, strict=True):
            master.grad = gradient
        return place.loss.clone(), place.predicted_ids[: len(label_ids)].clone(), size.num_tokens

    def set_worth(self, worth: float) -> None:
        """Set how much padding is worth a recording, see `PackSizes`.

        Where the same packs come again and again, 0 records each size at once; `math.inf` fills
        packs to the sizes that are known.
        """
        self._sizes.worth = worth

    def forget(self) -> bool:
        """Stop recording because memory ran out; return whether there was any to free.

        If nothing was recorded yet, recording stays on, with packs that are going to be smaller.
        """
        had_any = any(place.replay is not None for place in self._places.values())
        if had_any:
            self._give_up("memory ran out")
        self._places.clear()
        return had_any

    def _choose_size(self, pack: Pack, *, is_small: bool) -> PackSize:
        is_first = all(master.grad is None for master, _ in self._pairs)
        if not (is_small and self.plan.is_on):  # padding would save nothing
            return PackSize.of(pack, is_first=is_first)
        may_add = len(self._places) < _MOST_SIZES
        return self._sizes.choose(pack, is_first=is_first, known=self._places, may_add=may_add)

    def _write(self, filled: Pack, label_ids: np.ndarray, num_rows: int, place: _Place) -> None:
        """Copy a pack into the tensors that the passes read."""
        staged, num_own = place.staged, len(label_ids)
        staged.token_ids[:] = filled.token_ids
        staged.positions[:] = number_positions(self._model, filled.token_ids, filled.positions)
        staged.cu_seqlens[:] = filled.cu_seqlens
        staged.label_ids[:num_own] = label_ids
        staged.label_ids[num_own:] = 0
        staged.shares[:num_own] = 1.0 / num_rows
        staged.shares[num_own:] = 0.0
        if self._sorts:
            staged.by_id[:] = sort_by_id(filled.token_ids)
        write_to(place.inputs.memory, staged.memory)

    def _run(self, size: PackSize, place: _Place) -> None:
        """Compute both passes from a place's tensors, and write the results back."""
        if size.is_first:  # a failed or repeated recording may have left some
            for master, _ in self._pairs:
                master.grad = None
        inputs = place.inputs
        by_id = inputs.by_id if self._sorts else None
        with self._start_backlog(size) as backlog:
            logits = compute_logits_of_pack(
                self._model,
                inputs.token_ids,
                inputs.positions,
                packs.Pack(inputs.cu_seqlens, size.longest, None, by_id, backlog=backlog),
                precision=self._precision,
            )
            losses = cross_entropy(logits, inputs.label_ids, reduction="none")
            loss = (losses * inputs.shares).sum()
            working = [work for _, work in self._pairs]
            found = torch.autograd.grad(loss, working, allow_unused=True)
            with torch.no_grad():
                place.loss.copy_(loss)
                place.predicted_ids.copy_(logits.argmax(dim=1))
                self._keep(found, is_first=size.is_first)

    def _start_backlog(self, size: PackSize) -> AbstractContextManager[Backlog | None]:
        """Return where weight gradients may wait, unless there are some to add to."""
        if not size.is_first:
            return contextlib.nullcontext()
        return working_off(
            start_backlog(
                self._num_layers,
                num_tokens=size.num_tokens,
                width=find_hidden_size(self._model),
                memory=self._most_waiting,
                stream=self._beside,
            )
        )

    def _keep(self, found: Sequence[torch.Tensor | None], *, is_first: bool) -> None:
        """Overwrite the kept gradients with new ones, or add to them; a weight may have none.

        bertfit's own layers have already written theirs to the masters, into static memory.
        """
        for index, ((master, _), gradient) in enumerate(zip(self._pairs, found, strict=True)):
            if gradient is None:
                self._gradients[index] = master.grad
            elif self._gradients[index] is None:
                self._gradients[index] = torch.zeros_like(master)
        used = [
            (kept, gradient)
            for kept, gradient in zip(self._gradients, found, strict=True)
            if kept is not None and gradient is not None
        ]
        kept_ones, new_ones = ([pair[side] for pair in used] for side in (0, 1))
        if is_first:
            torch._foreach_copy_(kept_ones, new_ones)
            return
        if any(kept.dtype != new.dtype for kept, new in used):
            # `_foreach_add_` needs few kernels only if the dtypes are the same.
            rounded, new_ones = new_ones, [torch.empty_like(kept) for kept in kept_ones]
            torch._foreach_copy_(new_ones, rounded)
        torch._foreach_add_(kept_ones, new_ones)

    def _give_up(self, reason: str) -> None:
        self._places.clear()
        self._recorder.forget()
        self.plan = Plan(is_on=False, reason=reason)

    def _record(self, work: Work, place: _Place) -> None:
        """Record the passes of a size; if that fails, run eagerly from here on."""
        started = time.perf_counter()
        try:
            place.replay = self._recorder.record(work)
        except TrainingError:
            raise
        except RuntimeError as error:  # includes running out of memory
            self._give_up(f"it failed: {find_first_line(error)}")
        self.seconds += time.perf_counter() - started


def _lay_out_layers(model: PreTrainedModel, precision: Precision) -> tuple[int, str | None]:
    """Space the gradients of the layers whose products may wait.

    Returns:
        The number of these layers, and what was wrong in a trial, for which there are none.
    """
    uses_kernels = plan_operators_of(model, precision).is_on
    layers = list_exchanged(model) if uses_kernels else []
    if not layers:
        return 0, None
    width, num_columns = layers[0].width, layers[0].num_columns
    device = next(model.parameters()).device  # with its index
    fault = find_batch_fault(device, width=width, num_columns=num_columns)
    if fault is not None:
        return 0, fault
    lay_out_gradients(layers)
    return len(layers), None


def _is_large(device: torch.device) -> bool:
    """Return whether a device is a GPU with much memory."""
    if device.type != "cuda":
        return False
    return torch.cuda.get_device_properties(device).total_memory >= _LARGE_BYTES
