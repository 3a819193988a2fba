"""Recorded passes give the same results as eager ones on other texts, without running Python.

A CPU has no CUDA graphs. Their stand-in keeps all operations of both passes and does them again:
like a graph, it only knows the recorded tensors. Attention is torch's own operator with a dense
kernel.
"""

from __future__ import annotations

import copy
import types

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bertfit.config import TrainSettings
from bertfit.data.batching import iter_packs
from bertfit.errors import TrainingError
from bertfit.inference.micro_batches import TokenBudget
from bertfit.modeling import backlog
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.gradients import keep_master
from bertfit.modeling.graphs import plan_recording
from bertfit.modeling.kernels import exchange
from bertfit.modeling.kernels.layer import pass_layer
from bertfit.modeling.kernels.parts import find_parts
from bertfit.modeling.pack import current_pack
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.plan import Plan
from bertfit.modeling.precision import Precision, choose_precision
from bertfit.modeling.transfer import write_to
from bertfit.training import pack_sizes, recorded_passes, validation
from bertfit.training.checkpoints import Checkpoints
from bertfit.training.gpu_embedding_rows import sort_by_id
from bertfit.training.interruption import Interruption
from bertfit.training.loop import (
    TrainingData,
    accumulate_gradients,
    accumulate_within_memory,
    train_steps,
)
from bertfit.training.measuring import measure_speed
from bertfit.training.pack_sizes import PackSize
from bertfit.training.recorded_passes import RecordedPasses
from bertfit.training.trainer import fit
from bertfit.training.weights import TrainedWeights
from tests.modeling.flash_on_cpu import flash_on_cpu
from tests.modeling.kernels.on_device import needs_triton
from tests.modeling.test_fast_path import make_classifier
from tests.modeling.test_packing import PACKED, PACKED_SOME_SLOW, make_encoded
from tests.modeling.test_transfer import no_waiting
from tests.training.test_no_waiting import LOOKS, aten

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FLOAT32, BFLOAT16 = (choose_precision("cpu", dtype) for dtype in ("float32", "bfloat16"))
ON = Plan(is_on=True, reason="a test")
LENGTHS = (24, 17, 9, 3, 3)
ROWS = np.arange(len(LENGTHS))
MAX_TOKENS = 45
"""Two packs a step: of the first one's gradients, and of such as are added to them."""


