"""Train a classifier from labelled rows and leave a run."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.config import ResolvedSettings, TrainSettings, resolve_settings
from bertfit.data.checks import CheckedData, check_training_data, describe
from bertfit.data.dataset import Columns, TextDataset
from bertfit.data.encoding import EncodingRule, encode_texts
from bertfit.data.splits import split_off
from bertfit.errors import ConfigError, ModelError, TrainingError
from bertfit.evaluation.baseline import Comparison, compare_with_baseline, fit_baseline
from bertfit.evaluation.metrics import score
from bertfit.files import write_json
from bertfit.inference.predictor import TextClassifier
from bertfit.labels import encode_labels
from bertfit.modeling.classifier import fast_tokenizer, find_length_limit, load_classifier
from bertfit.modeling.precision import choose_precision
from bertfit.progress import Listener, Silent
from bertfit.run_directory import Staging, describe_environment, refuse_existing, stage_run
from bertfit.training.loop import NonFiniteLossError, TrainingData
from bertfit.training.trainer import TrainingOutcome, fit, measure_speed
from bertfit.workflow.evaluating import Evaluation, evaluate_classifier

if TYPE_CHECKING:
    from bertfit.data.encoding import EncodedTexts

_DEFAULT_LENGTH_CAP = 8192
"""Where neither model nor tokenizer states a limit, no text is read beyond this many tokens."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run."""

    run: Path
    classifier: TextClassifier
    outcome: TrainingOutcome
    label_names: tuple[str, ...]
    test: Evaluation | None
    """Scores on the test rows, which chose nothing."""
    baseline: Comparison | None
    """The model beside TF-IDF and logistic regression on the test rows."""
    baseline_scores: dict[str, Any] | None
    num_train: int
    num_validation: int


def train(
    data: Any,  # noqa: ANN401 (a path, a DataFrame, an Arrow table or a list of dicts)
    output: str | Path,
    *,
    validation: Any = None,  # noqa: ANN401 (as data)
    test: Any = None,  # noqa: ANN401 (as data)
    settings: ResolvedSettings | None = None,
    recipe: str = "default",
    overwrite: bool = False,
    baseline: bool = True,
    listener: Listener | None = None,
    **options: Any,  # noqa: ANN401 (fields of TrainSettings)
) -> TrainResult:
    """Train a classifier and write a run.

    Args:
        data: Labelled rows: path of a CSV, TSV, JSONL or Parquet file, a DataFrame, an Arrow
            table, or a list of dicts.
        output: Folder of the run to make.
        validation: Labelled rows that choose the epoch; split off `data` where None.
        test: Labelled rows that are scored once at the end and choose nothing.
        settings: Resolved settings; None makes them from `recipe` and `options`.
        recipe: "default" or "notebook".
        overwrite: Replace a run that stands at `output` once the new one is whole.
        baseline: Fit TF-IDF and logistic regression on the same rows, where there is a test set.
        listener: Hears notes and progress.
        **options: Fields of `TrainSettings`, such as `model="roberta-base"` or `epochs=2`.

    Raises:
        ConfigError: A setting is wrong.
        DataError: The data has faults; all are listed.
        ModelError: The model cannot be loaded.
        RunError: `output` is taken.
        TrainingError: A loss became infinite or not a number.
    """
    if settings is None:
        settings = resolve_settings(options, recipe=recipe, options_origin="argument")
    elif options or recipe != "default":
        raise ConfigError("give settings, or a recipe and options, but not both")
    refuse_existing(Path(output), overwrite=overwrite)
    job = _Job(settings, Path(output), listener or Silent())
    job.load_data(data, validation, test)
    job.load_model()
    staging = stage_run(Path(output), overwrite=overwrite)
    try:
        job.train(staging)
        evaluation, comparison, baseline_scores = job.evaluate(with_baseline=baseline)
        record = job.record(evaluation, comparison, baseline_scores)
        job.write(staging, record)
        staging.publish(record)
    except BaseException:
        staging.discard()
        raise
    assert job.outcome is not None
    return TrainResult(
        run=Path(output),
        classifier=job.classifier,
        outcome=job.outcome,
        label_names=job.checked.label_names,
        test=evaluation,
        baseline=comparison,
        baseline_scores=baseline_scores,
        num_train=len(job.train_rows),
        num_validation=len(job.validation_rows),
    )


