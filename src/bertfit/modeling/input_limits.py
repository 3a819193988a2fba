"""What a model can read: how many tokens of a text, and which token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertfit.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_POSITIONS = ("max_position_embeddings", "max_seq_len")
"""Names that configurations give to the number of positions; the second is MPT's."""
_SHOWN = 60
"""Characters by which a text is recognised."""
NO_LIMIT = 10**9
"""A number of tokens that stands for no limit."""
_DEFAULT_LIMIT = 8192
"""The limit that is then assumed."""


def find_length_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the maximum number of tokens that the model reads, special tokens included.

    If neither the model nor its tokenizer states a limit, it is 8,192.
    """
    limit = min(find_position_limit(model), tokenizer.model_max_length)
    return int(limit) if limit < NO_LIMIT // 2 else _DEFAULT_LIMIT


def find_position_limit(model: PreTrainedModel) -> int:
    """Return for how many tokens a model has positions; some `NO_LIMIT` if it does not say."""
    named = (getattr(model.config, name, None) for name in _POSITIONS)
    positions = next((number for number in named if number), NO_LIMIT)
    positions = positions if positions > 0 else NO_LIMIT  # XLNet uses -1 for no limit
    # RoBERTa's family counts positions from padding_idx + 1, so its table is longer by that.
    tables = [  # I-BERT's is no torch.nn.Embedding
        module
        for module_name, module in model.named_modules()
        if module_name.endswith("position_embeddings") and model.config.model_type != "bert"
    ]
    starts = [getattr(table, "padding_idx", None) for table in tables]
    offsets = [start + 1 for start in starts if start is not None]
    return int(positions - max(offsets, default=0))


def check_length(max_length: int, limit: int, name: str) -> None:
    """Refuse more tokens than the model `name` reads, as `find_length_limit` found.

    Raises:
        ModelError: `max_length` is above `limit`.
    """
    if max_length > limit:
        raise ModelError(
            f"max_length {max_length} was asked for, but {name} reads at most {limit} tokens"
        )


def check_token_ids(
    model: PreTrainedModel,
    token_ids: NDArray[np.integer],
    *,
    of: tuple[NDArray[np.integer], Sequence[str]] | None = None,
) -> None:
    """Reject token ids without an embedding, before looking them up fails on a device.

    Args:
        model: The model.
        token_ids: Of any shape; (N,) with `of`.
        of: (n + 1,) offsets into the ids and the n texts, so that the first such text can be named.

    Raises:
        ModelError: There is such an id: tokens were added to the tokenizer but not the model.
    """
    num_known = model.get_input_embeddings().weight.shape[0]
    highest = int(token_ids.max(initial=0))
    if highest >= num_known:
        where = ""
        if of is not None:
            place = int((token_ids >= num_known).argmax())
            where = f" in the text {of[1][int((of[0] <= place).sum()) - 1][:_SHOWN]!r}"
        raise ModelError(
            f"the tokenizer gives token {highest}{where}, but the model has embeddings for "
            f"{num_known:,} tokens, 0 to {num_known - 1}",
            hint="Tokens were added to the tokenizer alone: save the model, too, after "
            "model.resize_token_embeddings(len(tokenizer)).",
        )
