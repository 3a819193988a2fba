"""Draw a model's tree for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from rich.tree import Tree

from bertfit.reporting.text import format_percent

if TYPE_CHECKING:
    from bertfit.modeling.tree import MemoryEstimate, ModuleNode


def draw_tree(node: ModuleNode, *, with_shapes: bool = True) -> Tree:
    """Return the tree with names, classes, shapes, counts, shares and types."""
    tree = Tree(_describe(node, with_shapes=with_shapes), guide_style="dim")
    for child in node.children:
        tree.children.append(draw_tree(child, with_shapes=with_shapes))
    return tree


def describe_memory(memory: MemoryEstimate) -> str:
    """Return the memory estimate in a sentence."""
    return (
        f"Memory, estimated for {memory.batch_size:,} × {memory.num_tokens:,} tokens in float32: "
        f"{memory.inference_gib:,.2f} GiB for inference, {memory.training_gib:,.2f} GiB for "
        f"training (weights alone {memory.weights_gib:,.2f} GiB)."
    )


def _describe(node: ModuleNode, *, with_shapes: bool) -> Text:
    text = Text()
    text.append(node.name, style="bold")
    if node.repeats > 1:
        text.append(f" ×{node.repeats}", style="bold cyan")
    text.append(f" {node.class_name}", style="cyan")
    if node.num_parameters:
        each = " each" if node.repeats > 1 else ""
        text.append(f"  {node.num_parameters:,}{each}")
        text.append(f"  {format_percent(node.share)}", style="green")
        text.append(f"  {node.dtype}", style="dim")
        if node.frozen:
            text.append("  frozen", style="yellow")
    if with_shapes:
        for name, shape in node.shapes.items():
            size = "×".join(str(length) for length in shape)
            text.append(f"  {name} {size}", style="dim")
    return text
