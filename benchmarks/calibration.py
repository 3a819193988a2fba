"""What each form of calibration gives a finished run on its test rows (docs/decisions/0010).

The run's validation rows, identified by their line numbers, and the test rows are scored once,
without the calibration in the weights. Each form is fitted on the validation rows as `train` does,
and judged on the test rows; the one that `train` would choose is marked. This needs a run, so
`make bench` does not include it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from record import write_result
from script import add_output, run_script

from bertfit.data.dataset import Columns, TextDataset
from bertfit.data.readers import read_dataset
from bertfit.evaluation.calibration import score_calibration
from bertfit.evaluation.predictions import read_predictions
from bertfit.evaluation.scaling import Scaling, fit_cubic, fit_temperature, fit_vector, no_scaling
from bertfit.evaluation.scaling_choice import choose_scaling
from bertfit.inference.predictor import TextClassifier
from bertfit.inference.scoring import softmax
from bertfit.labels import encode_labels
from bertfit.modeling.calibration_folding import find_logit_layer, has_bias, read_layer, widened
from bertfit.run_files import VALIDATION_NAME


def main() -> None:
    arguments = parse_arguments()
    classifier = TextClassifier.load(arguments.run, dtype=arguments.dtype)
    settings = {name: entry["value"] for name, entry in classifier.record["settings"].items()}
    columns = Columns(
        text=settings["text_column"],
        label=settings["label_column"],
        group=settings["group_column"],
    )
    kept = read_predictions(arguments.run / VALIDATION_NAME, classifier.label_names)
    train, test = (read(path, columns) for path in (arguments.train, arguments.test))
    label_of_row = [classifier.label_names[label_id] for label_id in kept.label_ids]
    validation = find_rows(train, kept.lines, label_of_row)
    if validation is None:
        sys.exit(f"{arguments.train} is not the file that {arguments.run} was trained on.")
    measured = compare(classifier, validation, test, seed=settings["seed"])
    chosen = {name: settings[name] for name in ("max_length", "truncation", "epochs", "seed")}
    write_result(
        f"calibration-{arguments.run.name}",
        {"dtype": arguments.dtype, "run": chosen, **measured},
        output=arguments.output,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="A run of bertfit.")
    parser.add_argument("train", type=Path, help="The file that it was trained on.")
    parser.add_argument("test", type=Path, help="Rows to judge by.")
    parser.add_argument("--dtype", default="bfloat16", help="Type of the arithmetic (bfloat16).")
    add_output(parser)
    return parser.parse_args()


def read(path: Path, columns: Columns) -> TextDataset:
    dataset, _ = read_dataset(path, columns)
    return dataset


def find_rows(rows: TextDataset, lines: Sequence[int], labels: Sequence[str]) -> TextDataset | None:
    """Return the rows of these lines, or None if they are not there or have other labels."""
    place_of_line = {line: place for place, line in enumerate(rows.lines)}
    if not place_of_line.keys() >= set(lines):
        return None
    found = rows.select([place_of_line[line] for line in lines])
    return found if list(found.labels) == list(labels) else None


def compare(
    classifier: TextClassifier, validation: TextDataset, test: TextDataset, *, seed: int
) -> dict[str, Any]:
    """Fit each form on the validation rows, and return its scores on the test rows."""
    layer = find_logit_layer(classifier.model, classifier.encode(["a"]).gather(np.arange(1)))
    if layer is None:
        raise SystemExit("no linear layer gives this model's logits")
    logits, features = score(classifier, layer, validation)
    test_logits, test_features = score(classifier, layer, test)
    ids, test_ids = (
        np.asarray(encode_labels(part.labels, classifier.label_names))
        for part in (validation, test)
    )
    with_bias = has_bias(classifier.model, layer)
    groups = np.asarray(validation.groups) if validation.groups else None
    choice = choose_scaling(
        logits, ids, features=features, with_bias=with_bias, groups=groups, seed=seed
    )
    forms: dict[str, Scaling] = {
        "none": no_scaling(logits.shape[1]),
        "temperature": fit_temperature(logits, ids),
        "vector": fit_vector(logits, ids, with_bias=with_bias),
        "cubic": fit_cubic(logits, ids, features, with_bias=with_bias),
    }
    judged = {}
    for name, form in forms.items():
        scaled = form.apply(test_logits, test_features)
        judged[name] = {
            "accuracy": float((scaled.argmax(axis=1) == test_ids).mean()),
            "num_changed": int((scaled.argmax(axis=1) != test_logits.argmax(axis=1)).sum()),
            **asdict(score_calibration(softmax(scaled), test_ids)),
        }
        told = "  chosen" if name == choice.scaling.kind else ""
        one = judged[name]
        print(
            f"{name:12} ECE {one['ece']:.4f}, log loss {one['log_loss']:.4f}, accuracy "
            f"{one['accuracy']:.4f}, {one['num_changed']:,} predictions changed{told}"
        )
    return {
        "num_validation": len(validation),
        "num_test": len(test),
        "chosen": choice.scaling.kind,
        "held_out_log_losses": choice.held_out_log_losses,
        "test": judged,
    }


def score(
    classifier: TextClassifier, layer: str, rows: TextDataset
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (n, C) before calibration, and the inputs of their layer (n, D)."""
    num_labels, width = read_layer(classifier.model, layer)[0].shape
    with widened(classifier.model, layer, np.eye(width), np.zeros(width)):
        _, outputs = classifier.encode_and_score(rows.texts)
    logits, features = outputs[:, :num_labels], outputs[:, num_labels:]
    scaling, before = classifier.confidence.scaling, classifier.confidence.uncalibrated
    if before is not None:
        return features @ before.weight.T + before.bias, features
    return (logits if scaling is None else scaling.undo(logits)), features


if __name__ == "__main__":
    run_script(main)
