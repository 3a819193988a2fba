"""The next piece of work, prepared on another thread while the current one is processed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def make_ahead(make: Callable[[_Item], _Made], items: Iterable[_Item]) -> Iterator[_Made]:
    """Yield what `make` makes of each item, in order, the next one on another thread meanwhile.

    So the tokenizer, which is not Python, runs beside the arithmetic of the model. Two are held at
    most. Items are asked for on the caller's thread, which Ctrl-C ends even where they come from a
    terminal. An error is raised where what it hinders would have been yielded.
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
    """Yield what will be made of each item; where there is none for an error, the error."""
    try:
        for item in items:
            yield pool.submit(make, item)
    except Exception as error:  # noqa: BLE001 (raised by the caller, when it is the error's turn)
        failed: Future[_Made] = Future()
        failed.set_exception(error)
        yield failed
