"""Calibrates a trained model's confidence: scaling, threshold, and the effect of abstaining.

Everything is fitted on the validation rows, never on the test rows, in one scoring pass. The
scaling is folded into the weights, which are then rewritten.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bertfit.config import TrainSettings
from bertfit.errors import ConfigError, DataError
from bertfit.evaluation.calibration import score_calibration
from bertfit.evaluation.scaling import no_scaling
from bertfit.evaluation.scaling_choice import ScalingChoice, choose_scaling
from bertfit.evaluation.selective import SelectiveCurve, keep_curve
from bertfit.evaluation.thresholds import Threshold, choose_threshold, decide
from bertfit.inference.confidence import ConfidenceRules, UncalibratedLayer
from bertfit.inference.predictor import TextClassifier
from bertfit.inference.scoring import softmax
from bertfit.modeling.calibration_folding import (
    find_logit_layer,
    fold_scaling,
    has_bias,
    read_layer,
    widened,
)
from bertfit.modeling.saving import save_model
from bertfit.progress import Listener
from bertfit.reporting.confidence import describe_hope, name_scaling
from bertfit.reporting.text import format_number_with_interval
from bertfit.threshold_aim import parse_threshold_aim
from bertfit.training.interruption import FirstInterrupt, Interruption
from bertfit.wording import format_count, list_some
from bertfit.workflow.preparing import PreparedModel
from bertfit.workflow.rows import PreparedRows

_MAX_FEATURES = 2**25
"""With more numbers (rows times inputs of the last layer) than this, no cubic is tried."""
_FEW_ROWS = 20
"""With fewer rows of a class, a threshold is a guess."""
_ASKED_FOR = "asked for"
_NO_LAYER = "no linear layer gives this model's logits, so none can carry a calibration"


@dataclass(frozen=True, slots=True)
class LearnedConfidence:
    """What was fitted on the validation rows."""

    choice: ScalingChoice
    layer: str | None
    """Name of the layer that the scaling is folded into."""
    logits: np.ndarray
    """(n, C) of the validation rows, before scaling."""
    label_ids: np.ndarray
    """(n,) their classes."""
    probabilities: np.ndarray
    """(n, C) after scaling."""
    threshold: Threshold | None
    curve: SelectiveCurve
    groups: np.ndarray | None
    """(n,) group of each row, or None."""


def refuse_impossible_aim(settings: TrainSettings, label_names: tuple[str, ...]) -> None:
    """Refuse a threshold for more than two classes, before anything is trained.

    Raises:
        ConfigError: There is an aim, and there are not two classes.
    """
    if settings.threshold_aim is not None and len(label_names) != 2:
        raise ConfigError(
            f"threshold_aim: a threshold decides between two classes, the data has "
            f"{len(label_names)}: {list_some(label_names, 10)}",
            hint="Leave threshold_aim out; the most probable class is then answered.",
        )


def calibrate(
    rows: PreparedRows,
    model: PreparedModel,
    *,
    settings: TrainSettings,
    folder: Path,
    listener: Listener,
    interruption: Interruption,
) -> LearnedConfidence | None:
    """Calibrate the kept model on the validation rows, and rewrite its weights.

    The first Ctrl-C skips this; the model then stays as it was trained.

    Args:
        rows: The validation rows of these are scored.
        model: The kept model, which is changed in place.
        settings: `calibration`, `threshold_aim` and `seed` are read.
        folder: Folder of the model's weights.
        listener: Receives notes.
        interruption: If an end was requested earlier, the model is calibrated all the same.

    Returns:
        What was fitted, with the probabilities of the validation rows; None after Ctrl-C.
    """
    classifier = model.classifier
    try:
        with interruption.raise_first():
            learned = _learn(rows, model, settings=settings, listener=listener)
    except FirstInterrupt:
        listener.note("Interrupted: the model's confidence was not calibrated.")
        return None
    scaling = learned.choice.scaling
    # From here on the first Ctrl-C waits: half-folded or half-written weights would be lost.
    uncalibrated = _fold(learned, classifier, folder)
    classifier.confidence = ConfidenceRules(
        scaling=None if scaling.kind == "none" else scaling,
        threshold=learned.threshold.value if learned.threshold else None,
        uncalibrated=uncalibrated,
        curve=learned.curve,
    )
    _note_calibration(learned, listener)
    if learned.threshold is not None:
        _note_threshold(learned.threshold, rows.label_names[1], listener)
        _warn_of_threshold(learned, learned.threshold, rows.label_names, listener)
    return learned


def _fold(
    learned: LearnedConfidence, classifier: TextClassifier, folder: Path
) -> UncalibratedLayer | None:
    """Fold the scaling into model and folder; for a cubic, return the layer as it was."""
    scaling, model = learned.choice.scaling, classifier.model
    if learned.layer is None or scaling.kind == "none":
        return None
    before, added = None, None
    if scaling.readout is not None:
        before = UncalibratedLayer(learned.layer, *read_layer(model, learned.layer))
        before.save(folder)
        added = (scaling.readout.weight, scaling.readout.bias)
    fold_scaling(
        model,
        learned.layer,
        weights=scaling.weights,
        biases=scaling.biases,
        added=added,
    )
    save_model(classifier.model, folder)
    return before


def record_confidence(learned: LearnedConfidence | None) -> dict[str, Any]:
    """Return the entries calibration, threshold and selective of bertfit.json."""
    if learned is None:
        return {"calibration": None, "threshold": None, "selective": None}
    return {
        "calibration": _describe_calibration(learned),
        "threshold": learned.threshold.to_json() if learned.threshold else None,
        "selective": learned.curve.to_json(),
    }


def _learn(
    rows: PreparedRows, model: PreparedModel, *, settings: TrainSettings, listener: Listener
) -> LearnedConfidence:
    groups = rows.validation.known_groups
    layer = None
    if settings.calibration != "none":
        first_text = model.validation.encoded.gather(np.arange(1))
        layer = find_logit_layer(model.classifier.model, first_text)
    logits, features = _score(model, layer, settings=settings, listener=listener)
    label_ids = model.validation.label_ids
    choice = _choose(model, (logits, features), layer, groups, settings=settings)
    probabilities = softmax(choice.scaling.apply(logits, features))
    threshold = _choose_threshold(probabilities, label_ids, settings.threshold_aim, listener)
    answered = decide(probabilities, threshold.value if threshold else None)
    confidences = probabilities[np.arange(len(answered)), answered]
    return LearnedConfidence(
        choice=choice,
        layer=layer if choice.scaling.kind != "none" else None,
        logits=logits,
        label_ids=label_ids,
        probabilities=probabilities,
        threshold=threshold,
        curve=keep_curve(confidences, answered == label_ids),
        groups=groups,
    )


def _score(
    model: PreparedModel, layer: str | None, *, settings: TrainSettings, listener: Listener
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return logits (n, C) of the validation rows, and the layer's inputs (n, D) if needed."""
    classifier, encoded = model.classifier, model.validation.encoded

    def score() -> np.ndarray:
        return classifier.score_logits(
            encoded, on_progress=partial(listener.progress, "calibrating")
        )

    if layer is None or settings.calibration != "auto":
        return score(), None
    num_labels, num_features = read_layer(classifier.model, layer)[0].shape
    if len(encoded) * num_features > _MAX_FEATURES:
        return score(), None
    with widened(classifier.model, layer, np.eye(num_features), np.zeros(num_features)):
        outputs = score()
    return outputs[:, :num_labels], outputs[:, num_labels:]


