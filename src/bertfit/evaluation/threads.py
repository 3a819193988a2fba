"""Run independent tasks in parallel on the available cores.

Owns the number of threads. NumPy and SciPy release the GIL in their long loops, so threads suffice,
and nothing has to be copied between processes.
"""

from __future__ import annotations

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
    from joblib import Parallel, delayed
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController()  # finding them takes longer than a short task
    num_threads = count_threads(libraries)
    with libraries.limit(limits=1, user_api="blas"):
        run = Parallel(n_jobs=num_threads, backend="threading", return_as="generator")
        yield from run(delayed(task)() for task in tasks)


def count_threads(libraries: ThreadpoolController) -> int:
    """Return the number of available cores, or the limit by OMP_NUM_THREADS and the like."""
    from joblib import cpu_count

    of_blas = [one["num_threads"] for one in libraries.info() if one["user_api"] == "blas"]
    return int(min([cpu_count(), *of_blas]))
