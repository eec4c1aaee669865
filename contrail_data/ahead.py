"""Results that threads compute ahead of their use, a bounded number of them."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_ahead(
    pool: Executor, function: Callable[[_Item], _Result], items: Iterable[_Item], most: int
) -> Generator[_Result]:
    """Apply a function to items in threads. Unlike `Executor.map`, results that are not taken yet are few.

    Args:
        pool: The threads.
        function: The function.
        items: What to apply it to.
        most: Number of results that are computed, or wait to be taken, beside the one that is asked for.

    Yields:
        The results, in the order of the items.

    Raises:
        Exception: As the function did. What was not begun by then is dropped.
    """
    waiting: deque[Future[_Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for each in waiting:
            each.cancel()
