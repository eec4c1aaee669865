"""Labelled images as the items that calibration reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contrail_train.data.items import Items, Labels

SIDE, RECORDS = 16, 24


def labelled_scene(seed: int) -> tuple[np.ndarray, np.ndarray, Items]:
    """Return images (record, channel, y, x), labels (record, y, x), and both as items of 12 groups.

    Two of the channels show the labels under noise, more clearly in some records than in others. A third of the records
    has no labelled pixel.
    """
    rng = np.random.default_rng(seed)
    label = rng.random((RECORDS, SIDE, SIDE)) < rng.random((RECORDS, 1, 1)) * 0.3
    label[::3] = False
    signal = rng.random((RECORDS, 2, 1, 1)) * label[:, None] + rng.random((RECORDS, 2, SIDE, SIDE))
    image = np.concatenate([signal, np.zeros_like(signal[:, :1])], 1) / 2.01
    stored = np.rint(image * 255).astype(np.uint8)
    return stored, label, items_of(stored, label, label.any((1, 2)))


def items_of(stored: np.ndarray, label: np.ndarray, positive: np.ndarray) -> Items:
    def read_image(sample: int, frames: Sequence[int], out: np.ndarray) -> None:
        out[0] = stored[sample]

    def read_label(sample: int, frames: Sequence[int], out: np.ndarray) -> None:
        out[0] = label[sample]

    each, nothing = np.arange(RECORDS), np.zeros(RECORDS, np.int64)
    return Items(
        images=[read_image],
        labels=[Labels(read_label, scale=255)],
        valid=[None],
        store=nothing,
        sample=each,
        frame=nothing,
        label=nothing[:, np.newaxis],
        label_sample=each,
        label_frame=nothing,
        positive=positive,
        weight=np.ones(RECORDS, np.float32),
        group=np.array([f"site {i // 2:02d}" for i in each]),
        record_id=np.array([f"r{i:02d}" for i in each]),
        lengths=[1],
        offsets=(0,),
        shape_tchw=(1, 3, SIDE, SIDE),
        dtype=np.dtype(np.uint8),
    )
