"""The custom layer for packs: outputs and all gradients equal transformers' layer."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from bertfit.modeling import backlog
from bertfit.modeling.backlog import Backlog, working_off
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.gradients import keep_master
from bertfit.modeling.kernels import exchange
from bertfit.modeling.kernels.exchange import (
    exchange_layers,
    is_exchanged,
    lay_out_gradients,
    list_exchanged,
)
from bertfit.modeling.kernels.layer import _give, _make_sums, _pass, _Places, pass_layer
from bertfit.modeling.kernels.parts import find_parts, join, join_projections
from bertfit.modeling.pack import Pack, computing
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import Precision, choose_precision
from tests.modeling.kernels.on_device import DEVICE, needs_triton
from tests.modeling.test_fast_path import make_classifier

pytestmark = needs_triton
FAMILIES = (
    *("bert", "distilbert"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("electra", "roberta", "xlm-roberta")),
)
OTHERS = ("albert", "modernbert", "mpnet", "deberta-v2")
WIDTH, NUM_HEADS = 64, 2  # heads of 32 numbers
STARTS = np.array([0, 5, 6, 14], dtype=np.int32)
# On a GPU attention takes half precision alone.
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
TOLERANCE = {"atol": 0.03, "rtol": 0.03} if DEVICE.type == "cuda" else {"atol": 1e-5, "rtol": 1e-5}


def make_model(family, *, dropout=0.0):
    model = make_classifier(family, dropout=dropout, width=WIDTH, num_heads=NUM_HEADS)
    model = model.to(DEVICE, DTYPE)
    set_up_packing(model, Precision(DEVICE, DTYPE, "a test"), "on")
    return model


def first_layer(model):
    return next(module for module in model.modules() if find_parts(module) is not None)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, DTYPE)


def run_plain(layer, hidden, pack, *, only_firsts, gradient):
    """Return output and gradients of transformers' layer in float32 where there is a CPU for it."""
    layer.zero_grad()
    hidden = hidden.detach().clone().requires_grad_()
    with computing(pack):
        output = layer(hidden[None])[0]
    output = output[pack.firsts] if only_firsts else output
    output.backward(gradient)
    return output.detach(), [hidden.grad, *(weight.grad for weight in layer.parameters())]


@pytest.mark.parametrize("only_firsts", [False, True], ids=["all tokens", "first tokens"])
@pytest.mark.parametrize("family", FAMILIES)
def test_output_and_all_gradients_are_those_of_transformers_layer(family, only_firsts):
    layer = first_layer(make_model(family).train())
    parts, pack = find_parts(layer), Pack.build(STARTS, DEVICE)
    hidden = draw(14, WIDTH, seed=1).requires_grad_()
    gradient = draw(3 if only_firsts else 14, WIDTH, seed=2)
    expected, expected_gradients = run_plain(
        layer, hidden, pack, only_firsts=only_firsts, gradient=gradient
    )
    layer.zero_grad()
    found = pass_layer(hidden, parts, pack, trains=True, only_firsts=only_firsts)
    found.backward(gradient)
    with torch.no_grad():
        scored = pass_layer(hidden, parts, pack, trains=False, only_firsts=only_firsts)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    torch.testing.assert_close(scored, expected, **TOLERANCE)
    gradients = [hidden.grad, *(weight.grad for weight in layer.parameters())]
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got, wanted, **TOLERANCE)


@pytest.mark.parametrize(
    "only_firsts",
    [
        pytest.param(False, id="all tokens"),
        pytest.param(True, id="first tokens", marks=pytest.mark.slow),
    ],
)
def test_masters_get_the_gradients_of_all_packs_of_a_step_at_one_place(only_firsts):
    layer = first_layer(make_model("bert"))
    pack = Pack.build(STARTS, DEVICE)
    hidden = draw(14, WIDTH, seed=1).requires_grad_()
    gradient = draw(3 if only_firsts else 14, WIDTH, seed=2)
    _, (_, *expected) = run_plain(layer, hidden, pack, only_firsts=only_firsts, gradient=gradient)
    masters = [torch.nn.Parameter(weight.detach().float()) for weight in layer.parameters()]
    for master, work in zip(masters, layer.parameters(), strict=True):
        keep_master(work, master, stays=True)
    parts = find_parts(layer)
    layer.zero_grad()
    places = []
    for _ in range(2):  # two steps of two packs each
        for master in masters:
            master.grad = None
        for _ in range(2):
            found = pass_layer(hidden, parts, pack, trains=True, only_firsts=only_firsts)
            found.backward(gradient)
        places.append([master.grad.data_ptr() for master in masters])
    assert places[0] == places[1]
    for master, work, wanted in zip(masters, layer.parameters(), expected, strict=True):
        assert work.grad is None
        torch.testing.assert_close(master.grad / 2, wanted.float(), **TOLERANCE)
        keep_master(work, None)


