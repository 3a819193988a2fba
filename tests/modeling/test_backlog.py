"""A backlog computes the same products, several at once where they are evenly spaced."""

from __future__ import annotations

import contextlib
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bertfit.errors import ModelError, TrainingError
from bertfit.modeling import backlog
from bertfit.modeling.backlog import Backlog, Product, start_backlog, working_off
from bertfit.modeling.gradients import (
    find_gradients_in_a_row,
    keep_master,
    lay_out_rooms,
    lie_with_masters,
)
from bertfit.modeling.kernels import launching
from bertfit.modeling.kernels.elementwise import Fold
from tests.modeling.kernels.on_device import DEVICE, needs_triton

CPU = torch.device("cpu")
TOKENS, OUTPUTS, INPUTS = 6, 3, 5


class Counted(TorchDispatchMode):
    """Counts the products, batched ones as one."""

    def __init__(self):
        super().__init__()
        self.counts = {"mm": 0, "bmm": 0}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if name in self.counts:
            self.counts[name] += 1
        return operation(*args, **kwargs or {})


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fill_layers(waiting, num_layers, *, gradients, like):
    """Go through the layers and back, and return the products in the order of the layers."""
    inputs = [waiting.make_room("in", (TOKENS, INPUTS), like) for _ in range(num_layers)]
    for layer, room in enumerate(inputs):
        room.copy_(draw(TOKENS, INPUTS, seed=layer))
    products = []
    for layer in reversed(range(num_layers)):
        of_outputs = waiting.make_room("out", (TOKENS, OUTPUTS), like, back=True)
        of_outputs.copy_(draw(TOKENS, OUTPUTS, seed=100 + layer))
        product = Product(gradients[layer], of_outputs, inputs[layer])
        waiting.add(product)
        waiting.end_layer()
        products.append(product)
    return products[::-1]


def assert_computed(products):
    for gradient, of_outputs, inputs in products:
        torch.testing.assert_close(gradient, of_outputs.t().float() @ inputs.float())


