"""AdamW's parameter groups, and the learning rate of each step."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import XLNetConfig, XLNetModel

from bertfit.config import TrainSettings
from bertfit.modeling.classifier import load_classifier
from bertfit.training.optimization import build_optimizer, learning_rate_at


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return load_classifier(str(tiny_model_dir), ["neg", "pos"]).model


def rates(num_steps, **changes) -> list[float]:
    schedule = {"num_steps": num_steps, "peak": 0.5, "warmup_fraction": 0.0, **changes}
    return [learning_rate_at(step, **schedule) for step in range(num_steps)]


def test_biases_and_norms_are_not_decayed(model):
    optimizer = build_optimizer(model, TrainSettings(weight_decay=0.1))
    decay_of = {
        parameter: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        is_free = name.endswith("bias") or "LayerNorm" in name
        assert decay_of[parameter] == (0.0 if is_free else 0.1), name


def test_biases_of_several_dimensions_are_not_decayed_either():
    config = XLNetConfig(vocab_size=9, d_model=4, n_layer=1, n_head=2, d_inner=4)
    model = XLNetModel(config)
    decayed, others = build_optimizer(model, TrainSettings(weight_decay=0.1)).param_groups
    bias = model.layer[0].rel_attn.r_w_bias
    assert bias.ndim == 2
    assert any(weight is bias for weight in others["params"])
    assert any(weight is model.layer[0].rel_attn.q for weight in decayed["params"])


def test_every_trained_parameter_is_optimized_once(model):
    optimizer = build_optimizer(model, TrainSettings())
    optimized = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(optimized) == len(set(optimized)) == len(list(model.parameters()))


def test_a_frozen_parameter_is_left_out():
    layer = torch.nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    groups = build_optimizer(layer, TrainSettings()).param_groups
    assert [group["params"] for group in groups] == [[], [layer.bias]]


def test_a_step_is_that_of_plain_adamw():
    torch.manual_seed(0)
    weight = torch.nn.Linear(3, 2, bias=False)
    plain = torch.nn.Linear(3, 2, bias=False)
    plain.load_state_dict(weight.state_dict())
    optimizers = (
        build_optimizer(weight, TrainSettings(weight_decay=0.2)),
        torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.2),
    )
    for group in optimizers[0].param_groups:
        group["lr"] = 0.1
    for layer, optimizer in zip((weight, plain), optimizers, strict=True):
        for _ in range(3):
            layer(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(weight.weight, plain.weight)


def test_without_warmup_the_rate_falls_from_the_peak_in_a_straight_line():
    assert rates(4) == [0.5, 0.375, 0.25, 0.125]


def test_the_notebooks_rate_is_that_of_its_scheduler():
    """get_linear_schedule_with_warmup(optimizer, 0, num_steps), stepped after each step."""
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, 7)
    expected = []
    for _ in range(7):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates(7) == pytest.approx(expected)


def test_the_rate_rises_in_the_warmup_and_then_falls():
    assert rates(10, warmup_fraction=0.4) == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 5 / 12, 4 / 12, 3 / 12, 2 / 12, 1 / 12]
    )


def test_the_warmup_has_the_nearest_number_of_steps():
    """0.29 times 100 is a little less than 29 in floating point."""
    assert rates(100, warmup_fraction=0.29).index(0.5) == 29
    assert rates(10, warmup_fraction=0.28).index(0.5) == 3


def test_no_step_is_wasted_at_a_rate_of_zero():
    assert min(rates(50, warmup_fraction=0.2)) > 0


def test_a_single_step_has_the_peak():
    assert rates(1, warmup_fraction=0.06) == [0.5]


@given(num_steps=st.integers(1, 200), warmup_fraction=st.floats(0, 0.99))
def test_the_rate_has_one_peak_and_never_exceeds_it(num_steps, warmup_fraction):
    found = rates(num_steps, warmup_fraction=warmup_fraction)
    assert all(0 < rate <= 0.5 for rate in found)
    peak = found.index(max(found))
    assert all(a < b for a, b in itertools.pairwise(found[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(found[peak:]))
