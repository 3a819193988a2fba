"""The runtime description: the same choices as training, and advice that fits the machine."""

from __future__ import annotations

import compileall
import itertools
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import CanineConfig

from bertfit.errors import ConfigError, ModelError
from bertfit.modeling.precision import choose_precision
from bertfit.training.token_budget import DEFAULT_TOKENS
from bertfit.workflow import runtime
from bertfit.workflow.runtime import describe_runtime, measure_products


@pytest.fixture
def described(tiny_model_dir):
    return describe_runtime(str(tiny_model_dir), device="cpu")


def test_the_choice_is_that_of_training(described):
    precision = choose_precision("cpu")
    assert (described.dtype, described.reason) == (precision.dtype_name, precision.reason)
    assert described.num_threads == torch.get_num_threads()
    assert described.attention == "bertfit's"
    assert described.last_layer == "the first token, which the head reads"
    assert described.packing == "off (packs were slower than padding on a CPU)"
    assert described.compilation == "off (compiled, training was slower on a CPU)"
    assert described.recording == "off (this is for a CUDA GPU)"
    assert described.micro_batch_tokens == DEFAULT_TOKENS
    assert set(described.gflops) == {"float32", "bfloat16"}
    assert all(rate > 0 for rate in described.gflops.values())


def test_an_asked_type_is_shown_as_asked_for(tiny_model_dir):
    described = describe_runtime(str(tiny_model_dir), device="cpu", dtype="bfloat16")
    assert (described.dtype, described.reason) == ("bfloat16", "asked for")


def test_operators_are_shown_with_what_decides_about_them(tiny_model_dir):
    asked = {"device": "cpu", "dtype": "float32"}
    described = describe_runtime(str(tiny_model_dir), **asked)
    assert described.operators == "off (they are for bfloat16 on a CPU or a CUDA GPU)"
    described = describe_runtime(str(tiny_model_dir), **{**asked, "dtype": "bfloat16"})
    assert described.operators == "off ($BERTFIT_OPERATORS is off)"


@pytest.mark.usefixtures("operators")
def test_with_operators_a_micro_batch_is_larger(tiny_model_dir):
    described = describe_runtime(str(tiny_model_dir), device="cpu", dtype="bfloat16")
    assert described.operators.startswith("on (built for A")
    assert described.micro_batch_tokens == 8192


def test_everything_is_json(described):
    assert json.loads(json.dumps(described.to_json()))["device"] == "cpu"


def test_products_are_counted_in_operations(monkeypatch):
    """A product that takes a second gives the number of operations, over 1e9."""
    assert measure_products(torch.float32, torch.device("cpu"), seconds=0.01) > 0.01
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr(runtime, "time", clock)
    rate = measure_products(torch.float32, torch.device("cpu"))
    assert rate == pytest.approx(2 * 2048 * 384 * 1536 / 1e9, abs=0.05)


@pytest.mark.parametrize(
    ("num_cores", "num_threads", "rates", "expected"),
    [
        (2, 2, (100.0, 10.0), []),
        (2, 8, (100.0, 10.0), ["OMP_NUM_THREADS=2"]),
        (1, 1, (100.0, 10.0), []),
        (1, 2, (100.0, 10.0), ["OMP_NUM_THREADS=1"]),
        (8, 1, (100.0, 10.0), ["unset OMP_NUM_THREADS"]),
        (8, 3, (100.0, 10.0), ["unset OMP_NUM_THREADS"]),
        (8, 4, (100.0, 10.0), []),  # half of the cores: perhaps two threads share one
        (2, 2, (100.0, 130.0), []),  # what measuring alone may give
        (2, 2, (100.0, 250.0), ["bfloat16 multiplies 2.5 times as fast"]),
    ],
)
def test_advice_fits_the_machine(num_cores, num_threads, rates, expected):
    gflops = dict(zip(("float32", "bfloat16"), rates, strict=True))
    advice = runtime._advise(num_cores, num_threads, gflops, "float32")
    assert len(advice) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, advice, strict=True))


def test_where_python_keeps_no_bytecode_the_advice_says_how_to_make_it(tmp_path, monkeypatch):
    module = tmp_path / "site" / "torch" / "__init__.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    (advice,) = runtime._advise_on_bytecode(str(module))
    assert advice.endswith(f"python -m compileall -q -j 0 {tmp_path / 'site'}")
    compileall.compile_dir(tmp_path / "site", quiet=1)
    assert runtime._advise_on_bytecode(str(module)) == []
    assert runtime._advise_on_bytecode(str(module) + "c") == []  # there is no source
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "other"))
    assert len(runtime._advise_on_bytecode(str(module))) == 1


def test_a_model_that_names_no_embeddings_is_refused(tmp_path):
    CanineConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be computed: NotImplementedError"):
        describe_runtime(str(tmp_path))


def test_what_is_not_there_is_refused(tiny_model_dir, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        describe_runtime(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="device: expected"):
        describe_runtime(str(tiny_model_dir), device="toaster")


def test_without_a_home_it_is_said_that_no_text_is_kept(tiny_model_dir, monkeypatch):
    monkeypatch.setattr(runtime, "find_store", lambda: None)
    found = describe_runtime(str(tiny_model_dir))
    assert found.store.startswith("not kept: there is no home folder")
    assert found.store_bytes == 0
