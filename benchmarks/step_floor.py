"""How close a training step is to its floor: the matrix products of its linear layers alone.

The floor is a lower bound for any program that computes these products: for each linear layer of
the encoder, the product in the forward pass and the two in the backward pass, by torch, for all
tokens, in the type used in training. The plain step computes all of them. The fast path does not:
of the last layer it computes little more than the first tokens, so with L layers its own products
are some (L - 1) / L of the floor, and its ratio may be below 1. A step is everything: forward,
backward, clipping, AdamW. All are measured in turn, in one process, on rows of equal length: with
the plain modules of transformers, and with the fast path without and with compiled operators.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import MODELS, make_model_folder
from record import summarize, write_result
from script import add_output, run_script
from transformers import PreTrainedModel
from transformers.utils import logging

from bertfit.config import TrainSettings
from bertfit.data.encoding import EncodedTexts
from bertfit.modeling.allocation import keep_freed_memory
from bertfit.modeling.classifier import find_hidden_size, load_classifier
from bertfit.modeling.fast_path import is_compiled, plug_in
from bertfit.modeling.operators.loading import forget_operators, load_operators
from bertfit.modeling.precision import Precision, choose_precision
from bertfit.training.loop import TrainingData, train_steps
from bertfit.training.token_budget import default_tokens
from bertfit.training.weights import TrainedWeights

STEPS = ("plain step", "fast step in Python", "fast step")


def main() -> None:
    arguments = parse_arguments()
    logging.disable_progress_bar()
    precision = choose_precision("cpu", arguments.dtype)
    measured = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.models:
            folder = make_model_folder(name, Path(scratch))
            print(
                f"{name}, {arguments.batch_size} rows of {arguments.length} tokens, "
                f"{precision.dtype_name}",
                flush=True,
            )
            with keep_freed_memory():  # as in a training
                measured.append({"model": name, **compare(folder, precision, arguments)})
    write_result(
        "step-floor",
        {
            "batch_size": arguments.batch_size,
            "num_tokens": arguments.length,
            "dtype": precision.dtype_name,
            "unit": "seconds a step",
            "measured": measured,
        },
        output=arguments.output,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=16, help="Rows of a step (16).")
    parser.add_argument("--length", type=int, default=128, help="Tokens of a row (128).")
    parser.add_argument("--rounds", type=int, default=7, help="Steps of each (7).")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--dtype", default="auto", help="Type of the arithmetic (auto).")
    add_output(parser)
    return parser.parse_args()


def compare(folder: Path, precision: Precision, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time plain steps, fast steps and the matrix products, in turn."""
    model = load_classifier(str(folder), ["neg", "pos"]).model
    size = {"batch_size": arguments.batch_size, "length": arguments.length}
    plain, python, fast = (
        iterate_steps(copy.deepcopy(model), precision, fast_path=way, **size)
        for way in ("off", "auto", "auto")
    )
    shapes = list_shapes(model)
    num_tokens = arguments.batch_size * arguments.length
    seconds: dict[str, list[float]] = {name: [] for name in (*STEPS, "floor")}
    for attempt in range(arguments.rounds + 1):
        forget_operators()
        times = [next(plain), next(python)]
        load_operators(build=True)
        times += [next(fast), time_products(shapes, num_tokens, precision.dtype)]
        if attempt:
            for values, value in zip(seconds.values(), times, strict=True):
                values.append(value)
    ratios = {
        name: summarize([float(r) for r in np.divide(seconds[name], seconds["floor"])])
        for name in STEPS
    }
    for name, values in seconds.items():
        ratio = f", {ratios[name]['median']:.2f} times the floor" if name in ratios else ""
        print(f"  {name:20}{summarize(values)['median'] * 1000:7.0f} ms{ratio}", flush=True)
    return {
        "seconds": {name: summarize(values) for name, values in seconds.items()},
        "ratio_to_floor": ratios,
    }


def list_shapes(model: PreTrainedModel) -> list[tuple[int, ...]]:
    """Return outputs and inputs of each linear layer that computes all tokens in the plain step."""
    encoder = model.get_submodule("bert.encoder")
    return [tuple(m.weight.shape) for m in encoder.modules() if isinstance(m, torch.nn.Linear)]


def iterate_steps(
    model: PreTrainedModel, precision: Precision, *, fast_path: str, batch_size: int, length: int
) -> Iterator[float]:
    """Yield the seconds of each training step."""
    if fast_path == "auto":
        plug_in(model, precision.device)
    generator = np.random.default_rng(0)
    token_ids = generator.integers(1000, 30_000, batch_size * length).astype(np.int32)
    offsets = np.arange(batch_size + 1, dtype=np.int64) * length
    encoded = EncodedTexts(token_ids, offsets, np.full(batch_size, length, dtype=np.int32))
    data = TrainingData(encoded, generator.integers(0, 2, batch_size), pad_id=0)
    settings = TrainSettings(fast_path=fast_path)  # type: ignore[arg-type]  # "auto" or "off"
    weights = TrainedWeights(model, settings, precision)
    for step in train_steps(
        weights,
        data,
        [[np.arange(batch_size)] * 1000],
        learning_rate=lambda _: 1e-5,
        precision=precision,
        max_tokens=default_tokens(
            find_hidden_size(model), is_compiled=is_compiled(model, precision)
        ),
    ):
        yield step.read().seconds


def time_products(shapes: list[tuple[int, ...]], num_tokens: int, dtype: torch.dtype) -> float:
    """Return the seconds of a step's matmuls: output, input gradient, weight gradient.

    Of random numbers, because processors multiply constant ones faster.
    """
    seconds = 0.0
    for outputs, inputs in shapes:
        x, w, g = (
            torch.randn(size).to(dtype)
            for size in ((num_tokens, inputs), (outputs, inputs), (num_tokens, outputs))
        )
        started = time.perf_counter()
        _ = x @ w.T
        _ = g @ w
        _ = g.T @ x
        seconds += time.perf_counter() - started
    return seconds


if __name__ == "__main__":
    run_script(main)
