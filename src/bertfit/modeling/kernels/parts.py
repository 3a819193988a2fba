"""The parts of a layer, which layers the kernels support, and the layout of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bertfit.modeling.gradients import lie_in_a_row
from bertfit.modeling.layer_kinds import is_exact_gelu, is_of_transformers, is_plain_norm, is_whole

KERNEL_FAMILIES = frozenset(
    {"bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"}
)
"""Values of `config.model_type` whose layers `find_parts` recognizes, if they are unmodified."""
_MOST_NUMBERS = 4096
"""Maximum hidden size: a program holds several rows in registers."""
HEAD_SIZES = (32, 64, 128)
"""Supported head sizes. With 16, an attention kernel read wrong memory with its first tiling."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a layer."""

    query: torch.nn.Linear
    key: torch.nn.Linear
    value: torch.nn.Linear
    output: torch.nn.Linear
    output_norm: torch.nn.LayerNorm
    inner: torch.nn.Linear
    outer: torch.nn.Linear
    outer_norm: torch.nn.LayerNorm
    head_size: int
    """Size of a head, K."""
    rates: tuple[float, float, float]
    """Dropout rates in training: of attention weights, attention output and feed-forward output."""

    @property
    def width(self) -> int:
        """Hidden size, D."""
        return len(self.output.weight)

    @property
    def num_columns(self) -> int:
        """Columns of the partial sums of `vectors`, without the biases of queries to values."""
        return 6 * self.width + len(self.inner.weight)

    @property
    def matrices(self) -> tuple[torch.Tensor, ...]:
        """The weights of all products, in the order of their use."""
        return tuple(
            of.weight
            for of in (self.query, self.key, self.value, self.output, self.inner, self.outer)
        )

    @property
    def products(self) -> tuple[tuple[torch.Tensor, ...], ...]:
        """The weights of each product, where queries, keys and values are one."""
        query, key, value, *others = self.matrices
        return ((query, key, value), *((weight,) for weight in others))

    @property
    def vectors(self) -> tuple[torch.Tensor, ...]:
        """Biases, and the weights and biases of norms, in the order of their sums."""
        norms = (self.output_norm, self.outer_norm)
        return (
            *(of.bias for of in (self.query, self.key, self.value)),
            *(norms[0].weight, norms[0].bias, self.output.bias),
            self.inner.bias,
            *(norms[1].weight, norms[1].bias, self.outer.bias),
        )


def find_parts(layer: Any) -> Parts | None:  # noqa: ANN401 (any module)
    """Return the parts of a layer of BERT's or DistilBERT's kind, else None."""
    if is_whole(layer):
        return _find_of_bert(layer)
    of_distilbert = {"attention", "sa_layer_norm", "ffn", "output_layer_norm"}
    if is_of_transformers(layer) and set(dict(layer.named_children())) == of_distilbert:
        return _find_of_distilbert(layer)
    return None


def _find_of_bert(layer: Any) -> Parts | None:  # noqa: ANN401 (BertLayer or its equivalent)
    own, output = layer.attention.self, layer.attention.output
    if own.scaling != own.attention_head_size**-0.5:
        return None
    return _build(
        (own.query, own.key, own.value, output.dense, layer.intermediate.dense, layer.output.dense),
        (output.LayerNorm, layer.output.LayerNorm),
        (own.dropout, output.dropout, layer.output.dropout),
        head_size=own.attention_head_size,
    )


def _find_of_distilbert(layer: Any) -> Parts | None:  # noqa: ANN401 (DistilBERT's TransformerBlock)
    own, feeding = layer.attention, layer.ffn
    expected = {"q_lin", "k_lin", "v_lin", "out_lin", "dropout"}
    if not expected <= set(dict(own.named_children())) or not is_exact_gelu(feeding.activation):
        return None
    return _build(
        (own.q_lin, own.k_lin, own.v_lin, own.out_lin, feeding.lin1, feeding.lin2),
        (layer.sa_layer_norm, layer.output_layer_norm),
        (own.dropout, torch.nn.Dropout(0.0), feeding.dropout),
        head_size=own.attention_head_size,
    )


def _build(
    linears: Sequence[torch.nn.Linear],
    norms: Sequence[torch.nn.LayerNorm],
    dropouts: Sequence[torch.nn.Dropout],
    *,
    head_size: int,
) -> Parts | None:
    """Return the parts of a layer, or None if some were replaced or are unsupported."""
    are_plain = (
        all(type(part) is torch.nn.Linear and part.bias is not None for part in linears)
        and all(map(is_plain_norm, norms))
        and all(isinstance(part, torch.nn.Dropout) for part in dropouts)
    )
    if not are_plain or head_size not in HEAD_SIZES:
        return None
    width = len(norms[0].weight)
    if width > _MOST_NUMBERS or any(of.weight.shape != (width, width) for of in linears[:4]):
        return None
    in_attention, in_output, in_outer = (part.p for part in dropouts)
    rates = in_attention, in_output, in_outer
    query, key, value, output, inner, outer = linears
    return Parts(query, key, value, output, norms[0], inner, outer, norms[1], head_size, rates)


def join_projections(model: torch.nn.Module) -> None:
    """Store the query, key and value weights contiguously, so that one product computes all three.

    Only their location in memory changes. For the working copy: the master weights are saved.
    """
    for module in model.modules():
        parts = find_parts(module)
        if parts is None:
            continue
        of_states = (parts.query, parts.key, parts.value)
        for name in ("weight", "bias"):
            tensors = [getattr(part, name) for part in of_states]
            joined = torch.cat([tensor.detach() for tensor in tensors])
            for tensor, piece in zip(tensors, joined.split([len(t) for t in tensors]), strict=True):
                tensor.data = piece


def join(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return tensors that are adjacent in memory as one, or None if they are not."""
    if not lie_in_a_row(tensors):
        return None
    first, rows = tensors[0], sum(map(len, tensors))
    return first.detach().as_strided((rows, *first.shape[1:]), first.stride())
