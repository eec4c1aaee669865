"""Run the tasks of a build on threads, on processes, or on a dask cluster."""

import itertools
import logging
import multiprocessing
import operator
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress

from contrail_data.build.shard import ShardTask
from contrail_data.errors import ContrailError
from contrail_data.process import leave_ending_to_parent
from contrail_data.store.journal import Shard
from contrail_data.store.samples import SampleRow

_WAITED_FOR = 64
"""Tasks on a cluster that are waited for at a time, in their order: waiting costs time for each of them."""


def run_tasks(tasks: Sequence[ShardTask], scheduler: str, workers: int) -> Iterator[Shard[SampleRow]]:
    """Run tasks in any order.

    Args:
        tasks: The tasks.
        scheduler: `threads`, `processes`, or the address of a dask scheduler such as `tcp://host:8786`.
        workers: Number of threads or processes.

    Yields:
        The result of each task, as soon as it is finished.

    Raises:
        ContrailError: If the scheduler is unknown or does not answer, or if its workers keep dying.
    """
    if "://" in scheduler:
        yield from _run_on_cluster(tasks, scheduler)
    elif scheduler == "threads":
        yield from _run_on_threads(tasks, workers)
    elif scheduler == "processes":
        yield from _run_on_processes(tasks, workers)
    else:
        raise ContrailError(
            f"--scheduler {scheduler}: unknown; give threads, processes or an address such as tcp://host:8786"
        )


def _run_on_threads(tasks: Sequence[ShardTask], workers: int) -> Iterator[Shard[SampleRow]]:
    """Compute as many shards at a time as there are workers, while as many others wait for the disk."""
    free, ended = threading.Semaphore(workers), threading.Event()

    @contextmanager
    def turn() -> Iterator[None]:
        with free:
            if ended.is_set():
                raise CancelledError
            yield

    pool = ThreadPoolExecutor(2 * workers)
    try:
        yield from map(Future.result, as_completed([pool.submit(task, turn) for task in tasks]))
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)


def _run_on_processes(tasks: Sequence[ShardTask], workers: int) -> Iterator[Shard[SampleRow]]:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=leave_ending_to_parent)
    try:
        yield from map(Future.result, as_completed([pool.submit(task) for task in tasks]))
    except BrokenProcessPool:
        remedy = "repeat the command with fewer --workers to continue"
        raise ContrailError(
            f"--scheduler processes: a worker was killed, perhaps for lack of memory; {remedy}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _run_on_cluster(tasks: Sequence[ShardTask], scheduler: str) -> Iterator[Shard[SampleRow]]:
    from distributed import Client, wait
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it raises what it logs as errors, too
    with ExitStack() as stack:
        try:
            client = stack.enter_context(Client(scheduler, timeout=15))
            client.wait_for_workers(1, timeout=60)
        except (OSError, ValueError, TimeoutError) as error:
            reason = str(error).splitlines()[0][:100] if str(error) else "no worker"
            raise ContrailError(
                f"--scheduler {scheduler}: does not answer ({reason}); start the scheduler and its workers"
            ) from None
        futures = client.map(operator.call, tasks, pure=False, retries=2)
        remaining = iter(futures)
        pending = set(itertools.islice(remaining, _WAITED_FOR))
        try:
            while pending:
                try:
                    done, pending = wait(pending, timeout=60, return_when="FIRST_COMPLETED")
                except TimeoutError:
                    if not client.scheduler_info()["workers"]:
                        raise ContrailError(
                            f"--scheduler {scheduler}: has no workers left; start some, and repeat the command"
                        ) from None
                    continue
                pending.update(itertools.islice(remaining, len(done)))
                for future in done:
                    yield future.result()
        except KilledWorker as error:
            raise ContrailError(f"--scheduler {scheduler}: its workers keep dying ({error}); see their logs") from None
        except (CommClosedError, CancelledError):
            raise ContrailError(
                f"--scheduler {scheduler}: does not answer any more; start it and its workers, and repeat the command"
            ) from None
        finally:
            with suppress(CommClosedError):
                client.cancel(futures)
