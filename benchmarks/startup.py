"""What each command costs beside its work: on two texts or 200 rows it is most of the time.

Each runs in a separate process, in turn, after one run that fills the file cache. They are compared
with lower bounds: a bare interpreter, and for the prediction one that imports torch and the model's
class from transformers and loads the same weights. With `--before`, an older source runs in turn.

`--reviews N` times only a training on N reviews of IMDB with a model so small that its steps cost
little: what surrounds them. It needs BERTFIT_DATA.
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

from record import summarize, write_result
from reviews import read_reviews
from scoring import make_classifier
from script import add_output, run_script, source_folder
from transformers import AutoTokenizer, BertConfig, BertModel

from bertfit.assets import find_embedded_model
from bertfit.data.dataset import TextDataset
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
    parser.add_argument("--before", type=source_folder, help="Folder src/ of an older checkout.")
    parser.add_argument("--reviews", type=int, help="Time only a training on so many reviews.")
    add_output(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.reviews:
            commands = {
                f"bertfit train, {arguments.reviews:,} reviews": train_tiny(
                    Path(scratch), arguments.reviews
                )
            }
        else:
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
    name = "startup-reviews" if arguments.reviews else "startup"
    write_result(
        name, {"unit": "seconds of wall clock", "seconds": measured}, output=arguments.output
    )


def list_commands(scratch: Path) -> dict[str, Sequence[str]]:
    """Return what is timed, after making a model, rows and a run for it."""
    python, bertfit = sys.executable, (sys.executable, "-m", "bertfit")
    model, run, rows = (str(scratch / name) for name in ("model", "run", "rows.jsonl"))
    make_classifier(scratch / "model")
    write_rows(Path(rows), load_demo_data().test.select(range(NUM_ROWS)))
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


def train_tiny(scratch: Path, num_reviews: int) -> Sequence[str]:
    """Return the command of a training whose steps cost little, after making its model and rows."""
    model, rows = scratch / "model", scratch / "reviews.jsonl"
    sizes = {"hidden_size": 32, "num_attention_heads": 1, "intermediate_size": 64}
    BertModel(BertConfig(num_hidden_layers=1, **sizes)).save_pretrained(model)
    AutoTokenizer.from_pretrained(find_embedded_model()).save_pretrained(model)
    write_rows(rows, read_reviews("train", num_rows=num_reviews, seed=0))
    command = (sys.executable, "-m", "bertfit", "train", str(rows), "--model", str(model))
    options = ("--max-length", "16", "--epochs", "1", "--batch-size", "256", "--no-baseline")
    kept = ("--set", "keep_encoded=off", "--output", str(scratch / "run"), "--overwrite")
    return (*command, *options, *kept)


def write_rows(file: Path, data: TextDataset) -> None:
    """Write rows with their labels as JSON lines."""
    rows = zip(data.texts, data.labels, strict=True)
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
    run_script(main)
