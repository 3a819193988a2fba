"""Find where a model is weak: accuracy in slices of the rows, adjusted for multiple testing.

Owns the slicing of rows and the judgement of slices. Among many slices some look bad by chance, so
each is tested against the other rows, and the p-values are adjusted together. What groups add to
the tests and intervals is in slice_groups.py.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.errors import DataError
from bertfit.evaluation.interval import LEVEL, Interval, exact_interval
from bertfit.evaluation.slice_groups import GroupedRows
from bertfit.evaluation.units import are_rows, number_units
from bertfit.labels import is_missing, normalize_label, reads_as_missing

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

NUM_BINS = 5
"""Numbers are divided into this many bins with about equally many rows."""
_NUM_DIGITS = (4, 8, 12, 17)
"""Significant digits of fractions in the names of bins: the first that suffice."""
_LEAST_SHORTENED = 1e15
"""Smaller whole numbers are named in full."""
_LEAST_IN_HEX = 10**640
"""Python may refuse to write larger integers in decimal (sys.set_int_max_str_digits)."""
MAX_VALUES = 20
"""Numeric columns with more distinct values are binned."""
MIN_ROWS = 10
"""Smaller slices are counted but not judged."""
SMALL_ROWS = 50
"""Slices of fewer rows are flagged: their accuracy says little."""
OWN_SLICES = ("tokens", "truncated", "label", "group")
"""Slices that need not be requested (groups only if there are any); others are of columns."""
MISSING = "(none)"
"""The slice of rows without a value; in more parentheses if a value is spelt so."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows with a common value, and how good the model is on them."""

    by: str
    """Name of the property that defines the slice, such as "tokens"."""
    value: str
    """The common value."""
    num_rows: int
    num_right: int
    accuracy: float
    interval: Interval
    """Exact 95 % interval of the accuracy; with groups, at least that of its log odds by group."""
    rest_accuracy: float
    """Accuracy on all other rows."""
    p_value: float
    """Two-sided, against the other rows: Fisher's exact test; with groups, the larger of it and a
    t-test of whole groups. Adjusted for all slices; for those by group, among themselves."""
    is_small: bool
    """Whether there are fewer than `SMALL_ROWS` rows."""

    @property
    def is_worse(self) -> bool:
        """Whether the slice is worse than the rest, after adjustment for all slices."""
        return self.p_value < 1 - LEVEL and self.accuracy < self.rest_accuracy

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "is_worse": self.is_worse}


