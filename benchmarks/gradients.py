"""How far gradients in bfloat16 are from those in float32, plain and with the fast path.

At fixed weights, the gradient of each step's rows is computed by transformers' own modules in
float32, by them in bfloat16, and by the fast path without and with compiled operators. Without
dropout, the distance from float32 is rounding. Where rounding has no direction, it cancels: the
mean over N steps is then as far from the one in float32 as N independent errors leave it, and no
further. A distance beyond that is a bias, which a training would follow.

With dropout, the gradient of a few rows is drawn many times. If a way's dropout is as good as
torch's in float32, then its draws have the same mean, up to chance, and the same variance, and
consecutive draws are not correlated. Masks that were alike between rows, layers or steps would show
in the variance.

The table of word embeddings is left out: the fast path never has its gradient in one piece.

Needs BERTFIT_DATA, and a processor with AVX512-BF16 or AMX for the compiled operators.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from record import write_result
from reviews import LABEL_NAMES, label_ids_of, read_reviews
from script import add_output, run_script
from transformers import PreTrainedModel
from transformers.utils import logging

from bertfit.config import TrainSettings
from bertfit.data.batching import plan_epoch
from bertfit.data.encoding import EncodingRule, encode_texts
from bertfit.modeling.allocation import keep_freed_memory
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.operators.loading import forget_operators, load_operators
from bertfit.modeling.precision import Precision, choose_precision
from bertfit.modeling.tokenizer_files import fast_tokenizer
from bertfit.training.loop import TrainingData, accumulate_gradients
from bertfit.training.weights import TrainedWeights

_Gradient = Mapping[str, torch.Tensor]
WAYS = {
    "plain": ("off", False),
    "fast in Python": ("auto", False),
    "fast": ("auto", True),
}
"""In bfloat16: `fast_path`, and whether with compiled operators."""
_MAX_TOKENS = 8192


def main() -> None:
    arguments = parse_arguments()
    logging.disable_progress_bar()
    loaded = load_classifier(arguments.model, LABEL_NAMES)
    without = load_classifier(arguments.model, LABEL_NAMES, dropout=0.0)
    rows = read_reviews("train", num_rows=arguments.rows, seed=arguments.seed)
    rule = EncodingRule(max_length=arguments.max_length)
    encoded = encode_texts(rows.texts, fast_tokenizer(loaded.tokenizer), rule)
    pad_id = loaded.tokenizer.pad_token_id or 0
    data = TrainingData(encoded, np.array(label_ids_of(rows)), pad_id)
    steps = plan_epoch(encoded.lengths, arguments.batch_size, seed=arguments.seed, epoch=0)
    operators = load_operators(build=True)
    print(f"Compiled operators: {operators.reason}", flush=True)
    torch.manual_seed(arguments.seed)
    with keep_freed_memory():  # as in a training
        rounding = measure_rounding(without.model, data, steps[: arguments.steps])
        drawn = steps[0][: arguments.drawn_rows]
        dropout = measure_dropout(loaded.model, data, drawn, num_draws=arguments.draws)
    write_result(
        "gradients",
        {
            "operators": operators.reason,
            "batch_size": arguments.batch_size,
            "max_length": arguments.max_length,
            "num_steps": min(arguments.steps, len(steps)),
            "num_draws": arguments.draws,
            "num_drawn_rows": arguments.drawn_rows,
            "rounding": rounding,
            "dropout": dropout,
        },
        output=arguments.output,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded", help="Model or run (the embedded model).")
    parser.add_argument("--rows", type=int, default=6400, help="Reviews to draw from (6400).")
    parser.add_argument("--batch-size", type=int, default=32, help="Rows of a step (32).")
    parser.add_argument("--max-length", type=int, default=128, help="Tokens per review (128).")
    parser.add_argument("--steps", type=int, default=50, help="Steps without dropout (50).")
    parser.add_argument("--draws", type=int, default=200, help="Draws with dropout (200).")
    parser.add_argument("--drawn-rows", type=int, default=8, help="Rows of each draw (8).")
    parser.add_argument("--seed", type=int, default=0, help="Of the rows and of dropout (0).")
    add_output(parser)
    arguments = parser.parse_args()
    if arguments.steps < 1 or arguments.draws < 2:
        parser.error("it takes at least 1 step and 2 draws: a variance needs two")
    return arguments


def measure_rounding(
    model: PreTrainedModel, data: TrainingData, steps: Sequence[np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Return, for each way and kind of weight, errors of a model without dropout."""
    exact = make_gradient_of(model, "off", dtype="float32")
    ways = make_ways(model)
    truth = Moments()
    errors = {way: Moments() for way in ways}
    products: dict[str, dict[str, float]] = {way: {} for way in ways}
    for indices in steps:
        right = exact(data, indices)
        truth.add(right)
        for way, gradient_of in ways.items():
            found = gradient_of(data, indices)
            errors[way].add({name: found[name] - value for name, value in right.items()})
            for name, value in right.items():
                product = float((found[name] * value).sum())
                products[way][name] = products[way].get(name, 0.0) + product
    measured: dict[str, dict[str, Any]] = {}
    for way, error in errors.items():
        measured[way] = {
            kind: _describe_error(error, truth, products[way], names)
            for kind, names in group_names(list(truth.sums)).items()
        }
        print(f"{way}, without dropout, less float32:")
        print_table(measured[way])
    return measured


