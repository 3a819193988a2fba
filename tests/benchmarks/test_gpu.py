"""The benchmark of a GPU refuses to measure anything else; its script runs without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_nothing_is_measured():
    done = run()
    assert done.returncode == 1
    assert done.stderr == (
        "This measures a CUDA GPU, and torch finds none here. --smoke runs the script without.\n"
    )


@pytest.mark.slow
def test_the_whole_script_runs_on_a_tiny_encoder(tmp_path):
    done = run("--smoke", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "packed against padded, float32" in done.stdout
    assert [
        line.partition(":")[0] for line in done.stdout.splitlines() if "training at" in line
    ] == [
        f"training at {length}, {way}"
        for length in (16, 32)
        for way in ("notebook", "trainer", "bertfit")
    ]
    assert "whole job" in done.stdout
    assert not list(tmp_path.iterdir())  # times of a tiny encoder are no result
