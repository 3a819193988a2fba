"""A whole layer of BERT's family over a pack, as one autograd function.

Matrix products are torch's; kernels compute attention and the elementwise operations between
products (`attention`, `elementwise`). Within a layer, gradients do not pass through autograd's
engine: residual gradients are added where a product writes its output, and products write weight
gradients directly to the masters in float32; if the pack has a backlog, for several layers at once.

The last layer can compute only the first token of each text (see `modeling.first_token`).

Shapes: N tokens, S texts, M output rows (N, or S for first tokens only), hidden size D, inner size
I, H heads of size K.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.nn.functional import linear

from bertfit.modeling.backlog import Backlog, Product, multiply
from bertfit.modeling.gradients import (
    find_gradients_in_a_row,
    hand_out,
    has_master,
    lie_with_masters,
)
from bertfit.modeling.kernels.attention import (
    Attended,
    OfStates,
    Spans,
    States,
    attend,
    attend_backward,
)
from bertfit.modeling.kernels.elementwise import (
    Dropout,
    Fold,
    Normed,
    Sums,
    activate,
    activate_backward,
    add_and_norm,
    add_and_norm_backward,
    fold_together,
)
from bertfit.modeling.kernels.parts import Parts, join
from bertfit.modeling.pack import Pack


def pass_layer(
    hidden_ND: torch.Tensor, parts: Parts, pack: Pack, *, trains: bool, only_firsts: bool = False
) -> torch.Tensor:
    """Return a layer's output for a pack, (M, D), computed by the kernels of its device.

    Args:
        hidden_ND: All tokens.
        parts: The layer.
        pack: Where the texts begin and end.
        trains: Whether to apply dropout.
        only_firsts: Whether to compute only the first token of each text.
    """
    places = _Places.of(pack, len(hidden_ND), only_firsts=only_firsts)
    if not torch.is_grad_enabled():
        return _pass(hidden_ND, parts, places, trains=trains, keeps=False)[0]
    out: torch.Tensor = _apply(hidden_ND, parts, places, trains, *parts.matrices, *parts.vectors)
    return out


class _Places(NamedTuple):
    """Where the texts begin and end."""

    spans: Spans
    firsts: torch.Tensor | None
    """(S,) int64, if only first tokens are queries."""
    pack: Pack

    @property
    def rooms(self) -> Backlog | None:
        """The backlog, if this layer's part of it lies next to that of others.

        So it is if all tokens are computed. What the last layer leaves is computed by itself.
        """
        return self.pack.backlog if self.firsts is None else None

    @classmethod
    def of(cls, pack: Pack, num_tokens: int, *, only_firsts: bool) -> _Places:
        starts = pack.cu_seqlens
        if not only_firsts or num_tokens == pack.num_texts:
            return cls(Spans(starts, starts, pack.longest, pack.longest), None, pack)
        counted = torch.arange(pack.num_texts + 1, dtype=torch.int32, device=starts.device)
        return cls(Spans(counted, starts, 1, pack.longest), pack.firsts, pack)


class _Tape(NamedTuple):
    """What the backward pass needs besides weights."""

    hidden: torch.Tensor
    asking: torch.Tensor
    """(M, D): the rows of `hidden` that are queries."""
    states: States
    attended: Attended
    of_output: Normed
    normed: torch.Tensor
    """(M, D), the input of the feed-forward."""
    inner: torch.Tensor
    activated: torch.Tensor
    of_outer: Normed
    dropouts: tuple[Dropout, Dropout, Dropout]
    """In attention, after attention, and after the feed-forward."""


def _pass(
    hidden: torch.Tensor, parts: Parts, places: _Places, *, trains: bool, keeps: bool
) -> tuple[torch.Tensor, _Tape]:
    rates = parts.rates if trains else (0.0, 0.0, 0.0)
    seeds = places.pack.draw_seeds() if any(rates) else hidden.new_empty(4, dtype=torch.int64)
    dropouts = in_attention, after_output, after_outer = (
        Dropout(rates[0], seeds, 0),
        Dropout(rates[1], seeds, 1),
        Dropout(rates[2], seeds, 2),
    )
    asking = hidden if places.firsts is None else hidden.index_select(0, places.firsts)
    room = functools.partial(_make_room, places.rooms if keeps else None, hidden)
    width, inner_width = parts.width, len(parts.inner.weight)
    states = _project(asking, hidden, parts)
    attended = attend(states, places.spans, dropout=in_attention, output=room("attended", width))
    dense = linear(attended.output.flatten(1), parts.output.weight, parts.output.bias)
    normed, of_output = add_and_norm(
        *(dense, asking, parts.output_norm, after_output),
        keeps=keeps,
        output=room("normed", width),
    )
    inner = linear(normed, parts.inner.weight, parts.inner.bias)
    activated = activate(inner, room("activated", inner_width))
    fed = linear(activated, parts.outer.weight, parts.outer.bias)
    output, of_outer = add_and_norm(
        *(fed, normed, parts.outer_norm, after_outer), keeps=keeps, output=room("hidden", width)
    )
    return output, _Tape(
        *(hidden, asking, states, attended, of_output, normed, inner, activated, of_outer),
        dropouts,
    )


def _go_back(
    gradient: torch.Tensor, tape: _Tape, parts: Parts, places: _Places
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Return the gradients of all tokens (N, D) and of weights without a master."""
    width, inner_width = parts.width, len(parts.inner.weight)
    in_attention, after_output, after_outer = tape.dropouts
    backlog, rooms = places.pack.backlog, places.rooms
    room = functools.partial(_make_room, rooms, tape.hidden, back=True)
    make_sums = functools.partial(_make_sums, rooms, tape.hidden)
    sums = Sums.make(
        parts.num_columns,
        len(tape.hidden),
        gradient.device,
        functools.partial(make_sums, "sums"),
    )
    of_normed, of_fed = add_and_norm_backward(
        gradient.contiguous(),
        tape.of_outer,
        parts.outer_norm.weight,
        after_outer,
        sums,
        at=3 * width + inner_width,
        of_hidden=room("outer", width) if after_outer.rate else None,
    )
    # Without dropout both are one tensor, and `of_normed` is added to.
    waits = backlog if of_fed is not of_normed else None
    outer = _give((parts.outer.weight,), of_fed, tape.activated, waits)
    of_inner = activate_backward(
        of_fed @ parts.outer.weight,
        tape.inner,
        sums,
        at=3 * width,
        of_values=room("inner", inner_width),
    )
    inner = _give((parts.inner.weight,), of_inner, tape.normed, backlog)
    of_normed.addmm_(of_inner, parts.inner.weight)
    of_asking, of_dense = add_and_norm_backward(
        *(of_normed, tape.of_output, parts.output_norm.weight, after_output, sums),
        at=0,
        of_hidden=room("output", width) if after_output.rate else None,
    )
    waits = backlog if of_dense is not of_asking else None
    output = _give((parts.output.weight,), of_dense, tape.attended.output.flatten(1), waits)
    of_attended = (of_dense @ parts.output.weight).view(tape.attended.output.shape)
    of_states = attend_backward(
        *(of_attended, tape.states, tape.attended, places.spans),
        dropout=in_attention,
        joint=room("states", 3 * width),
        make_sums=functools.partial(make_sums, "sums of states"),
    )
    if places.firsts is None:
        of_hidden, states = _collect(of_asking, of_states, tape, parts, backlog)
    else:
        of_hidden, states = _collect_of_firsts(
            of_asking, of_states, tape, parts, backlog, firsts=places.firsts
        )
    vectors = _fold(parts, sums, of_states, backlog)
    if rooms is not None:
        rooms.end_layer()
    return of_hidden, [*states, *output, *inner, *outer, *vectors]


