"""The one forward pass: training, validation, evaluation and prediction all call it.

Shapes: B rows, T tokens, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from bertfit.modeling.precision import Precision


def compute_logits(
    model: PreTrainedModel,
    token_ids_BT: np.ndarray,
    attention_mask_BT: np.ndarray | None,
    *,
    precision: Precision,
) -> torch.Tensor:
    """Return logits_BC in float32 on the model's device.

    Args:
        model: A sequence classifier, in the mode (train or eval) that the caller wants.
        token_ids_BT: int64 token ids.
        attention_mask_BT: 1 where a token is, or None where nothing is padded, which is faster.
        precision: Device and type of the arithmetic.
    """
    device = precision.device
    token_ids = torch.from_numpy(token_ids_BT).to(device)
    mask = None if attention_mask_BT is None else torch.from_numpy(attention_mask_BT).to(device)
    with precision.autocast():
        logits: torch.Tensor = model(input_ids=token_ids, attention_mask=mask).logits
    return logits.float()
