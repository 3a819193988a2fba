"""Run independent tasks in parallel on the available cores.

Owns the number of threads. NumPy and SciPy release the GIL in their long loops, so threads suffice,
and nothing has to be copied between processes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
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
    from joblib import delayed
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController()  # finding them takes longer than a short task
    num_threads = count_threads(libraries)
    with libraries.limit(limits=1, user_api="blas"):
        yield from _make_pool(num_threads)(delayed(task)() for task in tasks)


def _make_pool(num_threads: int) -> Callable[[Iterable[object]], Iterator[Result]]:
    """Return joblib's threads, without its choice of how the caller's processes would start."""
    from joblib import Parallel

    chosen = multiprocessing.get_start_method(allow_none=True)
    pool: Callable[[Iterable[object]], Iterator[Result]] = Parallel(
        n_jobs=num_threads, backend="threading", return_as="generator"
    )
    if chosen is None:  # joblib's locks settle it, and to choose another would then be an error
        multiprocessing.set_start_method(None, force=True)
    return pool


def count_threads(libraries: ThreadpoolController) -> int:
    """Return the number of available cores, or the limit by OMP_NUM_THREADS and the like."""
    from joblib import cpu_count

    of_blas = [one["num_threads"] for one in libraries.info() if one["user_api"] == "blas"]
    return int(min([cpu_count(), *of_blas]))
