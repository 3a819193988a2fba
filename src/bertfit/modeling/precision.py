"""Where the arithmetic runs and in which type, with the reason for each choice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch

from bertfit.config import Dtype
from bertfit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


@dataclass(frozen=True, slots=True)
class Precision:
    """A device, the type of its matrix products, and why."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def dtype_name(self) -> str:
        """Return "float32" or "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def device_name(self) -> str:
        """Return the device, and of a CUDA GPU what it calls itself: `cuda (NVIDIA L4)`."""
        if self.device.type != "cuda":
            return str(self.device)
        return f"{self.device} ({torch.cuda.get_device_name(self.device)})"

    @property
    def weight_dtype(self) -> torch.dtype:
        """Type of the weights that do the arithmetic (see fast_path.copy_for_work).

        On a CPU and a CUDA GPU that of the products: casting weights at each product costs more
        than a copy, and what stays in float32 between products has twice the bytes. Elsewhere
        float32, with autocast: the masters themselves do the arithmetic.
        """
        return self.dtype if self.device.type in {"cpu", "cuda"} else torch.float32

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which products of `weight_dtype` weights run in `dtype`."""
        if self.dtype == self.weight_dtype:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


@contextlib.contextmanager
def safe_attention(device: torch.device) -> Iterator[None]:
    """Keep torch's attention from cuDNN on a GPU.

    From torch 2.11 on it is the first choice on an H100. Its gradients were seen to be NaN, with a
    mask and with a single query, which the short last layer has.
    Source: github.com/pytorch/pytorch issue 196678, github.com/NVIDIA/cudnn-frontend issue 1072.
    """
    if device.type != "cuda" or not torch.backends.cuda.cudnn_sdp_enabled():
        yield
        return
    torch.backends.cuda.enable_cudnn_sdp(False)  # noqa: FBT003 (torch's own)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)  # noqa: FBT003 (torch's own)


@contextlib.contextmanager
def quick_float32(device: torch.device) -> Iterator[None]:
    """Let a GPU's products of float32 be in TF32, which has its range and ten bits of mantissa.

    For training: what stays in float32 beside bfloat16, or all of it. Scoring in float32 stays
    exact, and other devices are not touched. Where the process has chosen by torch's newer setting,
    as transformers does, torch refuses to tell by the older one, and the choice is left alone.
    """
    before = _float32_precision() if device.type == "cuda" else None
    if before is None:
        yield
        return
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _float32_precision() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def choose_precision(device: str = "auto", dtype: Dtype = "auto") -> Precision:
    """Choose the device and the arithmetic.

    Raises:
        ConfigError: The device is unknown or not present, or the type is none of `Dtype`.
    """
    chosen = _choose_device(device)
    if dtype not in get_args(Dtype):
        expected = ", ".join(get_args(Dtype))
        guess = did_you_mean(str(dtype), get_args(Dtype))
        raise ConfigError(f"dtype: expected one of {expected}, got {dtype!r}.{guess}")
    taken, reason = _choose_dtype(chosen, dtype)
    if device == "auto" and chosen.type != "cuda" and torch.cuda.is_available():
        reason += f"; {_find_missing_code(torch.device('cuda'))}"
    return Precision(chosen, taken, reason)


def _choose_dtype(device: torch.device, asked: Dtype) -> tuple[torch.dtype, str]:
    """Return the type of the arithmetic, and why."""
    if asked != "auto":
        return getattr(torch, asked), "asked for"
    if device.type == "cuda":
        if _multiplies_bfloat16(device):
            return torch.bfloat16, "this GPU multiplies bfloat16 in hardware"
        return torch.float32, "this GPU has no bfloat16 in hardware"
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        for feature, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")):
            if capabilities.get(feature):
                return torch.bfloat16, f"this processor has {name}"
        return torch.float32, "this processor has neither AMX nor AVX512-BF16"
    return torch.float32, f"bfloat16 is not used on {device.type}"


def _multiplies_bfloat16(gpu: torch.device) -> bool:
    """Tell whether a GPU does, where torch tells it of the current one."""
    is_current = gpu.index is None
    with contextlib.nullcontext() if is_current else torch.cuda.device(gpu):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _find_missing_code(gpu: torch.device) -> str | None:
    """Say that torch was built without code for a GPU, which it shows all the same; else None.

    Code in machine language (sm_75) runs on GPUs of its major number, from its minor one on; code
    to be translated (compute_90) on all from there on.
    """
    kinds = torch.cuda.get_arch_list()
    if torch.version.cuda is None or not kinds:  # of AMD's the names say something else
        return None
    capability = major, minor = torch.cuda.get_device_capability(gpu)
    for kind in kinds:
        name, _, number = kind.partition("_")
        least = divmod(int(number.rstrip("af")), 10)
        if capability >= least and (name == "compute" or major == least[0]):
            return None
    return f"torch has no code for this GPU, sm_{major}{minor} (it has {', '.join(kinds)})"


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        gpu = torch.device("cuda")
        if torch.cuda.is_available() and _find_missing_code(gpu) is None:
            return gpu
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ConfigError(
            f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}"
        ) from None
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        count = torch.cuda.device_count()
        raise ConfigError(f"device: {name!r} was asked for, but torch sees {count} CUDA devices")
    if device.type == "cuda" and (missing := _find_missing_code(device)):
        raise ConfigError(
            f"device: {name!r} was asked for, but {missing}",
            hint="Install a build of torch for an older CUDA, or take --device cpu.",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device: 'mps' was asked for, but torch finds none here")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise ConfigError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
    return device
