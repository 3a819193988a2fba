"""A whole layer of BERT's family over a pack, as one function that autograd knows.

Products are torch's, attention is torch's own for packs, and what stands between them is done by
the kernels of `elementwise`. No gradient goes through autograd's engine within a layer: residual
gradients are added where a product writes its sums, and those of weights go to their masters in
float32 as a product makes them.

A last layer may be asked for the first token of each text alone (see `modeling.first_token`).

Shapes: N tokens, S texts, M rows of the output (N, or S where only first tokens are asked for), D
numbers per token, I of the inner width, H heads of K numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn.functional import linear

from bertfit.modeling.gradients import (
    find_gradient,
    find_gradients_in_a_row,
    hand_out,
    has_master,
)
from bertfit.modeling.kernels.functions import (
    Dropout,
    Normed,
    Sums,
    activate,
    activate_backward,
    add_and_norm,
    add_and_norm_backward,
    sum_columns,
)
from bertfit.modeling.pack import Pack


@dataclass(frozen=True, slots=True)
class Parts:
    """What a layer is made of."""

    query: torch.nn.Linear
    key: torch.nn.Linear
    value: torch.nn.Linear
    output: torch.nn.Linear
    output_norm: torch.nn.LayerNorm
    inner: torch.nn.Linear
    outer: torch.nn.Linear
    outer_norm: torch.nn.LayerNorm
    head_size: int
    """K."""
    rates: tuple[float, float, float]
    """Of the attention weights, of attention's output and of the feed-forward's that are dropped in
    training."""

    @property
    def matrices(self) -> tuple[torch.Tensor, ...]:
        """The weights of all products, in the order in which they are used."""
        return tuple(
            of.weight
            for of in (self.query, self.key, self.value, self.output, self.inner, self.outer)
        )

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


def pass_layer(
    hidden_ND: torch.Tensor, parts: Parts, pack: Pack, *, trains: bool, only_firsts: bool = False
) -> torch.Tensor:
    """Return what a layer makes of a pack, (M, D), on the device whose kernels do it.

    Args:
        hidden_ND: All tokens.
        parts: The layer.
        pack: Where the texts lie.
        trains: Whether something is dropped.
        only_firsts: Whether the first token of each text is all that is asked for.
    """
    places = _Places.of(pack, len(hidden_ND), only_firsts=only_firsts)
    if not torch.is_grad_enabled():
        return _pass(hidden_ND, parts, places, trains=trains, keeps=False)[0]
    out: torch.Tensor = _apply(hidden_ND, parts, places, trains, *parts.matrices, *parts.vectors)
    return out


class _Places(NamedTuple):
    """Where the queries and the keys of each text lie, as attention takes it."""

    query_starts: torch.Tensor
    key_starts: torch.Tensor
    longest_query: int
    longest_key: int
    firsts: torch.Tensor | None
    """(S,) int64, where only first tokens ask."""

    @classmethod
    def of(cls, pack: Pack, num_tokens: int, *, only_firsts: bool) -> _Places:
        starts = pack.cu_seqlens
        if not only_firsts or num_tokens == pack.num_texts:
            return cls(starts, starts, pack.longest, pack.longest, None)
        counted = torch.arange(pack.num_texts + 1, dtype=torch.int32, device=starts.device)
        return cls(counted, starts, 1, pack.longest, pack.firsts)


class _Attended(NamedTuple):
    """What attention gives, and needs on its way back."""

    output: torch.Tensor
    """(M, H, K)."""
    log_sums: torch.Tensor
    random_state: torch.Tensor
    unused: torch.Tensor


class _Tape(NamedTuple):
    """What the way back needs, but for weights."""

    hidden: torch.Tensor
    asking: torch.Tensor
    """(M, D), of `hidden`."""
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    attended: _Attended
    of_output: Normed
    normed: torch.Tensor
    """(M, D), what the feed-forward reads."""
    inner: torch.Tensor
    activated: torch.Tensor
    of_outer: Normed
    after_output: Dropout
    after_outer: Dropout


def _pass(
    hidden: torch.Tensor, parts: Parts, places: _Places, *, trains: bool, keeps: bool
) -> tuple[torch.Tensor, _Tape]:
    in_attention, *rates = parts.rates if trains else (0.0, 0.0, 0.0)
    seeds = _draw_seeds(hidden.device, anew=any(rates))
    after_output, after_outer = (Dropout(rate, seeds, at) for at, rate in enumerate(rates))
    asking = hidden if places.firsts is None else hidden.index_select(0, places.firsts)
    states = _project(asking, hidden, parts)
    attended = _attend(states, places, in_attention)
    dense = linear(attended.output.flatten(1), parts.output.weight, parts.output.bias)
    normed, of_output = add_and_norm(dense, asking, parts.output_norm, after_output, keeps=keeps)
    inner = linear(normed, parts.inner.weight, parts.inner.bias)
    activated = activate(inner)
    fed = linear(activated, parts.outer.weight, parts.outer.bias)
    output, of_outer = add_and_norm(fed, normed, parts.outer_norm, after_outer, keeps=keeps)
    return output, _Tape(
        *(hidden, asking, states, attended, of_output, normed, inner, activated, of_outer),
        *(after_output, after_outer),
    )


def _go_back(
    gradient: torch.Tensor, tape: _Tape, parts: Parts, places: _Places, in_attention: float
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Return the gradient of all tokens (N, D), and those of weights that have no master."""
    width, inner_width = parts.output.weight.shape[0], parts.inner.weight.shape[0]
    sums = Sums.make(9 * width + inner_width, len(tape.hidden), gradient.device)
    of_normed, of_fed = add_and_norm_backward(
        gradient.contiguous(),
        tape.of_outer,
        parts.outer_norm.weight,
        tape.after_outer,
        sums,
        at=6 * width + inner_width,
    )
    outer = _give(parts.outer.weight, of_fed, tape.activated)
    of_inner = activate_backward(of_fed @ parts.outer.weight, tape.inner, sums, at=6 * width)
    inner = _give(parts.inner.weight, of_inner, tape.normed)
    of_normed.addmm_(of_inner, parts.inner.weight)
    of_asking, of_dense = add_and_norm_backward(
        of_normed,
        tape.of_output,
        parts.output_norm.weight,
        tape.after_output,
        sums,
        at=3 * width,
    )
    output = _give(parts.output.weight, of_dense, tape.attended.output.flatten(1))
    of_attended = (of_dense @ parts.output.weight).view(tape.attended.output.shape)
    of_states = _attend_backward(of_attended, tape, places, in_attention)
    sum_columns(*of_states, sums, at=0)
    of_hidden = _collect(of_asking, of_states, parts, places)
    modules = (parts.query, parts.key, parts.value)
    states = [
        _give(module.weight, of_state, source)
        for module, of_state, source in zip(
            modules, of_states, (tape.asking, tape.hidden, tape.hidden), strict=True
        )
    ]
    row, adds = find_gradients_in_a_row(parts.vectors)
    sums.fold(row, adds=adds)
    return of_hidden, [*states, output, inner, outer, *hand_out(row, parts.vectors)]


