"""Records counted in threads while the next batches are predicted."""

from __future__ import annotations

import os
import threading

import pytest

from contrail_train.evaluation.counting import CountingThreads


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


def counting_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("counting")]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 9])
def test_each_record_is_counted_once(size: int) -> None:
    counted: list[int] = []
    with CountingThreads() as counting:
        for _ in range(3):
            counting.submit(lambda part: counted.extend(range(size)[part]), size)
    assert sorted(counted) == sorted(3 * list(range(size)))


def test_a_batch_is_counted_by_as_many_threads_as_there_are_cores() -> None:
    together = threading.Barrier(4)  # breaks unless four threads count at a time
    with CountingThreads() as counting:
        counting.submit(lambda _: together.wait(timeout=60), 8)


def test_a_third_batch_waits_until_the_first_is_counted() -> None:
    third, submitted, was_submitted = threading.Event(), threading.Event(), []

    def count_first(_: slice) -> None:
        third.wait(timeout=60)
        was_submitted.append(submitted.wait(timeout=0.1))

    with CountingThreads() as counting:
        counting.submit(count_first, 1)
        counting.submit(lambda _: None, 1)
        third.set()
        counting.submit(lambda _: None, 1)
        submitted.set()
    assert was_submitted == [False]


def test_an_error_of_a_count_is_raised_and_leaves_no_thread() -> None:
    def fail(part: slice) -> None:
        raise ValueError(f"record {part.start}")

    with pytest.raises(ValueError, match="record 0"), CountingThreads() as counting:  # noqa: PT012
        counting.submit(fail, 4)
        for _ in range(3):
            counting.submit(lambda _: None, 4)
    assert not counting_threads()


def test_after_an_interruption_nothing_more_is_counted() -> None:
    begun, ended, counted = threading.Barrier(5), threading.Event(), []

    def count_first(_: slice) -> None:
        begun.wait(timeout=60)
        ended.wait(timeout=60)

    def interrupt() -> None:
        counting.submit(count_first, 4)
        counting.submit(counted.append, 4)  # waits, as four threads count the first batch
        begun.wait(timeout=60)
        ended.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), CountingThreads() as counting:
        interrupt()
    assert not counting_threads()