class _Job:
    """The parts of one training, made one after another by `train`."""

    checked: CheckedData
    train_rows: TextDataset
    validation_rows: TextDataset
    classifier: TextClassifier
    outcome: TrainingOutcome | None = None

    def __init__(self, resolved: ResolvedSettings, output: Path, listener: Listener) -> None:
        self.resolved = resolved
        self.settings: TrainSettings = resolved.settings
        self.output = output
        self.log: list[str] = []
        self._listener = listener
        self.started = time.perf_counter()

    def note(self, text: str) -> None:
        """Say a sentence and keep it for the log."""
        now = datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds")
        self.log.append(f"{now} {text}")
        self._listener.note(text)

    def progress(self, task: str, done: int, total: int | None, detail: str = "") -> None:
        """Pass progress on."""
        self._listener.progress(task, done, total, detail)

    def load_data(self, data: Any, validation: Any, test: Any) -> None:  # noqa: ANN401 (as train)
        """Read, check and split."""
        s = self.settings
        self.checked = check_training_data(
            data,
            validation=validation,
            test=test,
            columns=Columns(text=s.text_column, label=s.label_column, group=s.group_column),
            on_bad_row=s.on_bad_row,
        )
        if self.checked.validation is not None:
            self.train_rows, self.validation_rows = self.checked.train, self.checked.validation
        else:
            self.train_rows, self.validation_rows = split_off(
                self.checked.train, s.validation_fraction, seed=s.seed
            )
        names = ", ".join(f"{name} → {index}" for index, name in enumerate(self.checked.label_names))
        self.note(f"Labels: {names}.")
        how = "given" if self.checked.validation is not None else "split off, stratified"
        if self.checked.validation is None and self.train_rows.groups:
            how += f", grouped by {s.group_column}"
        num_test = "none" if self.checked.test is None else f"{len(self.checked.test):,}"
        self.note(
            f"Rows: {len(self.train_rows):,} to train, {len(self.validation_rows):,} to validate "
            f"({how}), test {num_test}."
        )
        if self.checked.skipped:
            self.note(f"Skipped {len(self.checked.skipped):,} bad rows:")
            for fault in self.checked.skipped[:20]:
                self.note(f"  {fault}")

    def load_model(self) -> None:
        """Load the model, encode all text, and choose the arithmetic."""
        s = self.settings
        precision = choose_precision(s.device, s.dtype)
        loaded = load_classifier(
            s.model, self.checked.label_names, dropout=s.dropout, seed=s.seed
        )
        for text in loaded.notes:
            self.note(text)
        limit = find_length_limit(loaded.model, loaded.tokenizer)
        if s.max_length is not None and s.max_length > limit:
            raise ModelError(
                f"max_length {s.max_length} was asked for, but {s.model} reads at most {limit} tokens"
            )
        longest = s.max_length or min(limit, _DEFAULT_LENGTH_CAP)
        rule = EncodingRule(
            max_length=longest,
            truncation=s.truncation,
            head_fraction=s.head_fraction,
            text_cleaning=s.text_cleaning,
        )
        tokenizer = fast_tokenizer(loaded.tokenizer)
        encoded = [
            encode_texts(
                rows.texts,
                tokenizer,
                rule,
                on_progress=lambda done, total: self.progress("encoding", done, total),
            )
            for rows in (self.train_rows, self.validation_rows)
        ]
        if s.max_length is None:
            rule = dataclasses.replace(
                rule, max_length=max(int(part.lengths.max()) for part in encoded)
            )
        self.classifier = TextClassifier(
            loaded.model, loaded.tokenizer, rule=rule, precision=precision
        )
        self.train_data, self.validation_data = (
            TrainingData(part, self._label_ids(rows), self.classifier.pad_id)
            for part, rows in zip(encoded, (self.train_rows, self.validation_rows), strict=True)
        )
        self._note_encoding(encoded[0])
        self.note(f"Arithmetic: {precision.dtype_name} on {precision.device} ({precision.reason}).")

    def _label_ids(self, rows: TextDataset) -> np.ndarray:
        return np.asarray(encode_labels(rows.labels, self.checked.label_names), dtype=np.int64)

    def _note_encoding(self, encoded: EncodedTexts) -> None:
        rule, num_truncated = self.classifier.rule, encoded.num_truncated
        said = f"Text: at most {rule.max_length} tokens, median {int(np.median(encoded.full_lengths))}"
        if num_truncated:
            share = num_truncated / len(encoded)
            said += (
                f"; {num_truncated:,} training rows ({share:.0%}) are longer and keep their "
                f"{rule.truncation}"
            )
        self.note(f"{said}.")

    def train(self, staging: Staging) -> None:
        """Measure the speed, then train."""
        model = self.classifier.model
        speed = measure_speed(
            model, self.train_data, settings=self.settings, precision=self.classifier.precision
        )
        self.note(
            f"Training {self.settings.epochs} epochs will take about "
            f"{format_seconds(speed.train_seconds)} (measured here: "
            f"{speed.tokens_per_second:,.0f} tokens a second)."
        )
        try:
            self.outcome = fit(
                model,
                self.train_data,
                self.validation_data,
                settings=self.settings,
                precision=self.classifier.precision,
                best_folder=staging.folder,
                listener=self,
            )
        except TrainingError as error:
            raise self._explain(error, staging) from error
        self.note(f"Kept: {self.outcome.reason}.")
        if self.outcome.collapsed_to is not None:
            name = self.checked.label_names[self.outcome.collapsed_to]
            self.note(
                f"WARNING: the model collapsed: it predicts {name!r} for every validation row. "
                "Lower learning_rate, train longer, or look at the labels."
            )

    def _explain(self, error: TrainingError, staging: Staging) -> TrainingError:
        message, hint = error.message, error.hint or ""
        if isinstance(error, NonFiniteLossError):
            lines = sorted(self.train_rows.lines[index] for index in error.indices)
            shown = ", ".join(str(line) for line in lines[:64])
            message += f"; the step's rows are lines {shown} of {self.train_rows.source}"
        if (staging.folder / "config.json").is_file():
            self.classifier.tokenizer.save_pretrained(staging.folder)
            kept = _rename_free(staging.folder, self.output.absolute())
            hint += f" The best epoch before that is kept as a plain model in {kept}."
        return TrainingError(message, hint=hint.strip())

    def evaluate(
        self, *, with_baseline: bool
    ) -> tuple[Evaluation | None, Comparison | None, dict[str, Any] | None]:
        """Score the test rows, and the baseline beside them."""
        rows = self.checked.test
        if rows is None:
            return None, None, None
        evaluation = evaluate_classifier(self.classifier, rows, listener=self)
        if not with_baseline:
            return evaluation, None, None
        self.progress("baseline", 0, None)
        baseline = fit_baseline(
            self.train_rows.texts,
            self.train_data.label_ids,
            num_labels=len(self.checked.label_names),
            seed=self.settings.seed,
        )
        probabilities = baseline.predict_probabilities(rows.texts)
        groups = np.asarray(rows.groups) if rows.groups else None
        comparison = compare_with_baseline(
            evaluation.probabilities, probabilities, evaluation.label_ids, groups=groups
        )
        self.progress("baseline", 1, 1)
        scores = score(probabilities, evaluation.label_ids, self.checked.label_names)
        self.note(comparison.verdict)
        return evaluation, comparison, scores.to_json()

    def record(
        self,
        evaluation: Evaluation | None,
        comparison: Comparison | None,
        baseline_scores: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Return what bertfit.json says."""
        assert self.outcome is not None
        outcome, best = self.outcome, self.outcome.best_epoch
        history = outcome.history
        return {
            "label_names": list(self.checked.label_names),
            "encoding": self.classifier.encoding_record(),
            "settings": self.resolved.to_json(),
            "training": {
                "best_epoch": best + 1,
                "selection_metric": outcome.selection_metric,
                "reason": outcome.reason,
                "interrupted": outcome.interrupted,
                "collapsed_to": outcome.collapsed_to,
                "num_steps": outcome.num_steps,
                "train_seconds": round(outcome.train_seconds, 1),
                "total_seconds": round(time.perf_counter() - self.started, 1),
                "dtype": self.classifier.precision.dtype_name,
                "device": str(self.classifier.precision.device),
            },
            "data": self._describe_data(),
            "scores": {
                "validation": {
                    "loss": history.val_losses[best],
                    "accuracy": history.val_acc[best],
                    "macro_f1": history.val_f1[best],
                },
                "test": evaluation.to_json() if evaluation else None,
                "baseline": baseline_scores,
                "comparison": dataclasses.asdict(comparison) if comparison else None,
            },
            **describe_environment(),
        }

    def _describe_data(self) -> dict[str, Any]:
        parts: dict[str, TextDataset] = {
            "train": self.train_rows,
            "validation": self.validation_rows,
        }
        if self.checked.test is not None:
            parts["test"] = self.checked.test
        names = self.checked.label_names
        return {
            **{
                part: {
                    "source": rows.source,
                    "fingerprint": rows.fingerprint(),
                    **describe(rows, names),
                }
                for part, rows in parts.items()
            },
            "skipped": [str(fault) for fault in self.checked.skipped],
        }

    def write(self, staging: Staging, record: dict[str, Any]) -> None:
        """Write everything but bertfit.json into the staging folder."""
        assert self.outcome is not None
        self.classifier.tokenizer.model_max_length = self.classifier.rule.max_length
        self.classifier.tokenizer.save_pretrained(staging.folder)
        write_json(
            staging.folder / "training_history.json", dataclasses.asdict(self.outcome.history)
        )
        write_json(staging.folder / "metrics.json", record["scores"])
        (staging.folder / "train.log").write_text("\n".join(self.log) + "\n", encoding="utf-8")


def format_seconds(seconds: float) -> str:
    """Return a duration for people.

    Example:
        >>> format_seconds(42.3), format_seconds(150), format_seconds(8000)
        ('42 s', '2 min 30 s', '2 h 13 min')
    """
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 (seconds in a minute)
        return f"{max(whole, 1)} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:  # noqa: PLR2004 (minutes in an hour)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _rename_free(folder: Path, output: Path) -> Path:
    names: Sequence[str] = [f"{output.name}.unfinished", *(f"{output.name}.unfinished-{n}" for n in range(2, 1000))]
    target = next(path for name in names if not (path := output.with_name(name)).exists())
    return folder.rename(target)