def count_together(monkeypatch, name):
    """Note how much this function of the backlog computes at once, each time."""
    counts, compute = [], getattr(backlog, name)
    monkeypatch.setattr(backlog, name, lambda run: counts.append(len(run)) or compute(run))
    return counts


def go_through(layers, *, waiting, only_firsts):
    """Go through layers and back; return the gradients of input and masters."""
    weights = [weight for layer in layers for weight in layer.parameters()]
    masters = [torch.nn.Parameter(weight.detach().float()) for weight in weights]
    for master, work in zip(masters, weights, strict=True):
        keep_master(work, master, stays=True)
    lay_out_gradients(list_exchanged(torch.nn.ModuleList(layers)))
    torch.manual_seed(0)
    pack = dataclasses.replace(Pack.build(STARTS, DEVICE), backlog=waiting)
    hidden = draw(14, WIDTH, seed=1).requires_grad_()
    output = hidden
    for layer in layers:
        firsts = only_firsts and layer is layers[-1]
        output = pass_layer(output, find_parts(layer), pack, trains=True, only_firsts=firsts)
    with working_off(waiting):
        gradient = draw(len(output), WIDTH, seed=2)
        (of_hidden,) = torch.autograd.grad(output, hidden, gradient)
    for work in weights:
        keep_master(work, None)
    return [of_hidden, *(master.grad for master in masters)]


@pytest.mark.parametrize(
    ("family", "rate", "num_together", "only_firsts", "sums", "products"),
    [  # without dropout, some products do not wait
        ("distilbert", 0.2, 3, False, [3], [1, 2, 3, 3]),
        pytest.param("bert", 0.2, 3, False, [3], [1, 2, 3, 3, 3], marks=pytest.mark.slow),
        pytest.param("bert", 0.0, 2, False, [2, 1], [1, 1, 2, 2], marks=pytest.mark.slow),
        # The last layer's own: keys and values, queries, attention's output, feed-forward twice.
        pytest.param("bert", 0.2, 2, True, [2, 1], [1] * 7 + [2] * 3, marks=pytest.mark.slow),
        pytest.param("bert", 0.0, 2, True, [2, 1], [1] * 5 + [2], marks=pytest.mark.slow),
    ],
)
def test_gradients_of_several_layers_at_once_are_the_same(
    family, rate, num_together, only_firsts, sums, products, monkeypatch
):
    num_layers = 3
    layer = first_layer(make_model(family, dropout=rate).train())
    layers = [copy.deepcopy(layer) for _ in range(num_layers)]
    for number, each in enumerate(layers):
        exchange_layers(each)
        for weight in each.parameters():
            weight.data.mul_(1.0 + 0.1 * number)
    alone = go_through(layers, waiting=None, only_firsts=only_firsts)
    stream = torch.cuda.Stream() if DEVICE.type == "cuda" else None
    waiting = Backlog(num_layers - only_firsts, num_together, stream=stream)
    folded = count_together(monkeypatch, "fold_together")
    multiplied = count_together(monkeypatch, "multiply_together")
    together = go_through(layers, waiting=waiting, only_firsts=only_firsts)
    for got, wanted in zip(together, alone, strict=True):
        torch.testing.assert_close(got, wanted, **TOLERANCE)
    assert folded == sums
    assert sorted(multiplied) == products


def test_what_is_added_to_a_gradient_does_not_wait():
    work = torch.nn.Parameter(draw(16, 8))
    master = torch.nn.Parameter(work.detach().float())
    keep_master(work, master, stays=True)
    factors, waiting = (draw(5, 16, seed=1), draw(5, 8, seed=2)), Backlog(2, 2)
    _give((work,), *factors, waiting)
    waiting.finish()
    once = master.grad.clone()
    others = draw(5, 16, seed=3), draw(5, 8, seed=4)
    _give((work,), *others, waiting)
    added = master.grad - once
    for found, (of_outputs, inputs) in ((once, factors), (added, others)):
        torch.testing.assert_close(found, of_outputs.float().t() @ inputs.float(), **TOLERANCE)


def test_sums_are_kept_in_float32_where_they_wait_and_where_not():
    like = torch.empty(1, dtype=torch.bfloat16)
    for waiting in (None, Backlog(2, 2)):
        sums = _make_sums(waiting, like, "sums", 2, 3)
        assert (sums.shape, sums.dtype) == ((2, 3), torch.float32)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kind", [torch.nn.LayerNorm, torch.nn.Linear])