def _choose(
    model: PreparedModel,
    scored: tuple[np.ndarray, np.ndarray | None],
    layer: str | None,
    groups: np.ndarray | None,
    *,
    settings: TrainSettings,
) -> ScalingChoice:
    logits, features = scored
    if layer is None:
        reason = _ASKED_FOR if settings.calibration == "none" else _NO_LAYER
        return ScalingChoice(no_scaling(logits.shape[1]), reason, len(logits), {})
    return choose_scaling(
        logits,
        model.validation.label_ids,
        features=features,
        allow_vector=settings.calibration == "auto",
        with_bias=has_bias(model.classifier.model, layer),
        groups=groups,
        seed=settings.seed,
    )


def _choose_threshold(
    probabilities: np.ndarray, label_ids: np.ndarray, aim: str | None, listener: Listener
) -> Threshold | None:
    if aim is None:
        return None
    try:
        return choose_threshold(probabilities, label_ids, aim)
    except DataError as error:
        listener.note(
            f"WARNING: threshold_aim {aim}: {error.message} on the validation rows. There is no "
            "threshold; the most probable class is answered."
        )
        return None


def _describe_calibration(learned: LearnedConfidence) -> dict[str, Any]:
    choice, scaling, label_ids = learned.choice, learned.choice.scaling, learned.label_ids
    before, after = softmax(learned.logits), learned.probabilities
    return {
        "kind": scaling.kind,
        "reason": choice.reason,
        "temperature": scaling.temperature,
        "weights": list(scaling.weights),
        "biases": list(scaling.biases),
        "cube": scaling.cube,
        "layer": learned.layer,
        "num_rows": choice.num_rows,
        "num_changed": int((before.argmax(axis=1) != after.argmax(axis=1)).sum()),
        "held_out_log_losses": choice.held_out_log_losses,
        "validation": {
            name: {
                "accuracy": float((values.argmax(axis=1) == label_ids).mean()),
                **asdict(score_calibration(values, label_ids, groups=learned.groups)),
            }
            for name, values in (("before", before), ("after", after))
        },
    }


