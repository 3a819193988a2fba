"""Loads the model that a training starts from, which may be a run.

The tokenizer of a run cuts and cleans texts as that run did, so that plain transformers reads them
the same way. A training from it chooses both anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bertfit.assets import find_model_path
from bertfit.config import TrainSettings, is_default, is_whole_number
from bertfit.data.cleaning import unfold_cleaning
from bertfit.modeling.classifier import LoadedClassifier, load_classifier
from bertfit.modeling.input_limits import NO_LIMIT
from bertfit.modeling.tokenizer_files import load_tokenizer
from bertfit.run_directory import read_record, telling_of_unfinished
from bertfit.run_files import is_run
from bertfit.setting_problems import LEAST_LENGTH

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_base(settings: TrainSettings, label_names: Sequence[str]) -> LoadedClassifier:
    """Load the model of the settings, with a tokenizer that neither cuts nor cleans for a run.

    Raises:
        ModelError: The model cannot be found or loaded.
    """
    loaded = load_classifier(
        settings.model, label_names, dropout=settings.dropout, seed=settings.seed
    )
    _forget_run(loaded.tokenizer, settings.model)
    return loaded


def load_base_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """Load only the tokenizer, as `load_base` does.

    Raises:
        ModelError: The model cannot be found, or its tokenizer cannot be loaded.
        RunError: It is a run that a killed training did not finish.
    """
    with telling_of_unfinished(model):
        tokenizer = load_tokenizer(model)
    _forget_run(tokenizer, model)
    return tokenizer


def _forget_run(tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    run = find_model_path(model)
    if run is None or not is_run(run):
        return
    record = read_record(run)
    asked = (record.get("settings") or {}).get("max_length") or {}
    limit = record.get("training", {}).get("length_limit")
    if is_whole_number(limit) and limit >= LEAST_LENGTH:
        tokenizer.model_max_length = limit
    elif not is_default(str(asked.get("origin", ""))):  # a run of an earlier version
        tokenizer.model_max_length = NO_LIMIT  # what was asked for; most models have their own
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        unfold_cleaning(backend)
