"""Weight gradients of several layers, as one batched product, beside the rest of the backward pass.

The product for one weight gradient is too small to keep a GPU busy: it has as many numbers as the
weight, however many tokens there are. So in a recorded pass, layers leave the factors of these
products, evenly spaced in memory, and they are multiplied for several layers at once. So it is with
the partial sums of the gradients of biases and norms.

The products of the layers that come last, usually all, run on a stream of their own: next to them
the embeddings go back, in small kernels that would leave most of the GPU idle.

Shapes: N tokens, a weight of O outputs and I inputs, L layers.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch

from bertfit.errors import TrainingError
from bertfit.modeling.graphs import GraphRecorder, Recorder
from bertfit.modeling.kernels.elementwise import Fold, fold_together
from bertfit.modeling.kernels.launching import name_failure

_TRIED = 3
"""Layers of the trial."""
_TRIED_ROWS = 5
"""Rows of partial sums per layer of the trial."""


class Product(NamedTuple):
    """A product to be computed."""

    gradient: torch.Tensor
    """(O, I) float32, receives the gradient of the weight."""
    of_outputs: torch.Tensor
    """(N, O), the gradient of the outputs."""
    inputs: torch.Tensor
    """(N, I)."""


_Waiting = TypeVar("_Waiting", Product, Fold)


class Backlog:
    """The products and sums of one pass that wait, and memory for what they are computed from."""

    def __init__(
        self, num_layers: int, num_together: int, *, stream: torch.cuda.Stream | None = None
    ) -> None:
        """Start with nothing.

        Args:
            num_layers: Layers of the model that take memory here.
            num_together: Of these, layers after which what waits is computed.
            stream: Where the last products are computed; None for where the others are, too.
        """
        self._num_layers, self._num_together = num_layers, num_together
        self._stream = stream
        self._rooms: dict[str, list[torch.Tensor]] = {}
        self._products: defaultdict[tuple[torch.Size, int], list[Product]] = defaultdict(list)
        """By shape, and by the memory of all layers: two kinds of a layer may be of one shape."""
        self._folds: list[Fold] = []
        self._beside: list[Product] | None = None
        """Products that are computed on the other stream, which their memory has to outlast."""
        self._num_ended = 0

    def make_room(
        self,
        name: str,
        shape: tuple[int, ...],
        like: torch.Tensor,
        *,
        dtype: torch.dtype | None = None,
        back: bool = False,
    ) -> torch.Tensor:
        """Return memory of this shape, next to that of other layers.

        Args:
            name: The same for each layer.
            shape: The same for each layer.
            like: A tensor of the same device.
            dtype: None for that of `like`.
            back: Whether layers come from the last to the first, as in the backward pass.
        """
        rooms = self._rooms.setdefault(name, [])
        if not rooms:
            number = self._num_together if back else self._num_layers
            # `data`: autograd is not to know that they share it, because one of them may be
            # written to while it keeps another.
            block = like.new_empty((number, *shape), dtype=dtype)
            rooms.extend(room.data for room in block.unbind())
        return rooms.pop(-1 if back else 0)

    def add(self, product: Product) -> None:
        """Let a product wait."""
        memory = product.gradient.untyped_storage().data_ptr()
        self._products[product.gradient.shape, memory].append(product)

    def add_fold(self, fold: Fold) -> None:
        """Let sums wait."""
        self._folds.append(fold)

    def end_layer(self) -> None:
        """Note that a layer has added what it leaves, and compute all if that is enough."""
        self._num_ended += 1
        if self._num_ended == self._num_layers and self._stream is not None:
            self._compute_beside(self._stream)
        elif self._num_ended % self._num_together == 0:
            self._compute()

    def finish(self) -> None:
        """Compute all that waits, and wait for what is computed on the other stream."""
        self._compute()
        self.join()

    def join(self) -> None:
        """Wait for what is computed on the other stream, so that its memory can be used again."""
        if self._stream is not None and self._beside is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        self._beside = None

    def _compute_beside(self, stream: torch.cuda.Stream) -> None:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        self._beside = [product for each in self._products.values() for product in each]
        with torch.cuda.stream(stream):
            self._multiply()
        self._fold()

    def _compute(self) -> None:
        self._multiply()
        self._fold()

    @torch.no_grad()
    def _multiply(self) -> None:
        for products in self._products.values():
            for run in _iter_runs(products[::-1]):
                multiply_together(run)
        self._products.clear()

    @torch.no_grad()
    def _fold(self) -> None:
        for run in _iter_runs(self._folds[::-1]):
            fold_together(run)
        self._folds.clear()


@contextlib.contextmanager
def working_off(backlog: Backlog | None) -> Iterator[Backlog | None]:
    """Give a backlog, or none, and finish it after a pass.

    If the pass fails, join it all the same: a recording with two ends cannot be ended.
    """
    try:
        yield backlog
        if backlog is not None:
            backlog.finish()
    except BaseException:
        if backlog is not None:
            with contextlib.suppress(RuntimeError):  # what failed first says more
                backlog.join()
        raise


def start_backlog(
    num_layers: int,
    *,
    num_tokens: int,
    width: int,
    memory: int,
    stream: torch.cuda.Stream | None = None,
) -> Backlog | None:
    """Return an empty backlog, or None if no two layers could wait together.

    Args:
        num_layers: Layers that compute all tokens.
        num_tokens: Tokens of the pack, N.
        width: Hidden size.
        memory: Limit for the product of tokens, hidden size and waiting layers. In BERT's shape,
            nine times as many numbers wait, and partial sums that take as much as those of some
            1,200 tokens more.
        stream: Where the last products are computed.
    """
    num_together = choose_batch(num_layers, num_tokens * width, memory=memory)
    return Backlog(num_layers, num_together, stream=stream) if num_together > 1 else None


def choose_batch(num_layers: int, num_numbers: int, *, memory: int) -> int:
    """Return how many layers are computed together, in batches of about equal size.

    Args:
        num_layers: 0 if they have no kernels.
        num_numbers: That wait for each layer.
        memory: Limit for the numbers of the waiting layers; below that of two, each is alone.

    Example:
        >>> [choose_batch(11, 1, memory=memory) for memory in (1, 5, 10, 99)]
        [1, 4, 6, 11]
        >>> choose_batch(0, 1, memory=99)
        0
    """
    most = max(1, min(num_layers, memory // num_numbers))
    num_batches = max(1, -(-num_layers // most))
    return -(-num_layers // num_batches)


@functools.lru_cache
def find_batch_fault(device: torch.device, *, width: int, num_columns: int) -> str | None:
    """Return how products and sums of several layers at once fail here, or None, by trying it.

    On a GPU they are recorded, and the products are on a stream of their own.

    Args:
        device: Where.
        width: Hidden size, D; the kernel that sums is compiled for it, and for C.
        num_columns: Columns of a layer's partial sums, C, without those of queries and values.

    Raises:
        RuntimeError: Memory ran out.
        ModelError: The kernels made the GPU unusable for this process.
        TrainingError: Recording failed, and CUDA cannot recover.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(_TRIED, *shape, generator=generator).to(device)

    factors = [draw(16, 64).bfloat16(), draw(16, 32).bfloat16()]
    partials = [draw(_TRIED_ROWS, size) for size in (num_columns, width, width)]
    gradients = torch.full((_TRIED, 64, 32), math.nan, device=device)
    sums = torch.full((_TRIED, 3 * width + num_columns), math.nan, device=device)
    products = [Product(*tensors) for tensors in zip(gradients, *factors, strict=True)]
    folds = [Fold(*tensors) for tensors in zip(sums, *partials, strict=True)]
    try:
        _work_off_again(products, folds, device)
        expected = factors[0].double().mT @ factors[1].double()
        of_others, of_queries, of_values = (each.double().sum(dim=1) for each in partials)
        expected_sums = torch.cat(
            [of_queries, torch.zeros_like(of_queries), of_values, of_others], dim=1
        )
        is_right = _is_close(gradients, expected) and _is_close(sums, expected_sums)
    except TrainingError:
        raise
    except Exception as error:  # noqa: BLE001 (Triton's have no common base class)
        return f"they were tried here, and failed: {name_failure(error, device)}"
    return None if is_right else "they were tried here, and are wrong"


