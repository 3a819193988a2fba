"""Signals interrupt a command once, and none is lost."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest


def run(program):
    """Return a finished process of Python."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("gone", ["", "del signal.pthread_kill"])
@pytest.mark.parametrize("handler", ["SIG_DFL", "SIG_IGN"])
def test_an_interrupt_that_python_discards_comes_again(handler, gone):
    """In a callback of a weak reference, as the import system has them, errors are discarded.

    A background job of a shell ignores SIGINT, by which a SIGTERM was to come again. Windows sends
    no signal to a thread.
    """
    program = """
import signal, time, weakref
from bertfit.cli.signals import hear_signals

GONE
class Target: pass

def interrupt(reference): raise KeyboardInterrupt

if HANDLER == signal.SIG_IGN:
    signal.signal(signal.SIGINT, HANDLER)
hear_signals()
target = Target()
reference = weakref.ref(target, interrupt)
del target
try:
    time.sleep(30)
except KeyboardInterrupt:
    print("came again")
"""
    done = run(program.replace("HANDLER", f"signal.{handler}").replace("GONE", gone))
    assert (done.stdout, done.stderr) == ("came again\n", "")


def test_where_no_folder_takes_temporary_files_a_command_goes_on():
    """Libraries ask for it as they are imported, and few commands use it."""
    program = """
import tempfile
from bertfit.cli import main

def refuse(): raise FileNotFoundError("No usable temporary directory found")

tempfile.gettempdir = refuse
main._prepare_process()
print(len(tempfile.tempdir) > 1)
"""
    done = run(program)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_of_two_quick_signals_interrupts_no_removal(second):
    program = f"""
import signal, time
from bertfit.cli import signals
signals._LEAST_SECONDS_BETWEEN = 0.2
signals.hear_signals()
signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))  # a background job ignores it
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    signal.raise_signal({int(second)})
    print("removed")
time.sleep(0.3)
try:
    signal.raise_signal({int(second)})
except KeyboardInterrupt:
    print("heard")
"""
    done = run(program)
    assert (done.stdout, done.stderr) == ("removed\nheard\n", "")
