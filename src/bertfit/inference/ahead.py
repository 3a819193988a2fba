"""Prepares the next piece of work on another thread while the current one is processed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def make_ahead(make: Callable[[_Item], _Made], items: Iterable[_Item]) -> Iterator[_Made]:
    """Yield `make(item)` for each item, in order, computing the next one on another thread.

    This way the tokenizer, which releases the GIL, runs in parallel with the model. At most two
    results are held. Items are read on the caller's thread, so Ctrl-C works even while reading from
    a terminal. An error is raised where the result it prevents would have been yielded. After the
    main thread has ended, Python starts no thread, so nothing is computed in parallel.
    """
    coming: Future[_Made] | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="bertfit-ahead") as pool:
        for following in _submit_each(pool, make, items):
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def _submit_each(
    pool: ThreadPoolExecutor, make: Callable[[_Item], _Made], items: Iterable[_Item]
) -> Iterator[Future[_Made]]:
    """Yield a future for each item; if reading an item fails, one that raises the error."""
    try:
        for item in items:
            yield _submit(pool, make, item)
    except Exception as error:  # noqa: BLE001 (raised by the caller, at the failed item)
        failed: Future[_Made] = Future()
        failed.set_exception(error)
        yield failed


def _submit(pool: ThreadPoolExecutor, make: Callable[[_Item], _Made], item: _Item) -> Future[_Made]:
    """Return a future of `make(item)`, computed here and now if no thread can be started."""
    try:
        return pool.submit(make, item)
    except RuntimeError:
        made: Future[_Made] = Future()
    try:
        made.set_result(make(item))
    except Exception as error:  # noqa: BLE001 (raised by the caller, at this item)
        made.set_exception(error)
    return made
