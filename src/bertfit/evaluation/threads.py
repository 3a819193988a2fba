"""Run independent tasks in parallel on the available cores.

Owns the number of threads. NumPy and SciPy release the GIL in their long loops, so threads suffice,
and nothing has to be copied between processes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from bertfit.environment import count_cores

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Result = TypeVar("Result")
_Work: TypeAlias = tuple[Future[Result], Callable[[], Result]]


def run_in_threads(tasks: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """Yield the result of each task, in the order of the tasks.

    Tasks are consumed as threads become free, only a few ahead of the last result consumed. In the
    meantime, BLAS is limited to one thread, because nested threads would wait for one another. The
    number of threads does not affect any result. Exceptions of tasks are raised here.
    """
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController()  # finding them takes longer than a short task
    num_threads = count_threads(libraries)
    todo: SimpleQueue[_Work[Result] | None] = SimpleQueue()
    waiting: deque[Future[Result]] = deque()
    with libraries.limit(limits=1, user_api="blas"):
        num_started = 0
        try:
            while num_started < num_threads and _start_thread(todo):
                num_started += 1
            for task in tasks:
                waiting.append(Future())
                todo.put((waiting[-1], task))
                if not num_started:  # this thread is the only one
                    todo.put(None)
                    _work_off(todo)
                if len(waiting) >= 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also if the caller wants no more
            for future in waiting:
                future.cancel()
            for _ in range(num_started):
                todo.put(None)


def _start_thread(todo: SimpleQueue[_Work[Result] | None]) -> bool:
    """Start a thread that does what is in the queue; return whether the system allowed it."""
    try:
        threading.Thread(target=_work_off, args=(todo,), daemon=True).start()
    except RuntimeError:
        return False
    return True


def _work_off(todo: SimpleQueue[_Work[Result] | None]) -> None:
    """Do what is in the queue, on a thread that a process does not wait for when it ends.

    For the threads of `concurrent.futures`, it would: after Ctrl-C, a fit may take minutes more.
    Those of `multiprocessing`, which joblib uses, settle how the caller's processes start.
    """
    while (work := todo.get()) is not None:
        future, task = work
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(task())
            except BaseException as error:  # noqa: BLE001 (raised where the result is asked for)
                future.set_exception(error)


def count_threads(libraries: ThreadpoolController) -> int:
    """Return the number of available cores, or the limit by OMP_NUM_THREADS and the like."""
    of_blas = [one["num_threads"] for one in libraries.info() if one["user_api"] == "blas"]
    return int(min([count_cores(), *of_blas]))