def _note_calibration(learned: LearnedConfidence, listener: Listener) -> None:
    choice, scaling = learned.choice, learned.choice.scaling
    losses = choice.held_out_log_losses
    if scaling.kind == "none":
        if choice.reason != _ASKED_FOR:
            listener.note(f"Calibration: none; {choice.reason}.")
        return
    what = name_scaling(scaling.kind, scaling.weights)
    listener.note(
        f"Calibration: {what}, fitted on {choice.num_rows:,} validation rows and kept in the "
        f"model's weights; log loss {losses['none']:.4f} → {losses[scaling.kind]:.4f} on held-out "
        "folds of them, which chose it."
    )
    before, after = learned.logits.argmax(axis=1), learned.probabilities.argmax(axis=1)
    if (before != after).any():
        accuracies = [float((ids == learned.label_ids).mean()) for ids in (before, after)]
        listener.note(
            f"It changes {format_count(int((before != after).sum()), 'prediction')} of these rows: "
            f"accuracy {accuracies[0]:.4f} → {accuracies[1]:.4f}."
        )


def _note_threshold(threshold: Threshold, positive: str, listener: Listener) -> None:
    rates, plain = threshold.validation, threshold.undecided
    cost = f", cost {plain.cost:.4f} → {rates.cost:.4f} a row" if rates.cost is not None else ""
    listener.note(
        f"Threshold: {positive!r} is predicted at a probability of {threshold.value:.4f} or more "
        f"(aim {threshold.aim}). On the {rates.num_rows:,} validation rows that chose it: "
        f"precision {plain.precision:.4f} → "
        f"{format_number_with_interval(rates.precision, rates.precision_interval)}, "
        f"recall {plain.recall:.4f} → "
        f"{format_number_with_interval(rates.recall, rates.recall_interval)}, "
        f"F1 {plain.f1:.4f} → {rates.f1:.4f}{cost}. {describe_hope(threshold.aim)}"
    )
    listener.note(
        "transformers.pipeline does not apply the threshold; it answers the most probable class."
    )


def _warn_of_threshold(
    learned: LearnedConfidence,
    threshold: Threshold,
    label_names: tuple[str, ...],
    listener: Listener,
) -> None:
    """Warn if few rows chose the threshold, or if only one class is predicted with it."""
    counts = np.bincount(learned.label_ids, minlength=len(label_names))
    rarest = int(counts.argmin())
    if counts[rarest] < _FEW_ROWS:
        have = "has" if counts[rarest] == 1 else "have"
        listener.note(
            f"WARNING: the threshold is little more than a guess: of the validation rows "
            f"{counts[rarest]} {have} the label {label_names[rarest]!r}, fewer than {_FEW_ROWS}."
        )
    aim, num_called = parse_threshold_aim(threshold.aim), threshold.validation.num_called
    # If all of n rows are right, the interval of their share begins at about 1 - 3.7 / n.
    num_needed = 3.7 / max(1.0 - aim.rate, 1e-9)
    if aim.kind == "precision" and num_called < num_needed:
        listener.note(
            f"WARNING: the precision asked for cannot be shown: {label_names[1]!r} is predicted "
            f"for {format_count(num_called, 'validation row')}, too few for {aim.rate:g} even if "
            "all are right. Expect less, or give more validation rows."
        )
    answers = np.unique(decide(learned.probabilities, threshold.value))
    if len(answers) == 1:
        listener.note(
            f"WARNING: with this threshold {label_names[answers[0]]!r} is answered for every "
            "validation row: the aim asks for more than the model can tell apart."
        )
