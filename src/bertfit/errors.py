"""Every error that bertfit raises on purpose.

    BertfitError                    exit code 1
    ├── ConfigError (ValueError)            2   a setting or an argument is wrong
    ├── DataError (ValueError)              3   the data is wrong; carries its faults
    │   └── LeakError                       8   the test set leaks, and strict was asked for
    ├── ModelError (ValueError)             4   a model cannot be found, loaded or used
    ├── RunError (ValueError)               5   a run folder is missing, damaged or in the way
    ├── TrainingError (RuntimeError)        6   training cannot go on
    └── MissingDependencyError (ImportError) 7  something that it needs is not installed

A message says what was expected, what was found and where; the hint says what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\[.*\]|\{.*\}""")
"""The `repr` of a value: a string in either kind of quotes, a list, a dict."""
_MOST_LINES_SHOWN = 3
"""Lines that a message names of many rows with the same fault."""
_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, MPS, Triton
    "_status_alloc_failed",  # cuBLAS and cuDNN, which allocate memory of their own
    "can't allocate memory",  # torch on a CPU
    "failed to map segment",  # a library that cannot be loaded under ulimit -v
)
"""What errors say, in lower case, when memory has run out."""


class WorkLeft(KeyboardInterrupt):
    """Ctrl-C ended work of which something was left; the message says what, or how to go on."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the data: where, and what."""

    source: str
    """File name, or a description of the table."""
    line: int | None
    """1-based line of the file (1-based row of a table); None when the whole source is at fault."""
    message: str
    """What was expected and what was found, in one line."""
    value: str = ""
    """Part of the message that shows what the data has there, unless it is quoted."""
    kind: str = ""
    """The message in words that fit other rows too, if it says more of this one."""

    def __str__(self) -> str:
        """Return `source:line: message`."""
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.message}"

    def without_values(self) -> Fault:
        """Return the fault without the values that it shows, which may be texts of the data.

        Example:
            >>> fault = Fault("a.csv", 3, "label 'so sad' is not known. Did you mean 'sad'?")
            >>> print(fault.without_values())
            a.csv:3: label '…' is not known. Did you mean '…'?
        """
        message = self.message.replace(self.value, "'…'") if self.value else self.message
        message, kind = (_QUOTED.sub("'…'", told) for told in (message, self.kind))
        return replace(self, message=message, value="", kind=kind)


class BertfitError(Exception):
    """Base of all errors here; has an exit code and a hint on what to do."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep the message and the hint separate, so that each can be shown in its own way."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message, with the hint on a line of its own."""
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class ConfigError(BertfitError, ValueError):
    """A setting or an argument is wrong."""

    exit_code = 2


class DataError(BertfitError, ValueError):
    """The data is wrong; `faults` lists all faults found."""

    exit_code = 3
    num_shown = 20
    groups_equal = True
    """Whether equal faults of many rows are told as one, with their number: not if `faults` are
    only examples."""

    def __init__(
        self, message: str, *, faults: Sequence[Fault] = (), hint: str | None = None
    ) -> None:
        """Keep all faults; show the first `num_shown` of them, equal ones of many rows as one."""
        super().__init__(message, hint=hint)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        """Return the message, the first faults, and the hint."""
        told, num_more = tell_faults(self.faults, self.num_shown, together=self.groups_equal)
        lines = [self.message, *(f"  {line}" for line in told)]
        if num_more:
            lines.append(f"  … and {num_more:,} more")
        if self.hint is not None:
            lines.append(self.hint)
        return "\n".join(lines)


class LeakError(DataError):
    """Texts or groups of the test set also occur in the other rows, and strict was asked for."""

    exit_code = 8
    groups_equal = False


class ModelError(BertfitError, ValueError):
    """A model cannot be found, loaded or used."""

    exit_code = 4


class RunError(BertfitError, ValueError):
    """A run folder is missing, damaged or in the way."""

    exit_code = 5


class TrainingError(BertfitError, RuntimeError):
    """Training cannot go on."""

    exit_code = 6


class MissingDependencyError(BertfitError, ImportError):
    """Something is not installed: the extra `hub`, or the embedded wheels; the hint says how.

    The command exits with the same code if a library cannot be imported.
    """

    exit_code = 7


def did_you_mean(name: str, candidates: Iterable[str], *, least: float = 0.6) -> str:
    """Return ` Did you mean 'x'?` for the nearest candidate, or an empty string.

    Args:
        name: What was written.
        candidates: What could have been meant.
        least: Similarity of a candidate that is told, in (0, 1]: `difflib`'s ratio.

    Example:
        >>> did_you_mean("lable", ["label", "text"])
        " Did you mean 'label'?"
        >>> did_you_mean("zzz", ["label", "text"])
        ''
    """
    by_folded_name = {candidate.lower(): candidate for candidate in candidates}
    near = difflib.get_close_matches(name.lower(), by_folded_name, n=1, cutoff=least)
    return f" Did you mean {by_folded_name[near[0]]!r}?" if near else ""


def tell_faults(
    faults: Sequence[Fault], most: int, *, together: bool = True
) -> tuple[list[str], int]:
    """Return a line for each of the first faults, and how many are told in none.

    Args:
        faults: In the order of their rows.
        most: Maximum number of lines.
        together: Whether equal faults of several rows are one line.
    """
    groups = _group_equal(faults) if together else [[fault] for fault in faults]
    shown = groups[:most]
    return [_tell_together(equal) for equal in shown], len(faults) - sum(map(len, shown))


def _group_equal(faults: Iterable[Fault]) -> list[list[Fault]]:
    """Return the faults in groups of rows of one source that have the same fault, in order."""
    groups: list[list[Fault]] = []
    latest: dict[object, list[Fault]] = {}
    for place, fault in enumerate(faults):
        same = place if fault.line is None else (fault.source, fault.kind or fault.message)
        group = latest.get(same)
        # Tables in memory have one name, and a file may be given twice: then lines start again.
        if group is None or (fault.line or 0) <= (group[-1].line or 0):
            group = latest[same] = []
            groups.append(group)
        group.append(fault)
    return groups


def _tell_together(faults: Sequence[Fault]) -> str:
    """Return what a group of equal faults says: one as it is, several with their first lines.

    Example:
        >>> print(
        ...     _tell_together([Fault("a.csv", line, "the text is empty") for line in range(2, 7)])
        ... )
        a.csv:2, 3, 4 and 2 other rows: the text is empty
    """
    first = faults[0]
    if len(faults) == 1:
        return str(first)
    lines = ", ".join(str(fault.line) for fault in faults[:_MOST_LINES_SHOWN])
    num_others = len(faults) - _MOST_LINES_SHOWN
    if num_others > 0:
        lines += f" and {num_others:,} other row{'' if num_others == 1 else 's'}"
    is_one = len({fault.message for fault in faults}) == 1
    told = first.message if is_one else first.kind or first.message
    return f"{first.source}:{lines}: {told}"


def find_first_line(error: BaseException) -> str:
    """Return the first line of what an error says: torch adds advice, and stacks, below it."""
    return str(error).strip().partition("\n")[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, whichever library raised it.

    Errors of bertfit itself do not count: whoever raised them has given up already.
    """
    if isinstance(error, BertfitError):
        return False
    told = str(error).lower()
    is_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return is_of_memory or any(words in told for words in _OUT_OF_MEMORY)
