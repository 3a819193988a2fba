"""bertfit inspect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bertfit.assets import EMBEDDED
from bertfit.cli.options import Device, Dtype, Json
from bertfit.garbage import pause_collection

if TYPE_CHECKING:
    from rich.console import Console

    from bertfit.workflow.inspecting import Inspection


def inspect(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Hub name, folder, run, or embedded.")
    ] = None,
    runtime: Annotated[
        bool,
        typer.Option("--runtime", help="Describe how this machine would train, and why."),
    ] = False,
    depth: Annotated[int | None, typer.Option(min=0, help="Levels to show (default: all).")] = None,
    num_labels: Annotated[
        int | None, typer.Option(min=2, help="Number of classes (default: the model's own).")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Batch size for the memory estimate (default: 32).")
    ] = None,
    num_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens per text for the memory estimate (default: 128)."),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Show a model or a run as a tree, or describe this machine."""
    from bertfit.errors import ConfigError

    _refuse_idle(runtime, (depth, num_labels, batch_size, num_tokens), (device, dtype))
    if runtime:
        _show_runtime(
            EMBEDDED if model is None else model, device=device, dtype=dtype, as_json=as_json
        )
        return
    if model is None:
        raise ConfigError("expected MODEL, or --runtime", hint="Such as bertfit inspect embedded.")
    with pause_collection():
        from bertfit.cli.results import describe_labels, print_json
        from bertfit.cli.terminal import console
        from bertfit.reporting.tree import describe_memory, draw_tree
        from bertfit.workflow.inspecting import inspect as run_inspection

    sizes = {"batch_size": batch_size, "num_tokens": num_tokens}
    given = {name: size for name, size in sizes.items() if size is not None}
    inspection = run_inspection(model, depth=depth, num_labels=num_labels, **given)
    if as_json:
        print_json(inspection.to_json())
        return
    console.print(draw_tree(inspection.tree))
    console.print(
        f"{inspection.num_parameters:,} parameters, {inspection.num_trainable:,} of them trained."
    )
    if inspection.memory is not None:
        console.print(describe_memory(inspection.memory))
    if inspection.label_names and not inspection.record:
        console.print(describe_labels(inspection.label_names))
    if inspection.record:
        _show_record(console, inspection)
        _show_changes(console, inspection)


def _refuse_idle(
    runtime: bool, of_tree: tuple[object, ...], of_runtime: tuple[object, ...]
) -> None:
    """Refuse options that would have no effect; None means not given."""
    from bertfit.errors import ConfigError

    if runtime and set(of_tree) != {None}:
        raise ConfigError(
            "--depth, --num-labels, --batch-size and --num-tokens are for the tree, which "
            "--runtime replaces"
        )
    if not runtime and set(of_runtime) != {None}:
        raise ConfigError("--device and --dtype are for --runtime; the tree depends on neither")


def _show_record(console: Console, inspection: Inspection) -> None:
    from bertfit.cli.results import show_record
    from bertfit.errors import RunError
    from bertfit.run_files import RECORD_NAME

    try:
        show_record(console, inspection.record)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        path, reason = Path(inspection.name) / RECORD_NAME, f"{type(error).__name__}: {error}"
        raise RunError(
            f"{path} lacks what inspect shows ({reason})",
            hint="It was changed. Restore the file, or train again; --json shows it as it is.",
        ) from error


def _show_changes(console: Console, inspection: Inspection) -> None:
    """Say whether the model's files are those with which the run was made, if that is known."""
    from bertfit.inference.loading import describe_changes

    if inspection.changed_files:
        told = describe_changes(Path(inspection.name), inspection.changed_files)
        console.print(told, style="yellow", soft_wrap=True)
    elif "sha256" in inspection.record:
        console.print("The model's files are as they were when the run was made (SHA-256).")


def _show_runtime(
    model: str,
    *,
    device: str | None,
    dtype: Literal["auto", "float32", "bfloat16"] | None,
    as_json: bool,
) -> None:
    with pause_collection():
        from bertfit.cli.results import print_json
        from bertfit.cli.terminal import console
        from bertfit.reporting.runtime import runtime_table
        from bertfit.workflow.runtime import describe_runtime

    described = describe_runtime(
        model, device="auto" if device is None else device, dtype=dtype or "auto"
    ).to_json()
    if as_json:
        print_json(described)
        return
    console.print(runtime_table(described))
    for sentence in described["advice"]:
        console.print(f"Advice: {sentence}", style="yellow")
