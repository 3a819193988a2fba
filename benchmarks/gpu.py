"""One CUDA GPU: packs checked, then training, scoring and the notebook's whole job timed.

One call, meant to take less than 10 minutes. It uses a BERT-base with random weights, because only
time is measured, and the lengths of real IMDB reviews. First, gradients of packed texts are
compared with those of padded ones, and recorded passes with passes as written. Then training is
timed at 128 and 512 tokens: (a) the notebook's loop (float32, 16 rows, all padded to the full
length), (b) transformers.Trainer at its best (bfloat16, compiled, rows grouped by length and padded
to multiples of 8, fused AdamW, two loader processes, no check of each loss), (c) bertfit: as it is,
with twice and four times the rows, as written, and with layers compiled by torch. Start-up is timed
separately. Scoring is timed at 512 tokens, and so is the notebook's whole job, `bertfit train` with
its recipe on 22,500 reviews, as a command: with nothing compiled yet, again, with 64 rows a step
(another recipe), with compiled layers, and as written. MFU counts the matrix products of real
tokens, relative to the rate of a matrix product measured in the same run. Finally, each target is
printed next to the measured value.

Needs BERTFIT_DATA and a CUDA GPU. --smoke runs the same on any device with a tiny encoder and
synthetic reviews: it shows that the script runs and that packs are right. Its times mean nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_jobs import time_job, time_jobs, write_reviews
from gpu_training import (
    WAYS,
    Size,
    check_packing,
    measure_product,
    time_scoring,
    time_training,
)
from record import write_result
from reviews import read_reviews
from script import add_output, add_tokenizer, run_script
from transformers import AutoTokenizer, BertConfig, BertModel

from bertfit.assets import find_embedded_model
from bertfit.data.encoding import EncodedTexts, EncodingRule, encode_texts
from bertfit.environment import describe_environment
from bertfit.modeling import compilation
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.precision import choose_precision
from bertfit.modeling.tokenizer_files import fast_tokenizer
from bertfit.workflow.runtime import has_bytecode

PARTS = ("training", "scoring", "jobs")
REAL = Size(
    BertConfig(num_labels=2), num_texts=25_000, num_steps=40, lengths=(128, 512), product=8192
)
TINY = Size(
    BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
    num_texts=160,
    num_steps=1,
    lengths=(16, 32),
    product=256,
)


def main() -> None:
    arguments = parse_arguments()
    size = choose_size(smoke=arguments.smoke)
    if arguments.smoke:  # traces layers, needs no compiler
        compilation.BACKEND = "aot_eager"
    # If not, starting a command takes many seconds longer.
    measured: dict[str, Any] = {"libraries_are_compiled": has_bytecode(torch.__file__)}
    for found in measure(size, arguments):
        measured |= found
        if not arguments.smoke:  # after each part: the machine may be gone before the end
            measured["targets"] = compare_with_targets(measured, size.lengths)
            device = torch.cuda.get_device_name()
            write_result("gpu", {"gpu": device, **measured}, output=arguments.output, gpu=device)
    print_targets(compare_with_targets(measured, size.lengths))
    if arguments.smoke:
        if '"failed"' in json.dumps(measured):
            sys.exit("A part failed; its error is above.")
        print("The script runs, and packs are right. These times mean nothing.")


def choose_size(*, smoke: bool) -> Size:
    """Return the size of what is measured; exit if that needs a GPU and there is none."""
    if not smoke and not torch.cuda.is_available():
        sys.exit(
            "This measures a CUDA GPU, and torch finds none here. --smoke runs the script without."
        )
    describe_environment()  # fails now, not after everything was measured
    return TINY if smoke else REAL


def measure(size: Size, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the results, part by part."""
    ends = time.monotonic() + 60.0 * arguments.minutes
    precision = choose_precision()
    texts = read_texts(size, smoke=arguments.smoke)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = make_folder(size, scratch, tokenizer=arguments.tokenizer)
        encoded = {length: encode(texts, folder, length) for length in size.lengths}
        # At both lengths: short texts use other attention kernels than long ones.
        checked = {length: check_packing(size, encoded[length]) for length in size.lengths}
        yield {"packed_against_padded": checked}
        rate = measure_product(size, precision)
        yield {"operations_per_second": rate}
        for part in arguments.parts:
            if part == "training":
                for length in arguments.lengths or size.lengths:
                    for times in time_training(size, encoded[length], length, rate, arguments.ways):
                        yield {f"training_{length}": times}
            elif part == "scoring":
                yield {"scoring": time_scoring(size, encoded[size.lengths[-1]], precision)}
            else:
                job = functools.partial(time_job, write_reviews(texts, scratch), folder)
                jobs: dict[str, Any] = {}
                for way, times in time_jobs(job, scratch, length=size.lengths[0], ends=ends):
                    jobs[way] = times
                    yield {"whole_job": jobs}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="Tiny, on any device; no result.")
    add_output(parser)
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="After them no further job is begun (8)."
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        default=PARTS,
        choices=PARTS,
        help="What is measured, in this order (all).",
    )
    parser.add_argument(
        "--ways", nargs="+", default=WAYS, choices=WAYS, help="Ways of training (all)."
    )
    parser.add_argument(
        "--lengths",
        nargs="+",
        type=int,
        choices=REAL.lengths,
        help="Lengths at which training is timed, in this order (all).",
    )
    add_tokenizer(parser)
    arguments = parser.parse_args()
    if arguments.smoke and arguments.lengths:
        parser.error("--smoke has lengths of its own; leave --lengths out")
    return arguments


