"""Collection is paused for a while, and never left off or turned on by it."""

from __future__ import annotations

import contextlib
import gc

import pytest

from bertfit.garbage import pause_collection
from tests.limits import holds_in_fork


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


def test_collection_goes_on_with_the_last_of_several_threads():
    seen = []
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        for stack in (first, second):  # as two threads whose pauses overlap
            stack.enter_context(pause_collection())
        first.close()
        seen.append(gc.isenabled())
        second.close()
        seen.append(gc.isenabled())
    assert seen == [False, True]


def test_a_fork_leaves_off_what_was_turned_off_after_a_pause():
    with pause_collection():
        pass
    gc.disable()
    assert holds_in_fork(lambda: not gc.isenabled())


def test_a_process_that_is_forked_during_a_pause_collects():
    with pause_collection():
        assert holds_in_fork(gc.isenabled)
        assert not gc.isenabled()
