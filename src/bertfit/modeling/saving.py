"""Writes a model's configuration and weights into a folder, and reads the weights back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bertfit.files import part_of, raising_system_errors
from bertfit.modeling.locating import explaining_failures, quieting_transformers
from bertfit.modeling.torch_defaults import usual_torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_model(
    model: PreTrainedModel, folder: Path, *, before: Callable[[], object] = lambda: None
) -> None:
    """Write config.json and model.safetensors into a folder; if that fails, earlier ones stay.

    Args:
        model: The model.
        folder: Is made if need be.
        before: Called once they are written, before they replace earlier ones.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    part = part_of(folder / "model")
    part.mkdir(parents=True)
    try:
        with quieting_transformers(), raising_system_errors(folder):
            model.save_pretrained(part)
        before()
        for path in part.iterdir():
            path.replace(folder / path.name)
    except OSError as error:
        error.filename = str(folder)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


@usual_torch()
def restore_model(model: PreTrainedModel, folder: Path) -> None:
    """Load weights written by `save_model` into a model of the same class."""
    with explaining_failures(str(folder)), quieting_transformers():
        saved = type(model).from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    model.load_state_dict(saved.state_dict())