@pytest.mark.parametrize(
    ("num_together", "expected"),
    [(5, {"mm": 0, "bmm": 1}), (2, {"mm": 1, "bmm": 2}), (3, {"mm": 0, "bmm": 2})],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_wait_for_each_other_and_the_rest_for_the_end(num_together, expected, dtype):
    gradients = torch.full((5, OUTPUTS, INPUTS), torch.nan).unbind()
    waiting, like = Backlog(5, num_together), torch.empty(TOKENS, 1, dtype=dtype)
    with Counted() as counted:
        products = fill_layers(waiting, 5, gradients=gradients, like=like)
        assert torch.isnan(gradients[0]).all() == (5 % num_together != 0)
        waiting.finish()
        waiting.finish()  # nothing is left
    assert counted.counts == expected
    assert_computed(products)


@pytest.mark.parametrize("moved", [0, 2, 4])
def test_products_that_lie_elsewhere_are_computed_alone(moved):
    gradients = list(torch.empty(5, OUTPUTS, INPUTS).unbind())
    gradients[moved] = torch.empty(OUTPUTS, INPUTS)
    waiting = Backlog(5, 9)
    products = fill_layers(waiting, 5, gradients=gradients, like=torch.empty(TOKENS, 1))
    with Counted() as counted:
        waiting.finish()
    assert counted.counts == {"mm": 1, "bmm": 2 if moved == 2 else 1}
    assert_computed(products)


@pytest.mark.parametrize(
    ("places", "expected"),
    [((0, 1, 3, 5, 7), {"mm": 0, "bmm": 2}), ((4, 3, 2, 1, 0), {"mm": 5, "bmm": 0})],
    ids=["gaps of another width", "the opposite order"],
)
def test_what_is_spaced_otherwise_ends_a_run(places, expected):
    block = torch.empty(8, OUTPUTS, INPUTS)
    gradients, waiting = [block[place] for place in places], Backlog(5, 9)
    products = fill_layers(waiting, 5, gradients=gradients, like=torch.empty(TOKENS, 1))
    with Counted() as counted:
        waiting.finish()
    assert counted.counts == expected
    assert_computed(products)


def test_two_products_with_memory_of_their_own_are_computed_alone():
    """Two are always evenly spaced, if the second lies behind the first."""
    gradients = sorted((torch.empty(OUTPUTS, INPUTS) for _ in range(2)), key=torch.Tensor.data_ptr)
    waiting = Backlog(2, 2)
    with Counted() as counted:
        products = fill_layers(waiting, 2, gradients=gradients, like=torch.empty(TOKENS, 1))
    assert counted.counts == {"mm": 2, "bmm": 0}
    assert_computed(products)


def test_products_of_other_numbers_of_tokens_are_computed_alone():
    gradients, waiting = torch.empty(2, OUTPUTS, INPUTS), Backlog(2, 2)
    factors = [draw(3 * TOKENS, width, seed=width) for width in (OUTPUTS, INPUTS)]
    parts = [factor.split([TOKENS, 2 * TOKENS]) for factor in factors]
    products = [Product(*tensors) for tensors in zip(gradients, *parts, strict=True)]
    for product in reversed(products):
        waiting.add(product)
    waiting.finish()
    assert_computed(products)


def test_memory_for_sums_has_their_dtype_whatever_the_layers_compute_in():
    like, waiting = torch.empty(1, dtype=torch.bfloat16), Backlog(2, 2)
    assert waiting.make_room("inputs", (2, 3), like).dtype == torch.bfloat16
    room = waiting.make_room("sums", (2, 3), like, dtype=torch.float32, back=True)
    assert room.dtype == torch.float32


def test_memory_that_autograd_keeps_lies_next_to_memory_that_is_written():
    waiting = Backlog(2, 2)
    kept, written = (waiting.make_room("inputs", (3,), torch.empty(1)) for _ in range(2))
    kept.fill_(2.0)
    weight = torch.ones(3, requires_grad=True)
    output = (weight * kept).sum()
    written.fill_(5.0)
    output.backward()
    assert torch.equal(weight.grad, kept)


def test_an_input_that_autograd_follows_is_multiplied_all_the_same():
    """The first layer's input comes from the embeddings."""
    gradient, waiting = torch.empty(OUTPUTS, INPUTS), Backlog(2, 2)
    factors = draw(TOKENS, OUTPUTS, seed=1), draw(TOKENS, INPUTS, seed=2).requires_grad_()
    product = Product(gradient, *factors)
    with working_off(waiting):
        waiting.add(product)
    assert not gradient.requires_grad
    assert_computed([product])


class FakeStream:
    """A stream that notes what waits for what."""

    device = CPU

    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def log(monkeypatch):
    """Notes the streams, and what is computed on which."""
    noted = []
    current = [FakeStream("main", noted)]

    @contextlib.contextmanager
    def switch(stream):
        current.append(stream)
        yield
        current.pop()

    def note(name, compute):
        return lambda run: noted.append(f"{name} on {current[-1].name}") or compute(run)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", switch)
    monkeypatch.setattr(backlog, "multiply_together", note("products", backlog.multiply_together))
    monkeypatch.setattr(backlog, "fold_together", note("sums", lambda _folds: None))
    return noted


def add_sums(waiting):
    waiting.add_fold(Fold(*(torch.empty(1, 1) for _ in Fold._fields)))


def test_what_comes_last_is_computed_on_a_stream_of_its_own_and_waited_for(log):
    gradients = torch.full((3, OUTPUTS, INPUTS), torch.nan).unbind()
    with working_off(Backlog(3, 2, stream=FakeStream("side", log))) as waiting:
        add_sums(waiting)
        products = fill_layers(waiting, 3, gradients=gradients, like=torch.empty(TOKENS, 1))
        log.append("embeddings go back")
    assert log == [
        *("products on main", "sums on main"),
        *("side waits for main", "products on side", "embeddings go back"),
        "main waits for side",
    ]
    assert_computed(products)


def test_sums_are_computed_beside_the_products_of_the_other_stream(log):
    gradients = torch.full((1, OUTPUTS, INPUTS), torch.nan).unbind()
    with working_off(Backlog(1, 1, stream=FakeStream("side", log))) as waiting:
        add_sums(waiting)
        fill_layers(waiting, 1, gradients=gradients, like=torch.empty(TOKENS, 1))
        log.append("embeddings go back")
    assert log == [
        *("side waits for main", "products on side", "sums on main"),
        *("embeddings go back", "main waits for side"),
    ]


def test_memory_that_is_read_on_the_other_stream_is_kept_until_that_is_waited_for(log):
    gradients = torch.full((2, OUTPUTS, INPUTS), torch.nan).unbind()
    waiting = Backlog(2, 2, stream=FakeStream("side", log))
    products = fill_layers(waiting, 2, gradients=gradients, like=torch.empty(TOKENS, 1))
    factors = [weakref.ref(product.of_outputs) for product in products]
    del products
    assert all(factor() is not None for factor in factors)
    waiting.finish()
    assert all(factor() is None for factor in factors)


def test_a_pass_that_fails_is_joined_too(log):
    def fail_in_embeddings():
        with working_off(Backlog(1, 2, stream=FakeStream("side", log))) as waiting:
            waiting.end_layer()
            raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        fail_in_embeddings()
    assert log == ["side waits for main", "main waits for side"]
    with working_off(None) as nothing:
        assert nothing is None


def test_what_made_a_pass_fail_is_told_not_that_it_cannot_be_joined(log):
    """In a recording that has failed, waiting fails, too."""

    class Broken(FakeStream):
        def wait_stream(self, other):
            super().wait_stream(other)
            if other.name == "side":
                raise RuntimeError("operation failed due to a previous error during capture")

    def fail_in_embeddings(stream):
        with working_off(Backlog(1, 2, stream=stream)) as waiting:
            waiting.end_layer()
            raise RuntimeError("the cause")

    torch.cuda.current_stream(CPU).__class__ = Broken
    with pytest.raises(RuntimeError, match="the cause"):
        fail_in_embeddings(FakeStream("side", log))
    assert log[-1] == "main waits for side"


def test_products_of_other_shapes_wait_beside_each_other():
    waiting, like = Backlog(2, 9), torch.empty(TOKENS, 1)
    wide = [torch.empty(INPUTS, OUTPUTS) for _ in range(2)]
    products = fill_layers(
        waiting, 2, gradients=torch.empty(2, OUTPUTS, INPUTS).unbind(), like=like
    )
    for gradient, (_, of_outputs, inputs) in zip(wide, tuple(products), strict=True):
        other = Product(gradient, inputs, of_outputs)
        waiting.add(other)
        products.append(other)
    waiting.finish()
    assert_computed(products)


def test_two_products_of_a_layer_that_are_of_one_shape_do_not_part_the_layers():
    """As where a layer is three times as wide within: so are its queries, keys and values."""
    waiting, like = Backlog(3, 9), torch.empty(TOKENS, 1)
    kinds = [torch.empty(3, OUTPUTS, INPUTS).unbind() for _ in range(2)]
    inputs = [waiting.make_room("in", (TOKENS, INPUTS), like).fill_(layer) for layer in range(3)]
    products = []
    for layer in reversed(range(3)):
        for name, gradients in zip(("inner", "states"), kinds, strict=True):
            of_outputs = waiting.make_room(name, (TOKENS, OUTPUTS), like, back=True).normal_()
            products.append(Product(gradients[layer], of_outputs, inputs[layer]))
            waiting.add(products[-1])
    with Counted() as counted:
        waiting.finish()
    assert_computed(products)
    assert counted.counts == {"mm": 0, "bmm": 2}


def test_layers_of_large_packs_do_not_wait():
    assert start_backlog(12, num_tokens=100, width=8, memory=1_599) is None
    assert start_backlog(1, num_tokens=100, width=8, memory=9_999) is None
    few = start_backlog(12, num_tokens=100, width=8, memory=1_600)
    assert (few._num_layers, few._num_together) == (12, 2)
    assert start_backlog(12, num_tokens=100, width=8, memory=99_999)._num_together == 12


@pytest.mark.parametrize(("most", "num_together"), [(5, 4), (10, 6), (11, 11), (4, 4), (2, 2)])
def test_batches_of_layers_are_of_about_equal_size(most, num_together):
    waiting = start_backlog(11, num_tokens=10, width=8, memory=80 * most, stream="a stream")
    assert waiting._num_together == num_together
    assert waiting._stream == "a stream"


def test_gradients_of_groups_are_spaced_evenly_where_they_stay():
    shapes = [[(2, 3), (1, 3)], [(3, 3)], [(3, 3)]]
    groups = [[torch.nn.Parameter(torch.empty(shape)) for shape in group] for group in shapes]
    for weight in (weight for weights in groups for weight in weights):
        keep_master(weight, torch.nn.Parameter(torch.empty(weight.shape)), stays=True)
    lay_out_rooms(groups)
    rows = [find_gradients_in_a_row(weights)[0] for weights in groups]
    places = [row.data_ptr() for row in rows]
    assert [place - places[0] for place in places] == [0, 36, 72]
    assert all(lie_with_masters(row, weights) for row, weights in zip(rows, groups, strict=True))
    assert not lie_with_masters(torch.empty(9), groups[0])
    keep_master(groups[0][0], None)
    assert not lie_with_masters(rows[0], groups[0])


@pytest.mark.parametrize("change", ["size", "stays"])
def test_groups_that_differ_or_do_not_stay_keep_their_own_memory(change):
    widths = (3, 4 if change == "size" else 3)
    groups = [[torch.nn.Parameter(torch.empty(3, width))] for width in widths]
    for (weight,) in groups:
        stays = change != "stays" or weight is groups[0][0]
        keep_master(weight, torch.nn.Parameter(torch.empty(weight.shape)), stays=stays)
    lay_out_rooms(groups)
    assert all(weight.bertfit_room is None for (weight,) in groups)
    lay_out_rooms([])


def write_nothing(_products):
    pass


def fail(_products):
    raise RuntimeError("not for this GPU")


def run_out(_products):
    raise torch.OutOfMemoryError("CUDA out of memory")


def add_up(folds):
    """Do what the kernel does."""
    for output, partials, of_queries, of_values in folds:
        sums = [each.sum(dim=0) for each in (of_queries, of_values, partials)]
        sums.insert(1, torch.zeros_like(sums[0]))  # of the keys
        output.copy_(torch.cat(sums))


def try_it():
    return backlog.find_batch_fault.__wrapped__(CPU, width=16, num_columns=48)


class CompilationError(Exception):
    """As Triton's, which is no RuntimeError."""


def fail_to_compile(_folds):
    raise CompilationError("no such instruction")


@pytest.mark.parametrize("name", ["multiply_together", "fold_together"])
@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (write_nothing, "are wrong"),
        (fail, "failed: RuntimeError: not for this GPU"),
        (fail_to_compile, "failed: CompilationError: no such instruction"),
    ],
)
def test_what_fails_or_is_wrong_is_found_before_it_is_used(name, broken, told, monkeypatch):
    monkeypatch.setattr(backlog, "fold_together", add_up)
    assert try_it() is None
    monkeypatch.setattr(backlog, name, broken)
    assert try_it() == f"they were tried here, and {told}"


