"""The GPU benchmarks measure nothing without a GPU, but their scripts run with --smoke."""

from __future__ import annotations

import re

import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
@pytest.mark.parametrize("script", ["gpu.py", "gpu_steps.py"])
def test_without_a_gpu_nothing_is_measured(run, script):
    with pytest.raises(SystemExit) as ended:
        run(script)
    assert str(ended.value) == (
        "This measures a CUDA GPU, and torch finds none here. --smoke runs the script without."
    )


# torch hides this warning of its own while it traces, which does not help where it is an error.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
def test_the_whole_script_runs_on_a_tiny_encoder(run, tmp_path, capsys):
    run("gpu.py", "--smoke", "--output", str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("packed, float32") for line in lines)
    assert [line.partition(":")[0] for line in lines if line.startswith("training at")] == [
        f"training at {length}, {way}"
        for length in (16, 32)
        for way in (
            *("bertfit", "bertfit_128_rows", "bertfit_256_rows", "bertfit_as_written"),
            *("bertfit_compiled", "notebook", "trainer"),
        )
    ]
    assert not [line for line in lines if "failed" in line]
    assert any(line.startswith("whole job, as_written") for line in lines)
    assert sum(line.startswith("target: ") for line in lines) == 8
    assert not list(tmp_path.iterdir())  # times of a tiny encoder are no result


@pytest.mark.slow
def test_a_step_is_taken_apart(run, tmp_path, capsys):
    run("gpu_steps.py", "--smoke", "--output", str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if "texts of at most" in line]
    assert [line.partition(":")[0] for line in titles] == [
        "16 texts of at most 16 tokens",
        "16 texts of at most 16 tokens, one stream",
        "64 texts of at most 32 tokens",
        "64 texts of at most 32 tokens, one stream",
    ]
    for title in titles:
        times = re.search(r": (\d+\.\d+) ms a step, of which kernels (\d+\.\d+)", title)
        assert min(map(float, times.groups())) > 0.0
    assert sum(line.startswith("an epoch of the job: 10 steps in ") for line in lines) == 9
    assert not list(tmp_path.iterdir())
