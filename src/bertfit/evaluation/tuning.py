"""Searches for the regularization of lexical classifiers, on validation rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from bertfit.evaluation.lexical import Trial, TryOut, without_warnings
from bertfit.evaluation.threads import run_in_threads

INVERSE_REGULARIZATIONS = (1.0, 10.0, 100.0)
"""Values of C of the logistic regression that are always tried in tuning. If the smallest or the
largest is best, the search continues with a tenth or ten times of it."""
LEAST_INVERSE, MOST_INVERSE = 0.01, 10_000.0
"""Limits of the search for C: beyond them, the cost of a fit grows and the loss hardly changes."""


def tune(
    try_outs: Sequence[TryOut], *, on_trial: Callable[[], None] = lambda: None
) -> list[list[Trial]]:
    """Return the trials of several searches for the best C, run in parallel.

    Each tries `INVERSE_REGULARIZATIONS`, and continues if the lowest loss is at an end. `on_trial`
    is called after each trial.
    """
    trials: list[dict[float, Trial]] = [{} for _ in try_outs]
    waiting = [(place, C) for place in range(len(trials)) for C in INVERSE_REGULARIZATIONS]
    with without_warnings():
        while waiting:
            tasks = [functools.partial(try_outs[place], inverse) for place, inverse in waiting]
            for (place, inverse), trial in zip(waiting, run_in_threads(tasks), strict=True):
                trials[place][inverse] = trial
                on_trial()
            waiting = [
                (place, inverse)
                for place, tried in enumerate(trials)
                for inverse in _look_beyond({C: trial.loss for C, trial in tried.items()})
            ]
    return [list(tried.values()) for tried in trials]


def _look_beyond(losses: Mapping[float, float]) -> list[float]:
    """Return the next C to try; none if the best so far is between two others.

    Example:
        >>> _look_beyond({1.0: 0.3, 10.0: 0.2, 100.0: 0.1})
        [1000.0]
        >>> _look_beyond({1.0: 0.3, 10.0: 0.2, 100.0: 0.4})
        []
    """
    best = min(losses, key=losses.__getitem__)
    beyond = {min(losses): best / 10, max(losses): best * 10}.get(best)
    is_tried = beyond is not None and LEAST_INVERSE <= beyond <= MOST_INVERSE
    return [beyond] if beyond is not None and is_tried else []