def read_texts(size: Size, *, smoke: bool) -> list[str]:
    """Return reviews: real ones, or synthetic ones of a few words."""
    if not smoke:
        return list(read_reviews("train", num_rows=size.num_texts, seed=0).texts)
    generator = np.random.default_rng(0)
    words = ["good", "bad", "film", "plot", "the", "a", "was", "very"]
    lengths = (generator.integers(1, 40) for _ in range(size.num_texts))
    return [" ".join(generator.choice(words, length)) for length in lengths]


def make_folder(size: Size, scratch: Path, *, tokenizer: Path | None) -> Path:
    """Return a model folder of this size, with random weights and this tokenizer or MiniLM's."""
    folder = scratch / "model"
    torch.manual_seed(0)
    BertModel(size.config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer or find_embedded_model()).save_pretrained(folder)
    return folder


def encode(texts: list[str], folder: Path, length: int) -> EncodedTexts:
    tokenizer = fast_tokenizer(load_classifier(str(folder)).tokenizer)
    return encode_texts(texts, tokenizer, EncodingRule(max_length=length))


def compare_with_targets(
    measured: dict[str, Any], lengths: tuple[int, int]
) -> list[dict[str, Any]]:
    """Return each target for an H100 with the measured value, or None if it was not measured."""
    short, long = (measured.get(f"training_{length}", {}) for length in lengths)
    jobs = {name: job for name, job in measured.get("whole_job", {}).items() if "failed" not in job}
    cold, warm, of_more_rows = (jobs.get(name, {}) for name in ("cold", "warm", "of_64_rows"))
    seen = [
        ("MFU at 512 tokens, at least", 0.50, best_of(long, "mfu")),
        ("MFU at 128 tokens, at least", 0.45, best_of(short, "mfu")),
        ("the notebook's job, its steps, s, at most", 15.0, warm.get("seconds_of_steps")),
        ("the notebook's job, cold, all, s, at most", 40.0, cold.get("seconds_with_start")),
        ("64 rows a step, its steps, s, at most", 15.0, of_more_rows.get("seconds_of_steps")),
        ("times Trainer at 512 tokens, at least", 2.5, over_trainer(long)),
        ("times Trainer at 128 tokens, at least", 1.5, over_trainer(short)),
        (
            "scoring 25,000 reviews at 512, s, at most",
            3.0,
            measured.get("scoring", {}).get("seconds"),
        ),
    ]
    return [{"target": name, "value": target, "seen": value} for name, target, value in seen]


def print_targets(targets: list[dict[str, Any]]) -> None:
    for each in targets:
        told = "not measured" if each["seen"] is None else f"seen {each['seen']:.3g}"
        print(f"target: {each['target']} {each['value']:g}; {told}", flush=True)


def best_of(ways: dict[str, Any], figure: str) -> float | None:
    """Return the largest value of a figure over bertfit's ways of training."""
    found = (of[figure] for name, of in ways.items() if "bertfit" in name and figure in of)
    return max(map(float, found), default=None)


def over_trainer(ways: dict[str, Any]) -> float | None:
    """Return bertfit's rows per second relative to Trainer's, both with 64 rows a step."""
    ours, trainer = ways.get("bertfit", {}), ways.get("trainer", {})
    is_known = "rows_per_second" in ours and "rows_per_second" in trainer
    return float(ours["rows_per_second"]) / float(trainer["rows_per_second"]) if is_known else None


if __name__ == "__main__":
    run_script(main)