@dataclass(frozen=True, slots=True)
class SliceReport:
    """All judged slices."""

    slices: tuple[Slice, ...]
    """Sorted by the upper end of the interval, the worst first; after them those that are better
    than the rest, however few rows they have."""
    num_too_small: int
    """Number of slices not judged because they have too few rows."""
    columns_too_small: tuple[str, ...] = ()
    """Columns of which no slice was judged, because all of them have too few rows."""
    grouped: bool = False
    """Whether rows of one group were taken as dependent."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "slices": [one.to_json() for one in self.slices],
            "num_too_small": self.num_too_small,
            "columns_too_small": list(self.columns_too_small),
            "unit": "group" if self.grouped else "row",
            "level": LEVEL,
            "adjustment": "Benjamini-Hochberg",
        }


@dataclass(frozen=True, slots=True)
class _Draft:
    """A slice that is yet to be judged."""

    by: str
    value: str
    members: NDArray[np.int64]
    num_right: int
    is_group: bool
    """Whether it is a group, by which rows were grouped; then its rows are independent."""


def score_slices(
    is_right: ArrayLike,
    values: Mapping[str, Sequence[str | None]],
    *,
    groups: Sequence[object] | NDArray[Any] | None = None,
) -> SliceReport:
    """Judge every slice: the rows that share a value of one of the columns.

    A slice of all rows is skipped, because there are no others.

    Args:
        is_right: (n,) whether the model is right on each row.
        values: n values per column, by column name; None for rows without a value.
        groups: n groups, whose rows are right or wrong together; None takes rows as independent.
            The slices by a column with the same values are about these groups alone.

    Raises:
        DataError: There are no rows, or a column has not one value, or group, per row.

    Source:
        Clopper & Pearson 1934 (interval); Fisher 1922 (test); Benjamini & Hochberg 1995
        (adjustment).

    Example:
        >>> report = score_slices([True] * 90 + [False] * 10, {"by": ["a"] * 85 + ["b"] * 15})
        >>> [(one.value, one.num_rows, one.num_right, one.is_worse) for one in report.slices]
        [('b', 15, 5, True), ('a', 85, 85, False)]
    """
    is_right = np.asarray(is_right, dtype=bool)
    if is_right.ndim != 1 or is_right.size == 0:
        raise DataError(f"expected a truth value for each row, got shape {is_right.shape}")
    known = None if groups is None else np.asarray(groups, dtype=object)
    units = number_units(known, len(is_right))
    grouped = None if are_rows(units) else GroupedRows(units, is_right)
    drafts, too_small = [], Counter[str]()
    for by, column in values.items():
        if len(column) != len(is_right):
            message = f"column {by!r}: expected {len(is_right)} values, got {len(column)}"
            raise DataError(message)
        is_group = known is not None and list(column) == known.tolist()
        for value, members in _find_members(column).items():
            if len(members) == len(is_right):
                continue
            if len(members) < MIN_ROWS:
                too_small[by] += 1
                continue
            num_right = int(is_right[members].sum())
            drafts.append(_Draft(by, value, members, num_right, is_group=is_group))
    slices = _judge(drafts, grouped, num_rows=len(is_right), num_right=int(is_right.sum()))
    judged = {draft.by for draft in drafts}
    return SliceReport(
        tuple(slices),
        too_small.total(),
        tuple(by for by in too_small if by not in judged),
        grouped=grouped is not None,
    )


def list_slices(
    num_tokens: ArrayLike,
    is_truncated: ArrayLike,
    labels: Sequence[str],
    *,
    groups: Sequence[str | None] | None = None,
    further: Mapping[str, Sequence[str | None]] | None = None,
) -> dict[str, Sequence[str | None]]:
    """Return the values by which `score_slices` slices the rows of an evaluation.

    Further columns that repeat another property, such as the labels or groups, or one another, are
    skipped.

    Args:
        num_tokens: (n,) tokens of each text before truncation.
        is_truncated: (n,) whether each text was truncated.
        labels: n names of the true classes.
        groups: n groups, or None.
        further: n values per column, as returned by `name_values`.

    Example:
        >>> list(list_slices([5, 9], [False, True], ["a", "b"], further={"label": ["x", "y"]}))
        ['tokens', 'truncated', 'label', 'column label']
    """
    values: dict[str, Sequence[str | None]] = {
        "tokens": bin_numbers(np.asarray(num_tokens).tolist()),
        "truncated": ["yes" if cut else "no" for cut in np.asarray(is_truncated).tolist()],
        "label": labels,
    }
    if groups is not None:
        values["group"] = groups
    for name, column in (further or {}).items():
        if list(column) not in map(list, values.values()):  # else each slice would be tested twice
            shown = name
            while shown in values:
                shown = f"column {shown}"
            values[shown] = column
    return values


def name_values(values: Sequence[object]) -> list[str | None]:
    """Return the name of each row's value; numbers with many distinct values are binned.

    Args:
        values: n raw values; None, NaN and "" mean missing, and among numbers also their spellings,
            such as "NaN" and "null", and infinity.

    Example:
        >>> name_values(["a", None, "b", ""])
        ['a', None, 'b', None]
        >>> name_values(list(range(100)))[:2], name_values(list(range(100)))[99]
        (['0 to 19', '0 to 19'], '80 to 99')
    """
    # Strings of Parquet files that are not marked as text are bytes, as for labels.
    read = (v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v for v in values)
    spelt = (hex(v) if isinstance(v, int) and abs(v) >= _LEAST_IN_HEX else v for v in read)
    present = [None if _is_missing(value) else value for value in spelt]
    distinct = {str(value) for value in present if value is not None}
    numbers = [_read_number(value) for value in present]
    are_numbers = all(
        number is not None or value is None or _is_no_finite_number(value)
        for number, value in zip(numbers, present, strict=True)
    )
    if are_numbers and len(distinct) > MAX_VALUES:
        return bin_numbers(numbers)
    return [None if value is None else _name_value(value) for value in present]


def _name_value(value: object) -> str:
    """Return a value as it would be spelt as a label or group."""
    if not isinstance(value, str):
        with contextlib.suppress(TypeError):
            return normalize_label(value) or str(value)
    return str(value).strip()


def bin_numbers(numbers: Sequence[float | None]) -> list[str | None]:
    """Divide numbers into up to `NUM_BINS` bins of about equally many rows; return bin names.

    Example:
        >>> bin_numbers([1, 1, 1, 5])
        ['1', '1', '1', '5']
    """
    known = np.array([number for number in numbers if number is not None], dtype=np.float64)
    if not len(known):
        return [None] * len(numbers)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, NUM_BINS + 1)[1:-1], method="lower"))
    places = np.searchsorted(edges, known, side="left")
    bins = {place: known[places == place] for place in np.unique(places).tolist()}
    name_of_place = dict(zip(bins, _name_spans(list(bins.values())), strict=True))
    names = iter(name_of_place[place] for place in places.tolist())
    return [None if number is None else next(names) for number in numbers]


def _name_spans(bins: Sequence[NDArray[np.float64]]) -> list[str]:
    """Return a name for each bin, with as many digits as tell bins, and the ends of each, apart."""
    ends = [sorted({float(members.min()), float(members.max())}) for members in bins]
    names: list[str] = []
    for num_digits in _NUM_DIGITS:
        shown = [list(dict.fromkeys(_show(end, num_digits) for end in of_bin)) for of_bin in ends]
        names = [" to ".join(of_bin) for of_bin in shown]
        if len(set(names)) == len(bins) and list(map(len, shown)) == list(map(len, ends)):
            break
    return names


def _show(number: float, num_digits: int) -> str:
    """Format a number briefly; numbers of four digits, which may be years, have no comma."""
    if not float(number).is_integer() or abs(number) >= _LEAST_SHORTENED:
        return f"{number:.{num_digits}g}"
    return f"{number:z.0f}" if abs(number) < 10_000 else f"{number:,.0f}"


def _find_members(column: Sequence[str | None]) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each value, in order of first occurrence."""
    counts = Counter(column)
    place_of_value = {value: place for place, value in enumerate(counts)}
    places = np.array([place_of_value[value] for value in column])
    order = np.argsort(places, kind="stable")
    members = np.split(order, np.cumsum(list(counts.values()))[:-1])
    missing = MISSING
    while missing in counts:  # a value may be spelt so
        missing = f"({missing})"
    names = [missing if value is None else value for value in counts]
    return dict(zip(names, members, strict=True))


