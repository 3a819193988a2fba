"""Load the page templates, and define their filters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from bertfit.evaluation.interval import Interval
from bertfit.reporting.text import (
    format_p_value,
    format_percent,
    format_percent_and_ends,
)
from bertfit.word_pattern import find_cut

_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_DIRECTIONS = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$])")
_OPENING_CHARACTERS = 240


@cache
def html_templates() -> Environment:
    """Return the environment for HTML, which escapes everything not marked as trusted."""
    return _make_environment(autoescape=True)


@cache
def markdown_templates() -> Environment:
    """Return the environment for Markdown, whose templates escape names with the filter `md`."""
    return _make_environment(autoescape=False)


def read_template(name: str) -> str:
    """Return the source of a template or the style sheet."""
    file = resources.files("bertfit.reporting").joinpath("templates", name)
    return file.read_text(encoding="utf-8")


def replace_unseen(text: str) -> str:
    r"""Replace characters that are invalid in HTML and XML: controls and lone surrogates.

    Example:
        >>> replace_unseen("a\x00b\x85c\n")
        'a�b�c\n'
    """
    return _UNSEEN.sub("\ufffd", text)


def replace_directions(text: str) -> str:
    r"""Replace characters that change the direction of the text around them.

    In a command, and in a card, which is read as Markdown too, a name with one would reverse what
    follows it.

    Example:
        >>> replace_directions("a\u202eb")
        'a�b'
    """
    return _DIRECTIONS.sub("\ufffd", text)


def escape_markdown(text: str) -> str:
    r"""Escape text for Markdown, on one line.

    Example:
        >>> print(escape_markdown("a|b <b>*"))
        a\|b &lt;b&gt;\*
    """
    line = " ".join(replace_unseen(str(text)).split())
    escaped = _MARKDOWN.sub(r"\\\1", line.replace("&", "&amp;"))
    return escaped.replace("\\<", "&lt;").replace("\\>", "&gt;")


def allow_breaks(text: object) -> Markup:
    """Return escaped text that can break after underscores.

    Example:
        >>> allow_breaks("top_up & more")
        Markup('top_<wbr>up &amp; more')
    """
    broken = re.sub(r"(?<=_)(?=\w)", "<wbr>", str(escape(str(text))))
    return Markup(broken)  # noqa: S704 (already escaped; only <wbr> is added)


def _format_percent_with_interval(value: float, interval: Mapping[str, float]) -> str:
    """Return a share with its interval, which may go to the next line but breaks nowhere else."""
    told = format_percent_and_ends(value, Interval(interval["low"], interval["high"]))
    percent, ends = (part.replace(" ", "\u00a0") for part in told)
    return f"{percent} ({ends})"


def _make_environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=FunctionLoader(read_template),
        autoescape=autoescape,  # noqa: S701 (Markdown has its own filter)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., object]] = {
        "breaks": allow_breaks,
        "confidence": lambda value: f"p\u00a0=\u00a0{value:.3f}",
        "count": lambda value: f"{value:,.0f}",
        "directed": replace_directions,
        "md": escape_markdown,
        "opening": lambda text: (
            f"{' '.join(text[: find_cut(text, _OPENING_CHARACTERS)].split())} …"
        ),
        "p_value": format_p_value,
        "percent": lambda value: format_percent(value).replace(" ", "\u00a0"),
        "percent_with_interval": _format_percent_with_interval,
        "plain": lambda text: re.sub(r'["\\\n`]', "_", replace_unseen(str(text))),
        "trusted": Markup,  # for generated SVG and the style sheet
    }
    environment.filters.update(filters)
    return environment
