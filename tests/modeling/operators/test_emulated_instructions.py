"""The operators' tests, for both kinds of processors that they are for, whatever this one is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bertfit.modeling.operators.loading import name_compiler
from tests.modeling.operators import emulated_instructions

HERE = Path(__file__).parent
SANITIZERS = ("libasan.so", "libubsan.so")


def find_sanitizers():
    """Return the compiler's sanitizers, which Python must load first; none if it has not both."""
    asked = [[name_compiler("c++"), f"-print-file-name={name}"] for name in SANITIZERS]
    found = [subprocess.check_output(one, text=True).strip() for one in asked]
    return found if all(Path(one).is_absolute() for one in found) else []


@pytest.mark.slow  # the compiler and the sanitizers take minutes
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx512_vl"), reason="emulated by AVX-512")
@pytest.mark.skipif(shutil.which(name_compiler("c++")) is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16"])
def test_the_operators_pass_their_tests(instructions):
    sanitizers = find_sanitizers()
    environment = os.environ | {
        "LD_PRELOAD": " ".join(sanitizers),
        "ASAN_OPTIONS": "detect_leaks=0:print_legend=0",  # the leaks are Python's
    }
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-m", "not slow", "--timeout", "900"),
        *("-p", "no:cacheprovider", "-p", emulated_instructions.__name__),
        "--capture=no",  # what a sanitizer reports would be lost with the process
        *("--emulated", instructions, *(["--sanitized"] if sanitizers else [])),
        str(HERE),
    ]
    ended = subprocess.run(
        command,
        check=False,
        cwd=HERE.parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-8000:]
    assert "skipped" not in ended.stdout
