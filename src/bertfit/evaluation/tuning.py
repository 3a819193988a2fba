"""Searches for the regularization of lexical classifiers on validation rows, and their progress."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence

from bertfit.evaluation.lexical import Trial, TryOut, without_warnings
from bertfit.evaluation.threads import run_in_threads

INVERSE_REGULARIZATIONS = (1.0, 10.0, 100.0)
"""Values of C of the logistic regression that are always tried in tuning. If the smallest or the
largest is best, the search continues with a tenth or ten times of it."""
LEAST_INVERSE, MOST_INVERSE = 0.01, 10_000.0
"""Limits of the search for C: beyond them, the cost of a fit grows and the loss hardly changes."""


class FitProgress:
    """Reports how many fits are done, so evenly that the remaining time can be told from it.

    Fits in parallel end at almost the same time. Whoever takes such a burst for the speed expects
    minutes of work to end in seconds, so a fit that ends within half the mean time of a fit after
    the last report is reported with a later one.
    """

    def __init__(self, report: Callable[[int, int | None], None] | None) -> None:
        """Report (done, total) to `report`, if there is one; a total of None is not known yet."""
        self._report = report or (lambda _done, _total: None)
        self._num_pieces = 1
        self._started = self._reported = 0.0

    def begin(self) -> None:
        """Report that work has begun whose fits are not known yet."""
        self._report(0, None)

    def tell(self, done: int, total: int) -> None:
        """Report that `done` of `total` fits are done; scoring, the last piece, follows them."""
        now = time.monotonic()
        self._num_pieces = total + 1
        if not done:
            self._started = now
        elif now - self._reported < (now - self._started) / done / 2:
            return
        self._reported = now
        self._report(done, self._num_pieces)

    def end(self) -> None:
        """Report that everything is done."""
        self._report(self._num_pieces, self._num_pieces)


def tune(
    try_outs: Sequence[TryOut],
    *,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[list[Trial]]:
    """Return the trials of several searches for the best C, run in parallel.

    Each tries `INVERSE_REGULARIZATIONS`, and continues if the lowest loss is at an end.
    `on_progress` is called with the number of fits done and of those known to be needed: first with
    0, then after each.
    """
    trials: list[dict[float, Trial]] = [{} for _ in try_outs]
    waiting = [(place, C) for place in range(len(trials)) for C in INVERSE_REGULARIZATIONS]
    done, total = 0, len(waiting)
    on_progress(done, total)
    with without_warnings():
        while waiting:
            tasks = [functools.partial(try_outs[place], inverse) for place, inverse in waiting]
            for (place, inverse), trial in zip(waiting, run_in_threads(tasks), strict=True):
                trials[place][inverse] = trial
                done += 1
                if done < total:  # after the last, whether more follow is found out first
                    on_progress(done, total)
            waiting = [
                (place, inverse)
                for place, tried in enumerate(trials)
                for inverse in _look_beyond({C: trial.loss for C, trial in tried.items()})
            ]
            total += len(waiting)
            on_progress(done, total)
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