_Gradients: TypeAlias = tuple[torch.Tensor | None, ...]


def _make_room(
    backlog: Backlog | None, like: torch.Tensor, name: str, width: int, *, back: bool = False
) -> torch.Tensor | None:
    """Return memory for a factor of a product that may wait, or None if it need not lie there."""
    if backlog is None:
        return None
    return backlog.make_room(name, (len(like), width), like, back=back)


def _make_sums(
    backlog: Backlog | None, like: torch.Tensor, name: str, num_rows: int, width: int
) -> torch.Tensor:
    """Return memory for partial sums, (num_rows, width) float32."""
    shape = num_rows, width
    if backlog is None:
        return like.new_empty(shape, dtype=torch.float32)
    return backlog.make_room(name, shape, like, dtype=torch.float32, back=True)


def _fold(
    parts: Parts, sums: Sums, of_states: OfStates, backlog: Backlog | None
) -> tuple[torch.Tensor | None, ...]:
    """Add the gradients of biases and norms to their masters, or return them."""
    row, adds = find_gradients_in_a_row(parts.vectors)
    fold = Fold(row, sums.partials, of_states.query_sums, of_states.value_sums)
    if backlog is not None and not adds and lie_with_masters(row, parts.vectors):
        backlog.add_fold(fold)
        return (None,) * len(parts.vectors)
    fold_together([fold], adds=adds)
    return hand_out(row, parts.vectors)


