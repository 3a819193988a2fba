"""Plot the history, the confusion matrix and the text lengths of a run.

Owns their appearance. Computes no score, writes no file and has no global state: each function
draws on the given axes, or on a new figure, and returns the figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from bertfit.errors import DataError
from bertfit.reporting.short_names import shorten_apart
from bertfit.reporting.templating import replace_unseen
from bertfit.reporting.text import format_percent
from bertfit.wording import format_count, format_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

TRAIN_COLOR = "#8a9ba8"
VALIDATION_COLOR = "#1f5fa8"
TRUNCATED_COLOR = "#c8553d"
GRID_COLOR = "#e3e6e8"
MAX_COUNTED_CLASSES = 12
"""Maximum number of classes for which a confusion plot shows the counts."""

_LOSS_CURVES = {
    "train_losses": ("training", TRAIN_COLOR, "-o"),
    "val_losses": ("validation", VALIDATION_COLOR, "-o"),
}
_SCORE_CURVES = {
    "train_acc": ("training accuracy", TRAIN_COLOR, "-o"),
    "train_f1": ("training macro F1", TRAIN_COLOR, "--s"),
    "val_acc": ("validation accuracy", VALIDATION_COLOR, "-o"),
    "val_f1": ("validation macro F1", VALIDATION_COLOR, "--s"),
}


def plot_history(
    history: Mapping[str, Sequence[float | None]],
    *,
    best_epoch: int | None = None,
    axes: tuple[Axes, Axes] | None = None,
) -> Figure:
    """Plot loss (left), accuracy and macro F1 (right) over the epochs.

    Args:
        history: Lists with one number per epoch, under any of train_losses, val_losses (nats),
            train_acc, val_acc, train_f1, val_f1 (shares in [0, 1]); None leaves a gap.
        best_epoch: The 1-based epoch to mark.
        axes: Axes for the loss and the scores; None makes a new figure.
    """
    loss_ax, score_ax = axes or new_axes(2, size=(9.0, 3.6))
    _plot_curves(loss_ax, history, _LOSS_CURVES)
    loss_ax.set(title="Loss", xlabel="epoch", ylabel="nats per row")
    _plot_curves(score_ax, history, _SCORE_CURVES, scale=100.0)
    score_ax.set(title="Accuracy and macro F1", xlabel="epoch", ylabel="%")
    for ax in (loss_ax, score_ax):
        _mark_best_epoch(ax, best_epoch)
        if ax.lines:  # below the axes: inside, it would cover the curves of a short training
            below = (0.5, -0.18)
            ax.legend(
                frameon=False,
                fontsize=8,
                ncols=2,
                loc="upper center",
                bbox_to_anchor=below,
                handlelength=4,  # long enough to tell dashes from a line
            )
    return figure_of(loss_ax)


def plot_confusion(
    confusion: ArrayLike, label_names: Sequence[str], *, ax: Axes | None = None
) -> Figure:
    """Plot a confusion matrix, shaded by the share of each true class.

    Args:
        confusion: (C, C) counts; row = true class, column = predicted class.
        label_names: The C names.
        ax: Axes to draw on; None makes a new figure.

    Raises:
        DataError: The matrix is not square, or there is not one name per class.
    """
    counts = np.asarray(confusion)
    num_labels = len(label_names)
    if counts.shape != (num_labels, num_labels):
        message = f"expected a square of {num_labels} named classes, got shape {counts.shape}"
        raise DataError(message)
    if ax is None:
        side = min(3.2 + 0.55 * num_labels, 11.0)
        (ax,) = new_axes(1, size=(side + 1.2, side), layout="compressed")
    shares = share_rows(counts)
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    colorbar = figure_of(ax).colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    colorbar.set_label("share of the true class", fontsize=8)
    colorbar.ax.tick_params(labelsize=8)
    colorbar.outline.set_visible(False)
    _name_classes(ax, label_names)
    if num_labels <= MAX_COUNTED_CLASSES:
        _write_counts(ax, counts, shares)
    return figure_of(ax)


def share_rows(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each cell's share of its true class, (C, C); 0 for classes without rows."""
    shares: NDArray[np.float64] = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return shares