@needs_triton
def test_the_kernel_that_sums_is_right():
    assert backlog.find_batch_fault(DEVICE, width=16, num_columns=48) is None


@pytest.mark.parametrize("num_right", [1, 2])
def test_sums_of_the_first_layer_alone_are_not_enough(num_right, monkeypatch):
    monkeypatch.setattr(backlog, "fold_together", lambda folds: add_up(folds[:num_right]))
    assert try_it() == "they were tried here, and are wrong"


def test_a_trial_after_which_the_gpu_does_nothing_more_ends_the_training(monkeypatch):
    """A kernel that read wrong memory is heard of where its results are read."""

    def read(*_):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(backlog, "fold_together", add_up)
    monkeypatch.setattr(backlog, "_is_close", read)
    assert "an illegal memory access was encountered" in try_it()
    monkeypatch.setattr(launching, "_still_works", lambda _device: False)
    with pytest.raises(ModelError, match="unusable for this process"):
        try_it()


def test_sums_of_the_first_rows_alone_are_not_enough(monkeypatch):
    def add_up_first_rows(folds):
        add_up([Fold(output, *(each[:1] for each in partials)) for output, *partials in folds])

    monkeypatch.setattr(backlog, "fold_together", add_up_first_rows)
    assert try_it() == "they were tried here, and are wrong"


