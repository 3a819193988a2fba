"""How long the command line takes to say anything: `bertfit --help` and `import bertfit`.

Each is run in a process of its own, in turn, after one run that fills the file cache. A bare
interpreter is measured beside them: no command written in Python can start faster.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from record import RESULTS, summarize, write_result

COMMANDS: Mapping[str, Sequence[str]] = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "import bertfit": (sys.executable, "-c", "import bertfit"),
    "bertfit --help": (str(Path(sys.executable).with_name("bertfit")), "--help"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="Runs of each command (15).")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Folder of the result.")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():
        time_command(command)
    for _ in range(arguments.runs):
        for name, command in COMMANDS.items():
            seconds[name].append(time_command(command))
    measured = {name: summarize(values) for name, values in seconds.items()}
    for name, summary in measured.items():
        print(
            f"{name:16}{summary['median']:7.3f} s   "
            f"({summary['min']:.3f} to {summary['max']:.3f}, {arguments.runs} runs)"
        )
    write_result(
        "startup", {"unit": "seconds of wall clock", "seconds": measured}, output=arguments.output
    )


def time_command(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
