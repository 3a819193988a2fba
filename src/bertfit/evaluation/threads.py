"""Independent pieces of work, run in parallel on the available cores.

Owns how many run at once. NumPy and SciPy release the interpreter's lock in their long loops, so
threads are enough, and nothing has to be copied from one process to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Result = TypeVar("Result")


def run_in_threads(tasks: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """Yield what each task returns, in the order of the tasks.

    Tasks are taken as threads become free, few ahead of the last result taken. While they run, BLAS
    keeps to one thread, since threads within threads would wait for one another; how many run makes
    no difference to any result. What a task raises is raised here.
    """
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits

    num_threads = count_threads()
    with threadpool_limits(1, user_api="blas"):
        run = Parallel(n_jobs=num_threads, backend="threading", return_as="generator")
        yield from run(delayed(task)() for task in tasks)


def count_threads() -> int:
    """Return the cores that this process may use, or what OMP_NUM_THREADS and its like say."""
    from joblib import cpu_count
    from threadpoolctl import threadpool_info

    of_blas = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
    return int(min([cpu_count(), *of_blas]))
