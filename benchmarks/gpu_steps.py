"""One CUDA GPU: where a training step of bertfit goes, kernel by kernel, and what comes before.

Steps of 16 texts cut at 128 tokens, as in the notebook's job, and of 64 cut at 512, with the
lengths of real IMDB reviews and a BERT-base of random weights. Steps are recorded, then timed in
rounds, the same in each; then torch.profiler adds up the time of every kernel. The products that
run beside other kernels overlap with them, so the same is done without a stream of their own:
there, what is missing between the sum of kernels and the time of a step is the GPU waiting. Last,
the notebook's three epochs of 22,500 reviews show what steps cost before their size is recorded,
with two steps queued and with more.

Needs BERTFIT_DATA and a CUDA GPU. --smoke runs the same on any device with a tiny encoder and
synthetic reviews, with operators instead of kernels where there is no GPU. Its times mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu import choose_size, encode, make_folder, read_texts
from gpu_training import Size, record_no_further_sizes, training
from record import summarize, write_result
from script import add_output, add_tokenizer, run_script
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # torch does not export it
from torch.profiler import ProfilerActivity, profile

from bertfit.config import TrainSettings
from bertfit.data.encoding import EncodedTexts
from bertfit.modeling import transfer

ROWS = (16, 64)
"""Texts a step, for each of the two lengths."""
ROUNDS = 5
NUM_OF_JOB, EPOCHS_OF_JOB = 22_500, 3
_NUM_SHOWN = 25
"""Kernels of a step that are listed; the others are one sum."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="Tiny, on any device; no result.")
    add_output(parser)
    add_tokenizer(parser)
    arguments = parser.parse_args()
    size = choose_size(smoke=arguments.smoke)
    texts = read_texts(size, smoke=arguments.smoke)
    steps: dict[str, Any] = {}
    jobs: dict[str, Any] = {}
    encoded: dict[int, EncodedTexts] = {}

    def keep() -> None:  # after each part: the next may fail, or take all the time
        if not arguments.smoke:
            gpu = torch.cuda.get_device_name()
            found = {"gpu": gpu, "steps": steps, **jobs}
            write_result("gpu-steps", found, output=arguments.output, gpu=gpu)

    with tempfile.TemporaryDirectory() as name:
        folder = make_folder(size, Path(name), tokenizer=arguments.tokenizer)
        for num_rows, length in zip(ROWS, size.lengths, strict=True):
            encoded[length] = encode(texts, folder, length)
            for way in ("", ", one stream"):
                measured = measure_steps(size, encoded[length], num_rows, is_beside=not way)
                steps[f"{num_rows} of {length}{way}"] = measured
                print_step(f"{num_rows} texts of at most {length} tokens{way}", measured)
                keep()
        for job, queued in JOBS:
            print(f"{job}:")
            with queued():
                jobs[job] = measure_job(size, encoded[size.lengths[0]])
            keep()
    if arguments.smoke:
        print("The script runs. These times mean nothing.")


@contextlib.contextmanager
def two_steps_queued() -> Iterator[None]:
    """Queue two steps before the results of one are read, as before 30 November 2026."""
    most, transfer._MOST_AHEAD = transfer._MOST_AHEAD, 2  # noqa: SLF001 (no setting: measured here)
    try:
        yield
    finally:
        transfer._MOST_AHEAD = most  # noqa: SLF001 (as above)


JOBS = (
    ("job", contextlib.nullcontext),
    ("job_with_two_steps_queued", two_steps_queued),
    ("job_again", contextlib.nullcontext),
)
"""The first also loads what all need, such as matrix products for each size of pack."""


