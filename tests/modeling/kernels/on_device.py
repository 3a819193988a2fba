"""The device for tests of Triton kernels: a GPU, or Triton's interpreter on a CPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import os

import pytest
import torch


def _interpret_faster() -> None:
    """Save half of the interpreter's time, with the same numbers.

    It looks for overflows of integers, though without its option `debug` it says nothing of them.
    It lists NumPy's types anew for every value. It replaces the functions of Triton's language at
    a launch, which is enough, and again whenever a kernel calls a function.
    """
    from triton import language
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_LangPatchScope"):  # another Triton's
        return
    builder, patch = interpreter.interpreter_builder, interpreter._patch_lang
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    find_type, types = interpreter._get_np_dtype, {}

    def find_type_once(each):
        name = each.scalar.name
        if name not in types:
            types[name] = find_type(each.scalar)
        return types[name]

    def patch_once(function):
        used = function.__globals__.values()
        modules = [each for each in (language, language.core) if any(each is it for it in used)]
        if any(language.core.is_builtin(module.load) for module in modules):
            return patch(function)
        return interpreter._LangPatchScope()

    interpreter._get_np_dtype = find_type_once
    interpreter._patch_lang = patch_once


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":  # read once, as Triton is imported; nothing else here does that
    os.environ.setdefault("TRITON_INTERPRET", "1")
    if importlib.util.find_spec("triton") is not None:
        _interpret_faster()

needs_triton = pytest.mark.triton
"""Skipped without Triton; `make test-gpu` runs these tests, too."""
TOLERANCE = {"atol": 2e-5, "rtol": 2e-5}