def _is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found.double(), expected, rtol=1e-3, atol=1e-3)


def _work_off_again(
    products: Sequence[Product], folds: Sequence[Fold], device: torch.device
) -> None:
    """Compute all, on a GPU once more by a recording, whose results are the ones left."""
    recorder, stream = _start_recorder(device)
    work = functools.partial(_work_off, products, folds, stream)
    if recorder is None:
        work()
        return
    recorder.run(work)
    replay = recorder.record(work)
    for each in (*products, *folds):
        each[0].fill_(math.nan)
    replay()


def _start_recorder(device: torch.device) -> tuple[Recorder | None, torch.cuda.Stream | None]:
    """Return what records on a GPU, and a stream beside its own."""
    if device.type != "cuda":
        return None, None
    return GraphRecorder(device), find_stream_beside(device)


@functools.lru_cache
def find_stream_beside(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream beside others: torch keeps a workspace for each that was used."""
    return torch.cuda.Stream(device)


def _work_off(
    products: Sequence[Product], folds: Sequence[Fold], stream: torch.cuda.Stream | None
) -> None:
    """Compute products and sums as those of several layers."""
    with working_off(Backlog(len(products), len(products), stream=stream)) as backlog:
        assert backlog is not None
        for product, fold in zip(reversed(products), reversed(folds), strict=True):
            backlog.add(product)
            backlog.add_fold(fold)
            backlog.end_layer()


def multiply(product: Product) -> None:
    """Compute the gradient of one weight."""
    gradient, of_outputs, inputs = product
    if gradient.is_cuda:
        torch.mm(of_outputs.t(), inputs, out_dtype=torch.float32, out=gradient)
    else:  # torch.mm supports out_dtype only on a GPU
        torch.mm(of_outputs.t().float(), inputs.float(), out=gradient)


def multiply_together(products: Sequence[Product]) -> None:
    """Compute evenly spaced products of one shape at once."""
    if len(products) == 1:
        multiply(products[0])
        return
    gradients, of_outputs, inputs = (_stack(tensors) for tensors in zip(*products, strict=True))
    if gradients.is_cuda:
        torch.bmm(of_outputs.mT, inputs, out_dtype=torch.float32, out=gradients)
    else:  # as in `multiply`
        torch.bmm(of_outputs.mT.float(), inputs.float(), out=gradients)


def _iter_runs(waiting: Sequence[_Waiting]) -> Iterator[Sequence[_Waiting]]:
    """Yield consecutive items whose tensors are evenly spaced, as many at once as possible."""
    start = 0
    for end in range(1, len(waiting) + 1):
        if end == len(waiting) or not _is_even(waiting[start : end + 1]):
            yield waiting[start:end]
            start = end


def _is_even(waiting: Sequence[Product] | Sequence[Fold]) -> bool:
    """Return whether these items, of which all but the last are, are evenly spaced."""
    for tensors in zip(*waiting, strict=True):
        first, *_, before, last = (tensors[0], *tensors)
        if last.shape != first.shape:
            return False
        if last.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return False
        spacing = last.data_ptr() - before.data_ptr()
        if spacing <= 0 or spacing != tensors[1].data_ptr() - first.data_ptr():
            return False
    return True


def _stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return evenly spaced tensors as one, with a new first dimension."""
    first = tensors[0]
    spacing = (tensors[1].data_ptr() - first.data_ptr()) // first.element_size()
    return first.as_strided((len(tensors), *first.shape), (spacing, *first.stride()))
