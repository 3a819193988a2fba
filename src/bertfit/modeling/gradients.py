"""Where custom layers store their gradients, and the seeds for their random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def keep_master(
    work: torch.nn.Parameter, master: torch.nn.Parameter | None, *, stays: bool = False
) -> None:
    """Make custom layers accumulate gradients of `work` directly in `master`, or stop doing so.

    They are summed there in float32, without rounding to the dtype of `work`; the layer then
    returns no gradient.

    Args:
        work: The weight used in the computation.
        master: Its float32 master weight, or None to remove it.
        stays: Whether to keep the gradient's memory, at the same address, for the next step, as
            recorded passes require.
    """
    work.bertfit_master = master  # type: ignore[attr-defined]  # tensors accept any attribute
    work.bertfit_stays = stays  # type: ignore[attr-defined]  # as above
    work.bertfit_room = None  # type: ignore[attr-defined]  # as above


def has_master(weight: torch.Tensor) -> bool:
    """Return whether gradients of `weight` go to a master."""
    return getattr(weight, "bertfit_master", None) is not None


def find_gradient(weight: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Return the float32 tensor for the gradient of `weight`, and whether to add to its content."""
    master = getattr(weight, "bertfit_master", None)
    if master is None:
        return torch.empty(weight.shape), False
    if master.grad is None:
        master.grad = torch.empty_like(master)
        return master.grad, False
    return master.grad, True


def find_gradients_in_a_row(weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor, bool]:
    """Return one contiguous float32 row for the gradients of several weights.

    Also return whether to add to its content, as `find_gradient` does. Without masters, or if their
    gradients are already stored elsewhere, the row is temporary, and `hand_out` returns its parts.
    """
    sizes = [weight.numel() for weight in weights]
    masters = [m for m in (getattr(w, "bertfit_master", None) for w in weights) if m is not None]
    gradients = [master.grad for master in masters if master.grad is not None]
    if len(masters) == len(weights) and not gradients:
        row = _find_room(weights[0], sum(sizes))
        for master, part in zip(masters, row.split(sizes), strict=True):
            master.grad = part.view(master.shape)
        return row, False
    if len(gradients) == len(weights) and lie_in_a_row(gradients):
        return gradients[0].as_strided((sum(sizes),), (1,)), True
    return torch.empty(sum(sizes), device=weights[0].device), False


def lie_with_masters(row: torch.Tensor, weights: Sequence[torch.Tensor]) -> bool:
    """Return whether a row of `find_gradients_in_a_row` is where the masters' gradients are."""
    first: torch.Tensor | None = getattr(weights[0], "bertfit_master", None)
    return first is not None and first.grad is not None and first.grad.data_ptr() == row.data_ptr()


def lay_out_rooms(groups: Sequence[Sequence[torch.Tensor]]) -> None:
    """Space the gradients of several groups of weights evenly, if they stay where they are.

    Args:
        groups: Groups of equal size, each of which `find_gradients_in_a_row` is called with.
    """
    sizes = {sum(weight.numel() for weight in weights) for weights in groups}
    firsts = [weights[0] for weights in groups]
    if len(sizes) == 1 and all(getattr(first, "bertfit_stays", False) for first in firsts):
        block = torch.empty(len(groups), sizes.pop(), device=firsts[0].device)
        for first, room in zip(firsts, block, strict=True):
            first.bertfit_room = room  # type: ignore[attr-defined]  # as in `keep_master`


def hand_out(row: torch.Tensor, weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
    """Return each weight's gradient from the row, or None if its master already has it there."""
    found: list[torch.Tensor | None] = []
    parts = row.split([weight.numel() for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        master = getattr(weight, "bertfit_master", None)
        kept = None if master is None else master.grad
        is_there = kept is not None and kept.data_ptr() == part.data_ptr()
        found.append(None if is_there else part.view(weight.shape).to(weight.dtype))
    return tuple(found)


def draw_seed() -> int:
    """Return 63 random bits from torch's generator."""
    return int(torch.randint(2**63 - 1, ()).item())


def _find_room(weight: torch.Tensor, size: int) -> torch.Tensor:
    """Return a buffer of `size` numbers, the same one for the same first weight if it stays."""
    room: torch.Tensor | None = getattr(weight, "bertfit_room", None)
    if room is None or len(room) != size:
        room = torch.empty(size, dtype=torch.float32, device=weight.device)
        if getattr(weight, "bertfit_stays", False):
            weight.bertfit_room = room  # type: ignore[attr-defined]  # as in `keep_master`
    return room


def lie_in_a_row(tensors: Sequence[torch.Tensor]) -> bool:
    """Return whether tensors are contiguous and adjacent, in order, in one storage."""
    place = tensors[0].data_ptr()
    for tensor in tensors:
        if tensor.data_ptr() != place or not tensor.is_contiguous():
            return False
        place += tensor.numel() * tensor.element_size()
    return len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
