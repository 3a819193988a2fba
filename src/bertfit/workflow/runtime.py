"""What this machine offers, what bertfit chooses on it, and why."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bertfit.assets import EMBEDDED
from bertfit.data.encoded_store import find_store
from bertfit.environment import describe_environment
from bertfit.leftovers import measure_folder
from bertfit.modeling.allocation import can_keep_freed_memory
from bertfit.modeling.classifier import find_hidden_size, load_architecture
from bertfit.modeling.compilation import plan_compilation
from bertfit.modeling.fast_path import plan_fast_path, plan_operators_for
from bertfit.modeling.graphs import plan_recording
from bertfit.modeling.packing import plan_packing
from bertfit.modeling.plan import Plan
from bertfit.modeling.precision import choose_precision
from bertfit.modeling.soundness import explain_failure
from bertfit.modeling.transfer import wait_for
from bertfit.training.token_budget import default_tokens
from bertfit.training.weights import updates_read_rows

if TYPE_CHECKING:
    from bertfit.config import Dtype

_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512_f": "AVX-512",
    "avx512_bf16": "AVX512-BF16",
    "amx_bf16": "AMX",
}
_SIZES = (2048, 384, 1536)
"""Rows, inputs and outputs of the timed matmuls: a feed-forward layer of MiniLM."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The machine, and the choices made on it."""

    processor: str
    instructions: tuple[str, ...]
    """Instruction sets that matter for matrix products."""
    num_cores: int
    """Cores that this process may use; a fraction, as of a container's limit, counts as a core."""
    num_threads: int
    """Threads that torch uses for one matmul."""
    device: str
    dtype: str
    """Dtype of the matmuls in training."""
    reason: str
    attention: str
    dropout: str
    last_layer: str
    """Which tokens the last layer is computed for."""
    operators: str
    """Whether compiled operators are used, and why."""
    embeddings: str
    memory: str
    """What happens to memory freed between layers."""
    packing: str
    """Whether texts are packed, and why."""
    compilation: str
    """Whether a training's layers are compiled, and why."""
    recording: str
    """Whether a training's passes are recorded as CUDA graphs, and why."""
    micro_batch_tokens: int | None
    """None if the training measures it."""
    gflops: dict[str, float]
    """Measured rate of matrix products, by dtype, in 1e9 operations per second."""
    store: str
    """Where encoded text is cached, or why it is not."""
    store_bytes: int
    advice: tuple[str, ...]
    """What would make training faster."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return dataclasses.asdict(self)


def describe_runtime(
    model: str = EMBEDDED, *, device: str = "auto", dtype: Dtype = "auto"
) -> Runtime:
    """Return how `model` would be trained on this machine, and how fast its matmuls are.

    Args:
        model: Hub name, local folder, a run, or "embedded"; its weights are not loaded.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: Dtype of the computation; auto chooses.

    Raises:
        ModelError: The model cannot be found or is of an unknown kind, or not for text.
        ConfigError: The device is unknown or not present.
    """
    precision = choose_precision(device, dtype)
    architecture = load_architecture(model)
    config = architecture.config
    fast_path = plan_fast_path(config, precision.device)
    operators = plan_operators_for(config, precision)
    packing = plan_packing(config, precision)
    with explain_failure(model):  # CANINE, for one, names no embeddings
        num_numbers = architecture.get_input_embeddings().weight.numel()
    by_rows = updates_read_rows(num_numbers, precision.device)
    tokens = default_tokens(
        find_hidden_size(architecture), is_compiled=operators.is_on and fast_path.is_whole
    )
    gflops = {
        name: measure_products(getattr(torch, name), precision.device)
        for name in ("float32", "bfloat16")
    }
    store = find_store()
    hardware = describe_environment()["hardware"]
    return Runtime(
        processor=str(hardware["processor"] or hardware["machine"]),
        instructions=list_instructions(),
        num_cores=hardware["num_cores"],
        num_threads=torch.get_num_threads(),
        device=precision.device_name,
        dtype=precision.dtype_name,
        reason=precision.reason,
        attention=fast_path.attention,
        dropout=fast_path.dropout,
        last_layer=fast_path.last_layer,
        operators=str(operators),
        embeddings="only the rows that a step reads are updated" if by_rows else "all rows",
        memory="kept for the next layer" if can_keep_freed_memory() else "left to the system",
        packing=str(packing),
        compilation=_describe_compilation(precision.device, packing, operators),
        recording=str(plan_recording(precision.device, packs=packing.is_on)),
        micro_batch_tokens=None if precision.device.type == "cuda" else tokens,
        gflops=gflops,
        store=str(store or "not kept: there is no home folder, and no $BERTFIT_CACHE"),
        store_bytes=measure_folder(store) if store else 0,
        advice=(
            *_advise(hardware["num_cores"], torch.get_num_threads(), gflops, precision.dtype_name),
            *_advise_on_bytecode(torch.__file__),
        ),
    )


def _describe_compilation(device: torch.device, packing: Plan, operators: Plan) -> str:
    """Return the compilation plan of a training that is long enough to be compiled."""
    plan = plan_compilation(
        device, packs=packing.is_on, has_operators=operators.is_on, train_seconds=math.inf
    )
    return str(plan)


def measure_products(dtype: torch.dtype, device: torch.device, *, seconds: float = 0.2) -> float:
    """Return the median rate of matrix products in 1e9 operations per second.

    Args:
        dtype: Dtype of the factors.
        device: Where they are multiplied.
        seconds: How long to measure, after a first product that is not counted.
    """
    rows, inputs, outputs = _SIZES
    # Random numbers, from a separate generator: some hardware multiplies constant ones faster.
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(size, inputs, generator=generator).to(device, dtype) for size in (rows, outputs)
    )
    times: list[float] = []
    with torch.inference_mode():
        torch.nn.functional.linear(a, b)
        until = time.perf_counter() + seconds
        while not times or time.perf_counter() < until:
            wait_for(device)
            started = time.perf_counter()
            torch.nn.functional.linear(a, b)
            wait_for(device)
            times.append(time.perf_counter() - started)
    return round(2 * rows * inputs * outputs / statistics.median(times) / 1e9, 1)


def list_instructions() -> tuple[str, ...]:
    """Return the processor's instruction sets that matter for matrix products, widest last."""
    capabilities = torch.cpu.get_capabilities()
    return tuple(name for key, name in _INSTRUCTIONS.items() if capabilities.get(key))