def test_where_some_vectors_are_not_trained_the_others_get_their_gradients(kind, waits):
    layer = first_layer(make_model("bert"))
    pack, hidden = Pack.build(STARTS, DEVICE), draw(14, WIDTH, seed=1).requires_grad_()
    gradient = draw(14, WIDTH, seed=2)
    _, (_, *expected) = run_plain(layer, hidden, pack, only_firsts=False, gradient=gradient)
    layer.zero_grad()
    for module in layer.modules():
        if type(module) is kind:
            module.requires_grad_(requires_grad=False)
    pairs = [
        (torch.nn.Parameter(work.detach().float()), work)
        for work in layer.parameters()
        if work.requires_grad
    ]
    for master, work in pairs:
        keep_master(work, master)
    with working_off(Backlog(1, 1) if waits else None) as waiting:
        pack = dataclasses.replace(pack, backlog=waiting)
        found = pass_layer(hidden, find_parts(layer), pack, trains=True)
        found.backward(gradient)
    masters = {id(work): master for master, work in pairs}
    for work, wanted in zip(layer.parameters(), expected, strict=True):
        if work.requires_grad:
            got = work.grad if work.grad is not None else masters[id(work)].grad
            torch.testing.assert_close(got.float(), wanted.float(), **TOLERANCE)
        keep_master(work, None)


def test_dropout_is_drawn_by_torchs_generator_and_has_its_gradient():
    layer = first_layer(make_model("bert", dropout=0.2).train())
    parts = find_parts(layer)

    def run(hidden, seed):
        torch.manual_seed(seed)
        return pass_layer(hidden, parts, Pack.build(STARTS, DEVICE), trains=True)

    hidden = draw(14, WIDTH, seed=1).requires_grad_()
    first, again, other = run(hidden, 0), run(hidden, 0), run(hidden, 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    if DEVICE.type == "cuda":  # numbers of bfloat16 are too coarse for what follows
        return
    gradient = draw(14, WIDTH, seed=2)
    first.backward(gradient)
    step = 1e-3 * draw(14, WIDTH, seed=3)
    with torch.no_grad():
        slope = ((run(hidden + step, 0) - run(hidden - step, 0)) * gradient).sum() / 2
    assert float((hidden.grad * step).sum()) == pytest.approx(float(slope), rel=2e-2)


def test_dropout_is_for_training_and_drops_other_numbers_at_each_place():
    parts = dataclasses.replace(find_parts(first_layer(make_model("bert"))), rates=(0.1, 0.2, 0.3))
    hidden, pack = draw(14, WIDTH, seed=1), Pack.build(STARTS, DEVICE)
    places = _Places.of(pack, 14, only_firsts=False)
    for trains in (True, False):
        _, tape = _pass(hidden, parts, places, trains=trains, keeps=False)
        rates = tuple(dropout.rate for dropout in tape.dropouts)
        assert rates == (parts.rates if trains else (0.0, 0.0, 0.0))
        assert len({dropout.which for dropout in tape.dropouts}) == 3


def test_joined_projections_are_the_same_weights_and_one_product():
    model = make_model("bert")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    parts = find_parts(first_layer(model))
    assert join([parts.query.weight, parts.key.weight, parts.value.weight]) is None
    join_projections(model)
    joined = join([parts.query.weight, parts.key.weight, parts.value.weight])
    assert torch.equal(joined[WIDTH : 2 * WIDTH], parts.key.weight)
    assert joined.data_ptr() == parts.query.weight.data_ptr()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), name


@pytest.mark.parametrize("family", OTHERS)
def test_layers_of_other_kinds_are_left_alone(family):
    assert exchange_layers(make_classifier(family)) == 0


class OnGpu(torch.Tensor):
    is_cuda = True


class OnCpu(torch.Tensor):
    is_cuda = False


def test_a_layer_that_is_changed_or_watched_is_computed_as_it_is_written(monkeypatch):
    model = make_model("bert")
    assert exchange_layers(model) == len(model.bert.encoder.layer)
    layer = first_layer(model)
    assert is_exchanged(layer)
    calls = []
    monkeypatch.setattr(exchange, "_takes", lambda *_: True)
    monkeypatch.setattr(exchange, "find_fault", lambda *_, **__: None)
    monkeypatch.setattr(exchange, "_pass", lambda hidden, *_, **__: calls.append(1) or hidden)
    pack = Pack.build(STARTS, DEVICE)
    hidden = draw(1, 14, WIDTH)

    on_gpu = hidden.as_subclass(OnGpu)
    layer(on_gpu)  # no pack
    with computing(pack):
        layer(hidden.as_subclass(OnCpu))
        layer(on_gpu, output_attentions=True)
        assert not calls
        layer(on_gpu)
        assert len(calls) == 1
        handle = layer.attention.register_forward_hook(lambda *_: None)
        layer(on_gpu)
        assert len(calls) == 1
        handle.remove()
        layer.intermediate.intermediate_act_fn = torch.nn.ReLU()
        layer(on_gpu)
        assert len(calls) == 1


