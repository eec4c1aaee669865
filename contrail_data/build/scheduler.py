"""MISSING DOCSTRING."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from contrail_data.errors import ContrailError
from contrail_data.store.journal import Shard

Task = Callable[[], Shard]


def run(tasks: Sequence[Task], scheduler: str, workers: int, on_shard: Callable[[Shard], None]) -> None:
    """Do the tasks in any order on a dask scheduler (see `build`) and hand over each result as it comes.

    Raises what a task raises, and ContrailError for a scheduler that does not answer or whose workers keep dying.
    """
    if scheduler == "threads":
        import dask
        from dask.callbacks import Callback

        class HandOver(Callback):
            def _posttask(self, key: Any, value: Any, dsk: Any, state: Any, worker_id: Any) -> None:
                if isinstance(value, Shard):
                    on_shard(value)

        with HandOver():
            # Keys in order: dask starts equal tasks by their keys.
            graph = [dask.delayed(task)(dask_key_name=f"shard-{i:08d}") for i, task in enumerate(tasks)]
            dask.compute(*graph, scheduler="threads", num_workers=workers)
        return
    from distributed import Client, LocalCluster, wait
    from distributed.scheduler import KilledWorker

    local = scheduler == "processes"
    if not local and "://" not in scheduler:
        raise ContrailError(f"--scheduler {scheduler}: use threads, processes or an address such as tcp://host:8786")
    try:
        cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) if local else None
        client = Client(scheduler if cluster is None else cluster, timeout=15)
        client.wait_for_workers(1, timeout=60)
    except (OSError, ValueError, TimeoutError) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else "no worker"
        raise ContrailError(f"--scheduler {scheduler}: does not answer ({reason}): start it, and workers") from None
    futures = []
    try:
        futures = client.map(_call, tasks, pure=False, retries=2)
        pending = set(futures)
        while pending:
            try:
                done, pending = wait(pending, timeout=60, return_when="FIRST_COMPLETED")
            except TimeoutError:
                if not client.scheduler_info()["workers"]:
                    raise ContrailError(f"--scheduler {scheduler}: has no workers left: start some, repeat") from None
                continue
            for future in done:
                on_shard(future.result())
    except KilledWorker as error:
        raise ContrailError(f"--scheduler {scheduler}: its workers keep dying ({error}): see their logs") from None
    finally:
        client.cancel(futures)
        client.close()
        if cluster is not None:
            cluster.close()


def _call(task: Task) -> Shard:
    return task()
