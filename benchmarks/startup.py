"""What each command costs beside its work: on two texts or 200 rows it is most of the time.

Each runs in a separate process, in turn, after one run that fills the file cache. They are compared
with lower bounds: a bare interpreter, and for the prediction one that imports torch and the model's
class from transformers and loads the same weights. With `--before`, an older source runs in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from record import RESULTS, summarize, write_result
from scoring import make_classifier

from bertfit.workflow.demo import load_demo_data

NUM_ROWS = 200
LOAD_ALONE = """
import sys, torch
from transformers import BertForSequenceClassification
BertForSequenceClassification.from_pretrained(sys.argv[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="Runs of each command (7).")
    parser.add_argument("--before", type=Path, help="Folder src/ of an older checkout.")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Folder of the result.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        commands = list_commands(Path(scratch))
        sources = {"": None} | ({", before": arguments.before} if arguments.before else {})
        seconds: dict[str, list[float]] = {}
        for number in range(arguments.runs + 1):
            for name, command in commands.items():
                for suffix, source in sources.items():
                    took = time_command(command, source)
                    if number:  # the first run fills the file cache
                        seconds.setdefault(name + suffix, []).append(took)
    measured = {name: summarize(values) for name, values in seconds.items()}
    for name, summary in measured.items():
        print(
            f"{name:36}{summary['median']:7.3f} s   "
            f"({summary['min']:.3f} to {summary['max']:.3f}, {arguments.runs} runs)"
        )
    write_result(
        "startup", {"unit": "seconds of wall clock", "seconds": measured}, output=arguments.output
    )


def list_commands(scratch: Path) -> dict[str, Sequence[str]]:
    """Return what is timed, after making a model, rows and a run for it."""
    python, bertfit = sys.executable, (sys.executable, "-m", "bertfit")
    model, run, rows = (str(scratch / name) for name in ("model", "run", "rows.jsonl"))
    make_classifier(scratch / "model")
    write_rows(Path(rows))
    train = (*bertfit, "train", rows, "--max-length", "16", "--epochs", "1", "--overwrite")
    time_command((*train, "--test", rows, "--output", run), None)
    return {
        "python -c pass": (python, "-c", "pass"),
        "import bertfit": (python, "-c", "import bertfit"),
        "bertfit --help": (*bertfit, "--help"),
        "load the weights": (python, "-c", LOAD_ALONE, model),
        "bertfit predict": (*bertfit, "predict", model, "A wonderful film."),
        "bertfit inspect": (*bertfit, "inspect", model),
        f"bertfit check, {NUM_ROWS} rows": (*bertfit, "check", rows),
        f"bertfit compare, {NUM_ROWS} rows": (*bertfit, "compare", run, run),
        "bertfit report": (*bertfit, "report", run),
        f"bertfit evaluate, {NUM_ROWS} rows": (*bertfit, "evaluate", run, rows),
        f"bertfit train, {NUM_ROWS} rows": (*train, "--output", str(scratch / "other")),
    }


def write_rows(file: Path) -> None:
    """Write real reviews of the embedded corpus, with their labels, as JSON lines."""
    data = load_demo_data().test
    rows = zip(data.texts[:NUM_ROWS], data.labels[:NUM_ROWS], strict=True)
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    file.write_text("\n".join(lines), encoding="utf-8")


def time_command(command: Sequence[str], source: Path | None) -> float:
    """Return the seconds of a command, run from the installed package or from `source`."""
    environment = os.environ | ({"PYTHONPATH": str(source.resolve())} if source else {})
    nothing = subprocess.DEVNULL
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=nothing, stderr=nothing, env=environment)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