@pytest.mark.parametrize(
    ("in_training", "with_gradients", "expected"),
    [(True, True, True), (False, True, True), (True, False, True), (False, False, False)],
)
def test_only_a_layer_that_scores_without_gradients_is_not_tried_in_training(
    in_training, with_gradients, expected, monkeypatch
):
    tried = []
    monkeypatch.setattr(exchange, "_takes", lambda *_: True)
    monkeypatch.setattr(
        exchange, "find_fault", lambda *_, trains, **__: tried.append(trains) or "wrong"
    )

    layer = first_layer(make_model("bert")).train(in_training)
    hidden = draw(1, 14, WIDTH).as_subclass(OnGpu)
    with computing(Pack.build(STARTS, DEVICE)), torch.set_grad_enabled(with_gradients):
        assert exchange.compute_by_kernels(layer, hidden) is None
    assert tried == [expected]


@pytest.mark.parametrize("only_firsts", [False, True])
@pytest.mark.parametrize("in_training", [False, True])
def test_a_layer_drops_in_training_alone_and_gives_all_tokens_or_the_first_ones(
    in_training, only_firsts, monkeypatch
):
    asked = []

    def compute(hidden, _parts, pack, **options):
        asked.append(options)
        return hidden[pack.firsts] if only_firsts else hidden

    monkeypatch.setattr(exchange, "_takes", lambda *_: True)
    monkeypatch.setattr(exchange, "find_fault", lambda *_, **__: None)
    monkeypatch.setattr(exchange, "_pass", compute)
    layer = first_layer(make_model("bert")).train(in_training)
    hidden = draw(1, 14, WIDTH).as_subclass(OnGpu)
    with computing(Pack.build(STARTS, DEVICE)):
        found = exchange.compute_by_kernels(layer, hidden, only_firsts=only_firsts)
        assert found.shape == ((3, 1, WIDTH) if only_firsts else (1, 14, WIDTH))
        monkeypatch.setattr(exchange, "_takes", lambda *_: False)
        assert exchange.compute_by_kernels(layer, hidden, only_firsts=only_firsts) is None
    assert asked == [{"trains": in_training, "only_firsts": only_firsts}]


@pytest.mark.parametrize(
    ("change", "is_taken"),
    [
        (lambda hidden: hidden, True),
        (lambda hidden: hidden.as_subclass(OnGpu), False),
        (lambda hidden: hidden.float(), False),
        (lambda hidden: hidden.mT.contiguous().mT, False),
    ],
    ids=["as it is", "a subclass", "float32", "transposed"],
)
def test_kernels_take_plain_tensors_of_bfloat16(change, is_taken, monkeypatch):
    monkeypatch.setattr(exchange, "find_kernel_obstacle", lambda _device: None)
    model = make_model("bert")
    hidden = change(draw(1, 14, WIDTH).bfloat16())
    exact, rounded = (
        find_parts(first_layer(of)) for of in (model.float(), copy.deepcopy(model).bfloat16())
    )
    assert exchange._takes(hidden, rounded) == is_taken
    assert not exchange._takes(hidden, exact)
    monkeypatch.setattr(exchange, "find_kernel_obstacle", lambda _device: "none here")
    assert not exchange._takes(hidden, rounded)


def test_a_model_is_tried_as_it_will_be_trained(monkeypatch):
    tried = []
    monkeypatch.setattr(exchange, "find_fault", lambda *_, **of: tried.append(of) or "wrong")
    assert exchange.find_kernel_fault(make_model("bert"), device=DEVICE) == "wrong"
    assert tried == [{"device": DEVICE, "dtype": torch.bfloat16, "trains": True}]
    fault = exchange.find_kernel_fault(make_classifier("albert"), device=DEVICE)
    assert fault == "its layers are not of a kind that the kernels know"


def test_on_a_cpu_nothing_is_exchanged():
    model = make_classifier("bert")
    plug_in(model, torch.device("cpu"))
    assert not any(is_exchanged(module) for module in model.modules())
    assert choose_precision("cpu").device.type == "cpu"


@pytest.mark.parametrize("name", ["LayerNorm", "dropout", "dense"])
def test_a_layer_with_something_else_in_a_parts_place_is_left_alone(name):
    layer = first_layer(make_model("bert"))
    setattr(layer.output, name, torch.nn.Identity())
    assert find_parts(layer) is None


def test_a_layer_goes_back_once():
    layer = first_layer(make_model("bert"))
    hidden = draw(14, WIDTH).requires_grad_()
    output = pass_layer(hidden, find_parts(layer), Pack.build(STARTS, DEVICE), trains=False)
    output.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="goes back once"):
        output.sum().backward()


def test_a_copy_of_a_model_has_its_own_layers():
    model = make_model("bert")
    exchange_layers(model)
    copied = copy.deepcopy(model)
    assert first_layer(copied).forward.module is first_layer(copied)
