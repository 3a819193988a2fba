"""Collection is paused for a while, and never left off or turned on by it."""

from __future__ import annotations

import gc
import os

import pytest

from bertfit.garbage import pause_collection


@pytest.fixture(autouse=True)
def _restore():
    was_enabled = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if was_enabled else gc.disable)()


def test_collection_pauses_and_goes_on():
    with pause_collection():
        assert not gc.isenabled()
        with pause_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_collection_goes_on_after_an_error():
    @pause_collection()
    def fail():
        assert not gc.isenabled()
        raise ImportError

    for _ in range(2):  # a decorator pauses each call
        with pytest.raises(ImportError):
            fail()
        assert gc.isenabled()


def test_collection_that_was_off_stays_off():
    gc.disable()
    with pause_collection():
        pass
    assert not gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_process_that_is_forked_during_a_pause_collects():
    with pause_collection():
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
        assert not gc.isenabled()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
