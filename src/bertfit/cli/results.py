"""Shows results of the workflow in a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertfit.cli.streams import write_json
from bertfit.cli.terminal import show_skipped
from bertfit.config import is_default
from bertfit.evaluation.metrics import count_predictions
from bertfit.evaluation.units import are_one_group
from bertfit.reporting.comparison import (
    error_table,
    seed_table,
    slice_table,
    suspect_table,
)
from bertfit.reporting.confidence import (
    confidence_table,
    describe_calibration,
    describe_doubt,
    describe_threshold,
)
from bertfit.reporting.control_characters import put_on_one_line
from bertfit.reporting.facts_tables import show_setting
from bertfit.reporting.limits import (
    OF_ONE_GROUP,
    describe_interruption,
    describe_small_classes,
    describe_units,
)
from bertfit.reporting.summary import (
    LEFT_OUT,
    describe_missing_seeds,
    find_validation_accuracy,
    format_share_with_interval,
    list_chosen,
    list_warnings,
    word_validation,
)
from bertfit.reporting.text import (
    comparison_table,
    confusion_table,
    epoch_table,
    format_percent_with_interval,
    scores_table,
)
from bertfit.run_directory import read_record
from bertfit.run_files import REPORT_NAME
from bertfit.wording import (
    format_count,
    format_share,
    format_steps,
    list_some,
    name_kept_part,
    quote_path,
)

if TYPE_CHECKING:
    from rich.console import Console

    from bertfit.data.imdb import ImdbCounts
    from bertfit.evaluation.baseline import BaselineResult, BaselineResults
    from bertfit.workflow.evaluating import Evaluation
    from bertfit.workflow.leak_free import LeakFreeScores
    from bertfit.workflow.recording import ScoredTest
    from bertfit.workflow.suspecting import SuspectReport
    from bertfit.workflow.training import TrainResult

_MOST_LABELS = 50
_MOST_SUSPECTS = 10


def print_json(value: Any) -> None:  # noqa: ANN401 (JSON is of any type)
    """Write one JSON object to standard output."""
    write_json(value, indent=2)


def show_training(console: Console, result: TrainResult) -> None:
    """Show the epochs, the choice, the test scores, and possible next steps."""
    outcome = result.outcome
    console.print()
    if result.seeds is not None:
        console.print(seed_table(result.seeds))
        console.print()
    history = dataclasses.asdict(outcome.history)
    console.print(epoch_table(history, best_epoch=outcome.best_epoch + 1))
    if outcome.unfinished is not None:
        told = format_steps(*outcome.unfinished)
        console.print(f"The last epoch was interrupted after {told}.", style="yellow")
    record = read_record(result.run)
    if result.test is not None:
        _show_test(console, result.test, result.baselines)
    else:
        if result.baselines is not None:
            _show_validation(console, record, history, result.baselines.best)
        if record["settings"]["slice_columns"]["value"]:
            console.print("The slices of the validation rows are in the report.")
    console.print()
    console.print(f"The run is in {result.run}. Next:", soft_wrap=True)
    page = result.run / REPORT_NAME
    if page.is_file():
        console.print(f"  look at {page}", soft_wrap=True)
    quoted = quote_path(result.run)
    encoding = record["settings"]["encoding"]["value"]
    option = "" if encoding == "utf-8" else f" --encoding {encoding}"
    for command in (
        f'bertfit predict {quoted} "your text"',
        f"bertfit evaluate {quoted} FILE{option}",
        f"bertfit inspect {quoted}",
    ):
        console.print(f"  {command}", soft_wrap=True)


def _show_test(console: Console, test: ScoredTest, baselines: BaselineResults | None) -> None:
    """Show the test scores, with and without leaks, beside those of the baselines."""
    console.print()
    show_evaluation(console, test.evaluation, title="Test")
    if test.evaluation.dataset.slices:  # if asked for; the report always has them
        console.print(slice_table(test.evaluation.slices))
    clean = {"test_without_leaks": test.without_leaks, "test_without_groups": test.without_groups}
    for key, scores in clean.items():
        if scores is not None:
            _show_without(console, scores, LEFT_OUT[key])
    if test.comparison is not None and baselines is not None:
        has_threshold = test.evaluation.threshold is not None
        console.print(comparison_table(test.comparison, baselines, has_threshold=has_threshold))


def _show_validation(
    console: Console, record: dict[str, Any], history: dict[str, Any], best: BaselineResult
) -> None:
    """Show how the model and the best baseline did on validation rows, if there are no others."""
    console.print()
    told = word_validation(
        find_validation_accuracy(record),
        best.validation.accuracy,
        best.name,
        chosen=list_chosen(record, history),
        has_threshold=record["threshold"] is not None,
    )
    console.print(f"{told} --test FILE scores new rows.")


def _show_without(console: Console, scores: LeakFreeScores, what: str) -> None:
    """Show the test score without the rows that the model had seen."""
    rows = f"1 {what} row" if scores.num_leaked == 1 else f"the {scores.num_leaked:,} {what} rows"
    if scores.accuracy is None or scores.macro_f1 is None:
        console.print(f"Without {rows} nothing is left to score.", style="bold red")
        return
    told = {"accuracy": scores.accuracy, "macro F1": scores.macro_f1}
    shown = [
        f"{name} {format_percent_with_interval(value, scores.intervals[name.replace(' F', '_f')])}"
        for name, value in told.items()
    ]
    console.print(
        f"Without {rows}, on the other {scores.num_rows:,}: {', '.join(shown)}.", style="yellow"
    )


def show_evaluation(console: Console, evaluation: Evaluation, *, title: str) -> None:
    """Show scores, intervals, the confusion matrix and what was truncated."""
    scores = evaluation.scores
    console.print(title, style="bold")
    console.print(scores_table(scores, evaluation.intervals))
    console.print(confusion_table(scores))
    console.print(confidence_table(evaluation.confidence))
    if evaluation.threshold is not None:
        console.print(describe_threshold(evaluation.threshold, scores.label_names[1]))
    console.print(_describe_intervals(evaluation))
    if evaluation.without_learned is not None:
        _show_without(console, evaluation.without_learned, "known")
    show_skipped(console, evaluation.skipped)


def show_weaknesses(console: Console, evaluation: Evaluation, *, num_errors: int) -> None:
    """Show the worst slices, and errors with their texts."""
    console.print()
    console.print(slice_table(evaluation.slices))
    if num_errors:
        errors = [dataclasses.asdict(row) for row in evaluation.worst_errors(num_errors)]
        console.print()
        console.print(error_table(errors) if errors else "No row is wrong.")


def show_suspects(
    console: Console, report: SuspectReport, *, top: int | None = None, output: Path | None = None
) -> None:
    """Show the first suspects with their texts, their number, and where they were written."""
    shown = [dataclasses.asdict(one) for one in report.suspects[: top or _MOST_SUSPECTS]]
    if shown:
        console.print(suspect_table(shown))
    num_more = len(report.suspects) - report.num_wrong
    more = "1 more row is" if num_more == 1 else f"{num_more:,} more rows are"
    verb = "looks" if report.num_wrong == 1 else "look"
    summary = (
        f"{report.num_wrong:,} of {report.num_rows:,} labels {verb} wrong; "
        f"{more} merely predicted differently. "
        f"Judged by {report.judged_by}."
    )
    told = [summary, describe_doubt(report.num_wrong, report.num_rows, report.num_expected)]
    if report.unjudged_labels:
        labels = list_some(report.unjudged_labels, 10)
        told.append(f"Not judged, because no row of another fold has the label: {labels}.")
    console.print("\n".join(told))
    if output is not None:
        console.print(f"All suspects are in {output}.", soft_wrap=True)


def _describe_intervals(evaluation: Evaluation) -> str:
    drawn = describe_units(evaluation.num_units, grouped=evaluation.grouped)
    num_cut, limit = evaluation.num_truncated, evaluation.max_length
    cut = f"No row was truncated (limit {limit} tokens)."
    if num_cut:
        share = num_cut / max(1, evaluation.scores.num_rows)
        cut = (
            f"Truncated: {format_count(num_cut, 'row')} ({format_share(share)}) kept the "
            f"{name_kept_part(evaluation.truncation)} of "
            f"{'its' if num_cut == 1 else 'their'} text, {limit} tokens."
        )
    scores = evaluation.scores
    supports = [of_class.support for of_class in scores.per_class.values()]
    told = (
        f"Intervals: 95 %, bootstrap over {drawn}.",
        OF_ONE_GROUP if are_one_group(evaluation.dataset.groups) else "",
        describe_small_classes(supports, count_predictions(scores.confusion)),
        cut,
        f"Arithmetic: {evaluation.dtype}.",
    )
    return " ".join(filter(None, told))


def describe_labels(label_names: Sequence[str]) -> str:
    """Return the names of the classes with their numbers, in the order of these."""
    named = [f"{put_on_one_line(name)} → {index}" for index, name in enumerate(label_names)]
    told = f"Labels: {list_some(named, _MOST_LABELS)}"
    return told if len(named) <= _MOST_LABELS else f"{told} (--json shows all)"


def show_record(console: Console, record: dict[str, Any]) -> None:
    """Show a run's record: labels, chosen settings, scores."""
    console.print(describe_labels(record.get("label_names", [])))
    encoding, training = record.get("encoding", {}), record.get("training", {})
    told = ", ".join(f"{name}={value}" for name, value in encoding.items())
    console.print(f"Text: {told}")
    chosen = {
        name: entry["value"]
        for name, entry in record.get("settings", {}).items()
        if not is_default(str(entry["origin"]))
    }
    if chosen:
        told = ", ".join(f"{name}={show_setting(value)}" for name, value in chosen.items())
        console.print(f"Chosen settings: {told}")
    if "reason" in training:
        console.print(f"Kept: {training['reason']}")
    if training.get("interrupted"):
        console.print(describe_interruption(training), style="yellow")
    missing = describe_missing_seeds(record["seeds"]) if record.get("seeds") else None
    if missing is not None:
        console.print(missing, style="yellow")
    if record.get("calibration"):
        console.print(describe_calibration(record["calibration"]))
    if record.get("threshold"):
        threshold, positive = record["threshold"], record["label_names"][1]
        console.print(describe_threshold(threshold["value"], positive, threshold))
    test = record.get("scores", {}).get("test")
    if test:
        share = format_share_with_interval(test, "accuracy")
        console.print(f"Test accuracy: {share}, {test['num_rows']:,} rows")
    for warning in list_warnings(record):
        console.print(warning, style="yellow")
    comparison = record.get("scores", {}).get("comparison")
    if comparison:
        console.print(comparison["verdict"])


def show_imdb_counts(console: Console, counts: ImdbCounts, output: Path) -> None:
    """Show what was written, and how it differs from the official counts."""
    for name, num_rows in counts.num_rows.items():
        console.print(f"{name}: {num_rows:,} rows")
    told = ", ".join(f"{shelf} {count:,}" for shelf, count in counts.num_per_shelf.items())
    console.print(f"Reviews in the source: {told}.")
    if counts.num_skipped:
        files = format_count(counts.num_skipped, "file")
        console.print(f"Skipped {files} whose names are not those of reviews.")
    for difference in counts.differences:
        console.print(f"Differs: {difference}", style="yellow")
    if not counts.differences:
        console.print("The counts are the official ones.")
    place = output.resolve() if output == Path() else output  # "in .." would be another
    console.print(f"The files are in {place}.", soft_wrap=True)