def _advise(num_cores: int, num_threads: int, gflops: dict[str, float], dtype: str) -> list[str]:
    advice = []
    if num_threads > num_cores:
        advice.append(
            f"torch uses {num_threads} threads on {num_cores} cores, and they wait for one "
            f"another: set OMP_NUM_THREADS={num_cores}."
        )
    elif num_threads < num_cores // 2:
        advice.append(
            f"torch uses {num_threads} of {num_cores} cores: unset OMP_NUM_THREADS, or raise it."
        )
    other = "bfloat16" if dtype == "float32" else "float32"
    if gflops[other] > 1.3 * gflops[dtype]:
        advice.append(
            f"{other} multiplies {gflops[other] / gflops[dtype]:.1f} times as fast as {dtype} "
            f"here: try --dtype {other}."
        )
    return advice


def _advise_on_bytecode(module: str) -> list[str]:
    """Say so if Python compiles an imported module, and so all libraries, anew in every process."""
    if has_bytecode(module):
        return []
    advice = (
        "Python compiles torch and transformers anew in each run, which takes many seconds: unset "
        "PYTHONDONTWRITEBYTECODE, or compile them once, with python -m compileall -q -j 0 "
        f"{Path(module).parents[1]}"
    )
    return [advice]


def has_bytecode(module: str) -> bool:
    """Return whether Python keeps the bytecode of a module, given its file.

    Some images set PYTHONDONTWRITEBYTECODE, and not every installer compiles.
    """
    return not module.endswith(".py") or Path(importlib.util.cache_from_source(module)).exists()
