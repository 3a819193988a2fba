"""Which modules of transformers the custom code can replace.

Used by `operators` for a CPU and by `kernels` for a GPU.
"""

from __future__ import annotations

import inspect

import torch


def is_exact_gelu(module: torch.nn.Module) -> bool:
    """Return whether this is exact GELU, not an approximation."""
    if type(module) is torch.nn.GELU:
        return module.approximate == "none"
    return type(module).__name__ == "GELUActivation" and (
        getattr(module, "act", None) is torch.nn.functional.gelu
    )


def is_plain_norm(module: torch.nn.Module) -> bool:
    """Return whether this is a LayerNorm with weights over one dimension."""
    return (
        type(module) is torch.nn.LayerNorm
        and module.elementwise_affine
        and len(module.normalized_shape) == 1
    )


def is_of_transformers(module: torch.nn.Module) -> bool:
    """Return whether a module's class comes from transformers' models."""
    return type(module).__module__.startswith("transformers.models.")


def adds_residual(module: torch.nn.Module) -> bool:
    """Return whether this is the output block of attention or feed-forward of BERT's family.

    It computes LayerNorm(dropout(dense(hidden)) + input) and has exactly these three children.
    DeBERTa's first version has a norm of its own.
    """
    parts = dict(module.named_children())
    return (
        type(module).__name__.endswith("Output")
        and is_of_transformers(module)
        and set(parts) == {"dense", "dropout", "LayerNorm"}
        and is_plain_norm(parts["LayerNorm"])
        and _computes_as_in_bert(module)
    )


def _computes_as_in_bert(module: torch.nn.Module) -> bool:
    """Return whether the forward of an output block is that of BERT, instruction by instruction.

    The children do not tell: X-MOD's block leaves its norm to the module around it, and that of
    MobileBERT takes a second residual.
    """
    from transformers.models.bert.modeling_bert import BertOutput

    own, known = (inspect.unwrap(kind.forward).__code__ for kind in (type(module), BertOutput))
    return (own.co_code, own.co_names, own.co_consts) == (
        known.co_code,
        known.co_names,
        known.co_consts,
    )


def activates(module: torch.nn.Module) -> bool:
    """Return whether this is the first half of the feed-forward block of BERT's family."""
    parts = dict(module.named_children())
    return (
        type(module).__name__.endswith("Intermediate")
        and is_of_transformers(module)
        and set(parts) == {"dense", "intermediate_act_fn"}
        and is_exact_gelu(parts["intermediate_act_fn"])
    )


def attends(module: torch.nn.Module) -> bool:
    """Return whether this is the self-attention of BERT's family."""
    return (
        type(module).__name__.endswith("SelfAttention")
        and is_of_transformers(module)
        and set(dict(module.named_children())) == {"query", "key", "value", "dropout"}
        and {"scaling", "attention_head_size"} <= set(vars(module))
    )


def is_whole(layer: torch.nn.Module) -> bool:
    """Return whether this is an unmodified encoder layer of BERT's family."""
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
