"""Store → batches: threads in this process read chunk bytes straight into preallocated batches.

There are no worker processes: reading a frame is one system call, so a few threads keep ahead of any step. Where they
wait for object storage, `load` reads further ahead with more threads, and a `ReadAhead` lets the next epoch begin like
that. Only the frames that the model needs are read. The order is a pure function of (seed, epoch, step, rank, world
size), so a resumed run sees exactly what an uninterrupted one would have seen.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contrail_data.sample import input_frames
from contrail_train.data.items import Ints, Items

_LATE = 0.002
"""Seconds that a step may wait for a batch before `load` reads further ahead."""
_MOST_THREADS, _MOST_BYTES = 64, 1 << 30
"""How far `load` goes: threads, and memory of batches."""


@dataclass(frozen=True)
class Batch:
    """The input of a step. Types are those of `load`, and change with normalisation and augmentation.

    The memory of a batch that `load` read is reused: it is valid until the next batch but one is requested.
    """

    image_btchw: Tensor
    """Images in the store's type; uint8 has a scale of 1/255."""
    target_bkhw: Tensor
    """uint8, one map per target; 255 is certain contrail."""
    positive_b1: Tensor
    """float32 0 or 1: whether the frame has any contrail."""
    weight_b: Tensor
    """float32 weight in the loss."""
    valid_b1hw: Tensor | None
    """uint8 0 or 1: whether the labelled frame has data in the pixel; None if no pixel in the stores is missing."""
    erased_b1hw: Tensor | None = None
    """Share of a pixel that is replaced, as an erased contrail; None if none is erased."""
    pasted_b1hw: Tensor | None = None
    """Share of the partner in a pixel, as a copied contrail; None if none is copied."""
    flow_btdhw: Tensor | None = None
    """float16 pixels (down, right) from the labelled frame to each frame; None if the items have no flow."""
    annotators_b: Tensor | None = None
    """uint8: how many of the targets after the first are masks of annotators; the rest are the first one. None if the
    targets are others."""

    def __getitem__(self, rows: slice) -> Self:
        return type(self)(*(None if part is None else part[rows] for part in vars(self).values()))  # type: ignore[arg-type]


@dataclass
class ReadAhead:
    """How far `load` reads ahead, which it raises where reads wait; one for all epochs of the same items."""

    pools: int = 1
    """Pools of threads, each of which reads a batch."""


