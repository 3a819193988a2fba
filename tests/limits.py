"""Limits of the system, as tests set them for a while."""

from __future__ import annotations

import contextlib

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
