"""Device and arithmetic: what is chosen, why, and messages for invalid ones."""

from __future__ import annotations

import contextlib
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion

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
    monkeypatch.setattr(torch.cuda, "get_arch_list", list)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda _gpu: contextlib.nullcontext())
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda *, including_emulation: is_supported
    )
    precision = choose_precision()
    found = (precision.device.type, precision.dtype_name, precision.reason)
    assert found == ("cuda", dtype, reason)


def test_a_gpu_is_named_where_a_run_says_what_it_was_trained_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    named = [
        Precision(torch.device(name), torch.float32, "a test").device_name
        for name in ("cuda:1", "mps", "cpu")
    ]
    assert named == ["cuda:1 (Card 1)", "mps", "cpu"]


def test_apples_gpu_computes_in_float32_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.13.0"))
    assert choose_precision().device.type == "cpu"  # nobody has tried it
    precision = choose_precision("mps")
    assert (precision.device.type, precision.dtype_name) == ("mps", "float32")
    assert precision.reason == "bfloat16 is not used on mps"
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.12.1"))
    with pytest.raises(ConfigError, match=r"torch 2\.12\.1 clips no gradients on it\n"):
        choose_precision("mps")


@pytest.fixture
def gpus(monkeypatch):
    """Give a function that makes torch see GPUs of these capabilities, the first the current one.

    Of the code in torch a CUDA 13 of the package index has what stands here.
    """
    current = [0]

    @contextlib.contextmanager
    def go_to(device):
        before, current[0] = current[0], device.index
        yield
        current[0] = before

    def set_gpus(*capabilities, code="sm_75 sm_80 sm_86 sm_90 sm_100 sm_120", cuda="13.0"):
        def find_capability(device):
            return capabilities[current[0] if device.index is None else device.index]

        def is_bf16_supported(*, including_emulation):
            return capabilities[current[0]] >= (8, 0)

        for name, stand_in in {
            "current_device": lambda: current[0],
            "device": go_to,
            "device_count": lambda: len(capabilities),
            "get_arch_list": code.split,
            "get_device_capability": find_capability,
            "is_available": lambda: True,
            "is_bf16_supported": is_bf16_supported,
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
        monkeypatch.setattr(torch.version, "cuda", cuda)

    return set_gpus


def test_of_several_gpus_the_one_that_computes_is_asked(gpus):
    gpus((8, 0), (7, 5))  # an A100 and a T4
    found = [choose_precision(name).dtype_name for name in ("cuda", "cuda:0", "cuda:1", "cuda:0")]
    assert found == ["bfloat16", "bfloat16", "float32", "bfloat16"]


def test_a_gpu_that_is_passed_over_is_told_only_to_those_who_leave_the_choice(gpus):
    gpus((7, 0))
    assert "torch has no code for this GPU, sm_70" in choose_precision("auto").reason
    assert "GPU" not in choose_precision("cpu").reason


def test_a_gpu_without_a_number_is_the_current_one_and_stays_it(gpus):
    """Another thread has another current one."""
    gpus((8, 0), (7, 5))
    with torch.cuda.device(torch.device("cuda:1")):
        found = [str(choose_precision(name).device) for name in ("auto", "cuda", "cuda:0")]
    assert found == ["cuda:1", "cuda:1", "cuda:0"]


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (9, 0), (10, 3), (12, 1)])
def test_a_gpu_that_torch_has_code_for_is_taken(gpus, capability):
    gpus(capability)
    assert choose_precision().device.type == "cuda"


@pytest.mark.parametrize(
    ("code", "cuda"),
    [
        ("sm_60 sm_70", "12.6"),
        ("sm_50 compute_60", "12.6"),
        ("gfx90a gfx942", None),  # AMD's
        ("", "12.6"),
    ],
)
def test_code_for_older_gpus_is_enough_where_it_runs(gpus, code, cuda):
    gpus((7, 0), code=code, cuda=cuda)
    assert choose_precision().device.type == "cuda"


@pytest.mark.parametrize("capability", [(6, 1), (7, 0), (11, 0)])
def test_a_gpu_that_torch_has_no_code_for_is_passed_over_or_refused(gpus, capability):
    """A V100, and torch for CUDA 13: it is seen, and nothing runs on it."""
    gpus(capability)
    number = "sm_{}{}".format(*capability)
    why = f"torch has no code for this GPU, {number} (it has sm_75, sm_80, sm_86, sm_90, sm_100, "
    precision = choose_precision(dtype="float32")
    assert precision.device.type == "cpu"
    assert precision.reason == f"asked for; {why}sm_120)"
    with pytest.raises(ConfigError) as caught:
        choose_precision("cuda:0")
    assert caught.value.message == f"device: 'cuda:0' was asked for, but {why}sm_120)"


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


def test_attention_keeps_from_cudnn_until_the_last_thread_is_done(monkeypatch):
    seen, gpu = [], torch.device("cuda")
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        before = torch.backends.cuda.cudnn_sdp_enabled()
        for stack in (first, second):  # as two threads whose blocks overlap
            stack.enter_context(safe_attention(gpu))
        first.close()
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        second.close()
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
    assert seen == [False, before]


@pytest.mark.parametrize("was_on", [True, False])
def test_cudnn_that_was_off_stays_off(was_on):
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(was_on)
    try:
        with safe_attention(torch.device("cuda")):
            pass
        assert torch.backends.cuda.cudnn_sdp_enabled() == was_on
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_the_forward_pass_keeps_from_cudnn(monkeypatch):
    seen = []

    def call(**_):
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return SimpleNamespace(logits=torch.zeros(1, 2))

    call.config = SimpleNamespace(model_type="bert")
    on_gpu = dataclasses.replace(choose_precision("cpu", "float32"), device=torch.device("cuda"))
    monkeypatch.setattr(forward, "to_device", lambda values, _device: torch.from_numpy(values))
    forward.compute_logits(call, np.zeros((1, 3), dtype=np.int64), None, precision=on_gpu)
    assert seen == [False]
