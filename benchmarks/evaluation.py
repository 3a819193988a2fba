"""What evaluation costs besides scoring: each of its steps on 25,000 rows.

Probabilities are synthetic: a model that is right in about nine rows of ten, and overconfident. The
rows come in groups of seven, as the reviews of a film do. Baselines are not included: they are
models of their own, fitted once and kept in the run; `baselines.json` has their seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from record import summarize, write_result
from script import add_output, run_script

from bertfit.evaluation.calibration import score_confidence
from bertfit.evaluation.comparison import compare_predictions
from bertfit.evaluation.curves import (
    precision_recall_points,
    reliability_points,
    risk_coverage_points,
    roc_points,
)
from bertfit.evaluation.intervals import bootstrap_intervals
from bertfit.evaluation.metrics import score
from bertfit.evaluation.scaling_choice import choose_scaling
from bertfit.evaluation.selective import keep_curve
from bertfit.evaluation.slices import bin_numbers, score_slices
from bertfit.evaluation.suspicious import rank_suspicious_labels
from bertfit.inference.scoring import softmax

ROWS_PER_GROUP = 7


def main() -> None:
    arguments = parse_arguments()
    measured = []
    for num_labels in arguments.labels:
        seconds: dict[str, list[float]] = {}
        for _ in range(arguments.rounds):
            for name, step in list_steps(arguments.rows, num_labels).items():
                started = time.perf_counter()
                step()
                seconds.setdefault(name, []).append(time.perf_counter() - started)
        totals = [float(total) for total in np.sum(list(seconds.values()), axis=0)]
        print(f"{num_labels} classes: {summarize(totals)['median']:.1f} s for all steps")
        for name, values in seconds.items():
            print(f"  {name:24}{summarize(values)['median']:7.2f} s")
        steps = {name: summarize(values) for name, values in seconds.items()}
        measured.append({"num_labels": num_labels, "all": summarize(totals), "seconds": steps})
    write_result(
        "evaluation", {"num_rows": arguments.rows, "measured": measured}, output=arguments.output
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=25_000, help="Rows to judge (25000).")
    parser.add_argument("--labels", type=int, nargs="+", default=[2, 77], help="Classes (2 77).")
    parser.add_argument("--rounds", type=int, default=3, help="Times that all is done (3).")
    add_output(parser)
    return parser.parse_args()


def list_steps(num_rows: int, num_labels: int) -> dict[str, Callable[[], Any]]:
    """Return every step of an evaluation by name, on the same synthetic rows."""
    generator = np.random.default_rng(0)
    label_ids = generator.integers(0, num_labels, num_rows)
    logits, other_logits = (make_logits(label_ids, num_labels, generator) for _ in range(2))
    probabilities, others = softmax(logits), softmax(other_logits)
    groups = np.arange(num_rows) // ROWS_PER_GROUP
    names = [f"class {number}" for number in range(num_labels)]
    confidences = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == label_ids
    cuts = {
        "tokens": bin_numbers(generator.integers(10, 1000, num_rows).tolist()),
        "label": [names[label_id] for label_id in label_ids],
        "group": [str(group) for group in groups],
    }
    return {
        "scores": lambda: score(probabilities, label_ids, names),
        "intervals": lambda: bootstrap_intervals(probabilities, label_ids, groups=groups),
        "confidence": lambda: score_confidence(
            probabilities, label_ids, uncalibrated=others, groups=groups
        ),
        "calibration": lambda: choose_scaling(logits, label_ids, groups=groups),
        "abstaining": lambda: keep_curve(confidences, is_right),
        "slices": lambda: score_slices(is_right, cuts),
        "comparison": lambda: compare_predictions(probabilities, others, label_ids, groups=groups),
        "suspicious labels": lambda: rank_suspicious_labels(probabilities, label_ids),
        "curves": lambda: (
            roc_points(probabilities[:, 1], label_ids == 1),
            precision_recall_points(probabilities[:, 1], label_ids == 1),
            reliability_points(confidences, is_right),
            risk_coverage_points(confidences, is_right),
        ),
    }


def make_logits(
    label_ids: np.ndarray, num_labels: int, generator: np.random.Generator
) -> np.ndarray:
    """Return logits (n, C) that favour the true class, with noise."""
    logits = generator.normal(size=(len(label_ids), num_labels))
    logits[np.arange(len(label_ids)), label_ids] += 2.0 + 0.5 * np.log(num_labels)
    return 2.0 * logits


if __name__ == "__main__":
    run_script(main)
