"""The models that the benchmarks train: the embedded MiniLM and a BERT-base with random weights.

Only the speed of BERT-base is measured, which does not depend on its weights. It uses MiniLM's
tokenizer, so both read the same tokens.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from bertfit.assets import find_embedded_model

MODELS = ("minilm", "bert-base")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
)


def make_model_folder(name: str, folder: Path) -> Path:
    """Return a Hugging Face folder with the encoder `name` and a tokenizer."""
    if name == "minilm":
        return find_embedded_model()
    from transformers import BertConfig, BertModel

    target = folder / name
    if not target.exists():
        torch.manual_seed(0)
        BertModel(BertConfig()).save_pretrained(target)
        for file in _TOKENIZER_FILES:
            if (find_embedded_model() / file).exists():
                shutil.copy(find_embedded_model() / file, target)
    return target
