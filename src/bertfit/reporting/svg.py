"""Convert a figure to inline SVG with selectable text, the page's colours and unique ids.

Owns the changes to matplotlib's SVG that allow several figures in one page. Does not draw.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from bertfit.reporting.plots import (
    GRID_COLOR,
    TRAIN_COLOR,
    TRUNCATED_COLOR,
    VALIDATION_COLOR,
)
from bertfit.reporting.templating import replace_unseen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
_PAGE_COLORS = {
    VALIDATION_COLOR: "var(--accent)",
    TRAIN_COLOR: "var(--quiet-line)",
    TRUNCATED_COLOR: "var(--warning)",
    GRID_COLOR: "var(--rule)",
    "#000000": "currentColor",
}
_COLOR = re.compile("|".join(_PAGE_COLORS), re.IGNORECASE)
_REFERENCE = re.compile(r"url\(#")
_DROPPED = {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}


@contextlib.contextmanager
def usual_matplotlib() -> Iterator[None]:
    """Within the block, draw by matplotlib's own defaults, whatever its user has set.

    Of its warnings, that it cannot write to the user's home does not matter either.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            yield
    finally:
        logger.setLevel(level)


def to_svg(figure: Figure, *, name: str, title: str, description: str) -> str:
    """Return a figure as an SVG element for a page, with alternative text.

    Args:
        figure: The figure to convert.
        name: Prefix of all ids, unique in the page, of letters and hyphens.
        title: A short title.
        description: Alternative text for readers who cannot see the figure.
    """
    root = ET.fromstring(replace_unseen(_draw(figure)))  # noqa: S314 (just written by matplotlib)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _DROPPED]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        _settle_attributes(element, name)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    _name(root, name, title=title, description=description)
    return ET.tostring(root, encoding="unicode")


def _draw(figure: Figure) -> str:
    import matplotlib as mpl

    file = io.StringIO()
    # Keep text as text, and make the output reproducible.
    settings = mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bertfit"})
    with settings, warnings.catch_warnings():
        # Glyphs missing from matplotlib's font do not matter: the browser renders the text.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)  # with other ticks, in axes that are smaller now, again
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def _settle_attributes(element: ET.Element, name: str) -> None:
    if "id" in element.attrib:
        element.set("id", f"{name}-{element.get('id')}")
    reference = element.attrib.pop(_XLINK_HREF, None)
    if reference is not None:  # SVG 2 has href without a namespace
        is_inside = reference.startswith("#")
        element.set("href", f"#{name}-{reference[1:]}" if is_inside else reference)
    for key, value in element.items():
        if "#" in value and key not in {"href", "id"}:
            placed = _REFERENCE.sub(f"url(#{name}-", value)
            element.set(key, _COLOR.sub(lambda found: _PAGE_COLORS[found[0].lower()], placed))


def _name(root: ET.Element, name: str, *, title: str, description: str) -> None:
    texts = {"title": title, "desc": description}
    for place, (tag, text) in enumerate(texts.items()):
        element = ET.Element(tag, {"id": f"{name}-{tag}"})
        element.text = replace_unseen(text)
        root.insert(place, element)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
