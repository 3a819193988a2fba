"""From the shell to an answer: `bertfit --help`, `import bertfit`, and the first prediction.

Each runs in a separate process, in turn, after one run that fills the file cache. They are compared
with lower bounds: a bare interpreter, and for the prediction one that imports torch and the model's
class from transformers and loads the same weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from record import RESULTS, summarize, write_result
from scoring import make_classifier

BERTFIT = str(Path(sys.executable).with_name("bertfit"))
COMMANDS: Mapping[str, Sequence[str]] = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "import bertfit": (sys.executable, "-c", "import bertfit"),
    "bertfit --help": (BERTFIT, "--help"),
}
LOAD_ALONE = """
import sys, torch
from transformers import BertForSequenceClassification
BertForSequenceClassification.from_pretrained(sys.argv[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="Runs of each command (15).")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Folder of the result.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = str(make_classifier(Path(scratch) / "model"))
        commands = {
            **COMMANDS,
            "load the weights": (sys.executable, "-c", LOAD_ALONE, model),
            "bertfit predict": (BERTFIT, "predict", model, "A wonderful film."),
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for command in commands.values():
            time_command(command)
        for _ in range(arguments.runs):
            for name, command in commands.items():
                seconds[name].append(time_command(command))
    measured = {name: summarize(values) for name, values in seconds.items()}
    for name, summary in measured.items():
        print(
            f"{name:18}{summary['median']:7.3f} s   "
            f"({summary['min']:.3f} to {summary['max']:.3f}, {arguments.runs} runs)"
        )
    write_result(
        "startup", {"unit": "seconds of wall clock", "seconds": measured}, output=arguments.output
    )


def time_command(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
