"""Tasks in threads give the same results as sequential ones, in order."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading

import pytest
from threadpoolctl import ThreadpoolController, threadpool_info

from bertfit.evaluation import threads
from bertfit.evaluation.threads import count_threads, run_in_threads


def test_results_come_in_the_order_of_the_tasks() -> None:
    assert list(run_in_threads(functools.partial(pow, base, 2) for base in range(50))) == [
        base**2 for base in range(50)
    ]


def test_as_many_tasks_run_at_once_as_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "count_threads", lambda _: 3)
    together = threading.Barrier(3)  # passed only by three tasks that run at once
    tasks = [functools.partial(together.wait, timeout=60)] * 3
    assert sorted(run_in_threads(tasks)) == [0, 1, 2]


@pytest.mark.parametrize("num_allowed", [0, 1])
def test_as_many_threads_as_the_system_allows_do_all_of_it(monkeypatch, num_allowed):
    begun = []

    class Limited(threading.Thread):
        def start(self):
            if len(begun) == num_allowed:
                raise RuntimeError("can't start new thread")
            begun.append(self)
            super().start()

    monkeypatch.setattr(threads, "count_threads", lambda _: 3)
    monkeypatch.setattr(threading, "Thread", Limited)
    tasks = [functools.partial(pow, base, 2) for base in range(9)]
    assert list(run_in_threads(tasks)) == [base**2 for base in range(9)]
    for thread in begun:
        thread.join(10)
    assert [thread.is_alive() for thread in begun] == [False] * num_allowed


def test_an_error_of_a_task_is_raised_where_its_result_is_taken() -> None:
    with pytest.raises(ZeroDivisionError):
        list(run_in_threads([functools.partial(divmod, 1, 0)]))


def test_blas_keeps_to_one_thread_meanwhile_and_takes_back_its_own_after() -> None:
    def ask() -> list[int]:
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    before = ask()
    (inside,) = run_in_threads([ask])
    assert set(inside) == {1}
    assert ask() == before


def test_no_more_threads_than_blas_was_given() -> None:
    assert (
        1
        <= count_threads(ThreadpoolController())
        <= min(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
    )


def test_tasks_that_are_not_wanted_any_more_are_not_begun():
    begun, may_end = [], threading.Event()

    def work(number):
        begun.append(number)
        may_end.wait(10 * (number > 0))
        return number

    results = run_in_threads(functools.partial(work, number) for number in range(50))
    assert next(results) == 0
    results.close()
    may_end.set()
    assert len(begun) < 25


def test_only_a_few_tasks_are_taken_ahead_of_the_results(monkeypatch):
    monkeypatch.setattr(threads, "count_threads", lambda _: 2)
    taken = []
    results = run_in_threads(lambda: 0 for _ in iter(lambda: taken.append(0), 0))  # no end
    assert [next(results), len(taken)] == [0, 4]
    assert [next(results), len(taken)] == [0, 5]
    results.close()


def test_a_task_that_waits_when_nobody_wants_more_is_never_begun(monkeypatch):
    monkeypatch.setattr(threads, "count_threads", lambda _: 2)
    before, begun = set(threading.enumerate()), []
    are_busy, may_end = threading.Barrier(3), threading.Event()

    def work(number):
        begun.append(number)
        if number in {1, 2}:
            are_busy.wait(60)
            may_end.wait(60)

    results = run_in_threads([functools.partial(work, number) for number in range(4)])
    next(results)
    are_busy.wait(60)
    results.close()
    may_end.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert sorted(begun) == [0, 1, 2]


def test_a_process_does_not_wait_for_a_task_that_nobody_waits_for():
    """Ctrl-C during a fit of minutes ends the command, not the fit."""
    code = """
import threading
from bertfit.evaluation.threads import run_in_threads
begun = threading.Event()
results = run_in_threads([begun.wait, lambda: [begun.set(), threading.Event().wait()]] * 9)
next(results)
"""
    settings = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=settings)
