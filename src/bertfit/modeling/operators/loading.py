"""Builds the compiled operators with torch's extension mechanism when needed, and loads them.

The C++ in `source/` takes a few seconds to build for this processor and version of torch; the
library is kept in the user's cache. If it cannot be built, for example without a compiler,
everything works without it: `attend` and the modules of `exchange` then run in Python. A library
that was truncated or changed, for example by a full disk, is rebuilt instead of loaded.
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
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bertfit.files import find_cache
from bertfit.leftovers import find_leftovers, make_held_folder
from bertfit.modeling.plan import Plan

BLOCK = 32
"""Block size of the operators; widths must be multiples of it."""

SWITCH = "BERTFIT_OPERATORS"
"""Environment variable; off disables the operators."""

_SOURCE = Path(__file__).parent / "source"
_FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",  # square root and floor become instructions
    "-fno-trapping-math",
    "-fno-semantic-interposition",  # exported functions may be inlined
    "-fopenmp",  # resolves to torch's OpenMP, which is already loaded
    "-Wno-uninitialized",  # false positive in the compiler's AVX-512 header
    "-Wno-maybe-uninitialized",
)
_NEEDED = ("avx512_f", "avx512_bf16")
_DRAFT = ".build-"
"""Prefix of the folders in which libraries are built."""

_SEAL_SIZE = 16
"""Bytes of the digest at the end of a cached library."""

_lock = threading.Lock()


@dataclass(slots=True)
class _State:
    """The loaded library, or why loading failed, in this process."""

    loaded: ctypes.CDLL | None = None
    failure: str | None = None


_state = _State()


def get_operators() -> ctypes.CDLL | None:
    """Return the library if it is loaded; never load it."""
    return _state.loaded


def takes(values: torch.Tensor) -> bool:
    """Return whether the operators are loaded and support these values."""
    is_for_them = values.dtype == torch.bfloat16 and values.device.type == "cpu"
    return is_for_them and get_operators() is not None


def call(name: str, *arguments: object) -> Any:  # noqa: ANN401 (what an operator returns)
    """Call an operator of the library, which must be loaded.

    A tensor is passed as a pointer to its data; a list of tensors, some of which may be None, as an
    array of such pointers.
    """
    operators = get_operators()
    assert operators is not None  # callers check this first
    return getattr(operators, name)(*map(_point_at, arguments))


def _point_at(argument: object) -> object:
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, list):
        pointers = (None if tensor is None else tensor.data_ptr() for tensor in argument)
        return (ctypes.c_void_p * len(argument))(*pointers)
    return argument


def load_operators(*, build: bool) -> Plan:
    """Load the operators for this process, and return whether they are available.

    Args:
        build: Whether to build them if they are not built yet, which takes seconds, once per
            machine.
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
    """Disable the operators in this process until they are loaded again: to compare with it."""
    _state.loaded = _state.failure = None


def plan_operators() -> Plan:
    """Return the expected plan of `load_operators(build=True)` without building anything."""
    if _state.loaded is None and (obstacle := find_obstacle()) is not None:
        return Plan(is_on=False, reason=obstacle)
    if needs_building():
        reason = f"the next training builds them for {_name_instructions()}, in seconds, once"
        return Plan(is_on=True, reason=reason)
    return Plan(is_on=True, reason=f"built for {_name_instructions()}")


def needs_building() -> bool:
    """Return whether the operators could be used here but are not built yet."""
    return _state.loaded is None and find_obstacle() is None and not _is_whole(_find_library())


def find_obstacle() -> str | None:
    """Return why the operators cannot be used here, or None if they can."""
    if os.environ.get(SWITCH, "").lower() in {"off", "0"}:
        return f"${SWITCH} is off"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "they are for Linux on x86-64"
    capabilities = torch.cpu.get_capabilities()
    if not all(capabilities.get(name) for name in _NEEDED):
        return "this processor has no AVX512-BF16"
    if _state.failure is not None:
        return _state.failure
    return _find_obstacle_to_library()


def _find_obstacle_to_library() -> str | None:
    """Return why the library cannot be kept, loaded or built here, or None if it can."""
    if find_cache("operators") is None:
        return "there is no home folder to keep them in; $BERTFIT_CACHE names another folder"
    library = _find_library()
    if _forbids_loading(library.parent):
        return (
            f"{library.parent} is mounted noexec, so no library in it can be loaded; "
            "$BERTFIT_CACHE names another folder"
        )
    if _is_whole(library):
        return None
    compiler = name_compiler("c++")
    if shutil.which(compiler) is None:
        return f"a C++ compiler is needed to build them, and there is no {compiler!r}"
    return None


