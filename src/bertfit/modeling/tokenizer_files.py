"""Reads tokenizers from their files, without running any code that lies beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
"""Patterns of the files that may hold a vocabulary."""


def lacks_vocabulary(folder: Path) -> bool:
    """Return whether a folder has no vocabulary; transformers would make an empty one."""
    return not any(any(folder.glob(name)) for name in VOCABULARY_FILES)


def read_tokenizer(source: str, *, local_only: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder or of a hub name; transformers may raise any exception."""
    from transformers import AutoTokenizer

    # If trust_remote_code were left open, transformers would ask on the terminal.
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        source, local_files_only=local_only, trust_remote_code=False, use_fast=True
    )
    return tokenizer
