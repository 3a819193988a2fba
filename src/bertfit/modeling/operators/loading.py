"""Builds the compiled operators with torch's extension mechanism when needed, and loads them.

The C++ in `source/` is built in a few seconds for this processor and this torch, and the library is
kept in the user's cache. Where it cannot be built, for example without a compiler, everything works
without it: `attend` and the modules of `exchange` then do their work in Python. A library that was
truncated or changed since, for example by a full disk, is not loaded but rebuilt.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bertfit.files import find_cache
from bertfit.modeling.plan import Plan

BLOCK = 32
"""Numbers that the operators take at once; widths are multiples of it."""

SWITCH = "BERTFIT_OPERATORS"
"""Environment variable: off does without the operators."""

_SOURCE = Path(__file__).parent / "source"
_FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",  # square roots and floors become instructions
    "-fno-trapping-math",
    "-fno-semantic-interposition",  # functions may be inlined although a library shows them
    "-fopenmp",  # its calls are those of torch's own OpenMP, which is loaded already
    "-Wno-uninitialized",  # a false alarm in the compiler's own header for AVX-512
    "-Wno-maybe-uninitialized",
)
_NEEDED = ("avx512_f", "avx512_bf16")
_SEAL_SIZE = 16
"""Bytes of the digest at the end of a kept library."""

_lock = threading.Lock()


@dataclass(slots=True)
class _State:
    """What this process has found out so far."""

    loaded: ctypes.CDLL | None = None
    failure: str | None = None


_state = _State()


def get_operators() -> ctypes.CDLL | None:
    """Return the library where it is loaded; never loads it."""
    return _state.loaded


def takes(values: torch.Tensor) -> bool:
    """Tell whether the operators are loaded and are for these values."""
    is_for_them = values.dtype == torch.bfloat16 and values.device.type == "cpu"
    return is_for_them and get_operators() is not None


def call(name: str, *arguments: object) -> Any:  # noqa: ANN401 (what an operator returns)
    """Call an operator of the library, which must be loaded.

    A tensor stands for its numbers, a list of tensors, of which some may be None, for as many.
    """
    operators = get_operators()
    assert operators is not None  # who calls has looked
    return getattr(operators, name)(*map(_point_at, arguments))


def _point_at(argument: object) -> object:
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, list):
        pointers = (None if tensor is None else tensor.data_ptr() for tensor in argument)
        return (ctypes.c_void_p * len(argument))(*pointers)
    return argument


def load_operators(*, build: bool) -> Plan:
    """Load the operators for this process, and say whether they are there.

    Args:
        build: Build them where they were not built yet: seconds of work, once on a machine.
            Without, operators that were not built yet stay away.
    """
    with _lock:
        if _state.loaded is None and (obstacle := find_obstacle()) is not None:
            return Plan(is_on=False, reason=obstacle)
        if _state.loaded is None:
            path = _find_library()
            if not build and not _is_whole(path):
                return Plan(is_on=False, reason="not built yet; a training builds them")
            _load(path)
        if _state.loaded is None:
            return Plan(is_on=False, reason=_state.failure or "they could not be loaded")
        return Plan(is_on=True, reason=f"built for {_name_instructions()}")


def forget_operators() -> None:
    """Let this process do without the operators, until they are loaded again."""
    _state.loaded = _state.failure = None


def plan_operators() -> Plan:
    """Say what `load_operators(build=True)` would find, and build nothing."""
    if _state.loaded is None and (obstacle := find_obstacle()) is not None:
        return Plan(is_on=False, reason=obstacle)
    if needs_building():
        reason = f"the next training builds them for {_name_instructions()}, in seconds, once"
        return Plan(is_on=True, reason=reason)
    return Plan(is_on=True, reason=f"built for {_name_instructions()}")


def needs_building() -> bool:
    """Tell whether the operators can be had here, and were not built yet."""
    return _state.loaded is None and find_obstacle() is None and not _is_whole(_find_library())


def find_obstacle() -> str | None:
    """Say why the operators cannot be had here; None where nothing speaks against it."""
    if os.environ.get(SWITCH, "").lower() in {"off", "0"}:
        return f"${SWITCH} is off"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "they are for Linux on x86-64"
    capabilities = torch.cpu.get_capabilities()
    if not all(capabilities.get(name) for name in _NEEDED):
        return "this processor has no AVX512-BF16"
    if _state.failure is not None:
        return _state.failure
    if _is_whole(_find_library()):
        return None
    compiler = name_compiler("c++")
    if shutil.which(compiler) is None:
        return f"a C++ compiler is needed to build them, and there is no {compiler!r}"
    return None


def name_compiler(usual: str) -> str:
    """Return the program that $CXX names, or the usual one where it names none."""
    chosen = os.environ.get("CXX", "")
    try:
        words = shlex.split(chosen)  # as in "ccache g++"
    except ValueError:  # a quote is not closed
        return chosen
    return words[0] if words else usual


def _name_instructions() -> str:
    return "AMX" if torch.cpu.get_capabilities().get("amx_bf16") else "AVX512-BF16"


def _find_library() -> Path:
    """Return where the library of this source, this torch and this processor is, once built."""
    digest = hashlib.blake2b(digest_size=10)
    for file in sorted(_SOURCE.iterdir()):
        digest.update(file.read_bytes())
    capabilities = sorted(torch.cpu.get_capabilities().items())
    digest.update(repr((torch.__version__, _FLAGS, capabilities)).encode())
    return find_cache("operators") / f"bertfit_{digest.hexdigest()}.so"


def _load(path: Path) -> None:
    try:
        if not _is_whole(path):
            _build(path)
        _check_owner(path)
        library = ctypes.CDLL(str(path))
        library.prepare.restype = ctypes.c_bool
        library.sum_squares.restype = ctypes.c_double
    except (OSError, RuntimeError, ImportError, subprocess.SubprocessError) as error:
        _state.failure = f"they could not be had: {_shorten(error)}"
        return
    if library.prepare():
        _state.loaded = library
    else:
        _state.failure = "the system does not let this process use AMX"


def _build(path: Path) -> None:
    """Build the library beside its place, then put it there whole.

    Raises:
        RuntimeError: The compiler failed.
        SubprocessError: It does not even tell its version.
        OSError: The cache cannot be written to.
        ImportError: What torch builds with is not there.
    """
    import ninja
    from torch.utils.cpp_extension import load

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # A folder of its own: what is built elsewhere at once, or was broken off, is no matter.
    with (
        tempfile.TemporaryDirectory(prefix=".build-", dir=path.parent) as folder,
        _found_first(ninja.BIN_DIR),
    ):
        load(
            path.stem,
            [str(file) for file in sorted(_SOURCE.glob("*.cpp"))],
            extra_cflags=list(_FLAGS),
            build_directory=folder,
            is_python_module=False,
        )
        built = Path(folder) / path.name
        _seal(built)
        built.replace(path)


def _seal(library: Path) -> None:
    """Add the digest of a library at its end, where the system's loader does not look.

    In the file itself, it comes to its place in the same moment, whoever else is building.
    """
    digest = _digest(library.read_bytes())
    with library.open("ab") as file:
        file.write(digest)


def _is_whole(library: Path) -> bool:
    """Tell whether a library is there, and is what was built. Half of one would end the process."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    return content[-_SEAL_SIZE:] == _digest(content[:-_SEAL_SIZE])


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_SEAL_SIZE).digest()


def _check_owner(path: Path) -> None:
    """Raise PermissionError where another user could have put the library there."""
    for part in (path, path.parent):
        known = part.stat()
        if known.st_uid not in {os.getuid(), 0} or known.st_mode & stat.S_IWOTH:
            raise PermissionError(f"{part} belongs to another user, or any user may write to it")


@contextlib.contextmanager
def _found_first(folder: str) -> Iterator[None]:
    """Let programs be looked for in `folder` first: an environment need not be activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join(filter(None, (folder, before)))
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _shorten(error: Exception) -> str:
    """Return the line that says most: a full disk, else the first error, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for sign in ("no space left", "error:", ""):
        named = [line for line in lines if sign in line.lower()]
        if named:
            return named[0]
    return type(error).__name__
