"""Train with several seeds on the same split, and keep the best one as a run.

The rows are read, split and encoded once. The score that chose each seed's epoch also chooses the
seed: the score on the validation rows, before calibration, which is fitted on the same rows. The
test rows are scored with every seed as it would be saved, calibrated, and choose nothing. As in
`training`, torch is imported only once the rows were read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertfit.config import ResolvedSettings, is_given, is_whole_number
from bertfit.errors import ConfigError, WorkLeft
from bertfit.progress import Listener, as_listener
from bertfit.reporting.summary import describe_missing_seeds
from bertfit.run_directory import Staging, stage_run
from bertfit.training.interruption import FirstInterrupt, Interruption, catch_interrupts
from bertfit.training.outcome import rank_epoch
from bertfit.wording import name_metric
from bertfit.workflow.log import LogKeeper, write_log
from bertfit.workflow.rows import PreparedRows
from bertfit.workflow.training import (
    TrainResult,
    prepare_training,
    settle_place,
    settle_settings,
    sum_up,
)

if TYPE_CHECKING:
    from bertfit.workflow.judging import BaselineFitter
    from bertfit.workflow.making import FinishedRun
    from bertfit.workflow.preparing import PreparedModel

_SCORES = ("accuracy", "macro_f1")


@dataclass(slots=True)
class _Best:
    """The best finished seed so far, a complete run in its staging folder."""

    num_seeds: int
    """Asked for."""
    seed: int | None = None
    staging: Staging | None = None
    finished: FinishedRun | None = None
    runs: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def offer(self, seed: int, staging: Staging, finished: FinishedRun) -> None:
        """Keep a finished seed if it is the best so far; remove the folder of the loser."""
        self.runs.append(_describe_run(seed, finished))
        if self.staging is None or _rank(finished) > _rank(self.finished):
            loser, self.seed, self.staging, self.finished = self.staging, seed, staging, finished
        else:
            loser = staging
        if loser is not None:
            loser.discard()

    def publish(self, log: LogKeeper, interruption: Interruption) -> dict[str, Any]:
        """Move the best run to its place, and return its record."""
        from bertfit.workflow.reporting import renew_report

        assert self.staging is not None
        record = self.record(log)
        _note_seeds(record["seeds"], log)
        write_log(self.staging, log)
        renew_report(self.staging, record, log=log, interruption=interruption)
        with catch_interrupts():  # count from 0 again: publishing must not stop half-way
            self.staging.publish(record)
        return record

    def record(self, log: LogKeeper) -> dict[str, Any]:
        """Return the content of bertfit.json; its total time is that of all seeds."""
        assert self.finished is not None
        record, metric = self.finished.record, self.finished.outcome.selection_metric
        return record | {
            "training": record["training"] | {"total_seconds": log.count_seconds()},
            "seeds": {"asked": self.num_seeds, **_summarize(self.runs, self.seed, metric)},
        }


def train_seeds(
    data: Any,  # noqa: ANN401 (a path, a table or a list of dicts)
    output: str | Path,
    *,
    num_seeds: int,
    validation: Any = None,  # noqa: ANN401 (as data)
    test: Any = None,  # noqa: ANN401 (as data)
    settings: ResolvedSettings | None = None,
    overwrite: bool = False,
    baseline: bool = True,
    listener: Listener | None = None,
    **options: Any,  # noqa: ANN401 (a recipe, and fields of TrainSettings)
) -> TrainResult:
    """Train with the seeds seed, seed + 1, …, and write the best on validation as one run.

    All share one split. Ctrl-C ends the current seed, which is kept only if no other had finished.
    If an error or a second Ctrl-C ends a seed, the best finished one is kept next to `output`.

    Args:
        data: As in `train`.
        output: Folder of the run to make; its bertfit.json has the scores of all under "seeds".
        num_seeds: At least 2.
        validation: As in `train`.
        test: Labelled rows that every seed is scored on.
        settings: Resolved settings; their seed is the first.
        overwrite: Replace an existing run at `output`.
        baseline: Fit lexical baselines, once for all seeds.
        listener: Receives notes and progress.
        **options: As in `train`.

    Raises:
        BertfitError: As in `train`; ConfigError also if there are fewer than 2 seeds.
    """
    if not is_whole_number(num_seeds) or num_seeds < 2:
        raise ConfigError(f"num_seeds: expected a whole number, at least 2, got {num_seeds!r}")
    resolved = settle_settings(settings, options)
    first, num_seeds = resolved.settings.seed, int(num_seeds)  # an int8 cannot hold a seed
    _check_last(first, num_seeds)
    log = LogKeeper(as_listener(listener))
    output = settle_place(output, resolved, overwrite=overwrite, baseline=baseline, listener=log)
    prepared = prepare_training(data, validation=validation, test=test, resolved=resolved, log=log)
    from bertfit.workflow.judging import baseline_fitter

    rows, best = prepared[1], _Best(num_seeds)
    with catch_interrupts() as interruption, _keeping_the_best(best, log):
        results = _train_each(
            prepared,
            range(first, first + num_seeds),
            stage=functools.partial(stage_run, output, overwrite=overwrite),
            fit_baselines=baseline_fitter(rows, first) if baseline else None,
            log=log,
            interruption=interruption,
        )
        del prepared
        for trained in results:
            best.offer(*trained)
            del trained
        seeds = best.publish(log, interruption)["seeds"]
    assert best.finished is not None
    return sum_up(best.finished, rows, run=output, interrupted=interruption.requested, seeds=seeds)


def _note_no_states(resolved: ResolvedSettings, log: LogKeeper) -> None:
    origin = resolved.origins["checkpoint_minutes"]
    if resolved.settings.checkpoint_minutes and is_given(origin):
        log.note(f"checkpoint_minutes ({origin}) changes nothing: several seeds are not resumed.")


def _train_each(
    prepared: tuple[ResolvedSettings, PreparedRows, PreparedModel],
    seeds: Sequence[int],
    *,
    stage: Callable[[], Staging],
    fit_baselines: BaselineFitter | None,
    log: LogKeeper,
    interruption: Interruption,
) -> Iterator[tuple[int, Staging, FinishedRun]]:
    """Yield each seed with its finished run, until the first Ctrl-C.

    Raises:
        FirstInterrupt: It came before the first step of the first seed.
        KeyboardInterrupt: A second Ctrl-C came.
    """
    from bertfit.training.checkpoints import Checkpoints
    from bertfit.workflow.making import keeping_the_model, make_run
    from bertfit.workflow.preparing import renew_model

    resolved, rows, model = prepared
    del prepared  # here and below: the model of a losing seed must not fill memory
    _note_no_states(resolved, log)
    for number, seed in enumerate(seeds, start=1):
        try:
            with interruption.raise_first():
                interruption.raise_if_requested()
                log.note(f"Seed {seed}, {number} of {len(seeds)}.")
                if number > 1:
                    origin = f"seed {number} of {len(seeds)} from {seeds[0]}"
                    resolved = resolved.settle("seed", seed, origin=origin)
                    model = renew_model(model, resolved.settings, listener=log)
            staging = stage()
            with keeping_the_model(staging, log):
                finished = make_run(
                    resolved,
                    rows,
                    model=model,
                    staging=staging,
                    checkpoints=Checkpoints(staging.folder),
                    fit_baselines=fit_baselines,
                    log=log,
                    interruption=interruption,
                )
        except FirstInterrupt:
            if number == 1:
                raise
            return
        yield seed, staging, finished
        del finished


@contextlib.contextmanager
def _keeping_the_best(best: _Best, log: LogKeeper) -> Iterator[None]:
    """If a seed fails, keep the best finished one next to the output, as a complete run.

    Raises:
        WorkLeft: A second Ctrl-C came, and there is one.
    """
    try:
        yield
    except BaseException as error:
        if best.staging is not None and best.staging.is_intact():
            # On a full disk the record cannot be written, but the weights are kept.
            with contextlib.suppress(OSError):
                best.staging.complete(best.record(log))
            told = f"the best finished seed, {best.seed}, is kept in {best.staging.set_aside()}"
            if isinstance(error, KeyboardInterrupt):
                raise WorkLeft(told) from error
            log.note(f"{told[0].upper()}{told[1:]}.")
        raise


def _rank(finished: FinishedRun | None) -> tuple[bool, float, float]:
    """Return the sort key: finished before interrupted, then the metric that chose the epoch.

    Ties are broken by validation loss; of equal seeds the first is kept.
    """
    assert finished is not None
    outcome = finished.outcome
    rank = rank_epoch(outcome.history, outcome.best_epoch, outcome.selection_metric)
    return not finished.interrupted, *rank


def _check_last(first: int, num_seeds: int) -> None:
    last = first + num_seeds - 1
    if last >= 2**32:
        raise ConfigError(
            f"num_seeds: {num_seeds} seeds from {first} end at {last}; seeds are below 2**32"
        )


def _describe_run(seed: int, finished: FinishedRun) -> dict[str, Any]:
    scores, outcome = finished.record["scores"], finished.outcome
    return {
        "seed": seed,
        "best_epoch": outcome.best_epoch + 1,
        "interrupted": finished.interrupted,
        "train_seconds": round(outcome.train_seconds, 1),
        "validation": {name: scores["validation"][name] for name in ("loss", *_SCORES)},
        "test": _pick(scores["test"], ("log_loss", *_SCORES)),
    }


def _pick(scores: dict[str, Any] | None, names: Sequence[str]) -> dict[str, float] | None:
    return None if scores is None else {name: scores[name] for name in names}


def _summarize(
    runs: Sequence[dict[str, Any]], best_seed: int | None, metric: str
) -> dict[str, Any]:
    whole = [run for run in runs if not run["interrupted"]] or runs
    return {
        "runs": list(runs),
        "best_seed": best_seed,
        "chosen_by": f"validation {metric}",
        "calibrated": {"validation": False, "test": True},
        **{part: _summarize_part([run[part] for run in whole]) for part in ("validation", "test")},
    }


def _summarize_part(
    scores: Sequence[dict[str, float] | None],
) -> dict[str, dict[str, float] | None]:
    """Return mean and sample standard deviation (of at least two seeds) of each score."""
    known = [one for one in scores if one is not None]
    columns = {name: [one[name] for one in known] for name in (known[0] if known else ())}
    mean = {name: statistics.fmean(values) for name, values in columns.items()}
    spread = {name: statistics.stdev(values) for name, values in columns.items() if len(known) > 1}
    return {"mean": mean or None, "standard_deviation": spread or None}


def _note_seeds(seeds: dict[str, Any], log: LogKeeper) -> None:
    missing = describe_missing_seeds(seeds)
    if missing is not None:
        log.note(missing)
    told = []
    for part, state in (("validation", "before calibration"), ("test", "as saved")):
        mean, spread = seeds[part]["mean"], seeds[part]["standard_deviation"]
        if mean is not None and spread is not None:
            told.append(
                f"{part} accuracy {mean['accuracy']:.4f} ± {spread['accuracy']:.4f} ({state})"
            )
    if told:
        log.note(f"Seeds, mean ± standard deviation: {', '.join(told)}.")
    cut_short = any(run["interrupted"] for run in seeds["runs"]) and len(seeds["runs"]) > 1
    of_which = " of those that were not interrupted" if cut_short else ""
    chosen_by = name_metric(seeds["chosen_by"])
    tied = "; others share it, with no lower loss" if _are_tied(seeds) else ""
    log.note(f"Kept: seed {seeds['best_seed']}, the best by {chosen_by}{of_which}{tied}.")


def _are_tied(seeds: dict[str, Any]) -> bool:
    """Return whether another finished seed has the same validation score as the best one."""
    metric = seeds["chosen_by"].removeprefix("validation ")
    scores = {
        run["seed"]: run["validation"][metric] for run in seeds["runs"] if not run["interrupted"]
    }
    return [*scores.values()].count(scores.get(seeds["best_seed"])) > 1
