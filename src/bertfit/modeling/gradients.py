"""Where gradients of our own layers are stored, and the seeds that these draw from."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def keep_master(
    work: torch.nn.Parameter, master: torch.nn.Parameter | None, *, stays: bool = False
) -> None:
    """Let gradients of `work` that a layer of our own makes go to `master` at once, or no longer.

    They are summed in float32 there, without having been rounded; the layer then returns none.

    Args:
        work: Does the arithmetic.
        master: Its float32 weight; None from when on `work` has none.
        stays: Whether a gradient's memory is kept for the next step, at the same address, as
            what is recorded needs it.
    """
    work.bertfit_master = master  # type: ignore[attr-defined]  # torch's tensors take any name
    work.bertfit_stays = stays  # type: ignore[attr-defined]  # as above
    work.bertfit_room = None  # type: ignore[attr-defined]  # as above


def has_master(weight: torch.Tensor) -> bool:
    """Tell whether gradients of `weight` go to a master."""
    return getattr(weight, "bertfit_master", None) is not None


def find_gradient(weight: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Return where the gradient of `weight` goes, float32, and whether to add to what is there."""
    master = getattr(weight, "bertfit_master", None)
    if master is None:
        return torch.empty(weight.shape), False
    if master.grad is None:
        master.grad = torch.empty_like(master)
        return master.grad, False
    return master.grad, True


def find_gradients_in_a_row(weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor, bool]:
    """Return one float32 row for the gradients of several weights, one after the other.

    And whether to add to what is there, as `find_gradient` does. Where there are no masters, or
    their gradients lie elsewhere already, the row is nobody's, and `hand_out` gives its parts.
    """
    sizes = [weight.numel() for weight in weights]
    masters = [m for m in (getattr(w, "bertfit_master", None) for w in weights) if m is not None]
    gradients = [master.grad for master in masters if master.grad is not None]
    if len(masters) == len(weights) and not gradients:
        row = _find_room(weights[0], sum(sizes))
        for master, part in zip(masters, row.split(sizes), strict=True):
            master.grad = part.view(master.shape)
        return row, False
    if len(gradients) == len(weights) and _lie_in_a_row(gradients):
        return gradients[0].as_strided((sum(sizes),), (1,)), True
    return torch.empty(sum(sizes), device=weights[0].device), False


def hand_out(row: torch.Tensor, weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
    """Return a gradient for each weight whose master has not got it from the row already."""
    found: list[torch.Tensor | None] = []
    parts = row.split([weight.numel() for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        master = getattr(weight, "bertfit_master", None)
        kept = None if master is None else master.grad
        is_there = kept is not None and kept.data_ptr() == part.data_ptr()
        found.append(None if is_there else part.view(weight.shape).to(weight.dtype))
    return tuple(found)


def draw_seed() -> int:
    """Return 63 random bits of torch's generator."""
    return int(torch.randint(2**63 - 1, ()).item())


def _find_room(weight: torch.Tensor, size: int) -> torch.Tensor:
    """Return memory for so many numbers, the same for the same first weight if it stays."""
    room: torch.Tensor | None = getattr(weight, "bertfit_room", None)
    if room is None or len(room) != size:
        room = torch.empty(size, dtype=torch.float32, device=weight.device)
        if getattr(weight, "bertfit_stays", False):
            weight.bertfit_room = room  # type: ignore[attr-defined]  # as in `keep_master`
    return room


def _lie_in_a_row(gradients: Sequence[torch.Tensor]) -> bool:
    """Tell whether each begins where the one before ends, in one piece of memory."""
    place = gradients[0].data_ptr()
    for gradient in gradients:
        if gradient.data_ptr() != place or not gradient.is_contiguous():
            return False
        place += gradient.numel() * gradient.element_size()
    return len({gradient.untyped_storage().data_ptr() for gradient in gradients}) == 1
