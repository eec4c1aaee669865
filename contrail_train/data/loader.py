"""Store → batches: threads in this process read chunk bytes straight into preallocated batches.

No worker processes: reading a frame is one system call, so a few threads keep ahead of any step. Only the frames
that the model needs are read. Order is a pure function of (seed, epoch, step, rank, world size): nothing is
remembered, so a resumed run sees just what an undisturbed one would have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contrail_train.data.items import Items


@dataclass(frozen=True)
class Batch:
    """What a step gets: valid until the next but one is asked for."""

    image_btchw: Tensor
    """The store's dtype; uint8 counts 1/255."""
    target_b1hw: Tensor
    """uint8, 255 is certain contrail."""
    positive_b1: Tensor
    """float32 0 or 1: any contrail in the frame."""
    weight_b: Tensor
    """float32 weight in the loss."""
    valid_b1hw: Tensor | None
    """uint8 0 or 1: the labelled frame's pixel is there; None where the stores miss none."""

    def __getitem__(self, rows: slice) -> Batch:
        valid_b1hw = None if self.valid_b1hw is None else self.valid_b1hw[rows]
        return Batch(
            self.image_btchw[rows], self.target_b1hw[rows], self.positive_b1[rows], self.weight_b[rows], valid_b1hw
        )


def epoch_order(frequency: npt.NDArray[np.float64], seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The rows of an epoch, as many as there are items, the same on every machine.

    frequency: (n) how often each item comes on average; all alike: each comes once. Drawn systematically, so that an
    item comes its frequency rounded down or up (Cochran 1977, Sampling Techniques, chapter 8).
    """
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = random.permutation(len(frequency))
    if (frequency == frequency[:1]).all():
        return order
    ends = np.cumsum(frequency[order]) * (len(frequency) / frequency.sum())
    picks = np.searchsorted(ends, np.arange(len(frequency)) + random.random(), side="right")
    return random.permutation(order[np.minimum(picks, len(frequency) - 1)])


def steps_per_epoch(count: int, batch_size: int) -> int:
    return -(-count // batch_size)


def step_rows(order: npt.NDArray[np.int64], step: int, batch_size: int) -> npt.NDArray[np.int64]:
    """Rows of a step of the epoch, over all ranks; over the steps each item comes exactly once."""
    return order[step * batch_size : (step + 1) * batch_size]


def share_of(count: int, rank: int, world: int) -> npt.NDArray[np.int64]:
    """Which of a step's `count` rows a rank takes: every world-th. All ranks take equally many, as they wait for one
    another; where there are too few, ranks at the end repeat row 0, which must then weigh 0.
    """
    own = np.arange(rank, count, world)
    return np.pad(own, (0, -(-count // world) - len(own)))


def load(
    items: Items, rows_by_step: Sequence[npt.NDArray[np.int64]], device: torch.device, threads: int, prefetch: int
) -> Iterator[Batch]:
    """Batches of the given rows, read ahead by threads; on a GPU copied on a side stream from pinned memory."""
    if not len(rows_by_step):
        return
    largest = max(len(rows) for rows in rows_by_step)
    slots = deque(_Slot(items, largest, device) for _ in range(min(prefetch, len(rows_by_step)) + 2))
    under_way: deque[tuple[_Slot, int, list[Future[None]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="loader") as pool:
        todo = iter(rows_by_step)

        def start_next() -> None:
            rows = next(todo, None)
            if rows is not None:
                slot = slots.popleft()
                slot.wait_until_free()
                # One task a thread and batch: a task per frame would cost more than reading the frame.
                parts = np.array_split(np.arange(len(rows)), min(threads, len(rows)))
                tasks = [pool.submit(_fill, items, slot, rows, part) for part in parts]
                under_way.append((slot, len(rows), tasks))

        for _ in range(prefetch):
            start_next()
        try:
            while under_way:
                slot, size, tasks = under_way.popleft()
                for task in tasks:
                    task.result()
                slots.append(slot)
                start_next()
                yield slot.batch(size)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Slot:
    """Memory of one batch, filled again and again."""

    def __init__(self, items: Items, size: int, device: torch.device) -> None:
        self.device = device
        pin = device.type == "cuda"
        dtype = torch.from_numpy(np.empty(0, items.dtype)).dtype
        plane = (size, 1, *items.shape_tchw[-2:])
        self.image = torch.empty((size, *items.shape_tchw), dtype=dtype, pin_memory=pin)
        self.target = torch.empty(plane, dtype=torch.uint8, pin_memory=pin)
        self.positive = torch.empty((size, 1), dtype=torch.float32, pin_memory=pin)
        self.weight = torch.empty(size, dtype=torch.float32, pin_memory=pin)
        some_missing = any(read is not None for read in items.valid)
        self.valid = torch.ones(plane, dtype=torch.uint8, pin_memory=pin) if some_missing else None
        self.stream = torch.cuda.Stream(device) if pin else None
        self.copied: torch.cuda.Event | None = None

    def wait_until_free(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()

    def batch(self, size: int) -> Batch:
        here = Batch(self.image, self.target, self.positive, self.weight, self.valid)[:size]
        if self.stream is None:
            return here
        with torch.cuda.stream(self.stream):
            moved = [None if p is None else p.to(self.device, non_blocking=True) for p in vars(here).values()]
            self.copied = self.stream.record_event()
        compute = torch.cuda.current_stream(self.device)
        compute.wait_stream(self.stream)
        for tensor in moved:
            if tensor is not None:
                tensor.record_stream(compute)
        return Batch(*moved)  # type: ignore[arg-type]


def _fill(items: Items, slot: _Slot, rows: npt.NDArray[np.int64], part: npt.NDArray[np.int64]) -> None:
    image, target = slot.image.numpy(), slot.target.numpy()
    positive, weight = slot.positive.numpy(), slot.weight.numpy()
    valid = None if slot.valid is None else slot.valid.numpy()
    for i in part:
        row = rows[i]
        store, sample, frame = int(items.store[row]), int(items.sample[row]), int(items.frame[row])
        items.images[store](sample, [frame + offset for offset in items.offsets], image[i])
        labels = items.labels[items.label[row]]
        labels.read(int(items.label_sample[row]), [int(items.label_frame[row])], target[i])
        if labels.table is not None:
            at = 0 if labels.row_of_table is None else int(labels.row_of_table[items.label_sample[row]])
            np.take(labels.table[at], target[i], out=target[i], mode="clip")
        elif labels.scale != 1:
            np.multiply(target[i], labels.scale, out=target[i])
        if valid is not None:
            read_valid = items.valid[store]
            if read_valid is None:
                valid[i] = 1
            else:
                read_valid(sample, [frame], valid[i])
        positive[i], weight[i] = items.positive[row], items.weight[row]
