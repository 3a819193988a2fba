"""The next piece of work made ready while the present one is worked on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_END = object()


def make_ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """Yield `items` in order; the next one is made on another thread while one is used.

    So the tokenizer, which is not Python, runs beside the arithmetic of the model. Two items are
    held at most. What making an item raises is raised where it would have been yielded.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="bertfit-ahead") as pool:
        coming = pool.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, items, _END)
            yield item  # type: ignore[misc]  # what is not the end is an item