def _forbids_loading(folder: Path) -> bool:
    """Return whether a folder, which need not exist yet, is on a disk mounted noexec.

    Loading a library would fail there only after each process has built one.
    """
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            return bool(os.statvfs(place).f_flag & os.ST_NOEXEC)
    return False


def name_compiler(usual: str) -> str:
    """Return the program named in $CXX, or the usual one if it names none."""
    chosen = os.environ.get("CXX", "")
    try:
        words = shlex.split(chosen)  # as in "ccache g++"
    except ValueError:  # unclosed quote
        return chosen
    return words[0] if words else usual


def _name_instructions() -> str:
    return "AMX" if torch.cpu.get_capabilities().get("amx_bf16") else "AVX512-BF16"


def _find_library() -> Path:
    """Return the path of the library for this source, torch and processor, built or not.

    There must be a cache folder.
    """
    folder = find_cache("operators")
    assert folder is not None
    digest = hashlib.blake2b(digest_size=10)
    for file in sorted(_SOURCE.iterdir()):
        digest.update(file.read_bytes())
    capabilities = sorted(torch.cpu.get_capabilities().items())
    digest.update(repr((torch.__version__, _FLAGS, capabilities)).encode())
    return folder / f"bertfit_{digest.hexdigest()}.so"


def _load(path: Path) -> None:
    try:
        if not _is_whole(path):
            _build(path)
        library = _open_library(path)
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
    """Build the library in a temporary folder, then move it into place atomically.

    Raises:
        RuntimeError: The compiler failed.
        SubprocessError: The compiler does not even report its version.
        OSError: The cache cannot be written.
        ImportError: A build dependency of torch is missing.
    """
    import ninja
    from torch.utils.cpp_extension import load

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for abandoned in find_leftovers(path.parent, _DRAFT):
        shutil.rmtree(abandoned, ignore_errors=True)
    # A separate folder, so that concurrent or aborted builds do not interfere.
    folder, hold = make_held_folder(path.parent, _DRAFT)
    with hold, _found_first(ninja.BIN_DIR):
        hold.callback(shutil.rmtree, folder, ignore_errors=True)
        load(
            path.stem,
            [str(file) for file in sorted(_SOURCE.glob("*.cpp"))],
            extra_cflags=list(_FLAGS),
            build_directory=str(folder),
            is_python_module=False,
        )
        built = folder / path.name
        _seal(built)
        built.chmod(0o700)  # whatever the umask is: `_check` refuses what others may write
        built.replace(path)


def _seal(library: Path) -> None:
    """Append a library's digest to it; the system's loader ignores it there.

    As part of the file, it is moved into place together with the library, despite other builds.
    """
    digest = _digest(library.read_bytes())
    with library.open("ab") as file:
        file.write(digest)


def _is_whole(library: Path) -> bool:
    """Return whether a library exists and is intact; loading a partial one would crash."""
    try:
        return library.is_file() and _is_sealed(library.read_bytes())
    except OSError:
        return False


def _is_sealed(content: bytes) -> bool:
    return content[-_SEAL_SIZE:] == _digest(content[:-_SEAL_SIZE])


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_SEAL_SIZE).digest()


def _open_library(path: Path) -> ctypes.CDLL:
    """Load a library that no other user can have written.

    Another user who may write to its folder could exchange the file between a look at it and its
    loading. So it is opened once, and what was looked at is what is loaded.

    Raises:
        OSError: It may be another user's, is not whole, or cannot be loaded.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    name = f"/proc/self/fd/{descriptor}"
    try:
        _check(descriptor, path)
        # Never closed: the loader takes a file of the same name for the one it has loaded.
        return ctypes.CDLL(name)
    except OSError as error:
        os.close(descriptor)
        raise OSError(str(error).replace(name, str(path))) from error


def _check(descriptor: int, path: Path) -> None:
    """Raise an OSError if another user could have written an open library, or it is not whole."""
    known = os.fstat(descriptor)
    is_own = known.st_uid in {os.getuid(), 0} and stat.S_ISREG(known.st_mode)
    if not is_own or known.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} belongs to another user, or others may write to it")
    with open(descriptor, "rb", closefd=False) as file:
        if not _is_sealed(file.read()):
            raise OSError(f"{path} is not whole")


@contextlib.contextmanager
def _found_first(folder: str) -> Iterator[None]:
    """Put `folder` first in PATH, so that the environment need not be activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join(filter(None, (folder, before)))
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _shorten(error: Exception) -> str:
    """Return the most telling line: a full disk, else the first error, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for sign in ("no space left", "error:", ""):
        named = [line for line in lines if sign in line.lower()]
        if named:
            return named[0]
    return type(error).__name__
