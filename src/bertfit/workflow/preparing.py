"""Prepares what the first step needs: a loaded model and encoded text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from bertfit.config import TextCleaning, TrainSettings
from bertfit.data.dataset import TextDataset
from bertfit.data.encoded_store import encode_or_reuse, find_store
from bertfit.data.encoding import EncodedTexts, EncodingRule
from bertfit.data.findings import Finding
from bertfit.data.gate import GateReport, choose_cleaning_of
from bertfit.inference.predictor import TextClassifier
from bertfit.labels import encode_labels
from bertfit.modeling.attention import compute_plainly
from bertfit.modeling.classifier import LoadedClassifier
from bertfit.modeling.compilation import cannot_compile, find_compile_obstacle
from bertfit.modeling.fast_path import FastPath, is_for_operators, plan_operators_of, plug_in
from bertfit.modeling.input_limits import check_length, check_token_ids, find_length_limit
from bertfit.modeling.operators.loading import load_operators, needs_building
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.plan import Plan
from bertfit.modeling.precision import Precision, choose_precision
from bertfit.modeling.soundness import find_type_fault, mark_padding, reads_padding, try_model
from bertfit.modeling.tokenizer_files import fast_tokenizer
from bertfit.progress import Listener
from bertfit.training.loop import TrainingData
from bertfit.wording import format_share, name_kept_part
from bertfit.workflow.base_model import load_base
from bertfit.workflow.rows import PreparedRows
from bertfit.workflow.unreadable_texts import find_token_faults


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A classifier, and the encoded rows."""

    classifier: TextClassifier
    train: TrainingData
    validation: TrainingData
    findings: tuple[Finding, ...]
    """Texts that the model cannot read."""
    length_limit: int
    """Tokens that the model reads at most, whatever was asked for."""


def load_model(settings: TrainSettings, label_names: Sequence[str]) -> LoadedClassifier:
    """Load the model and try it.

    Raises:
        ModelError: The model cannot be loaded.
        ConfigError: There is no such device, or compiling was asked for and is not possible.
    """
    device = choose_precision(settings.device, settings.dtype).device
    if settings.compile == "on" and (obstacle := find_compile_obstacle(device)):
        raise cannot_compile(obstacle)
    loaded = load_base(settings, label_names)
    try_model(loaded, settings.model)
    return loaded


def prepare_model(
    loaded: LoadedClassifier, rows: PreparedRows, settings: TrainSettings, *, listener: Listener
) -> PreparedModel:
    """Prepare a loaded model for its device, and encode the training and validation text once.

    Raises:
        ModelError: The model reads fewer tokens than `settings.max_length`.
        ConfigError: Packing was asked for and is not possible.
    """
    precision = _choose_precision(settings, loaded)
    _note_model(loaded, listener)
    length_limit = find_length_limit(loaded.model, loaded.tokenizer)
    rule = _choose_rule(settings, length_limit, rows.report, listener)
    tokenizer = fast_tokenizer(loaded.tokenizer)
    store = find_store() if settings.keep_encoded == "auto" else None
    train, validation = (
        encode_or_reuse(
            part.texts,
            tokenizer,
            rule,
            store=store,
            on_progress=partial(listener.progress, "encoding"),
            on_problem=listener.note,
        )
        for part in (rows.train, rows.validation)
    )
    _note_text(train, rule, listener)
    listener.note(f"Arithmetic: {precision.dtype_name} on {precision.device} ({precision.reason}).")
    is_fast = settings.fast_path == "auto"
    if is_fast and is_for_operators(precision) and needs_building():
        listener.note("Building operators for this processor, once; this takes seconds.")
    fast_path, packing = make_fast(loaded, settings, precision)
    if fast_path is not None:
        _note_fast_path(fast_path, loaded, precision, listener)
    if precision.device.type != "cpu" or settings.packing != "auto":
        listener.note(f"Packing: {packing}.")
    classifier = TextClassifier(
        loaded.model, loaded.tokenizer, rule=rule, precision=precision, tell=listener.note
    )
    return PreparedModel(
        classifier,
        _join(train, rows.train, classifier),
        _join(validation, rows.validation, classifier),
        find_token_faults(
            (("train", rows.train, train), ("validation", rows.validation, validation)),
            loaded.tokenizer,
            listener,
        ),
        length_limit,
    )


def renew_model(
    prepared: PreparedModel, settings: TrainSettings, *, listener: Listener
) -> PreparedModel:
    """Load the model again, with new weights from the seed, for rows already encoded."""
    old = prepared.classifier
    loaded = load_base(settings, old.label_names)
    mark_padding(loaded.model, reads_it=reads_padding(old.model))
    loaded.model.config.pad_token_id = old.model.config.pad_token_id
    make_fast(loaded, settings, old.precision)
    classifier = TextClassifier(
        loaded.model,
        loaded.tokenizer,
        rule=old.rule,
        precision=old.precision,
        tell=listener.note,
    )
    return dataclasses.replace(prepared, classifier=classifier)


