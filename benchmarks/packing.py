"""Packs against padded batches on a CPU: training and scoring, in turn.

Both use the fast path. Each round runs the same steps of 16 reviews, forward and backward, and
scores all reviews, first padded, then packed. Needs BERTFIT_DATA.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from record import summarize, write_result
from reviews import read_reviews
from script import add_output, run_script
from transformers import PreTrainedModel
from transformers.utils import logging

from bertfit.assets import find_embedded_model
from bertfit.config import TrainSettings
from bertfit.data.batching import plan_epoch
from bertfit.data.encoding import EncodingRule, encode_texts
from bertfit.inference.micro_batches import TokenBudget
from bertfit.inference.scoring import score_texts
from bertfit.modeling.allocation import keep_freed_memory
from bertfit.modeling.classifier import find_hidden_size, load_classifier
from bertfit.modeling.fast_path import is_compiled, plug_in
from bertfit.modeling.operators.loading import load_operators
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import Precision, choose_precision
from bertfit.modeling.tokenizer_files import fast_tokenizer
from bertfit.training.loop import TrainingData, accumulate_within_memory
from bertfit.training.token_budget import default_tokens
from bertfit.training.weights import TrainedWeights

ROWS_OF_A_STEP, NUM_STEPS = 16, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reviews", type=int, default=400, help="Reviews (400).")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512], help="Tokens kept.")
    parser.add_argument("--rounds", type=int, default=5, help="Rounds that are counted (5).")
    add_output(parser)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    load_operators(build=True)
    texts = list(read_reviews("train", num_rows=arguments.reviews, seed=0).texts)
    measured = [
        compare(texts, choose_precision("cpu", dtype), length=length, rounds=arguments.rounds)
        for dtype in ("bfloat16", "float32")
        for length in arguments.lengths
    ]
    write_result(
        "packing",
        {
            "num_reviews": len(texts),
            "unit": "seconds",
            "measured": measured,
        },
        output=arguments.output,
    )


def compare(texts: list[str], precision: Precision, *, length: int, rounds: int) -> dict[str, Any]:
    """Time both ways in turn; the first round is a warm-up and not counted."""
    models = {way: load(precision, way) for way in ("padded", "packed")}
    tokenizer = load_classifier(str(find_embedded_model())).tokenizer
    encoded = encode_texts(texts, fast_tokenizer(tokenizer), EncodingRule(max_length=length))
    data = TrainingData(encoded, np.arange(len(texts)) % 2, pad_id=tokenizer.pad_token_id)
    tokens = default_tokens(
        find_hidden_size(models["padded"]), is_compiled=is_compiled(models["padded"], precision)
    )
    seconds: dict[str, dict[str, list[float]]] = {
        what: {way: [] for way in models} for what in ("training", "scoring")
    }
    with keep_freed_memory():
        for attempt in range(rounds + 1):
            for way, model in models.items():
                training = time_steps(model, data, precision, tokens)
                scoring = time_scoring(model, data, precision)
                if attempt:
                    seconds["training"][way].append(training)
                    seconds["scoring"][way].append(scoring)
    ratios = {
        what: summarize([float(r) for r in np.divide(of["padded"], of["packed"])])
        for what, of in seconds.items()
    }
    told = ", ".join(f"{what} at {ratio['median']:.2f}" for what, ratio in ratios.items())
    print(f"{precision.dtype_name}, {length} tokens: packs, {told} of the speed", flush=True)
    return {
        "dtype": precision.dtype_name,
        "max_length": length,
        "micro_batch_tokens": tokens,
        "seconds": {
            what: {way: summarize(values) for way, values in of.items()}
            for what, of in seconds.items()
        },
        "speed_of_packs": ratios,
    }


def load(precision: Precision, way: str) -> PreTrainedModel:
    """Return the embedded model with the fast path, for padded or packed rows."""
    model = load_classifier(str(find_embedded_model()), ["neg", "pos"]).model
    plug_in(model, precision.device)
    set_up_packing(model, precision, "on" if way == "packed" else "off")
    return model


def time_steps(
    model: PreTrainedModel, data: TrainingData, precision: Precision, tokens: int
) -> float:
    """Return the seconds of the passes of some steps; gradients are discarded."""
    steps = plan_epoch(data.encoded.lengths, ROWS_OF_A_STEP, seed=0, epoch=0)[:NUM_STEPS]
    weights = TrainedWeights(model, TrainSettings(), precision)
    weights.working.train()
    started = time.perf_counter()
    for rows in steps:
        weights.prepare(np.append(data.encoded.gather(rows), data.pad_id))
        accumulate_within_memory(
            weights, data, rows, precision=precision, budget=TokenBudget(tokens)
        )
        weights.drop_gradients()
    seconds = time.perf_counter() - started
    weights.release()
    return seconds


def time_scoring(model: PreTrainedModel, data: TrainingData, precision: Precision) -> float:
    """Return the seconds that scoring all reviews takes."""
    started = time.perf_counter()
    score_texts(model, data.encoded, precision=precision, pad_id=data.pad_id)
    return time.perf_counter() - started


if __name__ == "__main__":
    run_script(main)
