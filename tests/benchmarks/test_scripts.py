"""What a benchmark cannot work with ends it at once, and what it compares is what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from bertfit.data.dataset import TextDataset

NEED_REVIEWS = (
    *("against_notebook.py", "against_peers.py", "fast_path_accuracy.py"),
    *("gradients.py", "packing.py", "scoring.py"),
)
WITH_OUTPUT = (
    *NEED_REVIEWS,
    *("baselines.py", "evaluation.py", "startup.py", "step_floor.py"),
    *("gpu.py", "gpu_kernels.py", "gpu_steps.py"),
)


def end_of(run, script, *arguments):
    with pytest.raises(SystemExit) as ended:
        run(script, *arguments)
    return ended.value.code


@pytest.mark.parametrize("script", WITH_OUTPUT)
def test_a_result_that_cannot_be_written_is_refused_at_once(run, script, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert end_of(run, script, "--output", str(tmp_path / "file")) == 2
    assert "argument --output: nothing can be written there" in capsys.readouterr().err


@pytest.mark.parametrize("script", NEED_REVIEWS)
def test_missing_reviews_are_told_in_a_sentence(run, script, tmp_path, monkeypatch):
    told = "BERTFIT_DATA must name a folder that holds imdb/."
    monkeypatch.delenv("BERTFIT_DATA", raising=False)
    assert end_of(run, script) == told
    monkeypatch.setenv("BERTFIT_DATA", str(tmp_path))
    assert end_of(run, script) == told
    (tmp_path / "imdb").mkdir()
    assert str(end_of(run, script)).endswith("_raw.jsonl.gz: no such file.")


def test_baselines_miss_a_set_before_they_measure_another(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BERTFIT_DATA", str(tmp_path))
    assert end_of(run, "baselines.py") == "BERTFIT_DATA must name a folder that holds banking77/."
    (tmp_path / "banking77").mkdir()
    ended = end_of(run, "baselines.py", "--sets", "banking77")
    assert ended == f"{tmp_path / 'banking77' / 'train.csv'}: no such file."
    assert not capsys.readouterr().out


def test_a_folder_that_is_no_run_has_no_calibration_to_compare(run, tmp_path):
    ended = end_of(run, "calibration.py", str(tmp_path), "train.csv", "test.csv")
    assert str(ended).startswith(f"{tmp_path} is not a complete run")


@pytest.mark.parametrize("script", ["gpu.py", "gpu_kernels.py", "gpu_steps.py"])
def test_a_folder_without_a_tokenizer_is_refused(run, script, tmp_path, capsys):
    assert end_of(run, script, "--tokenizer", str(tmp_path)) == 2
    assert "is not a folder with a tokenizer: it has no tokenizer.json" in capsys.readouterr().err


def test_an_older_source_that_is_not_there_is_not_taken_for_the_present_one(run, tmp_path, capsys):
    assert end_of(run, "startup.py", "--before", str(tmp_path)) == 2
    assert "is not the folder src/ of a checkout" in capsys.readouterr().err


def test_a_command_that_fails_is_named(load):
    def fail():
        subprocess.run([sys.executable, "-c", "import sys; sys.exit(3)"], check=True)

    with pytest.raises(
        SystemExit, match=r"It ended with code 3: .* -c 'import sys; sys.exit\(3\)'"
    ):
        load("script").run_script(fail)


@pytest.mark.parametrize(("codes", "expected"), [([0, 0], 0), ([0, -9], 9), ([-9, 2], 9)])
def test_a_benchmark_that_a_signal_ended_fails_all(run, monkeypatch, codes, expected):
    ended = iter(codes)
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess((), next(ended))
    )
    assert end_of(run, "run.py", "startup", "evaluation") == expected


@pytest.mark.parametrize("form", [["--output", "{}"], ["--output={}"]])
def test_a_result_names_no_private_folder(load, tmp_path, monkeypatch, form):
    given = [one.format(tmp_path) for one in form]
    monkeypatch.setattr(sys, "argv", ["a.py", *given, "--before=/home/me/src", "/home/me/run"])
    path = load("record").write_result("name", {"seen": 1}, output=tmp_path)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["command"] == "python benchmarks/a.py --before=src run"
    assert written["seen"] == 1


def test_a_training_that_a_signal_cut_short_is_not_measured(load, monkeypatch, tmp_path):
    script, given = load("script"), {}

    def train(rows, folder, **settings):
        given.update(rows=rows, folder=folder, **settings)
        return SimpleNamespace(outcome=SimpleNamespace(interrupted=given["epochs"] == 1))

    monkeypatch.setattr(script, "train", train)
    assert not script.train_to_the_end([{}], tmp_path, epochs=2).outcome.interrupted
    assert given == {"rows": [{}], "folder": tmp_path, "epochs": 2}
    with pytest.raises(SystemExit, match="was interrupted; nothing is kept"):
        script.train_to_the_end([{}], tmp_path, epochs=1)


def test_moments_of_gradients_are_those_of_numpy(load):
    draws = np.random.default_rng(0).normal(0.5, 1.0, (40, 2, 3))
    draws[1:] += 0.6 * draws[:-1]
    moments = load("gradients").Moments()
    for draw in draws:
        moments.add({"a": torch.from_numpy(draw[0]), "b": torch.from_numpy(draw[1])})
    for names, values in ((["a", "b"], draws), (["b"], draws[:, 1:])):
        centred = values - values.mean(axis=0)
        assert moments.square_sum(names) == pytest.approx(np.square(values).sum())
        assert moments.mean_square(names) == pytest.approx(np.square(values.mean(axis=0)).sum())
        assert moments.variance(names) == pytest.approx(values.var(axis=0, ddof=1).sum())
        together = (centred[1:] * centred[:-1]).sum() / 39 / moments.variance(names)
        assert moments.correlation(names) == pytest.approx(together)


def test_weights_of_bert_have_kinds(load):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=1, vocab_size=8, **sizes))
    groups = load("gradients").group_names([name for name, _ in model.named_parameters()])
    assert {kind: len(names) for kind, names in groups.items()} == {
        "all": 25, "embeddings": 3, "norms": 6, "head": 4,
        "attention weights": 4, "attention biases": 4,
        "feed-forward weights": 2, "feed-forward biases": 2,
    }  # fmt: skip


def test_peers_warm_up_and_take_turns_in_both_orders(load, monkeypatch, capsys):
    peers, calls = load("against_peers"), []

    def train(name, rows, *, seed):
        calls.append((name, len(rows), seed))
        return len(rows) / 10.0

    for name in ("notebook", "trainer", "bertfit"):
        monkeypatch.setattr(
            peers,
            f"train_{name}",
            lambda _, rows, *, name=name, max_length, seed: train(name, rows, seed=seed),
        )
    found = peers.compare(Path(), make_rows(50), max_length=8, rounds=2)
    names = ["notebook", "trainer", "bertfit"]
    assert calls == [
        *((name, 32, 0) for name in names),
        *((name, 50, 0) for name in names),
        *((name, 50, 1) for name in reversed(names)),
    ]
    assert found["rows_per_second"]["bertfit"]["values"] == pytest.approx([10.0, 10.0])
    assert "round 2" in capsys.readouterr().out


def test_trainer_gets_batches_as_close_in_length_as_bertfit(load):
    trainer, lengths = load("trainer"), np.random.default_rng(0).permutation(np.arange(1, 38))
    order = trainer.arrange(lengths, 16, seed=0)
    assert sorted(order) == list(range(37))
    batches = [order[at : at + 16] for at in range(0, 37, 16)]
    assert [len(batch) for batch in batches] == [16, 16, 5]
    for batch in batches:
        assert np.ptp(lengths[batch]) == len(batch) - 1


def test_calibration_is_compared_on_the_rows_that_the_run_held_out(load):
    find_rows, rows = load("calibration").find_rows, make_rows(4)
    found = find_rows(rows, [4, 2], ["pos", "pos"])
    assert list(found.texts) == ["text 3", "text 1"]
    assert find_rows(rows, [4, 5], ["pos", "neg"]) is None
    assert find_rows(rows, [4, 2], ["pos", "neg"]) is None


def test_the_floor_has_the_linear_layers_that_compute_all_tokens(load):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=3, vocab_size=8, **sizes))
    shapes = load("step_floor").list_shapes(model)
    assert sorted(shapes) == sorted([(16, 16)] * 12 + [(24, 16)] * 3 + [(16, 24)] * 3)


def test_mfu_counts_two_operations_a_weight_and_three_passes(load):
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    lengths = np.array([2, 3])
    count = load("gpu_training").count_operations
    of_weights = 2 * 3 * 5 * (4 * 16 * 16 + 2 * 16 * 32)
    of_attention = 3 * (2 + 2) * 16 * (2 * 2 + 3 * 3)
    assert count(config, lengths, is_short=False) == of_weights + of_attention
    of_short = 2 * 3 * (5 * 2 * 16 * 16 + 2 * (2 * 16 * 16 + 2 * 16 * 32)) + 3 * 4 * 16 * 5
    assert count(config, lengths, is_short=True) == of_short


def make_rows(number):
    return TextDataset(
        source="rows",
        texts=[f"text {row}" for row in range(number)],
        labels=["neg" if row % 2 == 0 else "pos" for row in range(number)],
        groups=(),
        lines=list(range(1, number + 1)),
    )