class Recorder:
    """Stands in for that of a GPU."""

    def __init__(self, *, plays=True, error=None):
        self.plays, self.error = plays, error

    def run(self, work):
        work()

    def record(self, work):
        if self.error is not None:
            raise self.error
        return work if self.plays else lambda: None


@pytest.mark.parametrize(
    ("recorder", "is_right"),
    [
        (Recorder(), True),
        (Recorder(plays=False), False),
        (Recorder(error=RuntimeError("no")), False),
    ],
)
def test_products_are_tried_as_recorded_on_a_stream_of_their_own(
    recorder, is_right, log, monkeypatch
):
    stream = FakeStream("side", log)
    monkeypatch.setattr(backlog, "_start_recorder", lambda _device: (recorder, stream))
    monkeypatch.setattr(backlog, "fold_together", note_sums(log))
    assert (try_it() is None) is is_right
    assert log[:4] == ["side waits for main", "products on side", "sums", "main waits for side"]


def note_sums(log):
    return lambda folds: log.append("sums") or add_up(folds)


def test_a_trial_after_which_cuda_cannot_go_on_ends_the_training(log, monkeypatch):
    recorder = Recorder(error=TrainingError("recording a CUDA graph failed"))
    monkeypatch.setattr(backlog, "_start_recorder", lambda _device: (recorder, None))
    with pytest.raises(TrainingError):
        try_it()


def test_memory_that_runs_out_in_the_trial_says_nothing_about_the_products(monkeypatch):
    monkeypatch.setattr(backlog, "multiply_together", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        try_it()
