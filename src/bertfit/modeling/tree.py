"""The model as a tree: names, classes, shapes, counts and shares, with repeated layers folded.

Only counts; `reporting.tree` draws.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class ModuleNode:
    """One module, or a run of identical ones."""

    name: str
    """Last component of the dotted name; "0–11" for a folded run."""
    class_name: str
    num_parameters: int
    """Parameters in the module, for a single repeat."""
    repeats: int
    """Number of identical modules that this node represents."""
    share: float
    """Share of the model's parameters, all repeats together, in [0, 1]."""
    shapes: dict[str, tuple[int, ...]]
    """Shapes of the module's direct parameters."""
    dtype: str
    """Dtypes of the parameters in the module, "" if there are none."""
    frozen: bool
    """Whether it has parameters, none of them trainable."""
    children: tuple[ModuleNode, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the node and its children as plain values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Estimated memory in GiB for a batch of B rows of T tokens in float32."""

    batch_size: int
    num_tokens: int
    weights_gib: float
    inference_gib: float
    training_gib: float


def build_tree(model: PreTrainedModel, *, depth: int | None = None) -> ModuleNode:
    """Return the tree of a model, `depth` levels below the root (None: all)."""
    total = max(count_parameters(model), 1)
    return _build_node(model.config.model_type, model, total, depth)


def count_parameters(module: torch.nn.Module) -> int:
    """Return the number of parameters, counting shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def estimate_memory(model: PreTrainedModel, *, batch_size: int, num_tokens: int) -> MemoryEstimate:
    """Estimate memory from the shapes alone.

    Training keeps float32 weights, gradients and AdamW's two moments (16 bytes per parameter) and
    the activations of every layer; inference keeps the weights and one layer's activations.

    Source: Korthikanti et al. 2022, arXiv 2205.05198, section 4.1: a layer's activations take
    B·T·D·(34 + 5·H·T/D) bytes in 16 bits; in float32, with one-byte dropout masks, nearly twice.
    """
    config = model.config
    width, num_heads = int(config.hidden_size), int(config.num_attention_heads)
    num_layers = int(config.num_hidden_layers)
    layer_bytes = 2 * batch_size * num_tokens * (34 * width + 5 * num_heads * num_tokens)
    weights = 4 * count_parameters(model)
    return MemoryEstimate(
        batch_size=batch_size,
        num_tokens=num_tokens,
        weights_gib=weights / _GIB,
        inference_gib=(weights + layer_bytes) / _GIB,
        training_gib=(4 * weights + num_layers * layer_bytes) / _GIB,
    )


def _build_node(name: str, module: torch.nn.Module, total: int, depth: int | None) -> ModuleNode:
    parameters = list(module.parameters())
    num_parameters = sum(parameter.numel() for parameter in parameters)
    children: tuple[ModuleNode, ...] = ()
    if depth is None or depth > 0:
        below = None if depth is None else depth - 1
        nodes = [_build_node(key, child, total, below) for key, child in module.named_children()]
        children = _fold(nodes)
    return ModuleNode(
        name=name,
        class_name=type(module).__name__,
        num_parameters=num_parameters,
        repeats=1,
        share=num_parameters / total,
        shapes={key: tuple(p.shape) for key, p in module.named_parameters(recurse=False)},
        dtype=", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters})),
        frozen=bool(parameters) and not any(p.requires_grad for p in parameters),
        children=children,
    )


def _fold(nodes: list[ModuleNode]) -> tuple[ModuleNode, ...]:
    """Replace each run of identical numbered modules by one node."""
    folded: list[ModuleNode] = []
    run: list[ModuleNode] = []
    for node in [*nodes, None]:
        if run and node is not None and node.name.isdigit() and _alike(run[0], node):
            run.append(node)
            continue
        folded.extend([_fold_run(run)] if run else [])
        run = [node] if node is not None else []
    return tuple(folded)


def _fold_run(run: list[ModuleNode]) -> ModuleNode:
    if len(run) == 1:
        return run[0]
    return dataclasses.replace(
        run[0],
        name=f"{run[0].name}–{run[-1].name}",
        repeats=len(run),
        share=sum(node.share for node in run),
    )


def _alike(a: ModuleNode, b: ModuleNode) -> bool:
    return a.name.isdigit() and dataclasses.replace(a, name=b.name) == b