def _describe_error(
    error: Moments, truth: Moments, products: Mapping[str, float], names: Sequence[str]
) -> dict[str, float]:
    size = truth.square_sum(names) ** 0.5
    norm = truth.mean_square(names) ** 0.5
    return {
        "error": error.square_sum(names) ** 0.5 / size,
        "error_of_mean": error.mean_square(names) ** 0.5 / norm,
        "by_chance": error.square_sum(names) ** 0.5 / error.count / norm,
        "scale": sum(products[name] for name in names) / size**2,
    }


def measure_dropout(
    model: PreTrainedModel, data: TrainingData, indices: np.ndarray, *, num_draws: int
) -> dict[str, dict[str, Any]]:
    """Return, for each way and each kind of weight, how its draws differ from float32's."""
    exact, truth = make_gradient_of(model, "off", dtype="float32"), Moments()
    ways = make_ways(model)
    drawn = {way: Moments() for way in ways}
    for _ in range(num_draws):
        truth.add(exact(data, indices))
        for way, gradient_of in ways.items():
            drawn[way].add(gradient_of(data, indices))
    measured: dict[str, dict[str, Any]] = {}
    for way, draws in drawn.items():
        measured[way] = {
            kind: _compare_draws(draws, truth, names)
            for kind, names in group_names(list(truth.sums)).items()
        }
        print(f"{way}, with dropout, against float32:")
        print_table(measured[way])
    return measured


def _compare_draws(draws: Moments, truth: Moments, names: Sequence[str]) -> dict[str, float]:
    by_chance = (draws.variance(names) + truth.variance(names)) / truth.count
    apart = sum(
        float((draws.sums[name] - truth.sums[name]).square().sum()) / truth.count**2
        for name in names
    )
    return {
        "difference_of_means": (apart / by_chance) ** 0.5,
        "variance": draws.variance(names) / truth.variance(names),
        "correlation": draws.correlation(names),
        "correlation_in_float32": truth.correlation(names),
    }


def print_table(measured: Mapping[str, Mapping[str, float]]) -> None:
    columns = list(next(iter(measured.values())))
    print(" " * 20 + "".join(f"{column:>24}" for column in columns))
    for kind, values in measured.items():
        print(f"{kind:20}" + "".join(f"{values[column]:24.4f}" for column in columns), flush=True)


