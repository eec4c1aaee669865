"""The submission file of the Kaggle competition: run lengths of each record's mask.

The rules of "Google Research - Identify Contrails to Reduce Global Warming": pixels are numbered from 1, down each
column, columns from left to right. A mask is a list of pairs of start and length, sorted, positive and without overlap;
`-` is an empty mask. The columns are record_id and encoded_pixels.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.storage.files import write_atomically
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_data.store.schema import Kind, require_kind

EMPTY = "-"


def encode(mask_yx: npt.NDArray[np.bool_]) -> str:
    """Encode a mask as run lengths.

    Args:
        mask_yx: Mask (y, x).

    Returns:
        Pairs of start and length, separated by spaces.
    """
    pixels = np.concatenate([[False], mask_yx.T.ravel(), [False]])
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    runs = np.stack([edges[::2] + 1, edges[1::2] - edges[::2]], -1)
    return " ".join(map(str, runs.ravel().tolist())) or EMPTY


def decode(text: str, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Decode run lengths.

    Args:
        text: Pairs of start and length, separated by spaces.
        shape: Height and width of the mask.

    Returns:
        Mask (y, x).

    Raises:
        ContrailError: If the text breaks the rules.
    """
    mask = np.zeros(shape[0] * shape[1], bool)
    if text.strip() == EMPTY:
        return mask.reshape(shape[::-1]).T
    parts = text.split()
    if not parts or len(parts) % 2 or not all(part.isdecimal() for part in parts):
        raise ContrailError(f"run lengths {text[:40]!r}: not pairs of start and length; correct them")
    free = 1
    for start, length in zip(map(int, parts[::2]), map(int, parts[1::2]), strict=True):
        if start < free or length < 1 or start + length - 1 > mask.size:
            raise ContrailError(
                f"run lengths {text[:40]!r}: {start} {length} overlaps, is out of order or exceeds the mask; correct it"
            )
        mask[start - 1 : start - 1 + length] = True
        free = start + length
    return mask.reshape(shape[::-1]).T


def write_submission(predictions: xr.Dataset, out: Path) -> tuple[int, int]:
    """Write the masks of a store of predictions as a submission.

    Args:
        predictions: A store that `contrail-train predict` wrote.
        out: The CSV file to write.

    Returns:
        Number of records, and how many of them are empty.

    Raises:
        ContrailError: If the store is of another kind, or has several frames for a record.
    """
    path = predictions.attrs["path"]
    require_kind(predictions, Kind.PREDICTIONS, remedy="give a store that contrail-train predict wrote")
    if predictions.sizes["time"] != 1:
        raise ContrailError(
            f"{path}: has {predictions.sizes['time']} frames per record; predict with --frames labelled"
        )
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["record_id", "encoded_pixels"])
    read = pixel_reader(predictions, "frame_mask")
    mask_1yx = np.empty((1, *predictions["frame_mask"].shape[2:]), np.uint8)
    empty = 0
    ids = [str(record_id) for record_id in read_scalars(predictions)["record_id"].values]
    for sample, record_id in enumerate(ids):
        read(sample, [0], mask_1yx)
        empty += not mask_1yx.any()
        table.writerow([record_id, encode(mask_1yx[0] > 0)])
    write_atomically(out, [text.getvalue().encode()])
    return len(ids), empty
