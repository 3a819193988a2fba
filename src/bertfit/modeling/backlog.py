"""Weight gradients of several layers, as one batched product.

The product for one weight gradient is too small to keep a GPU busy: it has as many numbers as the
weight, however many tokens there are. So in a recorded pass, layers leave the factors of these
products, evenly spaced in memory, and they are multiplied for several layers at once.

Shapes: N tokens, a weight of O outputs and I inputs, L layers.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from bertfit.errors import is_out_of_memory

_TRIED = 3
"""Layers of the trial."""


class Product(NamedTuple):
    """A product to be computed."""

    gradient: torch.Tensor
    """(O, I) float32, receives the gradient of the weight."""
    of_outputs: torch.Tensor
    """(N, O), the gradient of the outputs."""
    inputs: torch.Tensor
    """(N, I)."""


class Backlog:
    """The products of one pass that wait, and the memory for their factors."""

    def __init__(self, num_layers: int, num_together: int) -> None:
        """Start with nothing.

        Args:
            num_layers: Layers of the model.
            num_together: Layers after which the products are computed.
        """
        self._num_layers, self._num_together = num_layers, num_together
        self._rooms: dict[str, list[torch.Tensor]] = {}
        self._waiting: defaultdict[tuple[int, ...], list[Product]] = defaultdict(list)
        self._num_waiting = 0

    def make_room(
        self, name: str, like: torch.Tensor, width: int, *, back: bool = False
    ) -> torch.Tensor:
        """Return memory for one factor of a product, (N, width), next to that of other layers.

        Args:
            name: The same for each layer.
            like: (N, any), of the same dtype and device.
            width: I, or O for the gradient of the outputs.
            back: Whether layers come from the last to the first, as in the backward pass.
        """
        rooms = self._rooms.setdefault(name, [])
        if not rooms:
            rooms.extend(_allocate(self._num_together if back else self._num_layers, like, width))
        return rooms.pop(-1 if back else 0)

    def add(self, product: Product) -> None:
        """Let a product wait."""
        self._waiting[product.gradient.shape].append(product)

    def end_layer(self) -> None:
        """Note that a layer has added its products, and compute all if they are enough."""
        self._num_waiting += 1
        if self._num_waiting == self._num_together:
            self.finish()

    @torch.no_grad()
    def finish(self) -> None:
        """Compute all products that wait."""
        for products in self._waiting.values():
            for run in _iter_runs(products[::-1]):
                multiply_together(run)
        self._waiting.clear()
        self._num_waiting = 0


def start_backlog(num_layers: int, *, num_tokens: int, width: int, memory: int) -> Backlog | None:
    """Return an empty backlog, or None if no two layers could wait together.

    Args:
        num_layers: Layers that compute all tokens.
        num_tokens: Tokens of the pack, N.
        width: Hidden size.
        memory: Limit for the product of tokens, hidden size and waiting layers. In BERT's shape,
            nine times as many numbers wait.
    """
    num_together = min(num_layers, memory // (num_tokens * width))
    return Backlog(num_layers, num_together) if num_together > 1 else None


@functools.lru_cache
def is_sound(device: torch.device) -> bool:
    """Return whether products of several layers at once are right on a device, by trying it.

    Raises:
        RuntimeError: Memory ran out.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = ((_TRIED, 16, 64), (_TRIED, 16, 32))
    factors = [
        torch.randn(*shape, generator=generator).to(device, torch.bfloat16) for shape in shapes
    ]
    gradients = torch.full((_TRIED, *(shape[-1] for shape in shapes)), math.nan, device=device)
    try:
        multiply_together([Product(*tensors) for tensors in zip(gradients, *factors, strict=True)])
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return False
    expected = factors[0].double().mT @ factors[1].double()
    return torch.allclose(gradients.double(), expected, rtol=1e-3, atol=1e-3)


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


def _allocate(number: int, like: torch.Tensor, width: int) -> list[torch.Tensor]:
    """Return so many tensors (N, width), evenly spaced in memory."""
    # `data`: autograd is not to know that they share it, because one of them may be written to
    # while it keeps another.
    return [room.data for room in like.new_empty(number, len(like), width).unbind()]


def _iter_runs(products: Sequence[Product]) -> Iterator[Sequence[Product]]:
    """Yield consecutive products whose tensors are evenly spaced, as many at once as possible."""
    start = 0
    for end in range(1, len(products) + 1):
        if end == len(products) or not _is_even(products[start : end + 1]):
            yield products[start:end]
            start = end


def _is_even(products: Sequence[Product]) -> bool:
    """Return whether these products, of which all but the last are, are evenly spaced."""
    for tensors in zip(*products, strict=True):
        first, *_, before, last = (tensors[0], *tensors)
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