def make_fast(
    loaded: LoadedClassifier, settings: TrainSettings, precision: Precision
) -> tuple[FastPath | None, Plan]:
    """Plug in what the settings allow; packing, if asked for, works without the fast path.

    Operators are built if they have not been.
    """
    is_fast = settings.fast_path == "auto"
    if is_fast and is_for_operators(precision):
        load_operators(build=True)
    if not is_fast:
        compute_plainly(loaded.model)  # on a CPU, packs use bertfit's attention
    fast_path = plug_in(loaded.model, precision.device) if is_fast else None
    if not is_fast and settings.packing == "auto":
        return None, Plan(is_on=False, reason="the fast path is off")
    return fast_path, set_up_packing(loaded.model, precision, settings.packing)


def _choose_precision(settings: TrainSettings, loaded: LoadedClassifier) -> Precision:
    """Return device and type; not bfloat16 for a model that cannot be computed in it."""
    precision = choose_precision(settings.device, settings.dtype)
    if settings.dtype != "auto" or precision.dtype_name == "float32":
        return precision
    fault = find_type_fault(loaded, precision)
    if fault is None:
        return precision
    reason = f"this model cannot be computed in {precision.dtype_name}: {fault}"
    return dataclasses.replace(precision, dtype=torch.float32, reason=reason)


def _note_model(loaded: LoadedClassifier, listener: Listener) -> None:
    for text in loaded.notes:
        listener.note(text)
    if reads_padding(loaded.model):
        listener.note("This model reads padding: only texts of equal length are computed together.")
    num_known = loaded.model.get_input_embeddings().weight.shape[0]
    if (num_more := len(loaded.tokenizer) - num_known) > 0:
        tokens = (
            "1 token of its tokenizer has"
            if num_more == 1
            else (f"{num_more:,} tokens of its tokenizer have")
        )
        listener.note(
            f"WARNING: {tokens} no embedding, and a text with such a token cannot be read. Save "
            "the model, too, after model.resize_token_embeddings(len(tokenizer))."
        )


def _note_fast_path(
    fast_path: FastPath, loaded: LoadedClassifier, precision: Precision, listener: Listener
) -> None:
    on_gpu = precision.device.type == "cuda"
    if on_gpu or is_for_operators(precision):
        listener.note(f"Operators: {plan_operators_of(loaded.model, precision)}.")
    if not fast_path.is_whole and not on_gpu:  # the note on operators covers a GPU
        listener.note(f"Attention: {fast_path.attention}; dropout: {fast_path.dropout}.")


def _choose_rule(
    settings: TrainSettings, limit: int, report: GateReport, listener: Listener
) -> EncodingRule:
    asked = settings.max_length
    if asked is not None:
        check_length(asked, limit, settings.model)
    return EncodingRule(
        max_length=asked or limit,
        truncation=settings.truncation,
        head_fraction=settings.head_fraction,
        text_cleaning=_choose_cleaning(settings, report, listener),
    )


def _choose_cleaning(
    settings: TrainSettings, report: GateReport, listener: Listener
) -> TextCleaning:
    if settings.text_cleaning != "auto":
        return settings.text_cleaning
    cleaning, share = choose_cleaning_of(report)
    if cleaning != "none":
        listener.note(
            f"HTML line breaks (<br />), which {format_share(share)} of the training rows have, "
            "are read as spaces, also by the tokenizer that is saved in the run."
        )
    return cleaning


def _join(encoded: EncodedTexts, rows: TextDataset, classifier: TextClassifier) -> TrainingData:
    check_token_ids(classifier.model, encoded.token_ids)
    label_ids = np.asarray(encode_labels(rows.labels, classifier.label_names), dtype=np.int64)
    return TrainingData(encoded, label_ids, classifier.pad_id)


def _note_text(encoded: EncodedTexts, rule: EncodingRule, listener: Listener) -> None:
    median = int(np.median(encoded.full_lengths))
    text = f"Text: at most {rule.max_length} tokens are read; the median is {median}"
    num_cut = encoded.num_truncated
    if num_cut:
        share = f"({format_share(num_cut, len(encoded))})"
        kept = name_kept_part(rule.truncation)
        of_many = f"{num_cut:,} training rows {share} are longer and keep their {kept}"
        of_one = f"1 training row {share} is longer and keeps its {kept}"
        text += f". {of_one if num_cut == 1 else of_many}"
    listener.note(f"{text}.")