def _judge(
    drafts: Sequence[_Draft], grouped: GroupedRows | None, *, num_rows: int, num_right: int
) -> list[Slice]:
    """Return the slices, worst first."""
    # Most of thousands of small slices have the same counts as others.
    compare = functools.cache(functools.partial(_compare_with_rest, num_rows, num_right))
    find_interval = functools.cache(exact_interval)
    p_values, intervals = np.ones(len(drafts)), []
    for place, draft in enumerate(drafts):
        counts = len(draft.members), draft.num_right
        p_values[place], interval = compare(*counts), find_interval(*reversed(counts))
        if grouped is not None and not draft.is_group:
            p_value, wider = grouped.judge(draft.members)
            p_values[place] = max(p_values[place], p_value)
            interval = Interval(min(interval.low, wider.low), max(interval.high, wider.high))
        intervals.append(interval)
    adjusted = _adjust(p_values, np.array([draft.is_group for draft in drafts], dtype=bool))
    slices = [
        Slice(
            by=draft.by,
            value=draft.value,
            num_rows=len(draft.members),
            num_right=draft.num_right,
            accuracy=draft.num_right / len(draft.members),
            interval=interval,
            rest_accuracy=(num_right - draft.num_right) / (num_rows - len(draft.members)),
            p_value=p_value,
            is_small=len(draft.members) < SMALL_ROWS,
        )
        for draft, interval, p_value in zip(drafts, intervals, adjusted.tolist(), strict=True)
    ]
    return sorted(slices, key=_rank)


def _rank(one: Slice) -> tuple[bool, float, float, str, str]:
    is_better = one.accuracy > one.rest_accuracy
    return is_better, one.interval.high, one.accuracy, one.by, one.value


def _adjust(p_values: NDArray[np.float64], is_group: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return adjusted p-values: of groups, which do differ, apart from those of other slices.

    Together, each group that is found to be worse would make the test of the others laxer.
    """
    from scipy.stats import false_discovery_control

    adjusted = p_values.copy()
    for family in (is_group, ~is_group):
        if family.any():
            adjusted[family] = false_discovery_control(np.clip(p_values[family], 0, 1), method="bh")
    return adjusted


def _compare_with_rest(num_rows: int, num_right: int, size: int, right: int) -> float:
    """Return the p-value of Fisher's exact test of a slice against the other rows."""
    from scipy.stats import fisher_exact

    others, others_right = num_rows - size, num_right - right
    table = [[right, size - right], [others_right, others - others_right]]
    return float(fisher_exact(table).pvalue)


def _is_missing(value: object) -> bool:
    return not value.strip() if isinstance(value, str) else is_missing(value)


def _is_no_finite_number(value: object) -> bool:
    """Return whether a value stands among numbers where there is none, or an infinite one."""
    if isinstance(value, str) and reads_as_missing(value.strip()):
        return True
    try:
        return math.isinf(float(value))  # type: ignore[arg-type]  # anything but a number raises
    except (OverflowError, TypeError, ValueError):
        return False


def _read_number(value: object) -> float | None:
    """Return the value as a finite number, or None if it is not one."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str) and "_" in value:
        return None  # an id such as 12_7, which Python reads as 127
    try:
        number = float(value)  # type: ignore[arg-type]  # anything but a number raises
    except (OverflowError, TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
