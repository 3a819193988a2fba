"""The operators are built once, and any obstacle is reported without failing the run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import types
from pathlib import Path

import pytest
import torch

from bertfit.modeling.attention import attend
from bertfit.modeling.operators import loading
from bertfit.modeling.operators.attention import attend as attend_compiled
from bertfit.modeling.operators.layers import multiply
from bertfit.modeling.operators.loading import (
    find_obstacle,
    load_operators,
    needs_building,
    plan_operators,
)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A machine where they may be built and were not, with its empty cache."""
    capabilities = dict.fromkeys(("avx512_f", "avx512_bf16"), True)
    monkeypatch.delenv(loading.SWITCH)
    monkeypatch.setenv("BERTFIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading.sys, "platform", "linux")
    monkeypatch.setattr(loading.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(loading.torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(loading.shutil, "which", lambda program: f"/bin/{program}")
    yield tmp_path / "cache" / "operators"
    loading.forget_operators()


def assert_attention_works():
    states = [torch.randn(1, 1, 4, 32, dtype=torch.bfloat16) for _ in range(3)]
    output, _ = attend(torch.nn.Identity(), *states, None)
    assert output.shape == (1, 4, 1, 32)


def test_the_switch_turns_them_off():
    assert find_obstacle() == "$BERTFIT_OPERATORS is off"
    plan = load_operators(build=True)
    assert str(plan) == "off ($BERTFIT_OPERATORS is off)"
    assert plan_operators() == plan
    assert loading.get_operators() is None
    assert_attention_works()


@pytest.mark.parametrize("name", ["no-such-compiler", "g++ 'not closed"])
def test_without_a_compiler_the_reason_is_said(fresh, monkeypatch, name):
    monkeypatch.setenv("CXX", name)
    monkeypatch.setattr(loading.shutil, "which", lambda _program: None)
    plan = load_operators(build=True)
    assert not plan.is_on
    expected = f"a C++ compiler is needed to build them, and there is no {name!r}"
    assert plan.reason == expected
    assert plan_operators() == plan
    assert not fresh.exists()
    assert_attention_works()


def test_a_processor_without_bfloat16_has_none(fresh, monkeypatch):
    monkeypatch.setattr(loading.torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    assert find_obstacle() == "this processor has no AVX512-BF16"
    monkeypatch.setattr(loading.platform, "machine", lambda: "arm64")
    assert find_obstacle() == "they are for Linux on x86-64"


@pytest.mark.usefixtures("fresh")
def test_without_a_home_there_is_no_place_for_them(monkeypatch):
    monkeypatch.setattr(loading, "find_cache", lambda _kind: None)
    told = "there is no home folder to keep them in; $BERTFIT_CACHE names another folder"
    assert find_obstacle() == told
    assert str(load_operators(build=True)) == str(plan_operators()) == f"off ({told})"


def test_what_was_not_built_stays_away_unless_it_may_be(fresh):
    plan = load_operators(build=False)
    assert str(plan) == "off (not built yet; a training builds them)"
    assert plan_operators().is_on
    assert "the next training builds them" in plan_operators().reason
    assert not fresh.exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("Error building extension\nattention.cpp:7: error: no such thing\nmore"),
            "attention.cpp:7: error: no such thing",
        ),
        (
            RuntimeError("collect2: error: ld returned 1\nfatal: No space left on device"),
            "fatal: No space left on device",
        ),
        (
            subprocess.CalledProcessError(1, ["c++", "--version"]),
            "Command '['c++', '--version']' returned non-zero exit status 1.",
        ),
        (ImportError("No module named 'setuptools'"), "No module named 'setuptools'"),
    ],
    ids=["compiler", "disk", "version", "setuptools"],
)
def test_a_build_that_fails_is_named_once_and_leaves_nothing(fresh, monkeypatch, error, reason):
    calls = []

    def fail(*_args, **_kwargs):
        calls.append(1)
        raise error

    monkeypatch.setattr("torch.utils.cpp_extension.load", fail)
    for _ in range(2):
        plan = load_operators(build=True)
        assert not plan.is_on
        assert plan.reason == f"they could not be had: {reason}"
    assert calls == [1]
    assert list(fresh.iterdir()) == []
    assert_attention_works()


def test_a_cache_that_cannot_be_written_is_said(fresh):
    fresh.parent.write_text("a file where the folder should be")
    plan = load_operators(build=True)
    assert not plan.is_on
    assert plan.reason.startswith("they could not be had: ")
    assert_attention_works()


def test_where_no_library_can_be_loaded_none_is_built(fresh, monkeypatch):
    """A build takes half a minute, and every training would start one in vain."""

    def describe_disk(place):
        place.stat()  # fails if there is no such folder yet
        return types.SimpleNamespace(f_flag=os.ST_NOEXEC)

    monkeypatch.setattr(loading.os, "statvfs", describe_disk)
    assert not needs_building()
    plan = load_operators(build=True)
    assert plan == plan_operators()
    assert str(plan) == (
        f"off ({fresh} is mounted noexec, so no library in it can be loaded; "
        "$BERTFIT_CACHE names another folder)"
    )
    assert not fresh.exists()


def keep(content=b"not a library", *, seal=True):
    """Put a file where the library is looked for, as `_build` would."""
    path = loading._find_library()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if seal:
        loading._seal(path)
    return path


def test_what_was_built_and_is_no_library_is_said(fresh):
    keep()
    plan = load_operators(build=True)
    assert not plan.is_on
    assert plan.reason.startswith("they could not be had: ")


@pytest.mark.parametrize("mode", [0o606, 0o660])
def test_what_another_user_could_have_written_is_not_loaded(fresh, mode):
    path = keep()
    path.chmod(mode)
    plan = load_operators(build=True)
    assert plan.reason == (
        f"they could not be had: {path} belongs to another user, or others may write to it"
    )


@pytest.mark.usefixtures("operators")
def test_a_link_that_another_user_could_have_laid_is_not_followed(monkeypatch, tmp_path):
    whole = loading._find_library().read_bytes()
    monkeypatch.setenv("BERTFIT_CACHE", str(tmp_path))
    path = keep(whole, seal=False)
    path.symlink_to(path.rename(path.with_name("elsewhere.so")))
    loading.forget_operators()
    assert load_operators(build=False).reason.startswith("they could not be had: ")


@pytest.mark.parametrize("kind", ["a pipe", "cut off"])
def test_what_is_no_whole_file_when_it_is_opened_is_not_loaded(tmp_path, kind):
    path = tmp_path / "library.so"
    if kind == "a pipe":
        os.mkfifo(path)
        assert not loading._is_whole(path)
    else:
        path.write_bytes(b"a part of one")
    with pytest.raises(OSError, match=r"library\.so"):
        loading._open_library(path)


@pytest.mark.usefixtures("operators")
def test_what_was_looked_at_is_what_is_loaded(monkeypatch, tmp_path):
    """Who may write to the folder could put another library to its place in between."""
    whole = loading._find_library().read_bytes()
    monkeypatch.setenv("BERTFIT_CACHE", str(tmp_path))
    path, check = keep(whole, seal=False), loading._check

    def check_and_exchange(descriptor, place):
        check(descriptor, place)
        path.with_name("other.so").write_bytes(b"another user's")
        path.with_name("other.so").replace(path)

    monkeypatch.setattr(loading, "_check", check_and_exchange)
    loading.forget_operators()
    assert load_operators(build=False).is_on
    assert path.read_bytes() == b"another user's"


DAMAGES = {
    "cut in half": lambda content: content[: len(content) // 2],
    "cut to 100 bytes": lambda content: content[:100],
    "empty": lambda _content: b"",
    "one byte changed": lambda content: content[:5000] + b"\xff" + content[5001:],
    "longer": lambda content: content + b"\0",
    "without a digest": lambda content: content[: -loading._SEAL_SIZE],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_library_counts_as_not_built(fresh, monkeypatch, damage):
    path = keep(b"not a library" * 1000)
    assert str(plan_operators()).startswith("on (built for")
    assert not needs_building()
    path.write_bytes(damage(path.read_bytes()))
    assert needs_building()
    assert "the next training builds them" in plan_operators().reason
    assert load_operators(build=False).reason == "not built yet; a training builds them"
    monkeypatch.setattr(loading.shutil, "which", lambda _program: None)
    assert find_obstacle().startswith("a C++ compiler is needed to build them")


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_library_is_built_anew(monkeypatch, tmp_path, damage):
    """The loader would end the process with a bus error, or fail at every command."""
    whole = loading._find_library().read_bytes()
    monkeypatch.setenv("BERTFIT_CACHE", str(tmp_path))
    loading.forget_operators()
    path = keep(damage(whole), seal=False)
    built = []

    def build(place):
        built.append(place)
        place.write_bytes(whole)

    monkeypatch.setattr(loading, "_build", build)
    for _ in range(2):
        assert load_operators(build=True).is_on
        assert not needs_building()
        loading.forget_operators()
    assert built == [path]


def write_library(name, _sources, *, build_directory, **_options):
    """Stand in for the compiler."""
    (Path(build_directory) / f"{name}.so").write_bytes(b"compiled")


def test_what_is_built_comes_to_its_place_with_its_digest(fresh, monkeypatch):
    monkeypatch.setattr("torch.utils.cpp_extension.load", write_library)
    path = loading._find_library()
    loading._build(path)
    assert loading._is_whole(path)
    assert path.read_bytes().startswith(b"compiled")
    assert list(fresh.iterdir()) == [path]


def test_what_a_killed_build_left_is_removed_and_what_another_builds_is_not(fresh, monkeypatch):
    monkeypatch.setattr("torch.utils.cpp_extension.load", write_library)
    fresh.mkdir(parents=True)
    for name in (".build-left", ".build-used"):
        (fresh / name).mkdir()
        (fresh / name / "half.so").write_bytes(b"half")
    descriptor = os.open(fresh / ".build-used", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        loading._build(loading._find_library())
    finally:
        os.close(descriptor)
    assert sorted(fresh.iterdir()) == [fresh / ".build-used", loading._find_library()]


def test_what_is_built_is_loaded_whatever_the_umask_is(fresh, monkeypatch):
    """The linker makes a file as open as the umask lets it, and nothing open to all is loaded."""

    def compile_into(name, _sources, *, build_directory, **_options):
        library = Path(build_directory) / f"{name}.so"
        library.write_bytes(b"compiled")
        library.chmod(0o777)

    monkeypatch.setattr("torch.utils.cpp_extension.load", compile_into)
    before = os.umask(0)
    try:
        loading._build(loading._find_library())
    finally:
        os.umask(before)
    path = loading._find_library()
    with path.open("rb") as library:
        loading._check(library.fileno(), path)


@pytest.mark.usefixtures("operators")
def test_they_are_built_once(monkeypatch):
    path = loading._find_library()
    assert path.exists()
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []

    def fail(_path):
        pytest.fail("built again")

    loading.forget_operators()
    monkeypatch.setattr(loading, "_build", fail)
    assert load_operators(build=True).is_on
    assert plan_operators().reason in {"built for AMX", "built for AVX512-BF16"}


def test_another_source_is_another_library(fresh, monkeypatch, tmp_path):
    before = loading._find_library()
    other = tmp_path / "source"
    other.mkdir()
    (other / "attention.cpp").write_text("// another\n")
    monkeypatch.setattr(loading, "_SOURCE", other)
    assert loading._find_library() != before


@pytest.mark.usefixtures("operators")
@pytest.mark.slow  # the compiler takes most of it
def test_without_amx_the_same_comes_out(monkeypatch, tmp_path):
    """AVX512-BF16 in the place of AMX: what a processor without it builds."""
    flags = ("-mno-amx-bf16", "-mno-amx-int8", "-mno-amx-tile")
    states = [torch.randn(2, 3, 70, 32).to(torch.bfloat16) for _ in range(3)]
    layer = torch.nn.Linear(96, 64).to(torch.bfloat16)
    values = torch.randn(100, 96).to(torch.bfloat16)

    def compute():
        attended = attend_compiled(*states, None, scaling=0.2, dropout=0.0)
        output = multiply(values, layer, activate=True)
        layer.zero_grad()
        output.sum().backward()
        return attended, output.detach(), layer.weight.grad

    expected = compute()
    loading.forget_operators()
    monkeypatch.setattr(loading, "_FLAGS", (*loading._FLAGS, *flags))
    monkeypatch.setenv("BERTFIT_CACHE", str(tmp_path))
    assert load_operators(build=True).is_on
    assert loading._find_library().is_relative_to(tmp_path)
    for found, wanted in zip(compute(), expected, strict=True):
        error = (found.float() - wanted.float()).abs().max()
        assert float(error) <= 2**-7 * float(wanted.abs().max())