def measure_steps(
    size: Size, texts: EncodedTexts, num_rows: int, *, is_beside: bool
) -> dict[str, Any]:
    """Return the milliseconds of a step, those of its kernels, and the peak memory.

    With `is_beside`, the last products run on a stream of their own, as in any training.
    """
    generator = np.random.default_rng(1)
    rows = generator.choice(len(texts), min(size.num_steps * num_rows, len(texts)), replace=False)
    on_gpu = torch.cuda.is_available()
    milliseconds = []
    with training(size, texts, rows, TrainSettings(batch_size=num_rows)) as (take_epoch, weights):
        if weights.recorded is not None and not is_beside:
            weights.recorded._beside = None  # noqa: SLF001 (no setting: measured here)
        if on_gpu:  # before anything is recorded: replays allocate nothing
            torch.cuda.reset_peak_memory_stats()
        take_epoch()
        record_no_further_sizes(weights)
        num_steps = len(take_epoch())  # in which sizes that occur once are recorded
        for _ in range(ROUNDS):
            started = time.perf_counter()
            take_epoch()
            milliseconds.append((time.perf_counter() - started) * 1e3 / num_steps)
        activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
        with profile(activities=[activity]) as seen:
            take_epoch()
        recording, faults = str(weights.recording), weights.tell_faults()
    return {
        "recording": recording,
        "faults": faults,
        "step_ms": summarize(milliseconds),
        "kernels": list_kernels(seen, num_steps=num_steps, on_gpu=on_gpu),
        "tokens_a_step": float(texts.lengths[rows].sum()) / num_steps,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }


def measure_job(size: Size, texts: EncodedTexts) -> list[dict[str, float]]:
    """Return for each epoch of the notebook's job: its steps, and what they and the slow ones took.

    A step is slow if it takes twice the median or more, because the sizes of its packs were not
    recorded yet, or just then. `slow_seconds` is by how much more than the median they took.
    """
    generator = np.random.default_rng(1)
    rows = generator.choice(len(texts), min(NUM_OF_JOB, len(texts)), replace=False)
    epochs = []
    with training(size, texts, rows, TrainSettings(batch_size=ROWS[0])) as (take_epoch, weights):
        for epoch in range(EPOCHS_OF_JOB):
            seconds = np.array(take_epoch(epoch))
            median = float(np.median(seconds))
            slow = seconds[seconds >= 2.0 * median]
            found = {
                "steps": len(seconds),
                "seconds": float(seconds.sum()),
                "median_ms": median * 1e3,
                "slow_steps": len(slow),
                "slow_seconds": float((slow - median).sum()),
                "recording_seconds": weights.recorded.seconds if weights.recorded else 0.0,
            }
            epochs.append(found)
            print(
                f"an epoch of the job: {found['steps']} steps in {found['seconds']:.2f} s, median "
                f"{found['median_ms']:.3f} ms; {found['slow_steps']} slow ones took "
                f"{found['slow_seconds']:.2f} s more",
                flush=True,
            )
    return epochs


def list_kernels(seen: profile, *, num_steps: int, on_gpu: bool) -> list[dict[str, Any]]:
    """Return name, milliseconds and launches a step of each kernel, the slowest first."""
    kernels = [
        {
            "name": event.key[:80],
            "ms": (event.self_device_time_total if on_gpu else event.self_cpu_time_total)
            / (1e3 * num_steps),
            "launches": event.count / num_steps,
        }
        for event in seen.key_averages()
        if not on_gpu or event.device_type == DeviceType.CUDA
    ]
    return sorted(kernels, key=lambda kernel: -kernel["ms"])


def print_step(title: str, found: dict[str, Any]) -> None:
    kernels = found["kernels"]
    of_all = sum(kernel["ms"] for kernel in kernels)
    print(f"{title}: {found['step_ms']['median']:.3f} ms a step, of which kernels {of_all:.3f}")
    for kernel in kernels[:_NUM_SHOWN]:
        print(f"  {kernel['ms']:8.4f} ms {kernel['launches']:6.1f} ×  {kernel['name']}")
    others = sum(kernel["ms"] for kernel in kernels[_NUM_SHOWN:])
    print(f"  {others:8.4f} ms, the other {max(0, len(kernels) - _NUM_SHOWN)}", flush=True)


if __name__ == "__main__":
    run_script(main)
