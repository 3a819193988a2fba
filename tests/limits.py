"""What tests ask of the system for a while: limits, forks, and no search for garbage."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import warnings

import pytest


@contextlib.contextmanager
def limiting_files(num_bytes):
    """Make writing more than this into a file fail, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def without_collection():
    """Leave in memory what only a search for garbage would free."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def holds_in_fork(holds):
    """Return what a function says in a forked process; one that waits for 30 s is ended."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    with warnings.catch_warnings():
        # Of threads, from Python 3.12 on: that forks come off all the same is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(30)
        code = 2
        try:
            code = 0 if holds() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