def _collect(
    of_asking: torch.Tensor,
    of_states: tuple[torch.Tensor, ...],
    parts: Parts,
    places: _Places,
) -> torch.Tensor:
    """Return the gradient of all tokens, (N, D): through attention, and past it."""
    of_query, of_key, of_value = of_states
    of_asking.addmm_(of_query, parts.query.weight)
    if places.firsts is None:
        of_hidden = of_asking.addmm_(of_key, parts.key.weight)
    else:
        of_hidden = of_key @ parts.key.weight
    of_hidden.addmm_(of_value, parts.value.weight)
    if places.firsts is not None:
        of_hidden.index_add_(0, places.firsts, of_asking)
    return of_hidden


def _give(
    weight: torch.Tensor, of_output: torch.Tensor, source: torch.Tensor
) -> torch.Tensor | None:
    """Give the gradient of a product's weight to its master; return it where there is none."""
    if not has_master(weight):
        return of_output.t() @ source
    room, adds = find_gradient(weight)
    if not room.is_cuda:  # torch has the sums of such a product in float32 on a GPU alone
        product = of_output.t().float() @ source.float()
    elif adds:
        product = torch.mm(of_output.t(), source, out_dtype=torch.float32)
    else:
        torch.mm(of_output.t(), source, out_dtype=torch.float32, out=room)
        return None
    if adds:
        room.add_(product)
    else:
        room.copy_(product)
    return None


