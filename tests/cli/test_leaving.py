"""How the process of a command ends: at once, but with everything done."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

END = "from bertfit.cli.leaving import leave\n"
WITH_RUIN = """
class Kept:
    def __del__(self):
        print("taken apart")
kept = Kept()
"""


def run_code(code, *, output=subprocess.PIPE):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)


def test_the_process_ends_with_its_code_its_output_and_what_was_to_be_done():
    code = "import atexit; atexit.register(print, 'done at the end')\n"
    ended = run_code(f"{code}{WITH_RUIN}{END}print('said')\nleave(3)")
    assert (ended.returncode, ended.stderr) == (3, "")
    assert ended.stdout.split("\n") == ["said", "done at the end", ""]  # and nothing taken apart


def test_ctrl_c_does_not_keep_from_what_is_to_be_done():
    code = """
import atexit, signal
atexit.register(print, "done at the end")
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.default_int_handler)
    atexit.register(signal.raise_signal, number)
"""
    ended = run_code(f"{code}{END}leave(130)")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "done at the end\n", "")


def test_a_handler_that_python_did_not_install_stays():
    """`signal.getsignal` gives None for it, which `signal.signal` does not take."""
    code = """
import signal
of_python = {"get": signal.getsignal, "set": signal.signal}
def get(number):
    return None if number == signal.SIGHUP else of_python["get"](number)
def set_to(number, handler):
    before = get(number)
    of_python["set"](number, handler)  # refuses None
    return before
signal.getsignal, signal.signal = get, set_to
"""
    ended = run_code(f"{code}{END}leave(0)")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_objects_would_be_taken_apart_otherwise():
    assert "taken apart" in run_code(WITH_RUIN).stdout


def test_a_thread_that_still_works_is_waited_for():
    code = "import threading, time\ndef work(): time.sleep(0.3); print('worked')\n"
    ended = run_code(f"{code}{END}threading.Thread(target=work).start()\nleave(4)")
    assert (ended.returncode, ended.stdout.strip()) == (4, "worked")


def test_a_profile_is_written(tmp_path):
    command = [sys.executable, "-m", "cProfile", "-o", str(tmp_path / "profile")]
    ended = subprocess.run([*command, "-m", "bertfit", "--version"], check=False)
    assert ended.returncode == 0
    assert (tmp_path / "profile").stat().st_size > 0


def test_a_profile_by_monitoring_is_waited_for():
    """So does cProfile from Python 3.12 on; older ones have no `sys.monitoring`."""
    tools = "import sys, types\ntools = [None, None, 'cProfile', None, None, None]\n"
    watched = f"{tools}sys.monitoring = types.SimpleNamespace(get_tool=tools.__getitem__)\n"
    ended = run_code(f"{WITH_RUIN}{watched}{END}leave(3)")
    assert (ended.returncode, ended.stdout) == (3, "taken apart\n")


def test_output_that_cannot_be_written_is_no_success(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with os.fdopen(os.open("/dev/full", os.O_WRONLY), "w") as full:
        ended = run_code(f"import sys\n{END}sys.stdout.write('said')\nleave(0)", output=full)
        failed = run_code(f"import sys\n{END}sys.stdout.write('said')\nleave(5)", output=full)
    assert (ended.returncode, failed.returncode) == (1, 5)


@pytest.mark.parametrize("text", ["short", "longer than the buffer of the file " * 200])
def test_a_command_whose_last_output_is_lost_fails_with_a_message(text, monkeypatch):
    """Where Python buffers it, it is written only at the end; as a script's `--json > FILE`."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    code = f"""
import sys
import bertfit.cli.main
from bertfit.__main__ import main
def write(**_options):
    sys.stdout.write({text!r})
    sys.exit(0)
bertfit.cli.main.app = write
main()
"""
    with os.fdopen(os.open("/dev/full", os.O_WRONLY), "w") as full:
        ended = run_code(code, output=full)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: the disk is full;")
    assert "Exception ignored" not in ended.stderr
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        ended = run_code(code, output=gone)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_command_leaves_so():
    command = "import sys; sys.argv = ['bertfit', '--version']\nfrom bertfit.__main__ import main\n"
    ended = run_code(f"{WITH_RUIN}{command}main()")
    assert ended.returncode == 0
    assert ended.stdout.startswith("bertfit ")
    assert "taken apart" not in ended.stdout
    failed = run_code(f"{command}".replace("--version", "nonsense") + "main()")
    assert failed.returncode == 2
    assert "No such command" in failed.stderr
