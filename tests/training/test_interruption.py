"""Ctrl-C: the first requests a stop, the second stops immediately."""

from __future__ import annotations

import signal
import threading

import pytest

from bertfit.training import interruption as interruption_module
from bertfit.training.interruption import (
    BATCH_SIGNALS,
    ENDING_SIGNALS,
    FirstInterrupt,
    Interruption,
    catch_interrupts,
    find_heard_signals,
)


@pytest.mark.parametrize("number", ENDING_SIGNALS)
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


@pytest.mark.parametrize("first", [signal.SIGHUP, *BATCH_SIGNALS])
def test_what_comes_together_with_a_closed_terminal_is_not_the_second_signal(first, monkeypatch):
    """Service managers send SIGTERM and SIGHUP at once; Python handles SIGHUP first."""
    now = [100.0]
    monkeypatch.setattr(interruption_module.time, "monotonic", lambda: now[0])
    with catch_interrupts() as interruption:
        signal.raise_signal(first)
        now[0] += 0.9
        signal.raise_signal(signal.SIGTERM)
        assert interruption.requested
        now[0] += 0.2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("first", ENDING_SIGNALS)
def test_a_closed_terminal_is_never_the_second_signal(first):
    """SIGHUP comes from the shell, and then from the terminal."""
    with catch_interrupts() as interruption:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGHUP)
        assert interruption.requested


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_an_ignored_signal_remains_ignored(number):
    """As under `nohup`, or in the background of a shell script."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with catch_interrupts() as interruption:
            signal.raise_signal(number)
            assert not interruption.requested
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.fixture(params=BATCH_SIGNALS)
def batch_signal(request):
    """Give a signal that nobody handles, though a command was run in this process."""
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_a_batch_system_that_ends_a_job_is_heard_and_is_never_the_second(batch_signal):
    with catch_interrupts() as interruption:
        signal.raise_signal(batch_signal)
        assert interruption.requested
        signal.raise_signal(batch_signal)
        with catch_interrupts() as within:
            signal.raise_signal(batch_signal)
            assert within.requested
    assert signal.getsignal(batch_signal) == signal.SIG_DFL


def test_what_a_program_uses_a_signal_for_remains(batch_signal):
    heard = []
    signal.signal(batch_signal, lambda *_: heard.append(1))
    with catch_interrupts() as interruption:
        signal.raise_signal(batch_signal)
        assert not interruption.requested
    assert heard == [1]


def test_where_it_may_raise_it_still_may_after_a_block_within():
    interruption = Interruption()
    with interruption.raise_first():
        with interruption.raise_first():
            pass
        with pytest.raises(FirstInterrupt):
            interruption.hear(signal.SIGINT, None)


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_where_it_may_raise_the_first_signal_sets_the_flag_and_raises(number):
    with catch_interrupts() as interruption:
        with pytest.raises(FirstInterrupt), interruption.raise_first():
            signal.raise_signal(number)
        assert interruption.requested


def test_where_the_first_may_raise_the_second_still_ends():
    with catch_interrupts() as interruption:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as caught, interruption.raise_first():
            signal.raise_signal(signal.SIGINT)
    assert caught.type is KeyboardInterrupt


def test_after_work_that_it_may_end_the_first_signal_sets_a_flag():
    with catch_interrupts() as interruption:
        with interruption.raise_first():
            pass
        signal.raise_signal(signal.SIGINT)
        assert interruption.requested


def test_work_is_left_out_where_an_end_was_asked_for():
    interruption = Interruption()
    interruption.raise_if_requested()
    interruption.requested = True
    with pytest.raises(FirstInterrupt):
        interruption.raise_if_requested()


def test_a_block_within_a_block_counts_for_itself():
    with catch_interrupts() as outer:
        signal.raise_signal(signal.SIGINT)
        with catch_interrupts() as inner:
            signal.raise_signal(signal.SIGINT)
        assert (outer.requested, inner.requested) == (True, True)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_after_the_block_the_handlers_are_those_from_before():
    before = [signal.getsignal(number) for number in ENDING_SIGNALS]
    with catch_interrupts() as interruption:
        during = [signal.getsignal(number) for number in ENDING_SIGNALS]
        assert during == [interruption.hear] * len(ENDING_SIGNALS)
    assert [signal.getsignal(number) for number in ENDING_SIGNALS] == before


def test_signals_that_another_library_handles_are_left_to_it(monkeypatch):
    """Python could not give them back."""
    monkeypatch.setattr(signal, "getsignal", lambda _number: None)
    assert find_heard_signals() == []


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
