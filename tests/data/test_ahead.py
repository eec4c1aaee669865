"""Results that threads compute ahead of their use."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from contrail_data.ahead import map_ahead


def test_results_come_in_order_and_few_are_ahead() -> None:
    begun: list[int] = []

    def double(item: int) -> int:
        begun.append(item)
        return 2 * item

    with ThreadPoolExecutor(1) as pool:
        for taken, result in enumerate(map_ahead(pool, double, range(20), most=3), 1):
            assert result == 2 * (taken - 1)
            pool.submit(int).result()  # all that was submitted before is done
            assert begun == list(range(min(taken + 3, 20)))


@pytest.mark.parametrize("fails", [True, False])
def test_what_was_not_begun_is_dropped_after_an_error_or_when_no_more_is_asked_for(fails: bool) -> None:
    begun: list[int] = []
    go_on = threading.Event()

    def wait_or_fail(item: int) -> int:
        begun.append(item)
        if item == 0 and fails:
            raise ValueError("bad item")
        if item == 1:
            assert go_on.wait(timeout=60)
        return item

    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(pool, wait_or_fail, range(20), most=4)
        if fails:
            with pytest.raises(ValueError, match="bad item"):
                next(results)
        else:
            assert next(results) == 0
            results.close()
        go_on.set()
    assert set(begun) <= {0, 1}
