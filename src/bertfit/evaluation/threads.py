"""Run independent tasks in parallel on the available cores.

Owns the number of threads. NumPy and SciPy release the GIL in their long loops, so threads suffice,
and nothing has to be copied between processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Result = TypeVar("Result")


def run_in_threads(tasks: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """Yield the result of each task, in the order of the tasks.

    Tasks are consumed as threads become free, only a few ahead of the last result consumed. In the
    meantime, BLAS is limited to one thread, because nested threads would wait for one another. The
    number of threads does not affect any result. Exceptions of tasks are raised here.
    """
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController()  # finding them takes longer than a short task
    num_threads = count_threads(libraries)
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="bertfit-evaluation")
    with libraries.limit(limits=1, user_api="blas"):
        try:
            for task in tasks:
                waiting.append(pool.submit(task))
                if len(waiting) >= 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also if the caller wants no more
            pool.shutdown(wait=False, cancel_futures=True)


def count_threads(libraries: ThreadpoolController) -> int:
    """Return the number of available cores, or the limit by OMP_NUM_THREADS and the like."""
    from joblib import cpu_count

    of_blas = [one["num_threads"] for one in libraries.info() if one["user_api"] == "blas"]
    return int(min([cpu_count(), *of_blas]))
