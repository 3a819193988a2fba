"""Scoring speed and memory: bertfit against transformers.pipeline, as it comes and at its best.

Each scores the same real IMDB reviews, cut at 512 tokens, with the same MiniLM, in a separate
process, so that peak memory can be measured. "As it comes" is a batch of 1 in float32 with
truncation, without which the pipeline fails on long reviews; "at its best" is batches of 16 from
texts sorted by length, in bfloat16 if the processor is fast at it. Neither loading is timed
nor, for bertfit, building the operators. Each process reads the file of reviews, which adds to its
peak memory.

Needs BERTFIT_DATA. `--reviews 5000` is the full measurement; the pipeline as it comes is slow.
`--joined 80` makes each text of 80 reviews, some 100,000 characters, as reports and books have.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import summarize, write_result
from reviews import find_reviews, read_reviews
from script import add_output, run_script

WAYS = ("pipeline", "pipeline-best", "bertfit", "bertfit-float32")
MAX_LENGTH = 512


def main() -> None:
    arguments = parse_arguments()
    if arguments.way:
        print(json.dumps(score(arguments.way, Path(arguments.model), arguments)))
        return
    find_reviews("test")  # missing data ends it now, with one message
    num_reviews = 0
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    memory: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as scratch:
        model = make_classifier(Path(scratch) / "model")
        for attempt in range(arguments.rounds):
            for way in WAYS:
                result = run_apart(way, model, arguments)
                rates[way].append(result["reviews_per_second"])
                memory[way].append(result["peak_mib"])
                num_reviews = result["num_reviews"]
            shown = ", ".join(f"{way} {values[-1]:.1f}" for way, values in rates.items())
            print(f"round {attempt + 1}: {shown} reviews/s", flush=True)
    ratios = {
        way: summarize([float(r) for r in np.divide(rates["bertfit"], rates[way])])
        for way in WAYS
        if way != "bertfit"
    }
    for way, ratio in ratios.items():
        print(f"bertfit is {ratio['median']:.2f} times as fast as {way}")
    write_result(
        "scoring" if arguments.joined == 1 else "scoring-long-texts",
        {
            "num_reviews": num_reviews,
            "reviews_in_a_text": arguments.joined,
            "max_length": MAX_LENGTH,
            "reviews_per_second": {way: summarize(values) for way, values in rates.items()},
            "peak_mib": {way: summarize(values) for way, values in memory.items()},
            "ratio_of_bertfit_to": ratios,
        },
        output=arguments.output,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reviews", type=int, default=1000, help="Reviews to score (1000).")
    parser.add_argument("--joined", type=int, default=1, help="Reviews in each text (1).")
    parser.add_argument("--rounds", type=int, default=3, help="Times that each scores them (3).")
    parser.add_argument("--seed", type=int, default=0, help="Which reviews (0).")
    add_output(parser)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    return parser.parse_args()


def make_classifier(folder: Path) -> Path:
    """Write MiniLM with an untrained head, which does not affect the speed."""
    from bertfit.modeling.classifier import load_classifier
    from bertfit.modeling.saving import save_model

    loaded = load_classifier("embedded", ["neg", "pos"])
    save_model(loaded.model, folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def run_apart(way: str, model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--way", way, "--model", str(model)]
    for name in ("reviews", "seed", "joined"):
        command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def score(way: str, model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Score the reviews once, and return their number, the speed and the peak memory."""
    reviews = read_reviews("test", num_rows=arguments.reviews, seed=arguments.seed).texts
    num_joined = arguments.joined
    texts = ["\n".join(reviews[at : at + num_joined]) for at in range(0, len(reviews), num_joined)]
    if way.startswith("pipeline"):
        seconds = score_by_pipeline(model, texts, at_best=way == "pipeline-best")
    else:
        from bertfit import TextClassifier
        from bertfit.modeling.operators.loading import load_operators

        classifier = TextClassifier.load(
            model, device="cpu", dtype="float32" if way == "bertfit-float32" else "auto"
        )
        load_operators(build=True)  # else the first scoring of many texts would
        classifier.predict_probabilities(texts[:8])
        started = time.perf_counter()
        classifier.predict_probabilities(texts)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "num_reviews": len(reviews),
        "reviews_per_second": len(reviews) / seconds,
        "peak_mib": round(peak),
    }


def score_by_pipeline(model: Path, texts: list[str], *, at_best: bool) -> float:
    import torch
    from transformers import pipeline

    from bertfit.modeling.precision import choose_precision

    dtype = choose_precision("cpu").dtype if at_best else torch.float32
    classify = pipeline("text-classification", model=str(model), dtype=dtype, device="cpu")
    options: dict[str, Any] = {"truncation": True, "max_length": MAX_LENGTH}
    classify(texts[:8], **options)
    if at_best:
        options["batch_size"] = 16
        texts = sorted(texts, key=len)
    started = time.perf_counter()
    classify(texts, **options)
    return time.perf_counter() - started


if __name__ == "__main__":
    run_script(main)
