"""Writes a run's report (report.html) and its model card (README.md), at its end or later."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from bertfit.assets import find_model_path
from bertfit.config import check_flags
from bertfit.errors import RunError
from bertfit.evaluation.slices import name_values
from bertfit.files import as_path, check_output, open_atomically, write_json
from bertfit.garbage import pause_collection
from bertfit.reporting.html import render_report
from bertfit.reporting.model_card import render_card
from bertfit.run_directory import Staging, read_record
from bertfit.run_files import CARD_NAME, RECORD_NAME, REPORT_FACTS_NAME, REPORT_NAME, is_sealed
from bertfit.training.interruption import FirstInterrupt, Interruption
from bertfit.word_pattern import find_cut
from bertfit.wording import format_count
from bertfit.workflow.log import LogKeeper, write_log
from bertfit.workflow.report_facts import (
    KEPT_VERSION,
    choose_shown_rows,
    gather_facts,
    keeps_texts,
    read_parts,
)

if TYPE_CHECKING:
    from bertfit.data.dataset import TextDataset
    from bertfit.evaluation.curves import Points
    from bertfit.workflow.calibrating import LearnedConfidence
    from bertfit.workflow.evaluating import Evaluation
    from bertfit.workflow.preparing import PreparedModel
    from bertfit.workflow.rows import PreparedRows

MAX_TEXT_CHARACTERS = 3000
"""Longer texts are truncated to this."""
_DAMAGE = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, TemplateError)
"""What a changed file raises in a report. ArithmeticError: a time that is infinite."""


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """The files that `report` wrote."""

    page: Path
    card: Path | None
    """None if it was not written."""


def report(
    run: str | Path,
    *,
    output: str | Path | None = None,
    with_texts: bool = True,
    overwrite: bool = False,
) -> ReportFiles:
    """Rewrite the report of a run, from the files in the run.

    The page in the run is replaced. A README.md that was edited, or is of an early version, is
    replaced only with `overwrite`.

    Args:
        run: Folder of the run.
        output: An HTML file to write instead; nothing else is written then.
        with_texts: False leaves out all texts of rows.
        overwrite: Replace `output`, or the run's README.md, if it exists.

    Raises:
        ConfigError: `output` does not end in .html or .htm, is a folder, or exists, or a flag is
            not a bool.
        OSError: A file cannot be written.
        RunError: There is no such run, a file of it is damaged, or it was replaced meanwhile.
    """
    check_flags(with_texts=with_texts, overwrite=overwrite)
    run = as_path(run, "run")
    page = run / REPORT_NAME if output is None else as_path(output, "output")
    known, record = _identify(run), read_record(run)
    if output is not None:
        check_output(page, (".html", ".htm"), overwrite=overwrite)
    else:
        _refuse_links(run)
    rendered_page, rendered_card = _render(run, record, with_texts=with_texts)
    if (found := _identify(run)) is None:
        raise RunError(f"{run} was removed meanwhile; nothing was written")
    if found != known:
        raise RunError(
            f"{run} was replaced meanwhile by another training",
            hint="That has a report of its own; nothing was written.",
        )
    _write_text(page, rendered_page)
    card = run / CARD_NAME
    if output is not None:
        return ReportFiles(page, None)
    if card.exists() and not overwrite and not is_sealed(card.read_bytes()):
        return ReportFiles(page, None)
    _write_text(card, rendered_card)
    return ReportFiles(page, card)


def _identify(run: Path) -> tuple[int, int] | None:
    """Return what tells a run from another one in its place; None if there is none."""
    try:
        found = (run / RECORD_NAME).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _refuse_links(run: Path) -> None:
    """Refuse links in a run, which may come from others and lead anywhere, and pipes.

    Raises:
        RunError: There is one.
    """
    for path in (run / REPORT_NAME, run / CARD_NAME):
        if path.is_symlink():
            raise RunError(
                f"{path} is a link to {os.path.realpath(path)}: it is not written through",
                hint="Remove the link, or name another file with --output.",
            )
        if path.exists() and not path.is_file():
            raise RunError(
                f"{path} is not a regular file", hint="Remove it, or name another with --output."
            )


def add_report(
    staging: Staging,
    record: Mapping[str, Any],
    *,
    rows: PreparedRows,
    model: PreparedModel,
    learned: LearnedConfidence | None,
    evaluation: Evaluation | None,
    log: LogKeeper,
    interruption: Interruption,
) -> None:
    """Write report.json, report.html and README.md to a run that is complete except its record.

    If the report cannot be made, that is noted, and the run is saved without it. The first Ctrl-C
    skips the report.
    """
    with _costing_nothing(staging, log, interruption), pause_collection():
        kept = _draw_before(learned, evaluation)
        _keep(staging, record, rows=rows, model=model, reliability=kept)
        _write_pages(staging, record)


def renew_report(
    staging: Staging, record: Mapping[str, Any], *, log: LogKeeper, interruption: Interruption
) -> None:
    """Rewrite report.html and README.md, after entries were added to the record."""
    with _costing_nothing(staging, log, interruption):
        _write_pages(staging, record)


def _write_pages(staging: Staging, record: Mapping[str, Any]) -> None:
    facts = gather_facts(staging.folder, record, name=staging.output.name)
    _write_text(staging.folder / REPORT_NAME, render_report(facts))
    _write_text(staging.folder / CARD_NAME, render_card(facts))


@contextlib.contextmanager
def _costing_nothing(
    staging: Staging, log: LogKeeper, interruption: Interruption
) -> Iterator[None]:
    """Note why a report could not be made, and let the training go on."""
    try:
        with interruption.raise_first():
            yield
    except FirstInterrupt:
        _note(staging, log, "Interrupted: the report was not made; bertfit report does that.")
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk ends the run, as it does everywhere
        # Hours of training must not be lost for a page about them.
        reason = f"{type(error).__name__}: {error}"
        _note(
            staging,
            log,
            f"WARNING: the report could not be made ({reason}). The run is whole without it; "
            "bertfit report tries again.",
        )


def _note(staging: Staging, log: LogKeeper, text: str) -> None:
    log.note(text)
    write_log(staging, log)


@pause_collection()
def _render(run: Path, record: Mapping[str, Any], *, with_texts: bool) -> tuple[str, str]:
    """Return the page and the card.

    Raises:
        RunError: A file of the run is damaged.
    """
    try:
        facts = gather_facts(run, record, name=run.resolve().name)
        facts["model"] = facts["model"] or _inspect_model(run)
        return render_report(facts, with_texts=with_texts), render_card(facts)
    except RunError:
        raise
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}"
        raise RunError(
            f"{run / RECORD_NAME} or a file beside it lacks what a report needs ({reason})",
            hint="It was changed, is damaged, or is of an early version. Train again, or restore "
            "the file.",
        ) from error


def _keep(
    staging: Staging,
    record: Mapping[str, Any],
    *,
    rows: PreparedRows,
    model: PreparedModel,
    reliability: Mapping[str, Points | None],
) -> None:
    """Write report.json: what the report needs that no other file of the run has."""
    parts = {"test": rows.test, "validation": rows.validation}
    texts = None
    if keeps_texts(record):
        shown = choose_shown_rows(read_parts(staging.folder, record))
        texts = {name: _pick_texts(parts[name], chosen) for name, chosen in shown.items()}
    lengths = Counter(model.train.encoded.full_lengths.tolist())
    write_json(
        staging.folder / REPORT_FACTS_NAME,
        {
            "format_version": KEPT_VERSION,
            "texts": texts,
            "lengths": sorted(lengths.items()),
            "slices": {name: name_values(one) for name, one in rows.validation.slices.items()},
            "model": _inspect_model(staging.folder),
            "base_model": _find_base_model(record),
            "validation": "split off" if rows.checked.validation is None else "given",
            **reliability,
        },
    )


def _pick_texts(part: TextDataset | None, chosen: list[int]) -> dict[str, str]:
    assert part is not None  # since it has predictions
    return {str(part.lines[row]): _cut(part.texts[row]) for row in chosen}


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # a table can hold a lone surrogate
    if len(text) <= MAX_TEXT_CHARACTERS:
        return text
    at = find_cut(text, MAX_TEXT_CHARACTERS)
    more = format_count(len(text) - at, "more character")
    return f"{text[:at]} [… {more}]" if at < len(text) else text


def _draw_before(
    learned: LearnedConfidence | None, evaluation: Evaluation | None
) -> dict[str, Points | None]:
    """Return the reliability before calibration, on the validation and on the test rows."""
    from bertfit.evaluation.calibration import take_best
    from bertfit.evaluation.curves import reliability_points
    from bertfit.inference.scoring import softmax

    of_validation = of_test = None
    if learned is not None:
        before = softmax(learned.logits)
        of_validation = reliability_points(*take_best(before, learned.label_ids))
    if evaluation is not None and evaluation.uncalibrated is not None:
        of_test = reliability_points(*take_best(evaluation.uncalibrated, evaluation.label_ids))
    return {"reliability_before": of_validation, "test_reliability_before": of_test}


def _find_base_model(record: Mapping[str, Any]) -> str | None:
    """Return the model's name on the hub; None for the embedded model or a local folder."""
    name = str(record["settings"]["model"]["value"])
    path = find_model_path(name)
    return None if path is None or path.exists() else name


def _inspect_model(folder: Path) -> dict[str, Any]:
    """Return the model's tree and counts, as `bertfit inspect` shows them."""
    from bertfit.workflow.inspecting import inspect

    found = inspect(folder).to_json()
    return {name: found[name] for name in ("tree", "num_parameters", "num_trainable")}


def _write_text(path: Path, text: str) -> None:
    with open_atomically(path) as file:
        file.write(text)
