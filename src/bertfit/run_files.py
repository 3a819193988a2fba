"""The files of a run: which ones there are, and which decide the answers of its model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bertfit.files import digest_file, read_json

RECORD_NAME = "bertfit.json"
BASELINES_NAME = "baselines.json"
CARD_NAME = "README.md"
REPORT_NAME = "report.html"
REPORT_FACTS_NAME = "report.json"
"""What a training keeps for the report that no other file of the run has."""
HISTORY_NAME = "training_history.json"
SCORES_NAME = "metrics.json"
LOG_NAME = "train.log"
VALIDATION_NAME = "validation_predictions.jsonl"
TEST_NAME = "test_predictions.jsonl"
TRAINED_NAME, CHOOSING_NAME = "trained_texts.npy", "validation_texts.npy"
"""Digests of the texts that the model learned, and of those that chose its epoch."""
UNCALIBRATED_NAME = "uncalibrated_layer.npy"
"""In a run with cubic calibration: the last layer before it, for uncalibrated scores. vLLM takes
each file of the kind `.safetensors` for weights of the model."""
STATE_NAME = "training_state.safetensors"
"""The state of a training that has not ended; a run has none."""
WRITTEN_AFTER_TRAINING = {
    *(RECORD_NAME, BASELINES_NAME, HISTORY_NAME, SCORES_NAME, LOG_NAME),
    *(VALIDATION_NAME, TEST_NAME, TRAINED_NAME, CHOOSING_NAME),
    *(REPORT_NAME, REPORT_FACTS_NAME, CARD_NAME, UNCALIBRATED_NAME),
}
"""Files of a run that are made once its model is trained; not each run has all of them."""
_BESIDE_MODEL = {"model.safetensors.index.json", "chat_template.jinja"}
"""Further files that transformers writes of a large model, and of a tokenizer for chats."""
_CARD_SEAL = "\n<!-- bertfit report replaces this file while it is unchanged: "
_DECIDING_FILES = {"config.json", "tokenizer.json", "tokenizer_config.json"}
"""Files that decide a model's answers, in addition to its weights."""


def seal_card(card: str) -> str:
    """Return a model card with a last line that shows whether it was changed."""
    return f"{card}{_CARD_SEAL}{_digest_card(card.encode())}"


def is_sealed(card: bytes) -> bool:
    """Return whether a card is exactly as `seal_card` returned it, for any run."""
    written, seal, rest = card.rpartition(_CARD_SEAL.encode())
    return bool(seal) and rest.decode("utf-8", "replace") == _digest_card(written)


def _digest_card(card: bytes) -> str:
    return f"{hashlib.sha256(card).hexdigest()[:16]} -->\n"


def is_run(path: Path) -> bool:
    """Return whether `path` is a folder with a bertfit.json."""
    return (path / RECORD_NAME).is_file()


def list_files(run: Path) -> list[str] | None:
    """Return the names of a run's files from its record, or None if it lists none."""
    try:
        known = read_json(run / RECORD_NAME).get("files")
    except (OSError, ValueError, AttributeError):
        return None
    return [*map(str, known)] if isinstance(known, list) else None


def may_be_of_run(name: str) -> bool:
    """Return whether bertfit gives files of a run this name."""
    return name in WRITTEN_AFTER_TRAINING | _BESIDE_MODEL or _decides(name)


def is_whole(run: Path) -> bool:
    """Return whether all files that a run's record lists exist."""
    return is_run(run) and all((run / name).exists() for name in list_files(run) or ())


def digest_model(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of the files that decide the answers of a run's model, by name."""
    return {name: digest_file(folder / name) for name in names if _decides(name)}


def find_changed_files(run: Path, record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the files of a run's model that were changed or removed after it was made.

    Args:
        run: Folder of the run.
        record: Content of its bertfit.json. Without digests there, nothing is found.
    """
    known: dict[str, str] = record.get("sha256", {})
    return tuple(
        name
        for name, digest in known.items()
        if not (run / name).is_file() or digest_file(run / name) != digest
    )


def _decides(name: str) -> bool:
    """Return whether a file of a run decides the answers of its model."""
    return name in _DECIDING_FILES or (name.startswith("model") and name.endswith(".safetensors"))
