"""Format the runtime (how a machine trains) as a table of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

_MIB = 2**20


def runtime_table(runtime: Mapping[str, Any]) -> Table:
    """Return the values of `workflow.runtime.Runtime.to_json` as a table."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in _list_rows(runtime):
        table.add_row(name, Text(value))
    return table


def _list_rows(runtime: Mapping[str, Any]) -> list[tuple[str, str]]:
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in runtime["gflops"].items())
    budget = runtime["micro_batch_tokens"]
    instructions = ", ".join(runtime["instructions"]) or "none that matter"
    return [
        ("Processor", f"{runtime['processor']} ({instructions})"),
        (
            "Cores",
            f"{runtime['num_cores']} available; torch threads: {runtime['num_threads']}",
        ),
        ("Device", runtime["device"]),
        ("Arithmetic", f"{runtime['dtype']}: {runtime['reason']}"),
        ("Products", f"{rates} GFLOP/s, measured now"),
        ("Attention", runtime["attention"]),
        ("Dropout", runtime["dropout"]),
        ("Last layer", runtime["last_layer"]),
        ("Operators", runtime["operators"]),
        ("Embeddings", runtime["embeddings"]),
        ("Freed memory", runtime["memory"]),
        ("Packing", runtime["packing"]),
        ("Compiling", runtime["compilation"]),
        ("Recording", runtime["recording"]),
        ("Micro-batch", "measured before training" if budget is None else f"{budget:,} tokens"),
        ("Encoded text", f"{runtime['store']} ({runtime['store_bytes'] / _MIB:,.0f} MiB)"),
    ]
