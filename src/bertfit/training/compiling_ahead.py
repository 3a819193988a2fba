"""Compiles the kernels of a GPU training in a second process, while the rows are being read.

Triton compiles for a type of GPU and caches the result on disk. The first training of its kind
waits several seconds for this, and a thread would not help, because Triton holds the GIL while it
compiles. The second process needs no GPU: it calls the same functions on CPU tensors, with a Triton
driver that names the type of GPU and launches nothing. The training then finds its kernels in the
cache. Anything missing there is compiled as usual, so nothing depends on the second process.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bertfit.config import TrainSettings
from bertfit.garbage import pause_collection
from bertfit.modeling.classifier import load_architecture
from bertfit.modeling.gradients import keep_master
from bertfit.modeling.kernels import launching
from bertfit.modeling.kernels.elementwise import activate
from bertfit.modeling.kernels.layer import pass_layer
from bertfit.modeling.kernels.parts import find_parts, join_projections
from bertfit.modeling.pack import Pack
from bertfit.modeling.precision import Precision
from bertfit.training.triton_adamw import TritonAdamW

_SHORT, _LONG = 128, 512
"""Longest texts, in tokens, whose attention has one backward kernel, and two."""
_STARTS = np.array([0, 8, 16], np.int32)
"""Start offsets of the texts in a call. The compiled code does not depend on them."""
_KERNELS, _STEPS = Path(launching.__file__).parent, Path(__file__).parent
"""Folders with the source of the layer kernels and of the optimizer kernels."""


def start_compiling(
    settings: TrainSettings, precision: Precision
) -> subprocess.Popen[bytes] | None:
    """Start the second process, if the training will need kernels that are not in the cache.

    It ends on its own, or with this process. Return it, or None if nothing was started.

    Args:
        settings: Settings of the training.
        precision: Device and dtype of the training.
    """
    if not _will_want_kernels(settings, precision):
        return None
    capability = torch.cuda.get_device_capability(precision.device)
    is_short = settings.max_length is not None and settings.max_length <= _SHORT
    job = json.dumps(
        {
            "model": settings.model,
            "dropout": settings.dropout,
            "capability": 10 * capability[0] + capability[1],
            "lengths": [_SHORT] if is_short else [_LONG, _SHORT],
        }
    )
    mark = _find_mark(job)
    if mark.exists():
        return None
    # It sees no GPU, downloads nothing, and imports nothing from the current folder (-P).
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    nothing = subprocess.DEVNULL
    try:
        process = subprocess.Popen(  # noqa: S603 (this interpreter, and a list of arguments)
            [sys.executable, "-P", "-m", "bertfit.training.compiling_ahead", job, str(mark)],
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            env=environment,
        )
    except OSError:
        return None
    atexit.register(_end, process)
    return process


def compile_kernels(layer: torch.nn.Module, *, capability: int, lengths: list[int]) -> None:
    """Compile every kernel that a training launches for such layers into Triton's cache.

    After this call, Triton launches nothing in this process.

    Args:
        layer: A layer of a BERT-like encoder; the values of its weights do not matter.
        capability: Compute capability of the GPU, such as 90.
        lengths: Longest texts of a pack, in tokens, one for each code path.
    """
    _start_nothing(capability)
    activate(torch.ones(1, 8))  # the kernel that `launching` tries first
    join_projections(layer.to(torch.bfloat16))
    pairs = [(torch.nn.Parameter(of.detach().float()), of) for of in layer.parameters()]
    for master, work in pairs:
        keep_master(work, master)
    parts = find_parts(layer)
    assert parts is not None
    pack = Pack.build(_STARTS, torch.device("cpu"))
    hidden = torch.zeros(int(_STARTS[-1]), len(parts.output.weight), dtype=torch.bfloat16)
    for longest in lengths:
        pack = dataclasses.replace(pack, longest=longest)
        for only_firsts in (False, True):
            for _ in range(2):  # the second pass adds to the gradients of the first
                states = hidden.detach().requires_grad_()
                found = pass_layer(states, parts, pack, trains=True, only_firsts=only_firsts)
                found.backward(torch.zeros_like(found))
            with torch.no_grad():
                pass_layer(hidden, parts, pack, trains=False, only_firsts=only_firsts)
    optimizer = TritonAdamW(pairs, torch.optim.AdamW([master for master, _ in pairs]))
    optimizer.measure_norm()
    optimizer.step(0.0, halted=torch.zeros(()))


def _will_want_kernels(settings: TrainSettings, precision: Precision) -> bool:
    return (
        precision.device.type == "cuda"
        and torch.version.hip is None
        and precision.weight_dtype == torch.bfloat16
        and settings.fast_path == "auto"
        and settings.packing != "off"
        and importlib.util.find_spec("triton") is not None
    )


def _find_mark(job: str) -> Path:
    """Return the file in Triton's cache whose presence marks a job as done."""
    import triton

    digest = hashlib.blake2b(f"{triton.__version__} {job}".encode(), digest_size=10)
    for source in (*sorted(_KERNELS.glob("*.py")), *sorted(_STEPS.glob("*adamw*.py"))):
        digest.update(source.read_bytes())
    return Path(triton.knobs.cache.dir) / f"bertfit_{digest.hexdigest()}"


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


def _build_launcher(source: Any, metadata: Any) -> Callable[..., None]:  # noqa: ANN401 (Triton's)
    """Return a launcher that does nothing, after building the real one if Triton compiles it.

    Triton 3.6 compiles a launcher in C for each signature, linked with the GPU's driver; 3.9 has a
    single one, which cannot be created here.
    """
    from triton.backends.nvidia.driver import CudaLauncher

    with contextlib.suppress(Exception):
        CudaLauncher(source, metadata)
    return lambda *_arguments: None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


@pause_collection()  # compiling takes an eighth longer with it
def _main(job: str, mark: str) -> None:
    torch.set_num_threads(1)
    asked = json.loads(job)
    model = load_architecture(asked["model"], dropout=asked["dropout"])
    layer = next((one for one in model.modules() if find_parts(one) is not None), None)
    if layer is not None:
        layer.to_empty(device="cpu")
        compile_kernels(layer, capability=asked["capability"], lengths=asked["lengths"])
    Path(mark).parent.mkdir(parents=True, exist_ok=True)
    Path(mark).touch()


if __name__ == "__main__":
    _main(*sys.argv[1:])
