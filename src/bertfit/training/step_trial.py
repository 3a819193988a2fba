"""Checks AdamW's kernels against torch's AdamW on a GPU, before they are used.

As for the layers (`modeling.kernels.trial`): Triton may compile a kernel wrongly, and a wrong
update would show in nothing but a worse model. Therefore a few steps are taken both ways once, on
random numbers, and the kernels are not used if the results differ.

Shapes: T tokens, D numbers per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.utils import clip_grad_norm_

from bertfit.modeling.kernels.launching import name_failure, on_device
from bertfit.training.gpu_embedding_rows import GpuEmbeddingRows
from bertfit.training.triton_adamw import TritonAdamW

_SIZE = 10_000
"""Numbers of the dense weight: full chunks of the kernels, and part of one."""
_NUM_ROWS, _NUM_TOKENS = 48, 40
"""Of the table, and of a step, in two packs; a step leaves some two fifths of the rows out."""
_RATES = (1e-2, 2e-2, 0.0, 5e-3, 1e-3, 1e-2)
"""Learning rates; one step each."""
_DECAY, _MAX_NORM = 0.1, 1.0
_MOST_APART = 1e-3
"""Maximum difference of weights, relative to how far they moved, and of norms. Only the rows that
miss steps are not updated in the order of torch's operations."""
_ROUNDING = 2.0**-7
"""Maximum difference of bfloat16 copies, relative to the weights."""

_TRIED = "they were tried here"

_Key = tuple[torch.device, bool, int | None]
_found: dict[_Key, str | None] = {}


def find_step_fault(device: torch.device, *, has_copies: bool, width: int | None) -> str | None:
    """Return what is wrong with the kernels of AdamW on a device, or None.

    Each kind is tried once.

    Args:
        device: Where the kernels would run.
        has_copies: Whether the weights have bfloat16 copies.
        width: Numbers per row of the token embeddings, if they are to be updated by rows.

    Raises:
        RuntimeError: Memory ran out: the few megabytes for the trial are not available.
        ModelError: The kernels made the GPU unusable for this process.
    """
    key = (device, has_copies, width)
    if key not in _found:
        try:
            with on_device(device), torch.inference_mode(mode=False):
                _found[key] = _try(device, has_copies=has_copies, width=width)
        except Exception as error:  # noqa: BLE001 (Triton's have no common base class)
            _found[key] = f"they fail here: {name_failure(error, device)}"
    return _found[key]


@torch.no_grad()
def _try(device: torch.device, *, has_copies: bool, width: int | None) -> str | None:
    generator = torch.Generator().manual_seed(0)
    ways = _Ways.build(generator, device, has_copies=has_copies, width=width)
    start = [weight.clone() for weight in ways.plain]
    norms = [ways.step(rate, generator) for rate in _RATES]
    if ways.rows is not None:
        ways.rows.catch_up_all()
    apart = [abs(found - wanted) / wanted for found, wanted in norms]
    copies_apart = []
    for wanted, before, master, work in zip(
        ways.plain, start, ways.masters, ways.works, strict=True
    ):
        apart.append(float((master - wanted).norm() / (wanted - before).norm()))
        copies_apart.append(float((work.float() - master).norm() / master.norm()))
    if not all(ratio <= _MOST_APART for ratio in apart):  # also if one is not a number
        largest = max(ratio if math.isfinite(ratio) else math.inf for ratio in apart)
        return f"{_TRIED}, and differ from torch's AdamW (by {largest:.2g} of what it changes)"
    if not all(ratio <= _ROUNDING for ratio in copies_apart):
        return f"{_TRIED}, and do not write bfloat16 copies as they should"
    settled = [weight.clone() for weight in (*ways.masters, *ways.works)]
    ways.step(_RATES[0], generator, loss=math.nan)
    if not all(map(torch.equal, settled, (*ways.masters, *ways.works))):
        return f"{_TRIED}, and change weights in a step that must not"
    return None


@dataclass(frozen=True, slots=True)
class _Ways:
    """A dense weight, and a table if its rows are to be updated, by torch and by the kernels."""

    plain: list[torch.nn.Parameter]
    by_torch: torch.optim.AdamW
    masters: list[torch.nn.Parameter]
    works: list[torch.nn.Parameter]
    """Their copies, or themselves."""
    table: torch.nn.Embedding | None
    """Its weight is the second of `works`."""
    rows: GpuEmbeddingRows | None
    by_kernels: TritonAdamW

    @classmethod
    def build(
        cls,
        generator: torch.Generator,
        device: torch.device,
        *,
        has_copies: bool,
        width: int | None,
    ) -> _Ways:
        """Draw the weights."""
        shapes = [(_SIZE,)] + ([] if width is None else [(_NUM_ROWS, width)])
        drawn = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
        plain, masters = ([torch.nn.Parameter(one.clone()) for one in drawn] for _ in "12")
        works = masters
        if has_copies:
            works = [torch.nn.Parameter(master.detach().bfloat16()) for master in masters]
        table = rows = None
        if width is not None:
            table = torch.nn.Embedding(_NUM_ROWS, width, _weight=works[1])
            table.weight = works[1]  # itself, not another parameter with the same numbers
            rows = GpuEmbeddingRows(masters[1], table, weight_decay=_DECAY)
        settings = torch.optim.AdamW(masters[:1], weight_decay=_DECAY)
        return cls(
            plain,
            torch.optim.AdamW(plain, weight_decay=_DECAY, foreach=False),
            masters,
            works,
            table,
            rows,
            TritonAdamW([(masters[0], works[0])], settings, rows),
        )

    def step(
        self, rate: float, generator: torch.Generator, *, loss: float = 1.0
    ) -> tuple[float, float]:
        """Take a step both ways; return the norms of the gradients, that of torch last.

        With a loss that is not finite, the kernels must not change a weight.
        """
        device = self.plain[0].device
        gradient = torch.randn(_SIZE, generator=generator).to(device)
        self.plain[0].grad, self.masters[0].grad = gradient.clone(), gradient
        if self.table is not None and self.rows is not None:
            ids_T = torch.randint(_NUM_ROWS, (_NUM_TOKENS,), generator=generator)
            self.rows.catch_up(ids_T.unique())
            self.plain[1].grad = torch.zeros_like(self.plain[1])
            for pack_T in ids_T.to(device).chunk(2):  # gradients of two packs add up
                of_tokens_TD = torch.randn(
                    len(pack_T), self.table.embedding_dim, generator=generator
                )
                of_tokens_TD = of_tokens_TD.to(self.works[1])
                with torch.enable_grad():
                    self.table(pack_T).backward(of_tokens_TD)
                self.plain[1].grad.index_add_(0, pack_T, of_tokens_TD.float())
        halted = torch.zeros((), device=device)
        found, _ = self.by_kernels.measure_norm(torch.tensor(loss, device=device), halted=halted)
        self.by_kernels.clip(_MAX_NORM, found)
        self.by_kernels.step(rate, halted=halted)
        wanted = clip_grad_norm_(self.plain, _MAX_NORM, foreach=False)
        for group in self.by_torch.param_groups:
            group["lr"] = rate
        self.by_torch.step()
        return float(found), float(wanted)
