"""Split a dataset in two, stratified by label, without dividing any group.

The result depends only on the labels and groups in order, the fraction and the seed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from bertfit.data.dataset import TextDataset
from bertfit.errors import ConfigError, DataError, Fault
from bertfit.wording import shorten_name

NUM_ATTEMPTS = 20
"""Number of random orders of the groups to try until both parts have every label."""

Group = Mapping[str, int]
"""Number of rows of a group by label."""


def split_off(
    dataset: TextDataset, fraction: float, *, seed: int
) -> tuple[TextDataset, TextDataset]:
    """Split a part off a dataset, stratified by label, and by group if there are groups.

    Without groups, the part gets the rounded share of each label, and at least one row. With
    groups, they are added to the part in random order if that brings it closer to its share of the
    labels; its size is then close to the fraction, not equal to it.

    Args:
        dataset: Rows with labels.
        fraction: Share of the rows to split off, above 0 and below 1.
        seed: Another seed gives another split.

    Returns:
        The rest and the part, each in the order of the dataset.

    Raises:
        ConfigError: `fraction` is not between 0 and 1.
        DataError: A label cannot be in both parts, or there are fewer than two labels.
    """
    if not 0 < fraction < 1:
        message = f"the fraction to split off is {fraction}; above 0 and below 1 was expected"
        raise ConfigError(message)
    _check_divisible(dataset)
    random = np.random.default_rng(seed)
    if dataset.groups:
        part = _choose_grouped_rows(dataset, fraction, random)
    else:
        part = _choose_rows(dataset.labels, fraction, random)
    rest = [index for index in range(len(dataset)) if index not in part]
    return dataset.select(rest), dataset.select(sorted(part))


def _check_divisible(dataset: TextDataset) -> None:
    if not dataset.labels:
        message = f"{dataset.source} cannot be split: it has no labels"
        raise DataError(message)
    first_lines: dict[str, int] = {}
    for label, line in zip(dataset.labels, dataset.lines, strict=True):
        first_lines.setdefault(label, line)
    indivisible = find_indivisible(dataset)
    faults = [Fault(dataset.source, first_lines[name], message) for name, message in indivisible]
    if len(first_lines) == 1:
        message = f"all rows have the label {dataset.labels[0]!r}; at least 2 labels are needed"
        faults.append(Fault(dataset.source, None, message))
    if faults:
        leave, counts = "leave the label out", Counter(dataset.labels)
        are_single = all(counts[name] == 1 for name, _ in indivisible)
        if are_single and len(counts) - len(faults) >= 2:
            leave = "leave labels out (--set min_label_rows=2: those of one row)"
        hint = f"Add rows, {leave}, or give a validation file of its own."
        raise _indivisible(dataset, faults, hint=hint)


def find_indivisible(dataset: TextDataset) -> list[tuple[str, str]]:
    """Return the labels that `split_off` cannot put into both parts, each with the reason."""
    groups_of_label: dict[str, set[str]] = defaultdict(set)
    for label, group in zip(dataset.labels, dataset.groups, strict=False):
        groups_of_label[label].add(group)
    found = []
    for name, count in Counter(dataset.labels).items():
        shown = shorten_name(name)
        if count == 1:
            found.append((name, f"label {shown!r} has 1 row; each part needs at least one"))
        elif len(groups_of_label[name]) == 1:
            group = next(iter(groups_of_label[name]))
            message = (
                f"all {count:,} rows with the label {shown!r} belong to one group, {group!r}, and "
                "a group is never divided; each part needs at least one"
            )
            found.append((name, message))
    return found


def _choose_rows(labels: Sequence[str], fraction: float, random: np.random.Generator) -> set[int]:
    indices_of_label: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        indices_of_label[label].append(index)
    sizes = _share_out([len(indices) for indices in indices_of_label.values()], fraction)
    part: set[int] = set()
    for indices, size in zip(indices_of_label.values(), sizes, strict=True):
        part.update(random.permutation(indices)[:size].tolist())
    return part


def _share_out(counts: Sequence[int], fraction: float) -> list[int]:
    """Round each label's share so that the total is also correct, if the limits allow it.

    Example:
        >>> _share_out([15, 15], 0.1), _share_out([100, 2], 0.1)
        ([2, 1], [10, 1])
    """
    shares = np.array(counts) * fraction
    sizes = np.floor(shares).astype(int)
    num_left = round(sum(counts) * fraction) - int(sizes.sum())
    # Largest remainders first; ties go to the label that occurs first.
    for place in np.argsort(sizes - shares, kind="stable")[: max(num_left, 0)]:
        sizes[place] += 1
    return [int(size) for size in np.clip(sizes, 1, np.array(counts) - 1)]


def _choose_grouped_rows(
    dataset: TextDataset, fraction: float, random: np.random.Generator
) -> set[int]:
    labels_of_group: dict[str, Counter[str]] = defaultdict(Counter)
    for label, group in zip(dataset.labels, dataset.groups, strict=True):
        labels_of_group[group][label] += 1
    names = list(labels_of_group)
    missing: list[str] = []
    for _ in range(NUM_ATTEMPTS):
        order = [names[place] for place in random.permutation(len(names))]
        draft = _Draft([labels_of_group[name] for name in order], fraction)
        draft.fill()
        missing = draft.missing_labels()
        if not missing:
            chosen = {order[place] for place in draft.part}
            return {index for index, group in enumerate(dataset.groups) if group in chosen}
    faults = [
        Fault(dataset.source, None, f"no split by group was found with {name!r} in both parts")
        for name in missing
    ]
    raise _indivisible(dataset, faults, hint="Give a validation file of its own.")


def _indivisible(dataset: TextDataset, faults: Sequence[Fault], *, hint: str) -> DataError:
    message = f"{dataset.source} cannot be split into training and validation rows"
    return DataError(message, faults=faults, hint=hint)


class _Draft:
    """A part under construction, filled with whole groups."""

    def __init__(self, groups: Sequence[Group], fraction: float) -> None:
        self.part: set[int] = set()
        self._groups = groups
        self._held: set[str] = set()
        self._total: Counter[str] = Counter()
        self._places: dict[str, list[int]] = defaultdict(list)
        for place, group in enumerate(groups):
            self._total.update(group)
            for label in group:
                self._places[label].append(place)
        self._num_groups_in_rest = Counter({label: len(at) for label, at in self._places.items()})
        self._wanted = {label: count * fraction for label, count in self._total.items()}

    def fill(self) -> None:
        """Add a group for every label, rare labels first, then every group that lowers the cost.

        A group that lowers it is taken in random order: if the best one were taken, it would be in
        the part whatever the seed, and a large one might be most of it.
        """
        for label in sorted(self._total, key=lambda label: self._num_groups_in_rest[label]):
            if label not in self._held:
                self._add_group_with(label)
        for place in range(len(self._groups)):
            if place not in self.part and self._may_leave(place) and self._cost(place) < 0:
                self._add(place)

    def missing_labels(self) -> list[str]:
        """Return the labels that the part does not have yet."""
        return [label for label in self._total if label not in self._held]

    def _add_group_with(self, label: str) -> None:
        places = [place for place in self._places[label] if self._may_leave(place)]
        if places:
            lowering = (place for place in places if self._cost(place) < 0)
            first = next(lowering, None)
            self._add(min(places, key=self._cost) if first is None else first)

    def _add(self, place: int) -> None:
        self.part.add(place)
        self._held.update(self._groups[place])
        for label, count in self._groups[place].items():
            self._wanted[label] -= count
            self._num_groups_in_rest[label] -= 1

    def _may_leave(self, place: int) -> bool:
        # The rest must keep at least one group with each label.
        return all(self._num_groups_in_rest[label] > 1 for label in self._groups[place])

    def _cost(self, place: int) -> float:
        """Return the increase in squared distance from the wanted share of each label.

        Distances are relative to the number of rows of the label, so that rare labels matter as
        much as frequent ones.
        """
        return sum(
            count * (count - 2 * self._wanted[label]) / self._total[label]
            for label, count in self._groups[place].items()
        )
