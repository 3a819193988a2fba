"""Compiles the kernels of a GPU training into Triton's cache, in a process that needs no GPU.

It calls the same functions as the training on CPU tensors, with a Triton driver that names the type
of GPU and launches nothing. `compiling_ahead` starts it. Triton compiles one kernel at a time, so
the process forks once it has imported everything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bertfit.garbage import pause_collection
from bertfit.modeling.classifier import load_architecture
from bertfit.modeling.gradients import keep_master
from bertfit.modeling.kernels.elementwise import activate
from bertfit.modeling.kernels.layer import pass_layer
from bertfit.modeling.kernels.parts import Parts, find_parts, join_projections
from bertfit.modeling.kernels.trial import drop_hardly
from bertfit.modeling.pack import Pack
from bertfit.training.gpu_embedding_rows import GpuEmbeddingRows, sort_by_id
from bertfit.training.optimization import Pair
from bertfit.training.triton_adamw import TritonAdamW

_SHORT, _LONG = 128, 512
"""Longest texts of a pack, in tokens, whose attention has one backward kernel, and two. Both are
tried before a training (`modeling.kernels.trial`), whatever its texts."""
_STARTS = np.array([0, 8, 16], np.int32)
"""Start offsets of the texts in a call. The compiled code does not depend on them."""


def compile_kernels(layer: torch.nn.Module, *, capability: int, embedding_size: int) -> None:
    """Compile the kernels that a training launches for such layers into Triton's cache.

    Those of the trials before it are among them.

    After this call, Triton launches nothing in this process.

    Args:
        layer: A layer of a BERT-like encoder; the values of its weights do not matter.
        capability: Compute capability of the GPU, such as 90.
        embedding_size: Numbers per row of the token embeddings.
    """
    _start_nothing(capability)
    activate(torch.ones(1, 8))  # the kernel that `launching` tries first
    join_projections(layer.to(torch.bfloat16))
    pairs = [(torch.nn.Parameter(of.detach().float()), of) for of in layer.parameters()]
    for master, work in pairs:
        keep_master(work, master)
    parts = find_parts(layer)
    assert parts is not None
    works: list[Callable[[], None]] = [
        functools.partial(_compile_layers, parts, longest=longest, only_firsts=only_firsts)
        for longest in (_LONG, _SHORT)
        for only_firsts in (False, True)
    ]
    _run_beside([_build_utilities, *works, functools.partial(_compile_step, pairs, embedding_size)])


def _run_beside(works: list[Callable[[], None]]) -> None:
    """Run each in a process of its own, forked: what was imported is there.

    Raises:
        RuntimeError: One failed.
    """
    forking = multiprocessing.get_context("fork")
    processes = [forking.Process(target=work) for work in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("some kernels were not compiled")


def _compile_layers(parts: Parts, *, longest: int, only_firsts: bool) -> None:
    """Compile the kernels of a layer, and those of its trial: attention is compiled for a rate."""
    for each in dict.fromkeys((parts, drop_hardly(parts))):
        _compile_layer(each, longest=longest, only_firsts=only_firsts)


def _compile_layer(parts: Parts, *, longest: int, only_firsts: bool) -> None:
    """Compile the kernels of a layer, in training and in scoring."""
    pack = dataclasses.replace(Pack.build(_STARTS, torch.device("cpu")), longest=longest)
    hidden = torch.zeros(int(_STARTS[-1]), parts.width, dtype=torch.bfloat16)
    for _ in range(2):  # the second pass adds to the gradients of the first
        states = hidden.detach().requires_grad_()
        found = pass_layer(states, parts, pack, trains=True, only_firsts=only_firsts)
        found.backward(torch.zeros_like(found))
    with torch.no_grad():
        pass_layer(hidden, parts, pack, trains=False, only_firsts=only_firsts)


def _compile_step(pairs: list[Pair], embedding_size: int) -> None:
    """Compile the kernels of AdamW, also for the rows of token embeddings."""
    for master, _ in pairs:
        master.grad = torch.zeros_like(master)
    token_ids = np.arange(_STARTS[-1], dtype=np.int64)
    work = torch.nn.Embedding(len(token_ids), embedding_size, dtype=torch.bfloat16)
    master = torch.nn.Parameter(work.weight.detach().float())
    rows = GpuEmbeddingRows(master, work, weight_decay=0.0)
    rows.catch_up(torch.from_numpy(token_ids))
    by_id = torch.from_numpy(sort_by_id(token_ids))
    rows.add(torch.zeros_like(work.weight), torch.from_numpy(token_ids), by_id)
    optimizer = TritonAdamW(pairs, torch.optim.AdamW([master for master, _ in pairs]), rows)
    loss, halted = torch.zeros(()), torch.zeros(())
    optimizer.clip(1.0, optimizer.measure_norm(loss, halted=halted)[0])
    optimizer.step(0.0, halted=halted)


def _start_nothing(capability: int) -> None:
    """Give Triton a driver that names a type of GPU and launches nothing."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    target = GPUTarget("cuda", capability, 32)
    plenty = 2**30
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: target,
            get_current_device=lambda: 0,
            get_current_stream=lambda _device: 0,
            launcher_cls=_build_launcher,
            utils=SimpleNamespace(
                get_device_properties=lambda _device: {"max_shared_mem": plenty},
                load_binary=lambda *_binary: (None, None, 0, 0, plenty),
            ),
        )
    )


def _build_utilities() -> None:
    """Build the extension in C that Triton needs before its first launch."""
    with contextlib.suppress(Exception):  # without the GPU's driver it cannot be linked
        from triton.backends.nvidia.driver import CudaUtils

        CudaUtils()


def _build_launcher(source: Any, metadata: Any) -> Callable[..., None]:  # noqa: ANN401 (Triton's)
    """Return a launcher that does nothing, after building the real one if Triton compiles it.

    Triton 3.6 compiles a launcher in C for each signature, linked with the GPU's driver; 3.9 has a
    single one, which cannot be created here.
    """
    from triton.backends.nvidia.driver import CudaLauncher

    with contextlib.suppress(Exception):
        CudaLauncher(source, metadata)
    return lambda *_arguments: None


@pause_collection()  # compiling takes an eighth longer with it
def _main(job: str, mark: str) -> None:
    torch.set_num_threads(1)
    asked = json.loads(job)
    model = load_architecture(asked["model"], dropout=asked["dropout"])
    layer = next((one for one in model.modules() if find_parts(one) is not None), None)
    if layer is not None:
        layer.to_empty(device="cpu")
        compile_kernels(
            layer,
            capability=asked["capability"],
            embedding_size=model.get_input_embeddings().embedding_dim,
        )
    Path(mark).parent.mkdir(parents=True, exist_ok=True)
    Path(mark).touch()


if __name__ == "__main__":
    _main(*sys.argv[1:])
