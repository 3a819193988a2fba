"""Errors: which of them say that memory ran out, and faults without what the data has."""

from __future__ import annotations

import pytest
import torch

from bertfit.errors import DataError, Fault, TrainingError, is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("of any wording"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"),
        ImportError("libtorch.so: failed to map segment from shared object"),
    ],
)
def test_memory_that_ran_out_is_known_by_the_words_of_each_library(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`"),
        TrainingError("recording a CUDA graph failed: CUDA error: out of memory"),
    ],
)
def test_other_failures_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


def test_faults_told_together_are_without_values_too():
    told = ("label 'so sad' is not known, which has 'sad'", "label 'so sad' is not known")
    faults = [Fault("a.csv", line, told[line > 2], kind=told[0]) for line in (2, 3)]
    error = DataError("bad", faults=[fault.without_values() for fault in faults])
    assert str(error) == "bad\n  a.csv:2, 3: label '…' is not known, which has '…'"
