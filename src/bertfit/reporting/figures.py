"""Draw the figures of a report that a run has data for, and write their captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.reporting.curve_plots import (
    CURVE_SIZE,
    plot_precision_recall,
    plot_reliability,
    plot_risk_coverage,
    plot_roc,
)
from bertfit.reporting.plots import (
    MAX_COUNTED_CLASSES,
    figure_of,
    new_axes,
    plot_history,
    plot_token_lengths,
    share_rows,
)
from bertfit.reporting.svg import to_svg, usual_matplotlib
from bertfit.reporting.text import format_percent
from bertfit.wording import format_count, format_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class DrawnFigure:
    """A figure of the page."""

    svg: str
    """An SVG element, trusted."""
    caption: str
    """A description, not escaped."""


NAMES = (
    "history_loss",
    "history_accuracy",
    "confusion",
    "roc",
    "precision_recall",
    "reliability",
    "risk_coverage",
    "lengths",
)
"""Names of all figures."""
_MAP_SIZE = (4.8, 4.8)
"""Inches; the page shows it at most 1.4 times as wide, and a phone 0.7 times."""
_RIGHT_COLOR, _WRONG_COLOR = (0.227, 0.482, 0.784), (0.820, 0.318, 0.220)
"""Red, green and blue in [0, 1]; visible on white and on black."""


def _show(figure: Figure, name: str, title: str, caption: str) -> DrawnFigure:
    """Return a figure of the page, whose caption is its alternative text, too."""
    return DrawnFigure(
        to_svg(figure, name=f"fig-{name}", title=title, description=caption), caption
    )


def draw_figures(facts: Mapping[str, Any]) -> dict[str, DrawnFigure | None]:
    """Return every figure by name; None if the facts for it are missing."""
    with usual_matplotlib():
        return {
            **dict.fromkeys(NAMES),
            **_draw_history(facts),
            **_draw_confusion(facts),
            **_draw_curves(facts),
            **_draw_lengths(facts),
        }


def _draw_history(facts: Mapping[str, Any]) -> dict[str, DrawnFigure]:
    history = facts["history"]
    if not history or not any(history.values()):
        return {}
    training = facts["record"].get("training") or {}
    best, unfinished = training.get("best_epoch"), training.get("unfinished_epoch")
    (loss_ax,), (score_ax,) = (new_axes(1, size=CURVE_SIZE) for _ in range(2))
    plot_history(history, best_epoch=best, axes=(loss_ax, score_ax))
    kept = f" Epoch {best} was kept." if best else ""
    if unfinished:
        kept += f" The last epoch ended after {format_steps(*unfinished)}."
    drawn = {}
    for name, title, ax, show, kinds in (
        ("loss", "Loss", loss_ax, "{:.4f}".format, {"losses": ""}),
        (
            "accuracy",
            "Accuracy and macro F1",
            score_ax,
            format_percent,
            {"acc": " accuracy", "f1": " macro F1"},
        ),
    ):
        told = [
            f"{part}{kind} {_tell_ends(list(map(show, values)))}"
            for key, kind in kinds.items()
            for part, values in _known_curves(history, key)
        ]
        caption = f"{title}: {'; '.join(told)}.{kept}"
        figure = figure_of(ax)
        drawn[f"history_{name}"] = _show(figure, f"history-{name}", f"{title} by epoch", caption)
    return drawn


def _tell_ends(shown: Sequence[str]) -> str:
    last = f", {shown[-1]} after epoch {len(shown)}" if len(shown) > 1 else ""
    return f"{shown[0]} after epoch 1{last}"


def _known_curves(
    history: Mapping[str, Sequence[float | None]], key: str
) -> list[tuple[str, list[float]]]:
    names = {"training": f"train_{key}", "validation": f"val_{key}"}
    curves = [(title, history.get(name) or []) for title, name in names.items()]
    return [
        (title, [value for value in values if value is not None])
        for title, values in curves
        if values and None not in values
    ]


def _draw_confusion(facts: Mapping[str, Any]) -> dict[str, DrawnFigure]:
    """Draw the confusion matrix if there are too many classes for a table."""
    confusion = (facts["judged"] or {}).get("confusion")
    names = facts["label_names"]
    if confusion is None or len(names) <= MAX_COUNTED_CLASSES:
        return {}
    (ax,) = new_axes(1, size=_MAP_SIZE, layout="compressed")
    shares = share_rows(np.asarray(confusion))
    colors = np.empty((*shares.shape, 4))
    colors[..., :3] = _WRONG_COLOR
    np.einsum("iij->ij", colors)[:, :3] = _RIGHT_COLOR
    # Transparent to the background of the page; the root makes small shares visible.
    colors[..., 3] = np.sqrt(shares)
    ax.imshow(colors)
    ax.set(xlabel="predicted class", ylabel="true class")
    _number_classes(ax, len(names))
    caption = (
        f"Confusion of {len(names)} classes by their numbers in the table of all classes below: "
        "true class down, predicted class across; the stronger the colour, the larger the share of "
        "the true class. Blue, on the diagonal, is right; red is wrong."
    )
    return {"confusion": _show(figure_of(ax), "confusion", "Confusion matrix", caption)}


def _number_classes(ax: Axes, num_classes: int) -> None:
    """Put as many class numbers on the axes as are legible, and draw a frame."""
    places = range(0, num_classes, max(1, round(num_classes / 15)))
    numbers = [str(place + 1) for place in places]
    ax.set_xticks(places, numbers)
    ax.set_yticks(places, numbers)
    ax.spines[:].set_visible(True)


def _draw_curves(facts: Mapping[str, Any]) -> dict[str, DrawnFigure]:
    curves, judged = facts["curves"], facts["judged"]
    if curves is None:
        return {}
    has_threshold = bool(facts["record"].get("threshold"))
    drawn = {
        "reliability": _draw_reliability(curves, judged, has_threshold=has_threshold),
        "risk_coverage": _draw_risk_coverage(curves, judged),
    }
    if curves["roc"] is not None:
        at = "its threshold" if has_threshold else "a probability of 0.5"
        drawn |= _draw_binary(curves, judged, positive=facts["label_names"][1], at=at)
    return drawn


def _draw_binary(
    curves: Mapping[str, Any], judged: Mapping[str, Any], *, positive: str, at: str
) -> dict[str, DrawnFigure]:
    (right_negative, false_positive), _ = judged["confusion"]
    rates = judged["per_class"][positive]
    false_rate = false_positive / max(right_negative + false_positive, 1)
    auroc = judged.get("auroc")
    area = f" Area under the curve: {auroc:.4f}." if auroc is not None else ""
    roc_caption = (
        f"ROC: as it answers (at {at}), the model finds {format_percent(rates['recall'])} of the "
        f"rows of {positive} and mistakes {format_percent(false_rate)} of the other rows for it."
        f"{area}"
    )
    pr_caption = (
        f"Precision and recall of {positive}: as the model answers (at {at}), precision "
        f"{format_percent(rates['precision'])} at recall {format_percent(rates['recall'])}; "
        f"{format_percent(curves['positive_share'])} of the rows are {positive}."
    )
    roc = plot_roc(curves["roc"], operating=(false_rate, rates["recall"]))
    precision_recall = plot_precision_recall(
        curves["precision_recall"],
        positive_share=curves["positive_share"],
        operating=(rates["recall"], rates["precision"]),
    )
    return {
        "roc": _show(roc, "roc", "ROC curve", roc_caption),
        "precision_recall": _show(
            precision_recall, "precision-recall", "Precision-recall curve", pr_caption
        ),
    }


def _draw_reliability(
    curves: Mapping[str, Any], judged: Mapping[str, Any], *, has_threshold: bool
) -> DrawnFigure:
    before = curves["reliability_before"]
    confidence = judged["confidence"]
    caption = (
        "Reliability: where the line is on the diagonal, 90 % confidence means 90 % right. "
        f"Calibration error {confidence['ece']:.4f}"
    )
    if confidence.get("uncalibrated"):
        caption += f", before calibration {confidence['uncalibrated']['ece']:.4f}"
    caption += f"; chance alone gives up to {confidence['ece_noise']:.4f}."
    if has_threshold:
        caption += " It is of the most probable class, whatever the threshold."
    if before is not None and before["part"] != judged["part"]:
        caption += f" The curve before calibration is that of the {before['part']} rows."
    figure = plot_reliability(
        curves["reliability"], before=None if before is None else before["points"]
    )
    return _show(figure, "reliability", "Reliability", caption)


def _draw_risk_coverage(curves: Mapping[str, Any], judged: Mapping[str, Any]) -> DrawnFigure:
    points = np.asarray(curves["risk_coverage"])
    at_80 = points[np.abs(points[:, 0] - 0.8).argmin()]
    caption = (
        f"Risk and coverage: of all rows, {format_percent(points[-1, 1])} are wrong; of the most "
        f"confident {100 * at_80[0]:.0f} %, {format_percent(at_80[1])}. Area under the curve: "
        f"{judged['confidence']['aurc']:.4f}."
    )
    figure = plot_risk_coverage(curves["risk_coverage"])
    return _show(figure, "risk-coverage", "Risk-coverage curve", caption)


def _draw_lengths(facts: Mapping[str, Any]) -> dict[str, DrawnFigure]:
    found = facts["lengths"]
    if found is None or not found["counts"]:
        return {}
    values, counts = np.asarray(found["counts"], dtype=np.int64).T
    lengths, limit = np.repeat(values, counts), found["max_length"]
    (ax,) = new_axes(1, size=(4.8, 2.9))
    figure = plot_token_lengths(lengths, limit, ax=ax)
    part = {"train": "training"}.get(found["part"], found["part"])
    caption = (
        f"Lengths of {len(lengths):,} {part} rows in tokens: median {np.median(lengths):,.0f}, "
        f"longest {lengths.max():,}."
    )
    if limit is not None:
        num_cut = int((lengths > limit).sum())
        are = "is" if num_cut == 1 else "are"
        caption += (
            f" The model reads {limit:,}; {format_count(num_cut, 'row')} {are} longer, and cut."
        )
    return {"lengths": _show(figure, "lengths", "Lengths of texts", caption)}
