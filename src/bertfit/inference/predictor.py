"""A trained model for Python users: load it once, predict as often as you like."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bertfit.assets import name_model
from bertfit.data.cleaning import fold_cleaning
from bertfit.data.dataset import Columns, as_columns
from bertfit.data.encoding import EncodedTexts, EncodingRule, cut_chunks, encode_texts, join_encoded
from bertfit.data.token_faults import mark_unread
from bertfit.errors import ConfigError, DataError, ModelError
from bertfit.evaluation.selective import Expectation, check_abstain_below, expect, find_least
from bertfit.evaluation.thresholds import decide
from bertfit.files import as_path, raising_system_errors
from bertfit.inference.ahead import make_ahead
from bertfit.inference.confidence import ConfidenceRules, read_confidence
from bertfit.inference.loading import (
    check_uncalibrated,
    check_whole,
    describe_changes,
    read_rule,
    settle_padding,
)
from bertfit.inference.micro_batches import SMALLER_PIECES
from bertfit.inference.prediction import Prediction
from bertfit.inference.scoring import score_texts, softmax
from bertfit.inference.texts import iter_texts, list_texts
from bertfit.inference.working_copy import WorkingCopy
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.forward import mark_token_types
from bertfit.modeling.input_limits import check_token_ids, find_length_limit
from bertfit.modeling.locating import suggest_folder
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import Precision, choose_precision
from bertfit.modeling.soundness import mark_padding, reads_padding
from bertfit.modeling.tokenizer_files import fast_tokenizer, name_inputs, save_tokenizer
from bertfit.modeling.torch_defaults import build_model
from bertfit.run_directory import read_record
from bertfit.run_files import find_changed_files, is_run
from bertfit.wording import list_some

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from bertfit.config import Dtype

_CHUNK = (2048, 2**24)
"""Texts held at once while streaming, enough to batch texts of similar length, and characters."""


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)  # where `TextClassifier.load` was called


class TextClassifier:
    """A classifier with its tokenizer and its encoding rule."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        rule: EncodingRule,
        precision: Precision,
        tell: Callable[[str], None] = _warn,
    ) -> None:
        """Combine the parts; use `TextClassifier.load` instead if you can.

        Args:
            model: A sequence classifier.
            tokenizer: Its tokenizer.
            rule: How texts are truncated.
            precision: Device and dtype of the computation.
            tell: Called once with a sentence, if memory runs out in scoring.
        """
        self.model = model.to(precision.device).eval()
        mark_token_types(model, tokenizer)
        self.tokenizer = tokenizer
        self.rule = rule
        self.precision = precision
        self.record: dict[str, Any] = {}
        self.confidence = ConfidenceRules()
        self._tell = tell
        self._max_tokens: int | None = None  # of a micro-batch, once memory has run out
        self._fast_tokenizer = fast_tokenizer(tokenizer)
        self._working = WorkingCopy()

    def __repr__(self) -> str:
        """Return what this is in a line, for notebooks."""
        on = f"{self.precision.dtype_name} on {self.precision.device}"
        return f"<{type(self).__name__} of {list_some(self.label_names, 5)}; {on}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the weights as they are, without anything that was plugged in."""
        config = copy.deepcopy(self.model.config)
        config._attn_implementation = None  # noqa: SLF001 (has no public name)
        weights = {name: value.cpu() for name, value in self.model.state_dict().items()}
        model = (type(self.model), config, weights, reads_padding(self.model))
        parts = (self.tokenizer, self.rule, self.precision, self.record, self.confidence)
        return _rebuild, (type(self), model, *parts)

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        device: str = "auto",
        dtype: Dtype | None = "float32",
        tell: Callable[[str], None] = _warn,
    ) -> Self:
        """Load a run, or any Hugging Face classifier folder.

        Args:
            run: A run of bertfit (its encoding rule is applied) or a plain model folder (texts
                are truncated at the model's own limit, on the side that its tokenizer names).
            device: auto, cpu, cuda, cuda:N or mps.
            dtype: float32, the default, gives the results of transformers; bfloat16, which auto
                chooses if the hardware is fast at it, is several times faster. None, as in
                `bertfit predict`, uses the dtype of the training, if the hardware is fast at it,
                and so comes closest to the scores recorded in the run.
            tell: Called with a sentence if a file of the model was changed after the run was made,
                or if a GPU's memory runs out and scoring continues in smaller pieces.

        Raises:
            ConfigError: `run` is not a path, `tell` is no function, or there is no such device or
                dtype.
            RunError: There is no such folder, or its files are damaged.
            ModelError: The model in it cannot be loaded or computed, or is not a classifier.
        """
        if not callable(tell):
            raise ConfigError(f"tell: expected a function of a sentence, got {tell!r}")
        path = as_path(run, "run")
        # Folders of other tools are left to `load_classifier`, which says what they are.
        if not (is_run(path) or (path / "config.json").is_file() or suggest_folder(path)):
            read_record(path)  # says what is missing
        record = read_record(path) if is_run(path) else {}
        loaded = load_classifier(name_model(path))
        check_whole(loaded, path, record)
        settle_padding(loaded, path, record)
        if changed := find_changed_files(path, record):
            tell(describe_changes(path, changed))
        limit = find_length_limit(loaded.model, loaded.tokenizer)
        rule = read_rule(path, record, loaded.tokenizer, limit=limit)
        if dtype is None:
            trained_with = record.get("training", {}).get("dtype")
            dtype = "auto" if trained_with == "bfloat16" else "float32"
        precision = choose_precision(device, dtype)
        plug_in(loaded.model, precision.device)
        set_up_packing(loaded.model, precision)
        classifier = cls(loaded.model, loaded.tokenizer, rule=rule, precision=precision, tell=tell)
        classifier.record = record
        classifier.confidence = read_confidence(
            record, num_labels=len(classifier.label_names), run=path
        )
        check_uncalibrated(loaded, classifier.confidence.uncalibrated, path)
        return classifier

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names in order of their ids."""
        names = self.model.config.id2label
        return tuple(str(names[index]) for index in range(len(names)))

    @property
    def pad_id(self) -> int:
        """Token id that pads short rows."""
        pad_id = self.tokenizer.pad_token_id
        return int(pad_id) if pad_id is not None else 0

    def encode(
        self,
        texts: Iterable[str | list[str]],
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> EncodedTexts:
        """Encode texts by the model's own rule.

        Raises:
            DataError: They are not an iterable of texts.
            ModelError: The tokenizer has tokens that the model does not know.
        """
        return self._encode(list(iter_texts(texts)), on_progress=on_progress)

    def _encode(
        self, texts: list[str], *, on_progress: Callable[[int, int], None] | None = None
    ) -> EncodedTexts:
        encoded = encode_texts(texts, self._fast_tokenizer, self.rule, on_progress=on_progress)
        check_token_ids(self.model, encoded.token_ids, of=(encoded.offsets, texts))
        return encoded

    def score(
        self, encoded: EncodedTexts, *, on_progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Return probabilities (n, C) of encoded texts, in their order."""
        return softmax(self.score_logits(encoded, on_progress=on_progress))

    def score_logits(
        self, encoded: EncodedTexts, *, on_progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Return logits (n, C) of encoded texts, in their order.

        Raises:
            DataError: `encoded` is not what `encode` returns.
            ModelError: Logits are not finite.
        """
        if not isinstance(encoded, EncodedTexts):
            message = f"encoded: expected what encode(texts) returns, got {type(encoded).__name__}"
            raise DataError(message)
        logits = score_texts(
            self._working.take(self.model, self.precision),
            encoded,
            precision=self.precision,
            pad_id=self.pad_id,
            max_tokens=self._max_tokens,
            on_progress=on_progress,
            on_halved=self._heed_memory,
        )
        if not np.isfinite(logits).all():
            raise ModelError(
                "the model gives numbers that are not finite: its weights are damaged, or too "
                f"large for {self.precision.dtype_name}",
                hint="Try --dtype float32; else restore the weights, or train again.",
            )
        return logits

    def _heed_memory(self, tokens: int) -> None:
        if self._max_tokens is None:
            self._tell(SMALLER_PIECES)
        self._max_tokens = tokens

    def encode_and_score(
        self,
        texts: Iterable[str | list[str]],
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> tuple[EncodedTexts, np.ndarray]:
        """Return encoded texts and their logits (n, C); encode one chunk while scoring another.

        Args:
            texts: n texts.
            on_progress: Called with (rows scored, n).

        Raises:
            DataError, ModelError: As in `encode` and `score_logits`.
        """
        listed = list(iter_texts(texts))
        pieces: list[EncodedTexts] = []
        logits: list[np.ndarray] = []
        num_done = 0
        for piece in make_ahead(self._encode, cut_chunks(listed, *_CHUNK)):

            def report(done: int, _total: int, before: int = num_done) -> None:
                if on_progress is not None:
                    on_progress(before + done, len(listed))

            pieces.append(piece)
            logits.append(self.score_logits(piece, on_progress=report))
            num_done += len(piece)
        none = np.empty((0, len(self.label_names)), dtype=np.float32)
        return join_encoded(pieces), np.concatenate(logits or [none])

    def predict_probabilities(self, texts: Any) -> np.ndarray:  # noqa: ANN401 (as `predict` takes)
        """Return probabilities (n, C) in the order of the texts, given as for `predict`.

        Raises:
            DataError: As `predict` does, like ModelError.
        """
        _, logits = self.encode_and_score(list_texts(texts, self.known_columns()))
        return softmax(logits)

    def predict(
        self,
        texts: Any,  # noqa: ANN401 (see below)
        *,
        abstain_below: float | None = None,
    ) -> list[Prediction]:
        """Predict texts.

        A text that is empty or all white space is predicted like any other, so that the results
        line up with the texts. A row of a table needs a text, as in `bertfit predict --file`.

        Args:
            texts: A string, texts (a list, a pandas Series, an Arrow array, any iterable) that are
                strings or lists of tokens, or a table with a text column: a DataFrame, an Arrow
                table, a `datasets.Dataset` or a list of dicts.
            abstain_below: Give no label to texts whose confidence is below this, in (0, 1]; None
                labels all. `expect_selective` returns what to expect of it.

        Raises:
            ConfigError: `abstain_below` is out of range.
            DataError: A table has no text column, a row of it has no text, or a text is neither
                a string nor a list of strings.
            ModelError: The model gives numbers that are not finite.
        """
        least = find_least(abstain_below)
        listed = list_texts(texts, self.known_columns())
        return list(self._predict_chunks(cut_chunks(listed, *_CHUNK), least))

    def expect_selective(self, abstain_below: float) -> Expectation | None:
        """Return coverage and accuracy of abstaining on the run's validation rows, if known.

        Raises:
            ConfigError: `abstain_below` is out of range.
        """
        curve = self.confidence.curve
        return None if curve is None else expect(curve, check_abstain_below(abstain_below))

    def known_columns(self, columns: Columns | None = None) -> Columns:
        """Return the columns, with the column names that the run was trained on added."""
        settings = self.record.get("settings", {})
        return dataclasses.replace(
            as_columns(columns),
            trained_text=settings.get("text_column", {}).get("value"),
            trained_label=settings.get("label_column", {}).get("value"),
        )

    def predict_stream(
        self, texts: Iterable[str | list[str]], *, abstain_below: float | None = None
    ) -> Iterator[Prediction]:
        """Predict texts as they come, in their order, in constant memory.

        Raises:
            ConfigError: `abstain_below` is out of range.
            DataError: At once, if `texts` is not an iterable of texts, but a string or a table;
                while iterating, if a text is neither a string nor a list of strings.
            ModelError: While iterating, if the model gives numbers that are not finite.
        """
        return self._predict_chunks(
            cut_chunks(iter_texts(texts), *_CHUNK), find_least(abstain_below)
        )

    def _predict_chunks(self, chunks: Iterator[list[str]], least: float) -> Iterator[Prediction]:
        names, tokenizer = self.label_names, self._fast_tokenizer
        for encoded in make_ahead(self._encode, chunks):
            probabilities = self.score(encoded)
            decided_ids = decide(probabilities, self.confidence.threshold).tolist()
            is_cut = encoded.is_truncated.tolist()
            is_unread = mark_unread(encoded, tokenizer, self.tokenizer.unk_token_id).tolist()
            told = zip(probabilities.tolist(), decided_ids, is_cut, is_unread, strict=True)
            for row, decided, cut, unread in told:
                by_name = dict(zip(names, row, strict=True))
                label = names[decided] if row[decided] >= least else None
                yield Prediction(label, row[decided], by_name, is_truncated=cut, is_unread=unread)

    def save_tokenizer(self, folder: str | Path) -> None:
        """Write the tokenizer, so that it cleans texts the same way when loaded without bertfit.

        If asked to truncate, it also truncates them the same way, except for head+tail, which only
        bertfit can do.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
        """
        folder = as_path(folder, "folder")
        self.tokenizer.model_max_length = self.rule.max_length
        side = "left" if self.rule.truncation == "tail" else "right"
        self.tokenizer.truncation_side = self.tokenizer.init_kwargs["truncation_side"] = side
        if not reads_padding(self.model):  # it was tried and trained with padding on the right
            self.tokenizer.padding_side = "right"
        name_inputs(self.tokenizer, self.model)
        with raising_system_errors(folder):
            save_tokenizer(self.tokenizer, folder)
            if self.rule.text_cleaning == "html_breaks":
                fold_cleaning(folder)

    def encoding_record(self) -> dict[str, Any]:
        """Return the encoding rule as it is stored in a run."""
        return dataclasses.asdict(self.rule)


def _rebuild(
    kind: type[TextClassifier],
    model: tuple[type[PreTrainedModel], PretrainedConfig, dict[str, torch.Tensor], bool],
    tokenizer: PreTrainedTokenizerBase,
    rule: EncodingRule,
    precision: Precision,
    *told: Any,  # noqa: ANN401 (record and confidence)
) -> TextClassifier:
    """Unpickle a classifier, and plug in what is fast in this process."""
    model_kind, config, weights, reads_it = model
    built = build_model(model_kind, config, weights)
    mark_padding(built, reads_it=reads_it)
    plug_in(built, precision.device)
    set_up_packing(built, precision)
    classifier = kind(built, tokenizer, rule=rule, precision=precision)
    classifier.record, classifier.confidence = told
    return classifier
