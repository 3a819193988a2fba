"""Texts that the model cannot read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bertfit.data.dataset import TextDataset
from bertfit.data.encoding import EncodedTexts, find_special_tokens
from bertfit.data.findings import Finding
from bertfit.data.token_faults import count_encoded, describe_tokens, tell_known_signs
from bertfit.modeling.tokenizer_files import fast_tokenizer
from bertfit.progress import Listener
from bertfit.reporting.findings import brief_lines

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def find_token_faults(
    parts: Sequence[tuple[str, TextDataset, EncodedTexts]],
    tokenizer: PreTrainedTokenizerBase,
    listener: Listener,
) -> tuple[Finding, ...]:
    """Note and return findings on texts that this model cannot read, using the encoded texts."""
    fast, unknown_id = fast_tokenizer(tokenizer), tokenizer.unk_token_id
    num_special = sum(map(len, find_special_tokens(fast)))
    findings = [
        finding
        for name, rows, encoded in parts
        for finding in describe_tokens(
            name,
            rows,
            count_encoded(encoded, unknown_id, num_special),
            is_known=tell_known_signs(fast, unknown_id),
        )
    ]
    for line in brief_lines(findings, most=len(findings)):
        listener.note(line)
    return tuple(findings)
