"""Records of predicted batches, counted by several threads while the next batches are predicted."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

_WAITING = 2
"""Batches that may wait to be counted, so that their predictions take bounded memory."""


class CountingThreads:
    """As many threads as the machine has cores, among which the records of each batch are divided.

    On leaving, all batches are counted; after an error, what was not begun is dropped. No thread is left in any case.

        with CountingThreads() as counting:
            for batch in batches:
                counting.submit(partial(count, batch, detect(batch)), len(batch))
    """

    def __init__(self) -> None:
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="counting")
        self._batches: deque[list[Future[object]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if error is None:
                self._wait(0)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, count: Callable[[slice], object], size: int) -> None:
        """Count a batch in other threads, once there are few enough that wait.

        Args:
            count: Counts a part of the records of the batch; called for all parts, several of them at a time. What
                parts add to must not depend on their order, and needs a lock.
            size: Number of records.

        Raises:
            Exception: As a count of an earlier batch did.
        """
        self._wait(_WAITING - 1)
        step = -(-size // self._threads)
        parts = [slice(start, start + step) for start in range(0, size, step or 1)]
        self._batches.append([self._pool.submit(count, part) for part in parts])

    def _wait(self, most: int) -> None:
        """Wait until no more batches than this are left to count."""
        while len(self._batches) > most:
            for task in self._batches.popleft():
                task.result()
