"""A figure becomes an SVG element that can share a page with others."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from bertfit.reporting.curve_plots import (
    plot_precision_recall,
    plot_reliability,
    plot_risk_coverage,
    plot_roc,
)
from bertfit.reporting.figures import CURVE_SIZE
from bertfit.reporting.plots import new_axes, plot_confusion, plot_history, plot_token_lengths
from bertfit.reporting.svg import to_svg

POINTS = [(0.0, 0.1), (0.5, 0.8), (1.0, 1.0)]


def show(figure, name="fig-x", description="what is seen"):
    return to_svg(figure, name=name, title="Title", description=description)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot_roc(POINTS, operating=(0.2, 0.7)),
        lambda: plot_precision_recall(POINTS, positive_share=0.4),
        lambda: plot_reliability(POINTS),
        lambda: plot_reliability([(0.9, 1.0)], before=[(0.7, 0.4)]),
        lambda: plot_risk_coverage(POINTS),
        lambda: plot_risk_coverage([(1.0, 0.0)]),
        lambda: plot_history({"train_losses": [0.5, 0.4]}),
        lambda: plot_token_lengths([3, 5, 9], 4),
    ],
    ids=["roc", "pr", "reliable", "before", "risk", "risk of one", "history", "lengths"],
)
def test_all_ids_are_the_figures_own_and_all_references_meet(draw):
    svg = show(draw())
    ids = re.findall(r' id="([^"]*)"', svg)
    assert len(ids) == len(set(ids))
    assert all(name.startswith("fig-x-") for name in ids)
    references = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)
    assert {a or b for a, b in references} <= set(ids)
    assert "http" not in svg.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_the_element_says_what_is_to_be_seen():
    root = ET.fromstring(show(plot_roc(POINTS), description="a <steep> curve\x00"))  # noqa: S314 (our own)
    assert root.get("role") == "img"
    assert [(child.tag, child.text) for child in root][:2] == [
        ("title", "Title"),
        ("desc", "a <steep> curve\ufffd"),
    ]


def test_colours_are_the_pages_and_text_stays_text():
    svg = show(plot_reliability(POINTS, before=POINTS))
    assert "var(--accent)" in svg
    assert "#1f5fa8" not in svg
    assert ">mean confidence</text>" in svg
    assert "<style" not in svg


def test_the_name_of_an_axis_is_within_the_figure():
    """Ticks with more digits, in axes made smaller for other ticks, pushed it over the edge."""
    (loss_ax,), (score_ax,) = (new_axes(1, size=CURVE_SIZE) for _ in range(2))
    history = {"train_losses": [0.6727], "val_losses": [0.6349]}
    svg = show(plot_history(history, best_epoch=1, axes=(loss_ax, score_ax)))
    (size, baseline), *others = re.findall(
        r"font-size: (\d+)px[^>]*rotate\(-90 ([\d.]+) [^>]*>nats per row", svg
    )
    assert not others
    assert float(baseline) >= float(size)  # letters stand on their baseline, turned to the left


def test_names_that_xml_or_the_font_does_not_know_are_drawn():
    svg = show(plot_confusion([[1, 0], [0, 1]], ["a\x07<b>", "日本 $x$"]))
    assert "a\ufffd&lt;b&gt;" in svg
    assert "日本 $x$" in svg


def test_the_same_figure_gives_the_same_bytes():
    assert show(plot_roc(POINTS)) == show(plot_roc(POINTS))