class Trace(TorchDispatchMode):
    """The operations of some work, which can be done again in the same memory."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        results = operation(*args, **kwargs)
        self.calls.append((operation, args, kwargs, tree_leaves(results)))
        return results

    @torch.no_grad()
    def replay(self):
        for operation, args, kwargs, results in self.calls:
            again = tree_leaves(operation(*args, **kwargs))
            for result, new in zip(results, again, strict=True):
                if isinstance(new, torch.Tensor) and new.data_ptr() != result.data_ptr():
                    result.copy_(new)


class Tracer:
    """Records as a CUDA graph does: what is recorded is not done, and Python does not see it."""

    def __init__(self):
        self.traces = []
        self.passes = None

    def run(self, work):
        work()

    def record(self, work):
        # Tracing does the work, too, and only what it adds to anything must be taken back. Without
        # the passes at hand nothing is, which is right where a step is one pack.
        kept_by_passes = [] if self.passes is None else self.passes._gradients
        gradients = [kept for kept in kept_by_passes if kept is not None]
        before = [kept.clone() for kept in gradients]
        with Trace() as trace:
            work()
        for kept, value in zip(gradients, before, strict=True):
            kept.copy_(value)
        self.traces.append(trace)
        return trace.replay

    def forget(self):
        self.traces.clear()

    def operations(self):
        return {operation for trace in self.traces for operation, *_ in trace.calls}


class Failing(Tracer):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def record(self, work):
        raise self.error


@pytest.fixture(autouse=True)
def _flash():
    with flash_on_cpu():
        yield


def make_model(family="bert", *, dropout=0.0):
    """Return a classifier as it is on a GPU."""
    model = make_classifier(family, dropout=dropout)
    plug_in(model, GPU)
    assert set_up_packing(model, FLOAT32, "on").is_on
    return model


def record_passes(model, pairs, *, precision=FLOAT32):
    tracer = Tracer()
    tracer.passes = RecordedPasses(model, pairs, precision=precision, plan=ON, recorder=tracer)
    return tracer.passes, tracer


def count_calls(model):
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def make_data(seed):
    return TrainingData(make_encoded(LENGTHS, seed=seed), ROWS % 3, pad_id=0)


def gradients_of(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compute_in_interpreter(layer, hidden, **options):
    """Stand in for `exchange.compute_by_kernels`, which is for a GPU alone."""
    passed = pass_layer(
        hidden.squeeze(0), find_parts(layer), current_pack(), trains=layer.training, **options
    )
    return passed.unsqueeze(0)


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes no float32")
def test_kernels_leave_weight_gradients_of_several_layers_to_one_product(monkeypatch):
    written = make_classifier("bert", width=64, num_heads=2, num_layers=4, dropout=1e-9)
    plug_in(written, GPU)
    assert set_up_packing(written, FLOAT32, "on").is_on
    model = copy.deepcopy(written)
    batches = []
    multiply = backlog.multiply_together
    monkeypatch.setattr(
        backlog, "multiply_together", lambda run: batches.append(len(run)) or multiply(run)
    )
    masters = copy.deepcopy(model)
    pairs = list(zip(masters.parameters(), model.parameters(), strict=True))
    for master, work in pairs:
        keep_master(work, master, stays=True)
    monkeypatch.setattr(recorded_passes, "plan_operators_of", lambda *_: ON)
    recorded, _ = record_passes(model, pairs)
    rows, options = ROWS[2:], {"precision": FLOAT32, "max_tokens": MAX_TOKENS}
    expected = accumulate_gradients(written, make_data(0), rows, **options)
    monkeypatch.setattr(exchange, "compute_by_kernels", compute_in_interpreter)
    monkeypatch.setattr(pack_sizes, "TOKENS_STEP", 16)
    monkeypatch.setattr(pack_sizes, "ROWS_STEP", 1)
    batches.clear()  # of the trial
    made = accumulate_gradients(model, make_data(0), rows, recorded=recorded, **options)
    # Three layers compute all tokens; the first one's input is the output of no layer.
    assert sorted(batches) == [1, 2, 3, 3, 3]
    (size,) = recorded._places
    for is_first in (True, False):
        with recorded._start_backlog(size._replace(is_first=is_first)) as started:
            assert (started is not None) == is_first
    torch.testing.assert_close(made.loss, expected.loss, atol=1e-5, rtol=1e-5)
    found, wanted = gradients_of(masters), gradients_of(written)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=2e-5, rtol=2e-5, msg=name)


@pytest.mark.parametrize("family", PACKED_SOME_SLOW)
def test_texts_that_come_later_get_the_gradients_of_passes_as_written(family):
    written = make_model(family)
    model = copy.deepcopy(written)
    recorded, tracer = record_passes(model, [(p, p) for p in model.parameters()])
    calls, found = count_calls(model), []
    for seed in range(4):
        num_before = len(calls)
        for each in (model, written):
            each.zero_grad()
        options = {"precision": FLOAT32, "max_tokens": MAX_TOKENS}
        made = accumulate_gradients(model, make_data(seed), ROWS, recorded=recorded, **options)
        expected = accumulate_gradients(written, make_data(seed), ROWS, **options)
        torch.testing.assert_close(made.loss, expected.loss, atol=1e-6, rtol=1e-5)
        np.testing.assert_array_equal(made.indices, expected.indices)
        assert torch.equal(made.predicted_ids, expected.predicted_ids)
        assert made.num_tokens == expected.num_tokens
        wanted = gradients_of(written)
        assert gradients_of(model).keys() == wanted.keys()
        for name, gradient in gradients_of(model).items():
            torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-5, msg=name)
        found.append(len(calls) - num_before)
    assert found == [2, 2, 0, 0]  # written, recorded, and from then on played
    assert len(tracer.traces) == 2
    assert sum(float(gradient.abs().max()) > 1e-4 for gradient in wanted.values()) > 10


@pytest.mark.parametrize(
    ("family", "dropout"),
    # Without dropout it is another operator of attention, the same for all but ModernBERT's window.
    [*((family, 0.1) for family in PACKED), ("bert", 0.0), ("modernbert", 0.0)],
)
def test_what_is_recorded_asks_a_gpu_for_nothing(family, dropout):
    """A graph cannot wait for a number: recording would fail."""
    model = make_model(family, dropout=dropout)
    recorded, tracer = record_passes(model, [(p, p) for p in model.parameters()])
    for seed in range(2):
        model.zero_grad()
        accumulate_gradients(
            model,
            make_data(seed),
            ROWS,
            precision=FLOAT32,
            max_tokens=MAX_TOKENS,
            recorded=recorded,
        )
    operations = {getattr(each, "overloadpacket", None) for each in tracer.operations()}
    attention = aten._flash_attention_forward if dropout else torch.ops.torch_attn._varlen_attn
    assert attention in operations
    assert aten._foreach_copy_ in operations
    assert aten._foreach_add_ in operations
    assert not operations & LOOKS


def test_dropout_is_drawn_anew_whenever_a_record_is_played():
    def play():
        torch.manual_seed(0)
        model = make_model(dropout=0.1)
        recorded, _ = record_passes(model, [(p, p) for p in model.parameters()])
        losses = []
        for _ in range(5):
            model.zero_grad()
            made = accumulate_gradients(
                model,
                make_data(0),
                ROWS,
                precision=FLOAT32,
                max_tokens=MAX_TOKENS,
                recorded=recorded,
            )
            losses.append(float(made.loss))
        return losses

    losses = play()
    assert len(set(losses)) == 5
    assert play() == losses  # and the same seed draws the same


def test_gradients_of_bfloat16_reach_the_float32_masters():
    written = make_model()
    encoded = make_data(0)

    def collect(*, is_recorded):
        masters = copy.deepcopy(written)
        weights = TrainedWeights(masters, TrainSettings(fast_path="off"), BFLOAT16)
        weights.working.train()
        recorded = None
        if is_recorded:
            recorded, _ = record_passes(weights.working, weights._dense, precision=BFLOAT16)
        for _ in range(3):
            weights.drop_gradients()
            accumulate_gradients(
                weights.working,
                encoded,
                ROWS,
                precision=BFLOAT16,
                max_tokens=MAX_TOKENS,
                recorded=recorded,
            )
        assert all(work.grad is None for work in weights.working.parameters())
        return {name: p.grad.clone() for name, p in masters.named_parameters()}

    found, expected = collect(is_recorded=True), collect(is_recorded=False)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        size = expected[name].norm()
        if size > 1e-4:  # the key's bias has none but for rounding
            # Up to 0.052 by rounding alone, depending on the number of threads.
            assert (gradient - expected[name]).norm() / size < 0.1, name


@pytest.fixture
def trained():
    """Give a function that takes steps of different rows, and what it trains."""

    def train(*, record, num_steps=8):
        model = make_model()
        weights = TrainedWeights(model, TrainSettings(fast_path="off"), FLOAT32)
        tracer = None
        if record:
            weights.recorded, tracer = record_passes(weights.working, weights._dense)
        generator = np.random.default_rng(0)
        lengths = generator.integers(2, 24, 24)
        data = TrainingData(make_encoded(lengths), np.arange(24) % 3, pad_id=0)
        steps = [generator.permutation(24)[:6] for _ in range(num_steps)]
        taken = train_steps(
            weights,
            data,
            [steps],
            learning_rate=lambda _: 1e-3,
            precision=FLOAT32,
            max_tokens=MAX_TOKENS,
        )
        return weights, taken, tracer

    return train


def test_a_training_comes_to_the_same_weights(trained):
    (weights, taken, tracer), (plain, as_written, _) = trained(record=True), trained(record=False)
    for ours, theirs in zip(taken, as_written, strict=True):
        found, expected = ours.read(), theirs.read()
        assert found.loss == pytest.approx(expected.loss, abs=1e-5)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
        assert found.num_pad_tokens > expected.num_pad_tokens == 0
    assert len(tracer.traces) > 1
    for (name, found), expected in zip(
        weights.masters.named_parameters(), plain.masters.parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=name)


def test_a_weight_that_nothing_reads_gets_no_gradient(trained):
    weights, *_ = trained(record=False)
    model = weights.masters
    unused = torch.nn.Parameter(torch.ones(2))
    pairs = [*((p, p) for p in model.parameters()), (unused, unused)]
    recorded, tracer = record_passes(model, pairs)
    for _ in range(3):
        model.zero_grad()
        (pack,) = iter_packs(make_encoded((5, 4)), [0, 1], max_tokens=64)
        recorded.take(pack, np.array([0, 1]), num_rows=2, pad_id=0)
    assert len(tracer.traces) == 1
    assert unused.grad is None
    assert model.classifier.weight.grad is not None


def test_a_weight_that_nothing_reads_lets_later_packs_of_a_step_add_their_gradients():
    model, unused = make_model(), torch.nn.Parameter(torch.ones(2))
    recorded, _ = record_passes(model, [*((p, p) for p in model.parameters()), (unused, unused)])
    take(recorded, 5, 4)
    once = model.classifier.weight.grad.clone()
    take(recorded, 5, 4)
    torch.testing.assert_close(model.classifier.weight.grad, 2 * once)


def test_where_recording_fails_the_training_goes_on(trained):
    weights, taken, _ = trained(record=True)
    plain, as_written, _ = trained(record=False)

    weights.recorded._recorder = Failing(RuntimeError("out of memory here\nand more"))
    assert [s.read().loss for s in taken] == pytest.approx(
        [s.read().loss for s in as_written], abs=1e-5
    )
    assert str(weights.recording) == ("off (it failed: out of memory here)")
    weights.release()
    assert weights.recorded is None
    assert not weights.recording.is_on  # still known when the training is over
    plain.release()


def test_records_are_given_up_before_a_step_is_cut_smaller(trained):
    weights, _, tracer = trained(record=True)
    data, budget = make_data(0), TokenBudget(64)
    options = {"precision": FLOAT32, "budget": budget}
    for _ in range(3):
        weights.drop_gradients()
        accumulate_within_memory(weights, data, ROWS, **options)
    expected = gradients_of(weights.masters)
    expected = {name: gradient.clone() for name, gradient in expected.items()}
    failures = []

    def run_out():
        failures.append(1)
        raise torch.OutOfMemoryError

    for place in weights.recorded._places.values():
        assert place.replay is not None
        place.replay = run_out
    weights.drop_gradients()
    accumulate_within_memory(weights, data, ROWS, **options)
    assert (len(failures), budget.tokens) == (1, 64)
    assert str(weights.recording) == "off (memory ran out)"
    assert not tracer.traces  # the recorder keeps nothing either
    for name, gradient in gradients_of(weights.masters).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5, msg=name)

    def run_out_once(*_):
        if not failures.pop():
            return
        failures[:] = [0] * 20
        raise torch.OutOfMemoryError

    weights.working.register_forward_pre_hook(run_out_once)
    weights.drop_gradients()
    accumulate_within_memory(weights, data, ROWS, **options)
    assert budget.tokens == 32
    for name, gradient in gradients_of(weights.masters).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5, msg=name)


def take(recorded, *lengths):
    """Take a pack of a step of its own; return the number of tokens computed."""
    rows = np.arange(len(lengths))
    (pack,) = iter_packs(make_encoded(lengths), rows, max_tokens=sum(lengths))
    return recorded.take(pack, rows % 3, num_rows=len(rows), pad_id=0)[2]


@pytest.fixture
def taking():
    """Give recorded passes, and a function that lets them take packs."""
    model = make_model()
    recorded, tracer = record_passes(model, [(p, p) for p in model.parameters()])

    def take_alone(*lengths):
        model.zero_grad()
        return take(recorded, *lengths)

    return recorded, tracer, take_alone


def test_a_pack_takes_the_record_of_a_larger_one(taking):
    _, tracer, take_alone = taking
    sizes = [take_alone(60, 50, 40), take_alone(20, 10), take_alone(30, 5, 5)]
    assert sizes == [256, 256, 256]
    assert len(tracer.traces) == 1


def test_where_recording_fails_earlier_records_are_not_played_any_more(taking):
    recorded, tracer, take_alone = taking
    assert [take_alone(20, 10) for _ in range(2)] == [128] * 2
    assert len(tracer.traces) == 1
    recorded._recorder = Failing(RuntimeError("a test"))
    assert [take_alone(60, 50, 40) for _ in range(2)] == [256] * 2
    assert not recorded.plan.is_on
    calls = count_calls(recorded._model)
    assert take_alone(20, 10) == 30
    assert len(calls) == 1


def test_the_time_of_all_recordings_counts(taking, monkeypatch):
    recorded, tracer, take_alone = taking
    moments = iter([0.0, 1.0, 10.0, 12.0])
    clock = types.SimpleNamespace(perf_counter=lambda: next(moments))
    monkeypatch.setattr(recorded_passes, "time", clock)
    for lengths in ((20, 10), (60, 50, 40)):
        for _ in range(3):
            take_alone(*lengths)
    assert len(tracer.traces) == 2
    assert recorded.seconds == 3.0


def test_where_nothing_is_recorded_any_more_nothing_is_filled_to_a_larger_size(taking):
    recorded, _, take_alone = taking
    assert [take_alone(60, 50, 40), take_alone(60, 50, 40)] == [256, 256]
    assert recorded.forget()
    assert [take_alone(60, 50, 40), take_alone(20, 10)] == [150, 30]
    assert not recorded._places


def test_sizes_that_took_too_much_memory_are_not_filled_to_again(taking):
    recorded, _, take_alone = taking
    assert take_alone(60, 50, 40) == 256
    assert not recorded.forget()  # nothing was recorded: the step is cut smaller
    assert recorded.plan.is_on
    assert [take_alone(20, 10), take_alone(60, 50)] == [128, 128]


def test_attention_is_told_the_length_of_the_longest_text(taking, monkeypatch):
    """Its stand-in looks."""
    monkeypatch.setattr(pack_sizes, "TOKENS_STEP", 16)
    *_, take_alone = taking
    assert take_alone(24, 17, 3) == 64


def test_where_there_are_enough_sizes_packs_are_filled_to_these(taking, monkeypatch):
    monkeypatch.setattr(recorded_passes, "_MOST_SIZES", 1)
    recorded, tracer, take_alone = taking
    recorded.set_worth(0)
    assert [take_alone(60, 50, 40)] + [take_alone(20, 10) for _ in range(3)] == [256] * 4
    assert len(tracer.traces) == 1


def test_a_size_whose_first_pass_ran_out_of_memory_is_not_recorded_before_one_has_run(trained):
    weights, _, tracer = trained(record=True)
    recorder, calls = weights.recorded._recorder, []

    class RunningOut:
        def run(self, work):
            calls.append("run")
            if len(calls) == 1:
                raise torch.OutOfMemoryError
            recorder.run(work)

        def record(self, work):
            calls.append("record")
            return recorder.record(work)

    weights.recorded._recorder = RunningOut()
    options = {"precision": FLOAT32, "budget": TokenBudget(512)}
    for _ in range(2):
        weights.drop_gradients()
        accumulate_within_memory(weights, make_data(0), ROWS, **options)
    assert calls == ["run", "run", "record"]  # half the budget still holds all rows
    assert len(tracer.traces) == 1


@pytest.mark.parametrize("takes_kernels", [False, True])
@pytest.mark.parametrize("fault", ["they are wrong", None])
def test_gradients_are_laid_out_only_for_kernels_that_are_right(monkeypatch, takes_kernels, fault):
    laid_out, tried = [], []
    monkeypatch.setattr(recorded_passes, "lay_out_gradients", laid_out.append)
    plan = Plan(is_on=takes_kernels, reason="a test")
    monkeypatch.setattr(recorded_passes, "plan_operators_of", lambda *_: plan)

    def find_fault(*_, **of):
        tried.append(of)
        return fault

    monkeypatch.setattr(recorded_passes, "find_batch_fault", find_fault)
    model = make_classifier("bert", num_layers=2, width=32, num_heads=1)
    exchange.exchange_layers(model)
    passes, _ = record_passes(model, [(p, p) for p in model.parameters()])
    assert tried == [{"width": 32, "num_columns": 6 * 32 + 48}] * takes_kernels
    is_laid_out = takes_kernels and fault is None
    assert [len(layers) for layers in laid_out] == [2] * is_laid_out
    assert passes._num_layers == 2 * is_laid_out
    assert passes.batch_fault == (fault if takes_kernels else None)


def test_a_model_without_such_layers_needs_no_trial(monkeypatch):
    monkeypatch.setattr(
        recorded_passes, "plan_operators_of", lambda *_: Plan(is_on=True, reason="a test")
    )
    monkeypatch.setattr(recorded_passes, "find_batch_fault", None)
    model = make_model()
    passes, _ = record_passes(model, [(p, p) for p in model.parameters()])
    assert passes._num_layers == 0


def test_a_recording_that_is_tried_again_adds_to_nothing(monkeypatch):
    """Layers of our own ask the masters whether to add; a first try has handed gradients out."""

    class TriedAgain(Tracer):
        def record(self, work):
            for master, _ in self.passes._pairs:
                master.grad = torch.ones_like(master)
            return super().record(work)

    model, tracer, seen = make_model(), TriedAgain(), []
    pairs = [(p, p) for p in model.parameters()]
    tracer.passes = RecordedPasses(model, pairs, precision=FLOAT32, plan=ON, recorder=tracer)
    compute = recorded_passes.compute_logits_of_pack

    def compute_and_look(*arguments, **options):
        seen.append([master.grad is None for master, _ in pairs])
        return compute(*arguments, **options)

    monkeypatch.setattr(recorded_passes, "compute_logits_of_pack", compute_and_look)
    options = {"precision": FLOAT32, "max_tokens": 512, "recorded": tracer.passes}
    for _ in range(3):
        model.zero_grad()
        accumulate_gradients(model, make_data(0), ROWS, **options)
    assert len(tracer.traces) == 1
    assert len(seen) == 2  # as written, and for the record; what is played looks at nothing
    assert all(map(all, seen))


def test_each_pack_is_sent_by_one_copy_that_leaves_nothing_of_the_pack_before(monkeypatch):
    written, copies = make_model(), []

    def write(tensor, values):
        copies.append(values.dtype)
        write_to(tensor, values)

    monkeypatch.setattr(recorded_passes, "write_to", write)
    model = copy.deepcopy(written)
    recorded, tracer = record_passes(model, [(p, p) for p in model.parameters()])
    for num_rows in (5, 3, 1, 4):
        data = TrainingData(make_encoded(LENGTHS[-num_rows:], seed=num_rows), 2 - ROWS % 3, 0)
        losses = []
        for each, options in ((model, {"recorded": recorded}), (written, {})):
            each.zero_grad()
            made = accumulate_gradients(
                each, data, ROWS[:num_rows], precision=FLOAT32, max_tokens=128, **options
            )
            losses.append(made.loss)
        torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-5)
        for name, gradient in gradients_of(written).items():
            found = gradients_of(model)[name]
            torch.testing.assert_close(found, gradient, atol=1e-5, rtol=1e-5, msg=name)
    assert copies == [np.uint8] * 4
    assert len(recorded._places) == len(tracer.traces) == 1


def test_results_stay_when_later_packs_of_the_size_are_computed(taking):
    """On a GPU they are read only after two more steps were queued."""
    recorded, tracer, _ = taking
    model, found = recorded._model, []
    for seed in range(4):
        model.zero_grad()
        with torch.no_grad():  # let it predict another class each time
            model.classifier.bias.copy_(10 * torch.eye(3)[seed % 3])
        (pack,) = iter_packs(make_encoded(LENGTHS, seed=seed), ROWS, max_tokens=64)
        loss, predicted_ids, _ = recorded.take(pack, ROWS % 3, num_rows=len(ROWS), pad_id=0)
        found.append((loss, float(loss), predicted_ids))
    assert len(tracer.traces) == 1
    assert [float(loss) for loss, *_ in found] == [value for _, value, _ in found]
    assert [ids.tolist() for *_, ids in found] == [[seed % 3] * len(ROWS) for seed in range(4)]


def test_rows_of_padding_have_the_padding_token_and_are_sorted_with_the_others(monkeypatch):
    model, seen = make_model(), []
    compute = recorded_passes.compute_logits_of_pack

    def compute_and_look(working, token_ids, positions, pack, **options):
        seen.append((token_ids.tolist(), pack.by_id.tolist()))
        return compute(working, token_ids, positions, pack, **options)

    monkeypatch.setattr(recorded_passes, "compute_logits_of_pack", compute_and_look)
    recorded = RecordedPasses(
        model,
        [(p, p) for p in model.parameters()],
        precision=FLOAT32,
        plan=ON,
        recorder=Tracer(),
        sorts=True,
    )
    for seed in range(2):
        model.zero_grad()
        (pack,) = iter_packs(make_encoded(LENGTHS, seed=seed), ROWS, max_tokens=64)
        recorded.take(pack, ROWS % 3, num_rows=len(ROWS), pad_id=4)
    assert len(seen) == 2
    for token_ids, by_id in seen:
        assert token_ids[56:] == [4] * 72
        assert by_id == sort_by_id(np.array(token_ids)).tolist()


@pytest.mark.parametrize("sorts", [True, False])
@pytest.mark.parametrize("num_tokens", [127, 128])
def test_the_inputs_of_a_pack_are_aligned_and_do_not_overlap(num_tokens, sorts):
    """Packs that are not filled up have any number of tokens."""
    size = PackSize(num_tokens, 5, 128, True)
    _, *parts = recorded_passes._allocate(size, CPU, sorts=sorts)
    for value, part in enumerate(parts, start=1):
        assert part.data_ptr() % 16 == 0 or part.numel() == 0
        part.fill_(value)
    for value, part in enumerate(parts, start=1):
        assert (part == value).all()


def test_the_speed_is_measured_with_every_size_of_pack_recorded_by_then(monkeypatch):
    """A size that is added later would be recorded in the middle of what is timed."""
    monkeypatch.setattr("bertfit.training.weights.plan_passes", lambda *_: ON)
    monkeypatch.setattr("bertfit.training.weights.GraphRecorder", lambda _device: Tracer())
    sizes = []

    def take_and_tell(self, *arguments, **options):
        result = take_pack(self, *arguments, **options)
        sizes.append(result[2])
        return result

    take_pack = RecordedPasses.take
    monkeypatch.setattr(RecordedPasses, "take", take_and_tell)
    data = TrainingData(make_encoded([60] * 3 + [5] * 9), np.arange(12) % 3, pad_id=0)
    settings = TrainSettings(batch_size=3, seed=3, fast_path="off")
    measure_speed(make_model(), data, settings=settings, precision=FLOAT32)
    assert sizes[0] == 256
    assert sizes[1:] == [128] * 3


@pytest.mark.parametrize(("limit", "value"), [("_MOST_SIZES", 1), ("_MOST_TOKENS", 128)])
def test_sizes_too_many_and_too_large_are_computed_as_written(monkeypatch, limit, value):
    monkeypatch.setattr(recorded_passes, limit, value)
    model = make_model()
    recorded, tracer = record_passes(model, [(p, p) for p in model.parameters()])
    calls, num_cells = count_calls(model), []
    for _ in range(3):
        for lengths in ((4, 5), (60, 60, 60)):
            model.zero_grad()
            num_rows = len(lengths)
            (pack,) = iter_packs(make_encoded(lengths), np.arange(num_rows), max_tokens=256)
            num_cells.append(
                recorded.take(pack, np.arange(num_rows), num_rows=num_rows, pad_id=0)[2]
            )
    assert len(tracer.traces) == 1
    assert len(calls) == 2 + 3  # of the size that is kept, and of the other one
    assert num_cells == [128, 180 if limit == "_MOST_TOKENS" else 256] * 3


@pytest.fixture
def fit_recorded(monkeypatch, tmp_path):
    """Give a function that fits a model with this recorder, or none, as on a GPU."""

    def fit_with(recorder):
        if recorder is not None:
            monkeypatch.setattr("bertfit.training.weights.plan_passes", lambda *_: ON)
            monkeypatch.setattr("bertfit.training.weights.GraphRecorder", lambda _device: recorder)
        lengths = np.random.default_rng(0).integers(2, 24, 40)
        data = TrainingData(make_encoded(lengths), np.arange(40) % 3, pad_id=0)
        settings = TrainSettings(
            epochs=2, batch_size=4, learning_rate=1e-3, dropout=0.0, fast_path="off"
        )
        model, listener = make_model(), Listener()
        options = {"settings": settings, "precision": FLOAT32}
        speed = measure_speed(model, data, **options)
        assert speed.tokens_per_second > 0
        outcome = fit(
            model,
            data,
            data,
            checkpoints=Checkpoints(tmp_path / "best"),
            listener=listener,
            interruption=Interruption(),
            **options,
        )
        return outcome, listener.notes

    return fit_with


class Listener:
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def progress(self, *_):
        pass


def test_a_whole_training_is_the_same_and_says_that_it_was_recorded(fit_recorded):
    as_written, _ = fit_recorded(None)
    assert str(as_written.recording) == "off (this is for a CUDA GPU)"
    tracer = Tracer()
    outcome, notes = fit_recorded(tracer)
    assert outcome.recording == ON
    assert outcome.recording_seconds > as_written.recording_seconds == 0
    assert len(tracer.traces) > 1  # of measuring the speed, and of the training
    assert not any("Recording" in note for note in notes)
    for losses in ("train_losses", "val_losses"):
        found, expected = (getattr(each.history, losses) for each in (outcome, as_written))
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_training_says_once_that_nothing_is_recorded_any_more(fit_recorded):
    outcome, notes = fit_recorded(Failing(RuntimeError("no such thing here")))
    assert str(outcome.recording) == "off (it failed: no such thing here)"
    assert [note for note in notes if note.startswith("Recording")] == [
        "Recording: off (it failed: no such thing here); the steps to come are computed without."
    ]


def test_a_training_ends_where_torch_cannot_go_on(fit_recorded):
    with pytest.raises(TrainingError, match="recording a CUDA graph failed"):
        fit_recorded(Failing(TrainingError("recording a CUDA graph failed: a test")))


OUT_OF_MEMORY = torch.OutOfMemoryError("not even one text fits")


@pytest.mark.parametrize(("error", "epoch"), [(OUT_OF_MEMORY, 1), (MemoryError(), 2)])
def test_validation_that_runs_out_of_memory_gives_recordings_up(
    fit_recorded, monkeypatch, error, epoch
):
    right, calls = validation.score_texts, []

    def run_out_once(*arguments, **options):
        calls.append(1)
        if len(calls) == epoch:
            raise error
        return right(*arguments, **options)

    monkeypatch.setattr(validation, "score_texts", run_out_once)
    tracer = Tracer()
    outcome, notes = fit_recorded(tracer)
    assert str(outcome.recording) == "off (memory ran out)"
    assert not tracer.traces
    assert "Recording: off (memory ran out); the steps to come are computed without." in notes
    assert len(calls) == 1 + len(outcome.history.val_losses)


def test_pieces_are_as_large_as_before_once_recordings_have_given_their_memory_back(
    fit_recorded, monkeypatch
):
    right, asked = validation.score_texts, []

    def halve_and_run_out_once(*arguments, **options):
        asked.append(options["max_tokens"])
        if len(asked) == 1:
            options["on_halved"](5)
            raise OUT_OF_MEMORY
        return right(*arguments, **options)

    monkeypatch.setattr(validation, "score_texts", halve_and_run_out_once)
    fit_recorded(Tracer())
    assert len(asked) > 2
    assert set(asked) == {asked[0]}
    assert asked[0] > 5


def test_validation_that_runs_out_of_memory_without_recordings_says_so(fit_recorded, monkeypatch):
    def run_out(*_, **__):
        raise OUT_OF_MEMORY

    monkeypatch.setattr(validation, "score_texts", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        fit_recorded(Tracer())


def test_validation_that_fails_for_another_reason_is_not_tried_again(fit_recorded, monkeypatch):
    right, failures = validation.score_texts, [RuntimeError("a test")]

    def fail_once(*arguments, **options):
        if failures:
            raise failures.pop()
        return right(*arguments, **options)

    monkeypatch.setattr(validation, "score_texts", fail_once)
    with pytest.raises(RuntimeError, match="a test"):
        fit_recorded(Tracer())


def test_memory_that_runs_out_before_anything_was_recorded_leaves_recording_on(trained):
    weights, *_ = trained(record=True)
    assert weights.forget_recorded() is False
    assert weights.recording.is_on


@pytest.mark.parametrize(
    ("device", "packs", "fast_path", "expected"),
    [
        (GPU, True, True, "on (packs of few sizes, each recorded when it comes again)"),
        (GPU, True, False, "off (asked for)"),
        (GPU, False, True, "off (texts are not packed, or torch has no kernel for it)"),
        (CPU, True, False, "off (this is for a CUDA GPU)"),
        (CPU, True, True, "off (this is for a CUDA GPU)"),
    ],
)
def test_the_plan_says_why(device, packs, fast_path, expected):
    assert str(plan_recording(device, packs=packs, fast_path=fast_path)) == expected


@pytest.mark.parametrize(
    ("packs", "kernel", "fast_path", "is_on"),
    [
        (True, True, "auto", True),
        (False, True, "auto", False),
        (True, False, "auto", False),
        (True, True, "off", False),
    ],
)
def test_passes_are_recorded_if_one_kernel_takes_packs_and_nobody_says_no(
    packs, kernel, fast_path, is_on, monkeypatch
):
    monkeypatch.setattr(recorded_passes, "takes_packs", lambda _model: packs)
    monkeypatch.setattr(recorded_passes, "has_kernel", lambda *_: kernel)
    settings = TrainSettings(fast_path=fast_path)
    assert recorded_passes.plan_passes(None, settings, ON_GPU).is_on == is_on


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_nothing_is_recorded_with_an_allocator_that_cannot_recover(monkeypatch, name):
    monkeypatch.setenv(name, "expandable_segments:True")
    assert plan_recording(GPU, packs=True).is_on
    monkeypatch.setenv(name, "expandable_segments:True,max_split_size_mb:128")
    assert str(plan_recording(GPU, packs=True)) == f"off ({name} sets max_split_size_mb)"


def make_model_on_gpu(family="bert", *, dropout=0.0, num_layers=2):
    """Return a classifier with heads of 32 numbers, the fewest that the kernels take."""
    model = make_classifier(family, dropout=dropout, width=128, num_layers=num_layers).to(GPU)
    plug_in(model, GPU)
    assert set_up_packing(model, ON_GPU, "on").is_on
    return model


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
ON_GPU = Precision(GPU, torch.bfloat16, "a test")


@pytest.mark.parametrize(
    ("device", "gibibytes", "expected"),
    [("cpu", 999, False), ("cuda", 79, True), ("cuda", 40, False)],
)
def test_larger_packs_are_recorded_where_memory_is_plenty(device, gibibytes, expected, monkeypatch):
    properties = types.SimpleNamespace(total_memory=gibibytes * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    assert recorded_passes._is_large(torch.device(device)) == expected


@pytest.mark.parametrize(("is_large", "num_tokens"), [(True, 256), (False, 180)])
def test_packs_that_are_too_large_for_a_small_gpu_are_filled_on_a_large_one(
    is_large, num_tokens, monkeypatch
):
    monkeypatch.setattr(recorded_passes, "_is_large", lambda _device: is_large)
    monkeypatch.setattr(recorded_passes, "_MOST_TOKENS", 128)
    monkeypatch.setattr(recorded_passes, "_MOST_OF_LARGE", 256)
    model = make_model()
    recorded, _ = record_passes(model, [(p, p) for p in model.parameters()])
    assert take(recorded, 60, 60, 60) == num_tokens
    assert recorded._most_waiting == (2**26 if is_large else 2**24)


def test_tokens_are_sorted_only_for_embeddings_that_need_it(monkeypatch):
    monkeypatch.setattr(recorded_passes, "sort_by_id", None)
    model = make_model()
    recorded, _ = record_passes(model, [(p, p) for p in model.parameters()])
    (pack,) = iter_packs(make_encoded((4, 5)), np.arange(2), max_tokens=256)
    loss, *_ = recorded.take(pack, np.arange(2), num_rows=2, pad_id=0)
    assert loss.isfinite()


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize(
    ("family", "num_layers", "dropout"),
    # With several whole layers, and dropout that drops nothing, their weight gradients are batched.
    [*((family, 2, 0.0) for family in PACKED), ("bert", 5, 1e-9)],
)
def test_cuda_graphs_give_the_gradients_of_passes_as_written(family, num_layers, dropout):
    written = make_model_on_gpu(family, num_layers=num_layers, dropout=dropout)
    collected = []
    for record in (True, False):
        masters = copy.deepcopy(written)
        weights = TrainedWeights(masters, TrainSettings(), ON_GPU)
        weights.working.train()
        assert weights.recording.is_on
        recorded = weights.recorded if record else None
        for seed in range(4):
            weights.drop_gradients()
            options = {"precision": ON_GPU, "max_tokens": MAX_TOKENS, "recorded": recorded}
            made = accumulate_gradients(weights.working, make_data(seed), ROWS, **options)
        collected.append((float(made.loss), gradients_of(masters)))
        if record:
            assert weights.recording.is_on, weights.recording
            assert all(place.replay is not None for place in recorded._places.values())
    (loss, found), (expected_loss, expected) = collected
    assert loss == pytest.approx(expected_loss, abs=0.02)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        size = expected[name].norm()
        if size > 1e-3:  # the key's bias has none but for rounding
            assert (gradient - expected[name]).norm() / size < 0.05, name


@pytest.mark.gpu
@on_a_gpu
def test_a_training_on_a_gpu_goes_on_from_a_state():
    def train(weights, **options):
        steps = train_steps(
            weights,
            make_data(0),
            [[ROWS] * 8],
            learning_rate=lambda _: 1e-4,
            precision=ON_GPU,
            max_tokens=64,
            **options,
        )
        for step in steps:
            yield step.read().loss

    left = TrainedWeights(make_model_on_gpu(), TrainSettings(), ON_GPU)
    torch.manual_seed(0)
    losses = train(left)
    for _ in range(4):  # the first is eager, the second recorded
        next(losses)
    assert left.recording.is_on, left.recording
    state = {name: tensor.cpu().clone() for name, tensor in left.state().items()}
    expected = list(losses)

    taken_up = TrainedWeights(make_model_on_gpu(), TrainSettings(), ON_GPU)
    assert taken_up.kind == left.kind
    taken_up.set_state(state)
    found = {name: tensor.cpu() for name, tensor in taken_up.state().items()}
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    masters, copies = taken_up.masters.parameters(), taken_up.working.parameters()
    assert all(map(torch.equal, copies, (master.to(torch.bfloat16) for master in masters)))
    assert list(train(taken_up, num_taken=4)) == pytest.approx(expected, abs=0.02)
    assert taken_up.recording.is_on, taken_up.recording


@pytest.mark.gpu
@on_a_gpu
def test_a_recorded_step_on_a_gpu_waits_for_nothing_and_drops_anew():
    weights = TrainedWeights(make_model_on_gpu(dropout=0.1), TrainSettings(), ON_GPU)
    steps = train_steps(
        weights,
        make_data(0),
        [[ROWS] * 5],
        learning_rate=lambda _: 0.0,
        precision=ON_GPU,
        max_tokens=64,
    )
    losses = [next(steps).read().loss for _ in range(2)]  # the second one is recorded
    with no_waiting():
        played = [next(steps) for _ in range(3)]
    losses += [step.read().loss for step in played]
    assert weights.recording.is_on, weights.recording
    assert np.isfinite(losses).all()
    assert len(set(losses)) == 5


@pytest.mark.gpu
@on_a_gpu
def test_recording_while_records_are_played_draws_the_same_numbers():
    """What is recorded must not touch the random numbers of what is queued."""
    many, few = np.arange(12), np.arange(3)  # packs of two sizes
    data = TrainingData(make_encoded([24] * 12), np.arange(12) % 3, pad_id=0)

    def lose(*, ahead):
        torch.manual_seed(0)
        weights = TrainedWeights(make_model_on_gpu(dropout=0.1), TrainSettings(), ON_GPU)
        weights.recorded.set_worth(0)  # else few rows are filled to the size of many
        steps = train_steps(
            weights,
            data,
            [[many, many, many, few, many, few, many, few] * 2],
            learning_rate=lambda _: 0.0,
            precision=ON_GPU,
            max_tokens=512,
        )
        taken = list(steps) if ahead else steps
        losses = [step.read().loss for step in taken]
        assert weights.recording.is_on, weights.recording
        assert len(weights.recorded._places) == 2
        weights.release()
        return losses

    in_time = lose(ahead=False)
    assert len(set(in_time)) > 8
    assert lose(ahead=True) == in_time