def _collect(
    of_asking: torch.Tensor,
    of_states: OfStates,
    tape: _Tape,
    parts: Parts,
    backlog: Backlog | None,
) -> tuple[torch.Tensor, _Gradients]:
    """Return the gradients of all tokens (N, D), attention and residual, and of weights."""
    weights = (parts.query.weight, parts.key.weight, parts.value.weight)
    found = _give(weights, of_states.joint, tape.hidden, backlog)
    return _multiply_back(of_states.joint, weights, onto=of_asking), found


def _collect_of_firsts(
    of_asking: torch.Tensor,
    of_states: OfStates,
    tape: _Tape,
    parts: Parts,
    backlog: Backlog | None,
    *,
    firsts: torch.Tensor,
) -> tuple[torch.Tensor, _Gradients]:
    """Return the same as `_collect`, if only first tokens are queries."""
    weights = (parts.key.weight, parts.value.weight)
    found = (
        *_give((parts.query.weight,), of_states.query, tape.asking, backlog),
        *_give(weights, of_states.joint, tape.hidden, backlog),
    )
    of_asking.addmm_(of_states.query, parts.query.weight)
    of_hidden = _multiply_back(of_states.joint, weights)
    return of_hidden.index_add_(0, firsts, of_asking), found


def _multiply_back(
    of_outputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    *,
    onto: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the gradient of several products' shared input, added to `onto` if given."""
    joined = join(weights)
    if joined is not None:
        return of_outputs @ joined if onto is None else onto.addmm_(of_outputs, joined)
    for weight, part in zip(
        weights, of_outputs.split([len(weight) for weight in weights], dim=1), strict=True
    ):
        onto = part @ weight if onto is None else onto.addmm_(part, weight)
    assert onto is not None
    return onto


def _give(
    weights: Sequence[torch.Tensor],
    of_outputs: torch.Tensor,
    source: torch.Tensor,
    backlog: Backlog | None = None,
) -> _Gradients:
    """Add the gradients of weights to their masters; return those of weights without one.

    Args:
        weights: Weights of products with the same input.
        of_outputs: Gradients of their outputs, concatenated along columns.
        source: Their input.
        backlog: Where the product may wait, if neither factor will be overwritten.
    """
    if not all(map(has_master, weights)):
        gradients = of_outputs.t() @ source
        return tuple(torch.split(gradients, [len(weight) for weight in weights]))
    row, adds = find_gradients_in_a_row(weights)
    matrix = row.view(-1, source.shape[1])
    if backlog is not None and not adds and lie_with_masters(row, weights):
        backlog.add(Product(matrix, of_outputs, source))
        return (None,) * len(weights)
    found = torch.empty_like(matrix) if adds else matrix
    multiply(Product(found, of_outputs, source))
    if adds:
        matrix.add_(found)
    return hand_out(row, weights)


def _project(asking: torch.Tensor, hidden: torch.Tensor, parts: Parts) -> States:
    """Return queries (M, H, K), keys and values (N, H, K), using one product if possible."""
    modules = (parts.query, parts.key, parts.value)
    if asking is hidden:
        found = _multiply_jointly(hidden, modules)
    else:
        query = linear(asking, parts.query.weight, parts.query.bias)
        found = (query, *_multiply_jointly(hidden, modules[1:]))
    return States(*(state.unflatten(-1, (-1, parts.head_size)) for state in found))


def _multiply_jointly(
    hidden: torch.Tensor, modules: Sequence[torch.nn.Linear]
) -> tuple[torch.Tensor, ...]:
    weight, bias = (join([getattr(of, name) for of in modules]) for name in ("weight", "bias"))
    if weight is None or bias is None:
        return tuple(linear(hidden, of.weight, of.bias) for of in modules)
    joined = linear(hidden, weight, bias)
    return tuple(torch.split(joined, [len(of.weight) for of in modules], dim=-1))


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context has no public type)
        hidden: torch.Tensor,
        parts: Parts,
        places: _Places,
        trains: bool,  # noqa: FBT001 (autograd passes by position)
        *_weights: torch.Tensor,
    ) -> torch.Tensor:
        output, tape = _pass(hidden, parts, places, trains=trains, keeps=True)
        # None of it is an output of this function, so this creates no reference cycle.
        ctx.kept = tape, parts, places
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:  # noqa: ANN401 (as above)
        if ctx.kept is None:
            raise RuntimeError("a layer goes back once, and this one has been")
        kept, ctx.kept = ctx.kept, None  # frees the memory after this
        of_hidden, of_weights = _go_back(gradients[0], *kept)
        return (of_hidden, None, None, None, *of_weights)


_apply: Callable[..., torch.Tensor] = _Layer.apply
