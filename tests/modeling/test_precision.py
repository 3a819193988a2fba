"""Device and arithmetic: what is chosen, why, and what is said of a wrong one."""

from __future__ import annotations

import contextlib
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bertfit.errors import ConfigError
from bertfit.modeling import forward
from bertfit.modeling.precision import (
    Precision,
    choose_precision,
    quick_float32,
    safe_attention,
)


@pytest.fixture
def processor(monkeypatch):
    """Give a function that makes torch see a processor with these features and no GPU."""

    def set_features(*features: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(features, True))

    return set_features


@pytest.mark.parametrize(
    ("features", "dtype", "reason"),
    [
        (("amx_bf16", "avx512_bf16"), "bfloat16", "this processor has AMX"),
        (("avx512_bf16",), "bfloat16", "this processor has AVX512-BF16"),
        (("avx512_f",), "float32", "this processor has neither AMX nor AVX512-BF16"),
    ],
)
def test_a_processor_gets_what_it_is_fast_at(processor, features, dtype, reason):
    processor(*features)
    precision = choose_precision()
    found = (precision.device.type, precision.dtype_name, precision.reason)
    assert found == ("cpu", dtype, reason)


@pytest.mark.parametrize(
    ("is_supported", "dtype", "reason"),
    [
        (True, "bfloat16", "this GPU multiplies bfloat16 in hardware"),
        (False, "float32", "this GPU has no bfloat16 in hardware"),
    ],
)
def test_a_gpu_gets_bfloat16_where_it_has_it(monkeypatch, is_supported, dtype, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda *, including_emulation: is_supported
    )
    precision = choose_precision()
    found = (precision.device.type, precision.dtype_name, precision.reason)
    assert found == ("cuda", dtype, reason)


def test_of_several_gpus_the_one_that_computes_is_asked(monkeypatch):
    """An A100 and a T4, say, of which the first is the current one."""
    current = [0]

    @contextlib.contextmanager
    def go_to(device):
        before, current[0] = current[0], device.index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", go_to)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda *, including_emulation: current == [0]
    )
    found = [choose_precision(name).dtype_name for name in ("cuda", "cuda:0", "cuda:1")]
    assert found == ["bfloat16", "bfloat16", "float32"]
    assert current == [0]


def test_a_gpu_is_named_where_a_run_says_what_it_was_trained_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    named = [
        Precision(torch.device(name), torch.float32, "a test").device_name
        for name in ("cuda:1", "mps", "cpu")
    ]
    assert named == ["cuda:1 (Card 1)", "mps", "cpu"]


def test_apples_gpu_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    precision = choose_precision()
    assert (precision.device.type, precision.dtype_name) == ("mps", "float32")
    assert precision.reason == "bfloat16 is not used on mps"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_asked_for_is_given(processor, dtype):
    processor()
    precision = choose_precision("cpu", dtype)
    assert (precision.dtype_name, precision.reason) == (dtype, "asked for")


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "", "meta"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ConfigError) as caught:
        choose_precision(device)
    assert caught.value.message == (
        f"device: expected auto, cpu, cuda, cuda:N or mps, got {device!r}"
    )


def test_a_device_of_no_known_type_is_refused():
    with pytest.raises(ConfigError, match="device: expected auto, cpu, cuda, cuda:N or mps, got N"):
        choose_precision(None)


@pytest.mark.parametrize("dtype", ["int8", "float16", "bogus", 5, None, torch.float32])
def test_an_unknown_type_of_arithmetic_is_refused(dtype):
    with pytest.raises(ConfigError) as caught:
        choose_precision("cpu", dtype)
    expected = f"dtype: expected one of auto, float32, bfloat16, got {dtype!r}."
    assert caught.value.message.startswith(expected)


@pytest.mark.parametrize(("device", "count"), [("cuda", 0), ("cuda:3", 2)])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, device, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ConfigError) as caught:
        choose_precision(device)
    assert caught.value.message == (
        f"device: {device!r} was asked for, but torch sees {count} CUDA devices"
    )


def test_mps_that_is_not_there_is_refused(processor):
    processor()
    with pytest.raises(ConfigError) as caught:
        choose_precision("mps")
    assert caught.value.message == "device: 'mps' was asked for, but torch finds none here"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_weights_have_the_type_of_the_products(device):
    precision = Precision(torch.device(device), torch.bfloat16, "a test")
    assert precision.weight_dtype == torch.bfloat16
    with precision.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == torch.float32  # no autocast: the operands decide


def test_elsewhere_weights_stay_float32():
    precision = Precision(torch.device("mps"), torch.bfloat16, "a test")
    assert precision.weight_dtype == torch.float32


def test_float32_needs_no_autocast():
    with choose_precision("cpu", "float32").autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == torch.float32


def test_tf32_is_for_training_on_a_gpu_and_is_given_back():
    """The setting is torch's own for all devices; no GPU is needed to see it."""
    before = torch.get_float32_matmul_precision()
    with quick_float32(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == before
    with quick_float32(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_a_choice_by_torchs_newer_setting_is_left_alone(monkeypatch):
    """transformers.Trainer makes it when it compiles, and torch will not tell it the older way."""

    def refuse():
        raise RuntimeError("mix of the legacy and new APIs")

    told = []
    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", told.append)
    with quick_float32(torch.device("cuda")):
        pass
    assert told == []


def test_attention_keeps_from_cudnn_on_a_gpu_alone():
    """The setting can be read without a GPU; what it does needs one."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with safe_attention(torch.device("cpu")):
        assert torch.backends.cuda.cudnn_sdp_enabled() == before
    with safe_attention(torch.device("cuda")):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        with safe_attention(torch.device("cuda")):
            pass
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_the_forward_pass_keeps_from_cudnn(monkeypatch):
    seen = []

    def call(**_):
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return SimpleNamespace(logits=torch.zeros(1, 2))

    on_gpu = dataclasses.replace(choose_precision("cpu", "float32"), device=torch.device("cuda"))
    monkeypatch.setattr(forward, "to_device", lambda values, _device: torch.from_numpy(values))
    forward.compute_logits(call, np.zeros((1, 3), dtype=np.int64), None, precision=on_gpu)
    assert seen == [False]
