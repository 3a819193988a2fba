"""The notebook's whole job, which `gpu.py` times as the command `bertfit train`."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_training import BERTFIT_ROWS
from reviews import LABEL_NAMES

GRACE_SECONDS = 75.0
"""How far beyond `--minutes` the last job may run."""

_SHOWN = 40
"""Characters of a note that are kept."""


def write_reviews(texts: list[str], scratch: Path) -> Path:
    """Write the texts with labels to a file, and return its path."""
    file = scratch / "reviews.jsonl"
    with file.open("w", encoding="utf-8") as stream:
        for row, text in enumerate(texts):  # the number makes synthetic ones distinct
            record = {"text": f"{text} {row}", "label": LABEL_NAMES[row % 2]}
            stream.write(json.dumps(record) + "\n")
    return file


def time_jobs(
    job: Callable[..., dict[str, Any]], scratch: Path, *, length: int, ends: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the seconds of `bertfit train` as a command, in several ways.

    Args:
        job: `time_job` with a file and a model.
        scratch: Folder for runs and compiled code.
        length: Tokens kept of each text.
        ends: Time of the monotonic clock after which no job is started.
    """
    ways: dict[str, tuple[str, ...]] = {"as_written": ("--set", "fast_path=off")}
    if torch.cuda.is_available():  # on a CPU, compiling is slow, and nothing is recorded
        ways = {
            "cold": (),
            "warm": (),
            "of_64_rows": ("--set", f"batch_size={BERTFIT_ROWS}"),
            "compiled": ("--compile", "on"),
            "as_written": ("--compile", "off", "--packing", "on", *ways["as_written"]),
        }
    # Empty at first; from the second job on it has what Triton and Inductor compiled.
    cache = {
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "cache" / "inductor"),
        "TRITON_CACHE_DIR": str(scratch / "cache" / "triton"),
    }
    for number, (name, options) in enumerate(ways.items()):
        left = ends - time.monotonic()
        if number and left < 0:
            yield name, {"failed": "not begun, for the time was over"}
            continue
        seconds = max(left, 0.0) + GRACE_SECONDS
        yield name, job(scratch / name, *options, length=length, environment=cache, seconds=seconds)


def time_job(
    file: Path,
    folder: Path,
    run: Path,
    *options: str,
    length: int,
    environment: dict[str, str],
    seconds: float,
) -> dict[str, Any]:
    """Return the seconds of one command, its steps, the first compiled step, and its notes' times.

    If it fails, or takes longer than `seconds`, return the reason instead.
    """
    command = [sys.executable, "-m", "bertfit", "train", str(file)]
    command += ["--output", str(run), "--model", str(folder), "--recipe", "notebook"]
    command += ["--max-length", str(length), "--no-baseline", "--json"]
    command += ["--set", "keep_encoded=off", *options]
    started, began = time.perf_counter(), dt.datetime.now(tz=dt.UTC)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds,
            env={**os.environ, **environment},
        )
    except subprocess.SubprocessError as error:
        why = getattr(error, "stderr", None) or str(error)
        print(f"whole job, {run.name}: failed: {why}", flush=True)
        return {"failed": str(why)[-1000:]}
    took = time.perf_counter() - started
    training = json.loads(done.stdout)["training"]
    steps, cold = training["train_seconds"], training["cold_start_seconds"]
    print(
        f"whole job, {run.name}: {took:.1f} s, its steps {steps:.1f} s, "
        f"first compiled step {cold} s, recording {training['recording']}",
        flush=True,
    )
    return {
        "seconds_with_start": took,
        "seconds_of_steps": steps,
        "first_compiled_step": cold,
        "seconds_of_notes": read_times(run / "train.log", began),
    }


def read_times(log: Path, began: dt.datetime) -> list[tuple[int, str]]:
    """Return the time of each note of a log, in seconds after `began`, and its beginning."""
    times = []
    for line in log.read_text(encoding="utf-8").splitlines():
        moment, _, note = line.partition(" ")
        seconds = (dt.datetime.fromisoformat(moment) - began).total_seconds()
        times.append((round(seconds), note[:_SHOWN]))
    return times
