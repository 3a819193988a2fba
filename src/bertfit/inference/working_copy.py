"""The copy of a model that does the arithmetic, kept from one call to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bertfit.modeling.fast_path import copy_for_work

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.modeling.precision import Precision


class WorkingCopy:
    """Makes the copy, which takes longer than a text, once, and anew where a weight has changed."""

    def __init__(self) -> None:
        """Hold none yet."""
        self._kept: tuple[list[tuple[torch.Tensor, int]], PreTrainedModel] | None = None

    def take(self, model: PreTrainedModel, precision: Precision) -> PreTrainedModel:
        """Return what `copy_for_work` returns."""
        parameters = list(model.parameters())
        if any(parameter.is_inference() for parameter in parameters):
            return copy_for_work(model, precision)  # torch does not count their changes
        kept = self._kept  # once, as another thread may exchange it
        if kept is None or not _are_same(kept[0], parameters):
            state = [(parameter, parameter._version) for parameter in parameters]  # noqa: SLF001 (torch's count of changes)
            kept = (state, copy_for_work(model, precision))
            self._kept = kept
        return kept[1]


def _are_same(kept: list[tuple[torch.Tensor, int]], parameters: list[torch.nn.Parameter]) -> bool:
    return len(kept) == len(parameters) and all(
        before is parameter and version == parameter._version  # noqa: SLF001 (as above)
        for (before, version), parameter in zip(kept, parameters, strict=True)
    )
