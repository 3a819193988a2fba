"""The device for tests of Triton kernels: a GPU, or Triton's interpreter on a CPU."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read once, as Triton is imported; nothing else here does that
    os.environ.setdefault("TRITON_INTERPRET", "1")

needs_triton = pytest.mark.triton
"""Skipped without Triton; `make test-gpu` runs these tests, too."""
TOLERANCE = {"atol": 2e-5, "rtol": 2e-5}
