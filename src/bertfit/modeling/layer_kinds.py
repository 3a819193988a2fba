"""Which modules of transformers our own code can replace.

`operators` asks for a CPU and `kernels` for a GPU.
"""

from __future__ import annotations

import torch


def is_exact_gelu(module: torch.nn.Module) -> bool:
    """Tell whether this is GELU, and not one of its approximations."""
    if type(module) is torch.nn.GELU:
        return module.approximate == "none"
    return type(module).__name__ == "GELUActivation" and (
        getattr(module, "act", None) is torch.nn.functional.gelu
    )


def is_plain_norm(module: torch.nn.Module) -> bool:
    """Tell whether this is a LayerNorm with weights, over one dimension."""
    return (
        type(module) is torch.nn.LayerNorm
        and module.elementwise_affine
        and len(module.normalized_shape) == 1
    )


def is_of_transformers(module: torch.nn.Module) -> bool:
    """Tell whether a module is as transformers brings it."""
    return type(module).__module__.startswith("transformers.models.")


def adds_residual(module: torch.nn.Module) -> bool:
    """Tell whether this is the output of attention or of the feed-forward, as BERT's family has it.

    LayerNorm(dropout(dense(hidden)) + input): three parts of these names and no other.
    """
    return (
        type(module).__name__.endswith("Output")
        and is_of_transformers(module)
        and set(dict(module.named_children())) == {"dense", "dropout", "LayerNorm"}
    )


def activates(module: torch.nn.Module) -> bool:
    """Tell whether this is the first half of the feed-forward, as BERT's family has it."""
    parts = dict(module.named_children())
    return (
        type(module).__name__.endswith("Intermediate")
        and is_of_transformers(module)
        and set(parts) == {"dense", "intermediate_act_fn"}
        and is_exact_gelu(parts["intermediate_act_fn"])
    )


def attends(module: torch.nn.Module) -> bool:
    """Tell whether this is attention within a text as BERT's family has it."""
    return (
        type(module).__name__.endswith("SelfAttention")
        and is_of_transformers(module)
        and set(dict(module.named_children())) == {"query", "key", "value", "dropout"}
        and {"scaling", "attention_head_size"} <= set(vars(module))
    )


def is_whole(layer: torch.nn.Module) -> bool:
    """Tell whether this is a layer of attention and feed-forward as BERT's family has it."""
    parts = dict(layer.named_children())
    if not is_of_transformers(layer) or set(parts) != {"attention", "intermediate", "output"}:
        return False
    of_attention = dict(parts["attention"].named_children())
    return (
        set(of_attention) == {"self", "output"}
        and attends(of_attention["self"])
        and adds_residual(of_attention["output"])
        and activates(parts["intermediate"])
        and adds_residual(parts["output"])
    )
