"""A plugin of pytest that builds the operators for instructions that this processor may not have.

Their arithmetic is that of AVX-512 (`emulated_instructions.h`), so the C++ can be tested, and its
use of memory checked, on more machines than those on which it is fast.
"""

from pathlib import Path

HEADER = Path(__file__).with_suffix(".h")
SANITIZED = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
    "-g1",  # lines in what a sanitizer reports
)


def pytest_addoption(parser):
    parser.addoption("--emulated", choices=("avx512_bf16", "amx_bf16"), required=True)
    parser.addoption("--sanitized", action="store_true")


def pytest_configure(config):
    import torch

    from bertfit.modeling.operators import loading

    emulated = config.getoption("emulated")
    others = {"avx512_bf16": True, "amx_bf16": emulated == "amx_bf16"}
    capabilities = torch.cpu.get_capabilities() | others
    torch.cpu.get_capabilities = lambda: dict(capabilities)
    flags = ["-include", str(HEADER)]
    if emulated == "amx_bf16":
        flags.append("-DEMULATED_AMX")
    if config.getoption("sanitized"):
        flags.extend(SANITIZED)
    loading._FLAGS = (*loading._FLAGS, *flags)