@dataclass(slots=True)
class Moments:
    """Sums over gradients, by name of the weight, in float64."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)
    neighbours: dict[str, float] = field(default_factory=dict)
    """Inner products of each gradient with the one before."""
    first: _Gradient | None = None
    last: _Gradient | None = None
    count: int = 0

    def add(self, gradient: _Gradient) -> None:
        """Count a gradient in."""
        for name, value in gradient.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(value)
            self.sums[name] += value
            self.squares[name] = self.squares.get(name, 0.0) + float(value.square().sum())
            if self.last is not None:
                product = float((value * self.last[name]).sum())
                self.neighbours[name] = self.neighbours.get(name, 0.0) + product
        self.first = self.first or gradient
        self.last = gradient
        self.count += 1

    def square_sum(self, names: Sequence[str]) -> float:
        """Return the sum of all squares."""
        return sum(self.squares[name] for name in names)

    def mean_square(self, names: Sequence[str]) -> float:
        """Return the squared norm of the mean gradient."""
        return sum(float((self.sums[name] / self.count).square().sum()) for name in names)

    def variance(self, names: Sequence[str]) -> float:
        """Return the total variance over the weights' numbers."""
        spread = self.square_sum(names) - self.count * self.mean_square(names)
        return spread / (self.count - 1)

    def correlation(self, names: Sequence[str]) -> float:
        """Return that of consecutive gradients, 0 expected up to about -1 / count."""
        assert self.first is not None
        assert self.last is not None
        covered = 0.0
        for name in names:
            mean = self.sums[name] / self.count
            ends = 2 * self.sums[name] - self.first[name] - self.last[name]
            middle = (self.count - 1) * float(mean.square().sum()) - float((mean * ends).sum())
            covered += self.neighbours[name] + middle
        return covered / (self.count - 1) / self.variance(names)


def group_names(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of weights by kind, and all of them."""
    groups: dict[str, list[str]] = {"all": list(names)}
    for name in names:
        groups.setdefault(name_kind(name), []).append(name)
    return groups


def name_kind(name: str) -> str:
    """Return the kind of a weight of BERT.

    Example:
        >>> name_kind("bert.encoder.layer.0.attention.self.query.weight")
        'attention weights'
    """
    if name.startswith("classifier") or "pooler" in name:
        return "head"
    if "LayerNorm" in name:
        return "norms"
    if "embeddings" in name:
        return "embeddings"
    what = "attention" if "attention" in name else "feed-forward"
    return f"{what} {'biases' if name.endswith('bias') else 'weights'}"


_GradientOf = Callable[[TrainingData, np.ndarray], _Gradient]


def make_ways(model: PreTrainedModel) -> dict[str, _GradientOf]:
    """Return what computes the gradient in each way."""
    return {
        way: make_gradient_of(model, fast_path, dtype="bfloat16", with_operators=with_operators)
        for way, (fast_path, with_operators) in WAYS.items()
    }


def make_gradient_of(
    model: PreTrainedModel, fast_path: str, *, dtype: str, with_operators: bool = False
) -> _GradientOf:
    """Return what computes the gradient of a step's mean loss, by name of the weight."""
    copied = copy.deepcopy(model)
    copied.get_input_embeddings().weight.requires_grad = False
    precision: Precision = choose_precision("cpu", dtype)  # type: ignore[arg-type]  # one of Dtype
    if fast_path == "auto":
        plug_in(copied, precision.device)
    settings = TrainSettings(fast_path=fast_path)  # type: ignore[arg-type]  # "auto" or "off"
    weights = TrainedWeights(copied, settings, precision)
    weights.working.train()

    def compute(data: TrainingData, indices: np.ndarray) -> _Gradient:
        if with_operators:
            load_operators(build=True)
        else:
            forget_operators()
        accumulate_gradients(
            weights.working, data, indices, precision=precision, max_tokens=_MAX_TOKENS
        )
        found = {
            name: parameter.grad.double()
            for name, parameter in copied.named_parameters()
            if parameter.grad is not None
        }
        weights.drop_gradients()
        return found

    return compute


if __name__ == "__main__":
    run_script(main)