def _draw_seeds(device: torch.device, *, anew: bool) -> torch.Tensor:
    """Return two seeds (2,) int64 of torch's generator, which a recorded pass draws anew too."""
    seeds = torch.empty(2, dtype=torch.int64, device=device)
    return seeds.random_() if anew else seeds


def _project(
    asking: torch.Tensor, hidden: torch.Tensor, parts: Parts
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries (M, H, K), keys and values (N, H, K); by one product where one can do it."""
    modules = (parts.query, parts.key, parts.value)
    if asking is hidden:
        found = _multiply_jointly(hidden, modules)
    else:
        query = linear(asking, parts.query.weight, parts.query.bias)
        found = (query, *_multiply_jointly(hidden, modules[1:]))
    query, key, value = (state.unflatten(-1, (-1, parts.head_size)) for state in found)
    return query, key, value


def _multiply_jointly(
    hidden: torch.Tensor, modules: Sequence[torch.nn.Linear]
) -> tuple[torch.Tensor, ...]:
    weight, bias = (join([getattr(of, name) for of in modules]) for name in ("weight", "bias"))
    if weight is None or bias is None:
        return tuple(linear(hidden, of.weight, of.bias) for of in modules)
    joined = linear(hidden, weight, bias)
    return tuple(torch.split(joined, [len(of.weight) for of in modules], dim=-1))


def join(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return tensors that follow each other in memory as one, or None where they do not."""
    first = tensors[0]
    place, storage = first.data_ptr(), first.untyped_storage().data_ptr()
    for tensor in tensors:
        is_next = tensor.data_ptr() == place and tensor.untyped_storage().data_ptr() == storage
        if not is_next or not tensor.is_contiguous():
            return None
        place += tensor.numel() * tensor.element_size()
    rows = sum(len(tensor) for tensor in tensors)
    return first.detach().as_strided((rows, *first.shape[1:]), first.stride())


def _attend(
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor], places: _Places, rate: float
) -> _Attended:
    found = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 (it alone drops weights)
        *states,
        *places[:4],
        rate,
        False,  # noqa: FBT003 (not causal; the operator takes it by place)
        False,  # noqa: FBT003 (no mask to look at)
        scale=states[0].shape[-1] ** -0.5,
    )
    return _Attended(*found[:4])


def _attend_backward(
    gradient: torch.Tensor, tape: _Tape, places: _Places, rate: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of queries (M, D), keys and values (N, D)."""
    attended = tape.attended
    of_query, of_key, of_value = torch.ops.aten._flash_attention_backward(  # noqa: SLF001 (as above)
        gradient,
        *tape.states,
        attended.output,
        attended.log_sums,
        *places[:4],
        rate,
        False,  # noqa: FBT003 (as above)
        attended.random_state,
        attended.unused,
        scale=gradient.shape[-1] ** -0.5,
    )
    return of_query.flatten(1), of_key.flatten(1), of_value.flatten(1)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context has no public type)
        hidden: torch.Tensor,
        parts: Parts,
        places: _Places,
        trains: bool,  # noqa: FBT001 (autograd's functions take no names)
        *_weights: torch.Tensor,
    ) -> torch.Tensor:
        output, tape = _pass(hidden, parts, places, trains=trains, keeps=True)
        # Nothing of it is an output of this function, so it holds on to nothing that holds it.
        ctx.kept = tape, parts, places, parts.rates[0] if trains else 0.0
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:  # noqa: ANN401 (as above)
        if ctx.kept is None:
            raise RuntimeError("a layer goes back once, and this one has been")
        kept, ctx.kept = ctx.kept, None  # so its memory is free when this is done
        of_hidden, of_weights = _go_back(gradients[0], *kept)
        return (of_hidden, None, None, None, *of_weights)


_apply: Callable[..., torch.Tensor] = _Layer.apply
