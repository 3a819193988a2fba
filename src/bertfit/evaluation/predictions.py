"""Read and write the predictions kept in a run: one JSON line per row, without its text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.errors import RunError
from bertfit.files import open_atomically, parse_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEYS = ("line", "group", "label", "probabilities", "num_tokens", "truncated")
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class KeptPredictions:
    """Predictions for n ≥ 1 rows, as parallel columns."""

    lines: Sequence[int]
    """1-based line of each row in its source."""
    groups: Sequence[str | None]
    """Empty if no row has one."""
    label_ids: NDArray[np.int64]
    """(n,) the true classes."""
    probabilities: NDArray[np.float64]
    """(n, C) in the order of the label ids."""
    num_tokens: NDArray[np.int64]
    """(n,) tokens of each text before truncation."""
    is_truncated: NDArray[np.bool_]
    """(n,) whether the text was truncated."""
    is_known: NDArray[np.bool_] | None = None
    """(n,) whether the model knew the row before: its text (or nearly) or its group leaked, or the
    model was trained on it or chosen by it. None if that was not recorded."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.label_ids)

    @property
    def known_groups(self) -> NDArray[Any] | None:
        """(n,) groups for resampling; None if no row has one."""
        has_groups = any(group is not None for group in self.groups)
        return np.asarray(self.groups, dtype=object) if has_groups else None


def write_predictions(path: Path, kept: KeptPredictions, label_names: Sequence[str]) -> None:
    """Write predictions as JSON lines, atomically.

    Raises:
        OSError: The file cannot be written.
    """
    with open_atomically(path) as file:
        for row in range(len(kept)):
            record = {
                "line": int(kept.lines[row]),
                "group": kept.groups[row] if kept.groups else None,
                "label": label_names[int(kept.label_ids[row])],
                "probabilities": kept.probabilities[row].tolist(),
                "num_tokens": int(kept.num_tokens[row]),
                "truncated": bool(kept.is_truncated[row]),
            }
            if kept.is_known is not None:
                record["known"] = bool(kept.is_known[row])
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def read_predictions(
    path: Path, label_names: Sequence[str], *, num_rows: int | None = None
) -> KeptPredictions:
    """Read predictions that `write_predictions` wrote.

    Args:
        path: The file.
        label_names: Label names of the run, in the order of their ids.
        num_rows: Expected number of rows; None if unknown.

    Raises:
        RunError: The file is missing, damaged (the message names the line) or incomplete.
    """
    id_of_name = {name: label_id for label_id, name in enumerate(label_names)}
    records = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                records.append(_parse(line, id_of_name, place=f"{path}:{number}"))
    except FileNotFoundError:
        raise RunError(
            f"{path} does not exist: the run keeps no such predictions",
            hint="It was imported, trained without such rows, or interrupted before they were "
            "scored. Give rows with --data.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not records:
        raise RunError(f"{path} is empty; a line for each row was expected")
    if num_rows is not None and len(records) != num_rows:
        raise _damaged(
            str(path), f"it holds predictions of {len(records):,} rows; {num_rows:,} were kept"
        )
    known = [record.get("known") for record in records]
    return KeptPredictions(
        lines=[record["line"] for record in records],
        groups=[record["group"] for record in records],
        label_ids=np.array([id_of_name[record["label"]] for record in records], dtype=np.int64),
        probabilities=np.array([record["probabilities"] for record in records], dtype=np.float64),
        num_tokens=np.array([record["num_tokens"] for record in records], dtype=np.int64),
        is_truncated=np.array([record["truncated"] for record in records], dtype=bool),
        is_known=None if None in known else np.array(known, dtype=bool),
    )


def _parse(line: str, id_of_name: dict[str, int], *, place: str) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise _damaged(place, f"the line is not JSON ({error})") from None
    if not isinstance(record, dict) or set(_KEYS) - set(record):
        raise _damaged(
            place, f"expected an object with {', '.join(_KEYS)}, got {line.strip()!r:.80}"
        )
    if not isinstance(record["label"], str) or record["label"] not in id_of_name:
        known = ", ".join(id_of_name)
        raise _damaged(place, f"label {record['label']!r} is not one of the run's: {known}")
    fault = _find_fault(record, num_labels=len(id_of_name))
    if fault is not None:
        raise _damaged(place, fault)
    return record


def _find_fault(record: dict[str, Any], *, num_labels: int) -> str | None:
    if not _are_probabilities(record["probabilities"], num_labels):
        return (
            f"probabilities: expected {num_labels} numbers of at least 0 that sum to 1, "
            f"got {record['probabilities']!r:.80}"
        )
    for name in ("line", "num_tokens"):
        if type(record[name]) is not int or not 0 <= record[name] < 2**63:
            return f"{name}: expected a whole number from 0 to 2**63 - 1, got {record[name]!r:.80}"
    for name in ("truncated", "known"):
        if not isinstance(record.get(name, False), bool):
            return f"{name}: expected true or false, got {record[name]!r}"
    if record["group"] is not None and not isinstance(record["group"], str):
        return f"group: expected a string or null, got {record['group']!r}"
    return None


def _are_probabilities(value: object, num_labels: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == num_labels
        and all(type(number) in {int, float} and 0 <= number < 2 for number in value)
        and math.isclose(sum(value), 1, abs_tol=_SUM_TOLERANCE)
    )


def _damaged(place: str, what: str) -> RunError:
    return RunError(
        f"{place}: {what}",
        hint="The file was changed or is damaged. Restore it, or train again; bertfit compare "
        "takes rows with --data instead.",
    )
