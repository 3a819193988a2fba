"""transformers.Trainer as the benchmarks use it: at its best, and only training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bertfit.data.batching import plan_epoch
from bertfit.modeling.precision import choose_precision

if TYPE_CHECKING:
    from transformers import TrainingArguments


def settle_trainer(output: str, **others: Any) -> TrainingArguments:  # noqa: ANN401 (Trainer's own)
    """Return settings: bfloat16 if it is fast, fused AdamW, rows in the order of `arrange`.

    Args:
        output: Folder that Trainer requires; nothing is saved.
        others: Further settings of Trainer.
    """
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=output,
        train_sampling_strategy="sequential",
        bf16=choose_precision().dtype == torch.bfloat16,
        optim="adamw_torch_fused",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it would wait for the GPU at every step
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        **others,
    )


def arrange(lengths: np.ndarray, batch_size: int, *, seed: int) -> np.ndarray:
    """Return all rows, batch after batch, as bertfit would take them; a smaller batch comes last.

    Trainer itself groups rows within a quarter of the data, at most 50 batches. Of thousands of
    rows that makes batches as close in length as these, but of fewer than 8 batches it groups none.

    Args:
        lengths: (n,) tokens of each row.
        batch_size: Rows of a batch.
        seed: Seed of the order.
    """
    steps = plan_epoch(lengths, batch_size, seed=seed, epoch=0)
    return np.concatenate(sorted(steps, key=len, reverse=True))