def epoch_order(frequency: npt.NDArray[np.float64], seed: int, epoch: int) -> Ints:
    """Return the rows of an epoch in the order in which they are drawn, the same on every machine.

    Unequal frequencies are drawn systematically, so that an item is drawn its frequency rounded up or down (Cochran
    1977, Sampling Techniques, chapter 8).

    Args:
        frequency: (n) how often each item is drawn on average, relative to the others. If all are equal, each item is
            drawn once.
        seed: Seed of the run.
        epoch: Number of the epoch.

    Returns:
        (n) rows.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = random.permutation(len(frequency))
    if (frequency == frequency[:1]).all():
        return order
    ends = np.cumsum(frequency[order]) * (len(frequency) / frequency.sum())
    picks = np.searchsorted(ends, np.arange(len(frequency)) + random.random(), side="right")
    return random.permutation(order[np.minimum(picks, len(frequency) - 1)])


def split_steps(order: Ints, batch_size: int) -> list[Ints]:
    """Divide an epoch into steps.

    Args:
        order: Rows of the epoch.
        batch_size: Items per step, over all processes.

    Returns:
        The rows of each step, the last of which may have fewer.
    """
    return np.split(order, range(batch_size, len(order), batch_size))


def share_of(count: int, rank: int, world: int, together: int = 1) -> tuple[Ints, int]:
    """Return which of a step's rows a process takes: every world-th, or every world-th pair.

    Args:
        count: Rows in the step.
        rank: Number of the process.
        world: Number of processes.
        together: 2 where neighbours mix, so that each process has both.

    Returns:
        Indices, as many for each process, because they wait for one another; and how many of them are its own. Where
        there are too few rows, the last processes repeat one, which must then have weight 0.
    """
    rows = np.arange(count)
    shares = [rows[rows // together % world == process] for process in range(world)]
    own = shares[rank]
    missing = max(map(len, shares)) - len(own)
    return np.append(own, np.full(missing, own[-1] if len(own) else 0)), len(own)


def load(
    items: Items,
    rows_by_step: Sequence[Ints],
    device: torch.device,
    threads: int,
    prefetch: int,
    ahead: ReadAhead | None = None,
) -> Iterator[Batch]:
    """Read batches ahead of their use.

    If a step has to wait although the threads spend their time waiting, too, as they do for object storage, twice as
    many threads read more batches at the same time.

    Args:
        items: The items.
        rows_by_step: Rows of each batch.
        device: Where the batches are needed; to a GPU they are copied on a side stream from pinned memory.
        threads: Number of threads that read and decode at first.
        prefetch: Number of batches read ahead at first.
        ahead: How far earlier epochs read ahead, to begin with; raised if that is not enough. None begins with
            `threads` and `prefetch`.

    Yields:
        The batches, in order.
    """
    if not len(rows_by_step):
        return
    largest = max(len(rows) for rows in rows_by_step)
    slots = deque(_Slot(items, largest, device) for _ in range(min(prefetch, len(rows_by_step)) + 2))
    most_pools = min(_MOST_THREADS // threads, _MOST_BYTES // slots[0].bytes - prefetch, len(rows_by_step))
    ahead = ahead or ReadAhead()
    in_progress: deque[_Reading] = deque()
    remaining = iter(rows_by_step)
    with ExitStack() as stack:
        pools: list[ThreadPoolExecutor] = []

        def add_pool() -> None:
            pools.append(pool := ThreadPoolExecutor(threads, thread_name_prefix="loader"))
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)

        add_pool()
        for _ in range(min(ahead.pools, most_pools) - 1):
            add_pool()
            slots.append(_Slot(items, largest, device))
        batch, submitted = None, 0
        while True:
            while len(in_progress) < prefetch + len(pools) - 1 and (rows := next(remaining, None)) is not None:
                slot = slots.popleft()
                slot.wait_until_free()
                # one task per thread and batch: a task per frame would cost more than reading the frame
                parts = np.array_split(np.arange(len(rows)), min(threads, len(rows)))
                pool = pools[submitted % len(pools)]
                tasks = [pool.submit(_timed_fill, items, slot, rows, part) for part in parts]
                in_progress.append(_Reading(slot, len(rows), tasks, len(pools)))
                submitted += 1
            if batch is not None:
                yield batch  # while the next ones are being read
            if not in_progress:
                return
            start = time.perf_counter()
            slot, size, tasks, pools_then = in_progress.popleft()
            seconds, busy = np.sum([task.result() for task in tasks], 0)
            is_late = time.perf_counter() - start > _LATE and busy < seconds / 4
            if is_late and pools_then == len(pools):  # else it was read before the last change
                for _ in range(min(len(pools), most_pools - len(pools))):
                    add_pool()
                    slots.appendleft(_Slot(items, largest, device))
                ahead.pools = max(ahead.pools, len(pools))
            slots.append(slot)
            batch = slot.batch(size)


def read_batch(items: Items, rows: Ints) -> Batch:
    """Read some items into memory of their own, in the calling thread.

    Args:
        items: The items.
        rows: Rows of the items.

    Returns:
        The batch, on the CPU.
    """
    slot = _Slot(items, len(rows), torch.device("cpu"))
    _fill(items, slot, rows, np.arange(len(rows)))
    return slot.host


class _Reading(NamedTuple):
    """A batch that is being read."""

    slot: "_Slot"
    size: int
    tasks: list[Future[tuple[float, float]]]
    """Each returns how long it took, and for how much of it a processor was busy, in seconds."""
    pools: int
    """How many there were when it was begun."""


class _Slot:
    # memory of one batch, filled again and again

    def __init__(self, items: Items, size: int, device: torch.device):
        self.device = device
        pin = device.type == "cuda"
        dtype = torch.from_numpy(np.empty(0, items.dtype)).dtype
        plane = items.shape_tchw[-2:]
        has_missing = any(read is not None for read in items.valid)
        flow_shape = size, items.shape_tchw[0], 2, *plane
        self.host = Batch(
            image_btchw=torch.empty((size, *items.shape_tchw), dtype=dtype, pin_memory=pin),
            target_bkhw=torch.empty((size, items.label.shape[1], *plane), dtype=torch.uint8, pin_memory=pin),
            positive_b1=torch.empty((size, 1), dtype=torch.float32, pin_memory=pin),
            weight_b=torch.empty(size, dtype=torch.float32, pin_memory=pin),
            valid_b1hw=torch.ones((size, 1, *plane), dtype=torch.uint8, pin_memory=pin) if has_missing else None,
            flow_btdhw=torch.empty(flow_shape, dtype=torch.float16, pin_memory=pin) if items.flow else None,
            annotators_b=torch.empty(size, dtype=torch.uint8, pin_memory=pin) if items.of_annotators else None,
        )
        self.stream = torch.cuda.Stream(device) if pin else None
        self.copied: torch.cuda.Event | None = None

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for part in vars(self.host).values() if part is not None)

    def wait_until_free(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()

    def batch(self, size: int) -> Batch:
        # the first `size` samples, on the device
        batch = self.host[:size]
        if self.stream is None:
            return batch
        with torch.cuda.stream(self.stream):
            moved = [None if p is None else p.to(self.device, non_blocking=True) for p in vars(batch).values()]
            self.copied = self.stream.record_event()
        compute = torch.cuda.current_stream(self.device)
        compute.wait_stream(self.stream)
        for tensor in moved:
            if tensor is not None:
                tensor.record_stream(compute)
        return Batch(*moved)  # type: ignore[arg-type]


def _timed_fill(items: Items, slot: _Slot, rows: Ints, part: Ints) -> tuple[float, float]:
    start, busy = time.perf_counter(), time.thread_time()
    _fill(items, slot, rows, part)
    return time.perf_counter() - start, time.thread_time() - busy


def _fill(items: Items, slot: _Slot, rows: Ints, part: Ints) -> None:
    """Read some of the samples of a batch into its slot."""
    host = slot.host
    image, target = host.image_btchw.numpy(), host.target_bkhw.numpy()
    positive, weight = host.positive_b1.numpy(), host.weight_b.numpy()
    valid = None if host.valid_b1hw is None else host.valid_b1hw.numpy()
    for i in part:
        row = rows[i]
        store, sample, frame = int(items.store[row]), int(items.sample[row]), int(items.frame[row])
        items.images[store](sample, input_frames(frame, items.offsets, items.lengths[store]), image[i])
        for k, label in enumerate(items.label[row]):
            labelled = int(items.label_sample[row]), int(items.label_frame[row])
            items.labels[label].read_target(*labelled, target[i, k : k + 1])
        if valid is not None:
            read_valid = items.valid[store]
            if read_valid is None:
                valid[i] = 1
            else:
                read_valid(sample, [frame], valid[i])
        positive[i], weight[i] = items.positive[row], items.weight[row]
        if items.flow is not None and host.flow_btdhw is not None:
            host.flow_btdhw.numpy()[i] = items.flow(image[i])
        if host.annotators_b is not None:
            host.annotators_b[i] = int((items.label[row, 1:] != items.label[row, 0]).sum())
