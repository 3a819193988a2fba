"""bertfit demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bertfit.assets import EMBEDDED
from bertfit.cli.options import read_path
from bertfit.garbage import pause_collection

if TYPE_CHECKING:
    from rich.console import Console

    from bertfit.workflow.demo import DemoData, DemoPlan

_MAX_TRAIN_SECONDS = 140.0


def demo(
    output: Annotated[
        Path, typer.Option(parser=read_path, help="Folder to save the run in.")
    ] = Path("runs/demo"),
    max_train_seconds: Annotated[
        float,
        typer.Option(
            min=1, help="Training time to aim at, in seconds; 2,000 rows are used however slow."
        ),
    ] = _MAX_TRAIN_SECONDS,
) -> None:
    """Train a real classifier in minutes, without a network."""
    with pause_collection():
        from bertfit.cli.results import show_training
        from bertfit.cli.terminal import Terminal, console
        from bertfit.config import resolve_settings
        from bertfit.run_directory import check_writable, refuse_existing
        from bertfit.workflow.demo import load_demo_data, plan_demo, to_rows
        from bertfit.workflow.training import train

    overwrite = _is_demo(output)
    hint = "Choose another --output: a demo replaces the runs of earlier demos alone."
    refuse_existing(output, overwrite=overwrite, hint=hint)
    check_writable(output)
    settings = resolve_settings(
        {"epochs": 2, "batch_size": 32, "group_column": "movie", "max_length": 128},
        options_origin="demo",
    )
    console.rule("What will be done")
    console.print(
        "Fine-tune MiniLM (6 layers, 22.7 M parameters) to tell fresh from rotten film\n"
        "reviews, on real snippets from Rotten Tomatoes; keep the best epoch; score it on\n"
        "films it has never seen, beside baselines that count words."
    )
    data = load_demo_data()
    with console.status("Measuring this machine…"):
        plan = plan_demo(data, settings.settings, max_train_seconds=max_train_seconds)
    _show_plan(console, data, plan)
    console.rule("The model")
    _show_model(console)
    console.rule("Training")
    with Terminal(console) as terminal:
        result = train(
            to_rows(plan.train),
            output,
            test=to_rows(data.test),
            settings=settings,
            overwrite=overwrite,
            listener=terminal,
        )
    console.rule("Result")
    show_training(console, result)
    console.rule("Five sentences of our own")
    _show_sentences(console, output)


def _is_demo(run: Path) -> bool:
    """Return whether `run` is the run of an earlier demo, which this one may replace."""
    from bertfit.reporting.facts_tables import is_of_demo
    from bertfit.run_directory import read_record
    from bertfit.run_files import is_run

    return is_run(run) and is_of_demo(read_record(run).get("settings") or {})


def _show_plan(console: Console, data: DemoData, plan: DemoPlan) -> None:
    from bertfit.wording import format_seconds

    console.rule("The data")
    for name, part in (("train + validation", plan.train), ("test", data.test)):
        fresh = sum(label == "fresh" for label in part.labels)
        console.print(
            f"{name + ':':20}{len(part):>7,} snippets of {len(set(part.groups)):>5,} films, "
            f"{fresh / len(part):.0%} fresh"
        )
    console.print(f"Left out: {data.num_left_out:,} plot summaries, empty rows and repeats.")
    if len(plan.train) < plan.num_available:
        console.print(
            f"This machine is too slow for all {plan.num_available:,} training snippets within "
            f"the demo's time; whole films were left out at random."
        )
    console.print('For example: "' + data.test.texts[0] + f'" → {data.test.labels[0]}')
    console.print(
        f"Training will take about {format_seconds(plan.train_seconds)}: measured here, "
        f"{plan.tokens_per_second:,.0f} tokens a second."
    )


def _show_model(console: Console) -> None:
    from bertfit.reporting.tree import draw_tree
    from bertfit.workflow.inspecting import inspect

    inspection = inspect(EMBEDDED, num_labels=2)
    console.print(draw_tree(inspection.tree, with_shapes=False))
    console.print(f"{inspection.num_parameters:,} parameters; bertfit inspect shows their shapes.")


def _show_sentences(console: Console, run: Path) -> None:
    from rich.table import Table

    from bertfit.inference.predictor import TextClassifier
    from bertfit.workflow.demo import DEMO_SENTENCES

    classifier = TextClassifier.load(run)
    predictions = classifier.predict([text for _, text in DEMO_SENTENCES])
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for (kind, text), prediction in zip(DEMO_SENTENCES, predictions, strict=True):
        table.add_row(str(prediction), kind, text)
    console.print(table)
