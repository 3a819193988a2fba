"""Ctrl-C: the first asks, the second ends."""

from __future__ import annotations

import signal
import threading

import pytest

from bertfit.training.interruption import catch_interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_a_flag(number):
    with catch_interrupts() as interruption:
        assert not interruption.requested
        signal.raise_signal(number)
        assert interruption.requested


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_raises(second):
    with catch_interrupts():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)


def test_after_the_block_the_handlers_are_those_from_before():
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with catch_interrupts():
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before


def test_after_an_error_the_handlers_are_those_from_before():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), catch_interrupts():
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_caught():
    """Python refuses signal handlers there; training in a thread must work all the same."""
    seen = []

    def work():
        with catch_interrupts() as interruption:
            seen.append((interruption.requested, signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
