"""The working copy of a model, in the dtype of the computation, cached between calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bertfit.modeling.fast_path import copy_for_work

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.modeling.precision import Precision


class WorkingCopy:
    """Caches the copy, which takes longer than scoring one text, until a weight changes."""

    def __init__(self) -> None:
        """Start with an empty cache."""
        self._kept: tuple[list[tuple[torch.Tensor, int]], PreTrainedModel] | None = None

    def take(self, model: PreTrainedModel, precision: Precision) -> PreTrainedModel:
        """Return the result of `copy_for_work`, cached if no weight has changed."""
        parameters = list(model.parameters())
        if any(parameter.is_inference() for parameter in parameters):
            return copy_for_work(model, precision)  # inference tensors have no version counter
        kept = self._kept  # read once, as another thread may replace it
        if kept is None or not _are_same(kept[0], parameters):
            state = [(parameter, parameter._version) for parameter in parameters]  # noqa: SLF001 (torch's version counter)
            kept = (state, copy_for_work(model, precision))
            self._kept = kept
        return kept[1]


def _are_same(kept: list[tuple[torch.Tensor, int]], parameters: list[torch.nn.Parameter]) -> bool:
    return len(kept) == len(parameters) and all(
        before is parameter and version == parameter._version  # noqa: SLF001 (as above)
        for (before, version), parameter in zip(kept, parameters, strict=True)
    )