def plot_token_lengths(
    lengths: ArrayLike, max_length: int | None, *, ax: Axes | None = None
) -> Figure:
    """Plot the lengths of texts, and the share that is truncated at `max_length`.

    The longest 0.5 % are counted in the last bar, so that one huge text does not hide the rest.

    Args:
        lengths: (n,) tokens of each text before truncation, including special tokens.
        max_length: Maximum number of tokens; None if nothing is truncated.
        ax: Axes to draw on; None makes a new figure.

    Raises:
        DataError: There are no texts.
    """
    lengths = np.asarray(lengths)
    if lengths.size == 0:
        message = "expected the length of at least one text, got none"
        raise DataError(message)
    if ax is None:
        (ax,) = new_axes(1, size=(7.0, 3.4))
    num_texts = format_count(lengths.size, "text")
    share = 0.0 if max_length is None else float((lengths > max_length).mean())
    _plot_bars(ax, lengths, longest_read=max_length if share else None)
    if max_length is None:
        ax.set_title(f"Tokens per text, {num_texts}")
    elif not share:  # a limit far beyond the longest text would leave little room for the bars
        ax.set_title(f"None of {num_texts} is longer than {max_length:,} tokens")
    else:
        told = format_share(share).capitalize()
        ax.set_title(f"{told} of {num_texts} are longer than {max_length:,} tokens")
        ax.axvline(max_length, color=TRUNCATED_COLOR, linewidth=1.2)
    return figure_of(ax)


def new_axes(
    num_axes: int,
    *,
    size: tuple[float, float],
    layout: Literal["constrained", "compressed"] = "constrained",
) -> tuple[Axes, ...]:
    """Return axes side by side on a new figure; use "compressed" for images of fixed aspect."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=120, layout=layout)
    axes = tuple(figure.subplots(1, num_axes, squeeze=False)[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.title.set_fontsize(11)
    return axes


def figure_of(ax: Axes) -> Figure:
    """Return the figure of the axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def _plot_curves(
    ax: Axes,
    history: Mapping[str, Sequence[float | None]],
    curves: Mapping[str, tuple[str, str, str]],
    *,
    scale: float = 1.0,
) -> None:
    from matplotlib.ticker import MaxNLocator

    for key, (label, color, style) in curves.items():
        values = np.asarray(history.get(key, ()), dtype=np.float64)  # None becomes NaN, a gap
        if values.size:
            epochs = np.arange(1, values.size + 1)
            (line,) = ax.plot(epochs, scale * values, style, color=color, label=label, markersize=4)
            line.set_fillstyle("none" if style.endswith("s") else "full")  # seen on each other
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(axis="y", color=GRID_COLOR)
    ax.set_axisbelow(True)


def _mark_best_epoch(ax: Axes, best_epoch: int | None) -> None:
    if best_epoch is not None:
        label = f"best epoch ({best_epoch})"
        ax.axvline(best_epoch, color="black", linestyle=":", linewidth=1, label=label)


def _name_classes(ax: Axes, label_names: Sequence[str]) -> None:
    size = 9.0 if len(label_names) <= MAX_COUNTED_CLASSES else max(4.0, 9 - len(label_names) / 12)
    seen = [replace_unseen(name) for name in label_names]
    short = shorten_apart(seen, 24)  # as in the page
    names = [short[name] for name in seen]
    is_short = max(map(len, names)) * len(names) <= 24
    rotation = 0 if is_short else 90
    # Dollar signs in names do not delimit formulas.
    ax.set_xticks(range(len(names)), names, fontsize=size, rotation=rotation, parse_math=False)
    ax.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _write_counts(ax: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        share = float(shares[row, column])
        told = format_percent(share) if counts[row].any() else "–"
        ax.text(
            column,
            row,
            f"{count:,}\n{told}",
            ha="center",
            va="center",
            fontsize=9 if len(counts) <= 4 else 7.5,
            color="white" if share > 0.5 else "#111111",
        )


def _plot_bars(ax: Axes, lengths: NDArray[np.int64], *, longest_read: int | None) -> None:
    from matplotlib.ticker import MaxNLocator

    edges = _choose_edges(lengths, longest_read)
    counts, _ = np.histogram(np.minimum(lengths, edges[-1] - 1), bins=edges)
    is_cut = edges[:-1] > (np.inf if longest_read is None else longest_read)
    colors = np.where(is_cut, TRUNCATED_COLOR, VALIDATION_COLOR)
    width = edges[1] - edges[0]
    ax.bar(edges[:-1] - 0.5, counts, width=0.9 * width, align="edge", color=colors)
    ax.set_xlim(left=0)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    is_clipped = bool((lengths >= edges[-1]).any())
    note = " (the last bar: this many or more)" if is_clipped else ""
    ax.set(xlabel=f"tokens per text{note}", ylabel="texts")


def _choose_edges(lengths: NDArray[np.int64], longest_read: int | None) -> NDArray[np.int64]:
    """Return edges of about 60 bars with integer widths; one edge is right after `longest_read`."""
    end = int(np.ceil(max(np.quantile(lengths, 0.995), 1.1 * (longest_read or 0)))) + 1
    width = max(1, round(end / 60))
    offset = 0 if longest_read is None else (longest_read + 1) % width
    return np.arange(offset - width if offset else 0, end + width, width)
