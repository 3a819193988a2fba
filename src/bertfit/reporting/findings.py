"""Format findings about data in 80 columns: a line on leaks, then the findings by severity.

Owns only the layout. Texts and names come from users and are never interpreted as markup.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bertfit.data.findings import Example, Finding
from bertfit.reporting.control_characters import escape_controls
from bertfit.reporting.short_names import shorten_apart
from bertfit.reporting.text import MAX_CLASSES, WIDTH, make_table, put_title, shorten
from bertfit.wording import format_count, format_share

_Found = TypeVar("_Found")
_STYLES = {"leak": "bold red", "serious": "yellow", "minor": ""}
_HEADINGS = {
    "leak": "Leaks: the test score overstates the model",
    "serious": "Serious: labels, or the choice of the epoch, cannot be trusted",
    "minor": "Minor: worth fixing",
}
_MARKS = {"leak": "LEAK: ", "serious": "Serious: ", "minor": ""}
_SOURCE_WIDTH = 30
_LABEL_WIDTH = 40
_NOTE_WIDTH = 32
"""Most notes are shorter; labels and groups, which some name, can be of any length."""


def findings_text(summary: str, findings: Sequence[Finding]) -> RenderableType:
    """Return the summary as the first line, followed by the findings under severity headings.

    Args:
        summary: One line on whether there are leaks into the test set.
        findings: Sorted by severity.
    """
    pieces: list[RenderableType] = [
        Text(summary, style=_STYLES["leak"] if summary.startswith("LEAK") else "bold")
    ]
    severity = ""
    for alike in group_findings(findings, lambda one: (one.severity, one.kind, one.advice)):
        if alike[0].severity != severity:
            severity = alike[0].severity
            pieces += [Text(), Text(_HEADINGS[severity], style="bold")]
        pieces += [Text(), *map(_show_finding, alike)]
        pieces.append(_indent(alike[0].advice, "italic"))
    if not findings:
        pieces.append(Text("The other checks found nothing."))
    return Group(*pieces)


def group_findings(
    findings: Iterable[_Found], key: Callable[[_Found], tuple[str, ...]]
) -> list[list[_Found]]:
    """Return findings, sorted by kind, in groups of those of several parts with the same advice.

    Args:
        findings: As objects, or as they are kept in a run.
        key: Returns severity, kind and advice of one.
    """
    return [list(alike) for _, alike in itertools.groupby(findings, key)]


def brief_lines(findings: Sequence[Finding], *, most: int) -> list[str]:
    """Return one line for each of the first findings and all serious ones, and how many remain.

    Example:
        >>> brief_lines([], most=3)
        []
    """
    shown = [
        finding for at, finding in enumerate(findings) if at < most or finding.severity != "minor"
    ]
    lines = [f"{_MARKS[finding.severity]}{finding.message}" for finding in shown]
    if len(findings) > len(shown):
        more = format_count(len(findings) - len(shown), "more finding")
        lines.append(f"… and {more}, which the report and bertfit check show.")
    return lines


def labels_table(parts: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Return the rows of each label in each part, the most frequent label first.

    Args:
        parts: By name, with num_per_label.
    """
    counts = [part["num_per_label"] for part in parts.values()]
    totals = {name: sum(of_part[name] for of_part in counts) for name in counts[0]}
    ranked = sorted(totals, key=lambda name: -totals[name])
    shown, title = ranked[:MAX_CLASSES], "Rows by label"
    if len(ranked) > len(shown):
        least = format_count(totals[ranked[-1]], "row")
        title += f" (the {len(shown)} most frequent of {len(ranked):,}; the rarest has {least})"
    table = make_table("Label", right=parts)
    for name, short in zip(shown, shorten_apart(shown, _LABEL_WIDTH).values(), strict=True):
        table.add_row(short, *(f"{of_part[name]:,}" for of_part in counts))
    return put_title(title, table)


def lengths_table(parts: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Return rows and lengths of each part, and the share of texts truncated by each limit.

    Args:
        parts: By name, with num_rows, words_median, and tokens: num_counted, num_estimated, median,
            p95, max, cut_shares by limit, and text_cleaning.
    """
    limits = list(next(iter(parts.values()))["tokens"]["cut_shares"])
    # There may be four limits, all of which must fit into 80 columns.
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("Part", no_wrap=True)
    for heading in ("Rows", "Words", "Tokens", "95 %", "Most", *(f"> {at}" for at in limits)):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, part in parts.items():
        tokens = part["tokens"]
        lengths = (part["words_median"], tokens["median"], tokens["p95"], tokens["max"])
        cells = [f"{part['num_rows']:,}", *(f"{length:,.0f}" for length in lengths)]
        cells += [_show_percent(tokens["cut_shares"][limit]) for limit in limits]
        table.add_row(name, *cells)
    title = "Words and tokens (median; 95 % have at most; most), and % of texts over a limit"
    sampled = [
        f"{part['tokens']['num_counted']:,} of {name}"
        for name, part in parts.items()
        if part["tokens"]["num_counted"] < part["num_rows"]
    ]
    notes = [f"Tokens were counted in rows drawn evenly: {', '.join(sampled)}."] if sampled else []
    num_estimated = sum(part["tokens"]["num_estimated"] for part in parts.values())
    if num_estimated:
        texts, its = (
            format_count(num_estimated, "long text"),
            "its" if num_estimated == 1 else "their",
        )
        notes.append(f"The tokens of {texts} are estimated from {its} beginning.")
    if any(part["tokens"]["text_cleaning"] == "html_breaks" for part in parts.values()):
        notes.append("Tokens were counted with HTML line breaks as spaces, as train reads them.")
    return Group(Text(title, style="bold"), table, *map(Text, notes))


def _show_percent(share: float) -> str:
    """Return what `format_share` says, in at most five characters."""
    if share in {0, 1}:
        return f"{100 * share:.1f}"
    return format_share(share).replace("under ", "<").replace("over ", ">").removesuffix(" %")


def _show_finding(finding: Finding) -> RenderableType:
    message = Text(escape_controls(finding.message), style=_STYLES[finding.severity])
    return Group(message, *(_indent(_show_example(one), "dim") for one in finding.examples))


def _indent(text: str, style: str) -> RenderableType:
    # Text would silently drop some control characters.
    return Padding(Text(escape_controls(text), style=style), (0, 0, 0, 2))


def _show_example(example: Example) -> str:
    """Return an example on one line of at most `WIDTH` minus the indent."""
    name = shorten(Path(example.source).name or example.source, _SOURCE_WIDTH)
    note = f" ({shorten(example.note, _NOTE_WIDTH)})" if example.note else ""
    place = f"{name}:{example.line}{note}: "
    room = WIDTH - 2 - cell_len(place)
    return place + (shorten(example.text, room) if room > 10 else "…")
