"""Chooses the device and dtype of the computation, with the reason for each choice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch

from bertfit.config import Dtype
from bertfit.errors import ConfigError, did_you_mean
from bertfit.process_wide import ProcessWide

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


@dataclass(frozen=True, slots=True)
class Precision:
    """A device, the dtype of its matrix products, and the reason."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def dtype_name(self) -> str:
        """Return "float32" or "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def device_name(self) -> str:
        """Return the device, with the name of a CUDA GPU: `cuda (NVIDIA L4)`."""
        if self.device.type != "cuda":
            return str(self.device)
        return f"{self.device} ({torch.cuda.get_device_name(self.device)})"

    @property
    def weight_dtype(self) -> torch.dtype:
        """Dtype of the weights used in the computation (see fast_path.copy_for_work).

        On a CPU and a CUDA GPU, the dtype of the products: casting weights for each product costs
        more than keeping a copy, and float32 activations between products take twice the memory.
        Elsewhere float32 with autocast, using the master weights themselves.
        """
        return self.dtype if self.device.type in {"cpu", "cuda"} else torch.float32

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context in which products of `weight_dtype` weights run in `dtype`."""
        if self.dtype == self.weight_dtype:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def _turn_cudnn_off() -> bool:
    was_on = bool(torch.backends.cuda.cudnn_sdp_enabled())
    torch.backends.cuda.enable_cudnn_sdp(False)  # noqa: FBT003 (torch's own)
    return was_on


_cudnn = ProcessWide(_turn_cudnn_off, torch.backends.cuda.enable_cudnn_sdp)


@contextlib.contextmanager
def safe_attention(device: torch.device) -> Iterator[None]:
    """Disable cuDNN attention on a GPU.

    Since torch 2.11 it is the first choice on an H100, where its gradients were sometimes NaN, with
    a mask and with a single query (as in the shortened last layer).
    Source: github.com/pytorch/pytorch issue 196678, github.com/NVIDIA/cudnn-frontend issue 1072.
    """
    if device.type != "cuda":
        yield
        return
    with _cudnn.changed():
        yield


@contextlib.contextmanager
def quick_float32(device: torch.device) -> Iterator[None]:
    """Compute float32 products on a GPU in TF32 (float32's range, ten mantissa bits).

    For training: the float32 part of bfloat16 training, or all of it. Scoring in float32 stays
    exact, and other devices are not affected. If the process has used torch's newer setting, as
    transformers does, torch refuses to report the older one, and the setting is left alone.
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
    """Choose the device and dtype.

    Raises:
        ConfigError: The device is unknown or missing, or the dtype is not one of `Dtype`.
    """
    chosen = _choose_device(device)
    if chosen.type == "cuda" and chosen.index is None:
        # Which one is the current GPU may change, and differs between threads.
        chosen = torch.device("cuda", torch.cuda.current_device())
    if dtype not in get_args(Dtype):
        expected = ", ".join(get_args(Dtype))
        guess = did_you_mean(str(dtype), get_args(Dtype))
        raise ConfigError(f"dtype: expected one of {expected}, got {dtype!r}.{guess}")
    taken, reason = _choose_dtype(chosen, dtype)
    if device == "auto" and chosen.type != "cuda" and torch.cuda.is_available():
        reason += f"; {_find_missing_code(torch.device('cuda'))}"
    return Precision(chosen, taken, reason)


def _choose_dtype(device: torch.device, asked: Dtype) -> tuple[torch.dtype, str]:
    """Return the dtype of the computation, and why."""
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
    """Return whether a GPU has bfloat16 products; torch answers only for the current GPU."""
    with torch.cuda.device(gpu):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _find_missing_code(gpu: torch.device) -> str | None:
    """Return a message if this build of torch has no code for a GPU that it lists, else None.

    Binary code (sm_75) runs on GPUs with the same major and an equal or higher minor version;
    PTX (compute_90) runs on that version and all later ones.
    """
    kinds = torch.cuda.get_arch_list()
    if torch.version.cuda is None or not kinds:  # on AMD the names mean something else
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
        return torch.device("cpu")  # not Apple's GPU, on which nothing was ever run
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
            hint="Install a build of torch for an older CUDA, or use --device cpu.",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device: 'mps' was asked for, but torch finds none here")
    if device.type == "mps" and torch.__version__ < "2.13":  # a TorchVersion
        raise ConfigError(
            f"device: 'mps' was asked for, but torch {torch.__version__} clips no gradients on it",
            hint="Install torch 2.13 or newer, or use --device cpu.",
        )
    if device.type not in {"cpu", "cuda", "mps"}:
        raise ConfigError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
    return device
