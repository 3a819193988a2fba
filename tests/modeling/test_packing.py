"""Packed texts have the same logits, gradients and dropout as each text alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, CamembertConfig

from bertfit.data.batching import pack_rows, pad_rows
from bertfit.data.encoding import EncodedTexts
from bertfit.errors import ConfigError
from bertfit.modeling import packed_attention, packing
from bertfit.modeling.fast_path import ATTENTION_FAMILIES, copy_for_work, plug_in
from bertfit.modeling.forward import (
    compute_logits,
    compute_logits_of_pack,
    compute_packed_logits,
)
from bertfit.modeling.pack import Pack, computing, current_pack, mean_tokens
from bertfit.modeling.packed_attention import attend_within_texts, find_gpu_obstacle
from bertfit.modeling.packing import NAME, plan_packing, set_up_packing, takes_packs
from bertfit.modeling.precision import Precision, choose_precision
from bertfit.modeling.saving import save_model
from tests.modeling.flash_on_cpu import flash_on_cpu
from tests.modeling.test_fast_path import _COMMON, _OF_FAMILY, VOCABULARY, make_classifier

PACKED = ("albert", "bert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")
# The layers of the last three are BERT's.
PACKED_SOME_SLOW = (
    *PACKED[:3],
    "modernbert",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("electra", "roberta", "xlm-roberta")),
)
NEVER_PACKED = ("mpnet", "deberta-v2")
LENGTHS = {
    "mixed": (24, 17, 9, 3, 3),
    "equal": (7, 7, 7),
    "one text": (13,),
    "shortest": (3, 1, 2, 1),
    "in disorder": (5, 20, 5, 1, 20, 2),
}
CPU = torch.device("cpu")
FLOAT32 = choose_precision("cpu", "float32")
PAD_ID = 0


def make_encoded(lengths, *, seed=3, lowest=5):
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    token_ids = generator.integers(lowest, VOCABULARY, offsets[-1]).astype(np.int32)
    return EncodedTexts(token_ids, offsets, np.asarray(lengths, dtype=np.int32))


def run_packed(model, encoded, *, precision=FLOAT32):
    pack = pack_rows(encoded, np.arange(len(encoded)))
    return compute_packed_logits(
        model, pack.token_ids, pack.cu_seqlens, pack.positions, precision=precision
    )


def run_padded(model, encoded):
    batch = pad_rows(encoded, np.arange(len(encoded)), pad_id=PAD_ID)
    return compute_logits(model, batch.token_ids, batch.attention_mask, precision=FLOAT32)


def run_one_by_one(model, encoded):
    rows = [
        torch.from_numpy(encoded.gather(np.array([row])).astype(np.int64))
        for row in range(len(encoded))
    ]
    return torch.cat([model(input_ids=row[None]).logits for row in rows])


def gradients(model, logits):
    model.zero_grad()
    labels = torch.arange(len(logits)) % 3
    cross_entropy(logits, labels).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def make_packed(plain, *, fast):
    packed = copy.deepcopy(plain)
    if fast:
        plug_in(packed, CPU)
    assert set_up_packing(packed, FLOAT32, "on").is_on
    return packed


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("family", PACKED_SOME_SLOW)
def test_logits_and_every_gradient_are_those_of_the_plain_model(family, lengths, fast):
    plain = make_classifier(family)
    packed = make_packed(plain, fast=fast)
    encoded = make_encoded(lengths)
    expected = run_one_by_one(plain, encoded)
    expected_gradients = gradients(plain, expected)
    found = run_packed(packed, encoded)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found_gradients = gradients(packed, found)
    assert sum(g is not None and float(g.abs().max()) > 1e-4 for g in found_gradients.values()) > 10
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, atol=1e-5, rtol=1e-5, msg=name)
    torch.testing.assert_close(run_padded(plain, encoded), found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_each_pooling_of_modernbert_is_kept(pooling):
    plain = make_classifier("modernbert")
    plain.config.classifier_pooling = pooling
    packed = make_packed(plain, fast=True)
    encoded = make_encoded((24, 17, 9, 3, 3))
    expected = run_one_by_one(plain, encoded)
    expected_gradients = gradients(plain, expected)
    found = run_packed(packed, encoded)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients(packed, found).items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(run_padded(packed, encoded), expected, atol=1e-5, rtol=1e-5)


def test_means_of_long_texts_are_exact_in_bfloat16():
    pack = Pack.build(np.array([0, 700, 702], dtype=np.int32), CPU)
    hidden = torch.cat([torch.full((1, 700, 4), 0.5), torch.full((1, 2, 4), 3.0)], dim=1)
    means = mean_tokens(hidden.bfloat16(), pack)
    assert means.dtype == torch.bfloat16
    assert means[:, 0, 0].tolist() == [0.5, 3.0]


def test_modernberts_windows_matter_in_these_tests():
    """Else the tests above would not see a window that is left out, or off by one."""
    encoded = make_encoded((24, 17))
    model = make_packed(make_classifier("modernbert").eval(), fast=True)
    windows = {layer.attn.sliding_window for layer in model.base_model.layers}
    assert windows == {None, 5}
    with torch.no_grad():
        as_it_is = run_packed(model, encoded)
        for layer in model.base_model.layers:
            if layer.attn.sliding_window is not None:
                layer.attn.sliding_window = 6
        assert not torch.allclose(run_packed(model, encoded), as_it_is, atol=1e-4)


def test_camembert_is_packed_as_roberta():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        config = CamembertConfig(**_COMMON)
        plain = AutoModelForSequenceClassification.from_config(config).eval()
    packed = make_packed(plain, fast=True)
    encoded = make_encoded((9, 4))
    with torch.no_grad():
        torch.testing.assert_close(
            run_packed(packed, encoded), run_one_by_one(plain, encoded), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("family", PACKED)
def test_a_text_changes_no_other_texts_logits(family):
    model = make_packed(make_classifier(family).eval(), fast=True)
    encoded = make_encoded((9, 9, 4))
    other = EncodedTexts(encoded.token_ids.copy(), encoded.offsets, encoded.full_lengths)
    other.token_ids[9:18] = (other.token_ids[9:18] + 7) % (VOCABULARY - 5) + 5
    with torch.no_grad():
        before, after = run_packed(model, encoded), run_packed(model, other)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.allclose(before[1], after[1], atol=1e-3)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_padding_token_inside_a_text_counts_as_in_the_plain_model(family):
    """RoBERTa's family gives it no position of its own."""
    plain = make_classifier(family).eval()
    packed = make_packed(plain, fast=True)
    encoded = make_encoded((9, 6, 9))
    encoded.token_ids[[3, 4, 9, 14, 20]] = PAD_ID
    with torch.no_grad():
        torch.testing.assert_close(
            run_packed(packed, encoded), run_one_by_one(plain, encoded), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("family", PACKED)
def test_a_model_that_takes_packs_still_takes_padded_rows(family):
    plain = make_classifier(family).eval()
    packed = make_packed(plain, fast=True)
    encoded = make_encoded((24, 17, 9, 3))
    with torch.no_grad():
        torch.testing.assert_close(
            run_padded(packed, encoded), run_padded(plain, encoded), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("family", PACKED)
def test_working_weights_in_bfloat16_are_near(family):
    model = make_packed(make_classifier(family).eval(), fast=True)
    bfloat16 = choose_precision("cpu", "bfloat16")
    encoded = make_encoded((24, 17, 9, 3))
    with torch.no_grad():
        rounded = run_packed(copy_for_work(model, bfloat16), encoded, precision=bfloat16)
        torch.testing.assert_close(rounded, run_packed(model, encoded), atol=0.15, rtol=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("family", PACKED)
def test_on_a_gpu_packs_are_the_plain_model_but_for_bfloat16(family, lengths):
    plain = make_classifier(family, width=128)  # heads of 32 numbers, which the kernels take
    encoded = make_encoded(lengths)
    expected = run_one_by_one(plain, encoded)
    expected_gradients = gradients(plain, expected)
    rounded = copy.deepcopy(plain).to(torch.bfloat16)  # how far bfloat16 itself is off
    rounded_gradients = gradients(rounded, run_one_by_one(rounded, encoded).float())
    on_gpu = Precision(torch.device("cuda"), torch.bfloat16, "a test")
    packed = copy.deepcopy(plain).to("cuda", torch.bfloat16)
    plug_in(packed, on_gpu.device)
    assert "flash" in set_up_packing(packed, on_gpu).reason
    found = run_packed(packed, encoded, precision=on_gpu)
    torch.testing.assert_close(found.cpu(), expected, atol=0.05, rtol=0.05)
    packed.zero_grad()
    cross_entropy(found, torch.arange(len(found), device="cuda") % 3).backward()
    for name, parameter in packed.named_parameters():
        size = expected_gradients[name].norm()
        if size > 1e-2:  # smaller ones are of rounding's size
            apart, usual = (
                float((gradient.cpu().float() - expected_gradients[name]).norm() / size)
                for gradient in (parameter.grad, rounded_gradients[name])
            )
            assert apart < max(0.1, 2 * usual), name


@pytest.mark.parametrize("family", PACKED)
def test_dropout_acts_in_training_alone(family):
    model = make_packed(make_classifier(family, dropout=0.3), fast=True)
    encoded = make_encoded((9, 9, 4))
    torch.manual_seed(0)
    with torch.no_grad():
        in_training = [run_packed(model, encoded) for _ in range(2)]
        model.eval()
        in_scoring = [run_packed(model, encoded) for _ in range(2)]
    assert not torch.allclose(*in_training)
    assert torch.equal(*in_scoring)


def test_attention_in_a_pack_drops_at_the_rate_that_is_asked():
    """With equal keys and values of one, a query's output is its share of kept weights, scaled."""
    lengths = [40] * 10 + [30] * 10
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    pack = Pack.build(offsets, CPU)
    keys, values = torch.zeros(offsets[-1], 8, 4), torch.ones(offsets[-1], 8, 4)
    module = torch.nn.Module().train()
    torch.manual_seed(0)
    kept = attend_within_texts(module, (keys, keys, values), pack, scaling=None, dropout=0.25)
    assert 0.98 < float(kept.mean()) < 1.02
    # The variance of a mean of T kept-or-dropped weights is p / (1 − p) / T.
    variance = float(kept[: offsets[10], :, 0].var())
    assert variance == pytest.approx(0.25 / 0.75 / 40, rel=0.15)
    module.eval()
    whole = attend_within_texts(module, (keys, keys, values), pack, scaling=None, dropout=0.25)
    torch.testing.assert_close(whole, torch.ones_like(whole))


def test_a_layer_gives_its_scaling_and_its_dropout_to_the_attention_of_a_pack():
    generator, module = torch.Generator().manual_seed(0), torch.nn.Module().train()
    pack = Pack.build(np.array([0, 5, 8], dtype=np.int32), CPU)
    states = [torch.randn(8, 2, 4, generator=generator) for _ in range(3)]
    options = {"scaling": 0.3, "dropout": 0.25}
    torch.manual_seed(0)
    expected = attend_within_texts(module, tuple(states), pack, **options)
    torch.manual_seed(0)
    of_layer = [state.transpose(0, 1).unsqueeze(0) for state in states]
    with computing(pack):
        attended, _ = packing._attend(module, *of_layer, None, **options)
    torch.testing.assert_close(attended.squeeze(0), expected)


@pytest.mark.parametrize("family", NEVER_PACKED)
def test_families_that_cannot_be_packed_say_so(family):
    model = make_classifier(family)
    plan = set_up_packing(model, FLOAT32)
    assert str(plan) == (
        f"off (bertfit does not pack {family}; texts of like length are computed together)"
    )
    assert not takes_packs(model)
    with pytest.raises(
        ConfigError, match=f"packing: on was asked for, but bertfit does not pack {family}"
    ):
        set_up_packing(model, FLOAT32, "on")


def test_a_decoder_of_a_family_that_is_packed_is_not():
    """Its tokens read what is before them alone."""
    config = copy.deepcopy(_OF_FAMILY["bert"])
    config.is_decoder = True
    assert "bertfit does not pack bert" in plan_packing(config, FLOAT32).reason
    with pytest.raises(ConfigError, match="packing: on was asked for, but bertfit does not pack"):
        plan_packing(config, FLOAT32, "on")


def test_every_family_of_the_fast_path_is_packed_or_says_not():
    assert set(_OF_FAMILY) == {*PACKED, *NEVER_PACKED}
    assert {*PACKED, "camembert"} == ATTENTION_FAMILIES


def test_packing_is_off_on_a_cpu_and_where_that_is_asked():
    config = _OF_FAMILY["bert"]
    assert str(plan_packing(config, FLOAT32)) == ("off (packs were slower than padding on a CPU)")
    assert str(plan_packing(config, FLOAT32, "off")) == "off (asked for)"
    assert str(plan_packing(config, FLOAT32, "on")) == (
        "on (asked for; attention runs by groups of texts of one length)"
    )


def test_a_gpu_packs_where_torch_has_the_kernel_for_it(monkeypatch):
    """What is decided for a GPU; that it computes the right thing there is not shown by this."""
    on_gpu = Precision(torch.device("cuda"), torch.bfloat16, "a test")
    in_float32 = Precision(torch.device("cuda"), torch.float32, "a test")
    config = copy.deepcopy(_OF_FAMILY["bert"])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    find_gpu_obstacle.cache_clear()
    assert "heads of up to 256 numbers in steps of 8" in plan_packing(config, on_gpu).reason
    config.num_attention_heads = 2
    assert str(plan_packing(config, on_gpu)) == "on (torch's variable-length flash attention)"
    assert "bfloat16 and float16 alone" in plan_packing(config, in_float32).reason
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    find_gpu_obstacle.cache_clear()
    assert "older" in plan_packing(config, on_gpu).reason
    find_gpu_obstacle.cache_clear()


@pytest.mark.parametrize("scaling", [None, 0.25, 0.3])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("only_firsts", "window"), [(True, None), (False, None), (False, 4)])
def test_the_calls_for_a_gpu_fit_torchs_own_signatures(scaling, dropout, window, only_firsts):
    """Run on tensors without data: shapes and arguments are checked, numbers are not."""
    pack = Pack.build(np.array([0, 5, 8], dtype=np.int32), torch.device("meta"))
    keys = torch.empty(8, 2, 16, dtype=torch.bfloat16, device="meta")
    query = keys[:2] if only_firsts else keys
    attended = packed_attention._attend_by_flash(
        (query, keys, keys), pack, scaling=scaling, dropout=dropout, window=window
    )
    assert attended.shape == query.shape


@pytest.mark.gpu
@pytest.mark.skipif(torch.version.cuda is None, reason="needs a build of torch for CUDA")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("family", PACKED)
def test_the_forward_pass_stays_on_a_gpu_in_bfloat16(family, dropout, monkeypatch):
    """No GPU is needed: the tensors say that they lie on one, and hold no numbers."""
    monkeypatch.setattr(packing, "find_gpu_obstacle", lambda *_: None)
    on_gpu = Precision(torch.device("cuda"), torch.bfloat16, "a test")
    model = make_classifier(family, dropout=dropout, width=32)
    plug_in(model, on_gpu.device)
    set_up_packing(model, on_gpu, "on")
    with FakeTensorMode(), torch.no_grad():
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                moved = torch.empty(weight.shape, dtype=torch.bfloat16, device="cuda")
                setattr(module, name, torch.nn.Parameter(moved))
            for name, kept in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty(kept.shape, dtype=kept.dtype, device="cuda"))
        ids = torch.zeros(256, dtype=torch.int64, device="cuda")
        starts = torch.zeros(9, dtype=torch.int32, device="cuda")
        logits = compute_logits_of_pack(model, ids, ids, Pack(starts, 128, None), precision=on_gpu)
    assert (logits.shape, logits.device.type, logits.dtype) == ((8, 3), "cuda", torch.float32)


def test_what_is_saved_knows_nothing_of_packing(tmp_path):
    plain = make_classifier("bert")
    packed = make_packed(plain, fast=True)
    for name, model in (("plain", plain), ("packed", packed)):
        save_model(model, tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "packed" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    assert packed.config._attn_implementation == NAME


def test_a_pack_is_current_only_while_it_is_computed():
    pack = Pack.build(np.array([0, 2], dtype=np.int32), CPU)
    seen = []

    def fail():
        seen.append(current_pack())
        raise ValueError("an error inside must not leave the pack behind")

    with pytest.raises(ValueError, match="inside"), computing(pack):
        fail()
    assert seen == [pack]
    assert current_pack() is None


@pytest.mark.parametrize(("only_firsts", "window"), [(True, None), (False, None), (False, 2)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_torchs_operator_for_packs_is_asked_for_what_the_fallback_computes(
    scaling, only_firsts, window
):
    """The operator itself, called as on a GPU, with a dense kernel in the place of a GPU's."""
    pack = Pack.build(np.array([0, 4, 9, 12, 13], dtype=np.int32), CPU)
    unknown = Pack(pack.cu_seqlens, 128, None)
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(13, 2, 8, generator=generator).requires_grad_() for _ in range(3)]
    asked = (states[0][pack.firsts] if only_firsts else states[0], *states[1:])
    module = torch.nn.Identity().train()
    found = []
    with flash_on_cpu():
        for each in (pack, unknown):
            attended = attend_within_texts(
                module, asked, each, scaling=scaling, dropout=0.0, window=window
            )
            direction = torch.arange(1.0, 1 + attended.numel()).view_as(attended)
            gradients = torch.autograd.grad((attended * direction).sum(), states, retain_graph=True)
            found.append((attended, *gradients))
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-5)


def test_torchs_operator_drops_as_many_weights_as_it_is_asked_to():
    pack = Pack(torch.tensor([0, 200, 400], dtype=torch.int32), 256, None)
    ones = torch.ones(400, 4, 8)
    states = (torch.zeros(400, 4, 8), torch.zeros(400, 4, 8), ones)
    options = {"scaling": None, "dropout": 0.25}
    with flash_on_cpu():
        attended = attend_within_texts(torch.nn.Identity().train(), states, pack, **options)
        assert float(attended.mean()) == pytest.approx(1.0, abs=0.01)
        assert 0.01 < float(attended.std()) < 0.1
        kept = attend_within_texts(torch.nn.Identity().eval(), states, pack, **options)
    torch.testing.assert_close(kept, ones)


def test_runs_are_neighbours_of_one_length():
    pack = Pack.build(np.array([0, 3, 6, 8, 11], dtype=np.int32), CPU)
    assert pack.runs == ((2, 3), (1, 2), (1, 3))
    assert (pack.num_texts, pack.longest) == (4, 3)
    assert Pack.build(np.array([0, 2, 7, 8], dtype=np.int32), CPU).longest == 5
    assert pack.firsts.tolist() == [0, 3, 6, 8]


def test_each_layer_of_a_pack_gets_other_seeds_which_torchs_generator_decides():
    def draw(seed):
        torch.manual_seed(seed)
        pack = Pack.build(np.array([0, 3], dtype=np.int32), CPU)
        return torch.stack([pack.draw_seeds() for _ in range(70)])  # more than are drawn at once

    first = draw(0)
    assert len(first.unique()) == first.numel()
    assert torch.equal(first, draw(0))
    assert not torch.equal(first, draw(1))
