"""transformers.Trainer as the benchmarks use it: at its best, and only training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bertfit.modeling.precision import choose_precision

if TYPE_CHECKING:
    from transformers import TrainingArguments


def settle_trainer(output: str, **others: Any) -> TrainingArguments:  # noqa: ANN401 (Trainer's own)
    """Return settings: bfloat16 if it is fast, rows grouped by length, fused AdamW.

    Trainer groups rows within a quarter of the data, at most 50 batches: of fewer than 8 batches it
    groups none, and of some hundred more closely than of 40.

    Args:
        output: Folder that Trainer requires; nothing is saved.
        others: Further settings of Trainer, or others for those chosen here.
    """
    from transformers import TrainingArguments

    others = {"train_sampling_strategy": "group_by_length", **others}
    return TrainingArguments(
        output_dir=output,
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
