"""What all threads share is changed while one of them needs that, and then as it was."""

from __future__ import annotations

import contextlib

import pytest

from bertfit.process_wide import ProcessWide
from tests.limits import holds_in_fork


@pytest.fixture
def number():
    """A setting: a list of one number, with what changes it to 1."""
    value = [5]

    def change():
        found, value[0] = value[0], 1
        return found

    def undo(found):
        value[0] = found

    return value, ProcessWide(change, undo)


def test_the_last_block_undoes_what_the_first_found(number):
    value, shared = number
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        for stack in (first, second):  # as two threads whose blocks overlap
            stack.enter_context(shared.changed())
        first.close()
        assert value == [1]
        second.close()
        assert value == [5]


def test_what_someone_changed_meanwhile_is_changed_again_by_the_next_block(number):
    value, shared = number
    with shared.changed():
        value[0] = 7
        with shared.changed():
            assert value == [1]
    assert value == [5]


def test_an_error_undoes_it_too(number):
    value, shared = number
    with pytest.raises(KeyError), shared.changed():
        raise KeyError
    assert value == [5]


def test_a_forked_process_begins_as_if_no_block_were_there(number):
    value, shared = number
    left = shared.changed()

    def holds():
        before = value == [5]
        with shared.changed():
            within = value == [1]
        left.__exit__(None, None, None)  # of the block in which the fork was made
        return before and within and value == [5]

    with left:
        assert holds_in_fork(holds)
        assert value == [1]
