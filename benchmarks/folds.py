"""Labelled frames in grouped folds, a store each, so that every record is scored by a model that did not see it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.build.build import build
from contrail_data.composites import COMPOSITES, get_composite
from contrail_data.errors import ContrailError
from contrail_data.sources.base import InputFormat
from contrail_data.sources.open import open_source
from contrail_data.splits.folds import make_folds
from contrail_data.storage.documents import read_table
from contrail_data.storage.files import write_csv
from contrail_data.store.reader import open_store, pixel_reader, read_scalars
from contrail_data.store.samples import as_text
from contrail_data.store.settings import StoreSettings
from contrail_data.synthetic.records import write_records
from contrail_train.data.items import Items, SampleStores, open_labelled

GROUPS = "groups.csv"
BANDS = (11, 13, 14, 15)
"""Bands of synthetic records: those of `ash` and `ash_cira`."""
PARTS = 2
"""Parts along each side into which real frames are cut, which makes steps four times as fast."""


@dataclass(frozen=True)
class Folds:
    """The stores of the folds in a folder."""

    folder: Path
    count: int

    @property
    def paths(self) -> list[Path]:
        """The store of each fold."""
        return [self.folder / f"fold-{k}.zarr" for k in range(self.count)]

    @property
    def stores(self) -> list[xr.Dataset]:
        """The opened stores."""
        return [_opened(path) for path in self.paths]

    @property
    def groups(self) -> npt.NDArray[np.str_]:
        """Group of each labelled frame of all folds in order."""
        folds = [_items(path) for path in self.paths]
        if not (self.folder / GROUPS).exists():
            return np.concatenate([[f"{k} {name}" for name in items.group] for k, items in enumerate(folds)])
        group_of = {record_id: group for record_id, group in read_table(self.folder / GROUPS, "record_id", "group")}
        return np.array([group_of[record_id] for items in folds for record_id in items.record_id.tolist()])

    def labelled(self, fold: int, offsets: tuple[int, ...] = (0,)) -> Items:
        """Open the labelled frames of a fold, in the groups of whole images.

        Args:
            fold: Number of the fold.
            offsets: Frames to read, relative to the labelled one.

        Returns:
            The frames.
        """
        first = sum(len(_items(path)) for path in self.paths[:fold])
        items = open_labelled([self.stores[fold]], offsets)
        return replace(items, group=self.groups[first : first + len(items)])

    def others(self, fold: int) -> str:
        """Return the stores of the other folds as the value of a setting."""
        return f"[{','.join(str(path) for k, path in enumerate(self.paths) if k != fold)}]"

    def arrays(self, fold: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Read labelled frames (n, channel, y, x) and their masks (n, y, x) of a fold."""
        store = self.stores[fold]
        rows, frame = np.arange(store.sizes["sample"]), store["labelled_frame"].values.astype(np.int64)
        return store["image"].values[rows, frame], store["mask"].values


@cache
def _opened(path: Path) -> xr.Dataset:
    return open_store(path)


@cache
def _items(path: Path) -> Items:
    return open_labelled([_opened(path)])


def _written_before(folder: Path, count: int) -> Folds:
    written = len({fold for _, fold in read_table(folder / GROUPS, "record_id", "fold")})
    if written != count:
        raise ContrailError(f"{folder}: it has {written} folds, not {count}; use --folds {written}, or another OUT")
    return Folds(folder, count)


def write_real_folds(folder: Path, data: Path, count: int) -> Folds:
    """Cut real frames into quarters and write the stores of their folds, unless they exist.

    Records that show one scene are in one group, as in every split.

    Args:
        folder: Where to write.
        data: Folder with `ash_frames` and `opencontrails`.
        count: Number of folds.

    Returns:
        The folds.

    Raises:
        ContrailError: If there are folds already, but not as many.
    """
    if (folder / GROUPS).exists():
        return _written_before(folder, count)
    composite = COMPOSITES["ash"]
    stores = []
    for name, split in (("opencontrails", "train"), ("opencontrails", "validation"), ("ash_frames", "train")):
        path = folder / f"{name}-{split}.zarr"
        build(open_source(data / name, split, composite), StoreSettings(composite), path, workers=1)
        stores.append(open_store(path))
    samples = SampleStores(stores)
    record_id = np.concatenate([as_text(scalars["record_id"].values) for scalars in samples.scalars])
    group = np.concatenate(samples.groups)
    frames, seen = [*_frames(stores)], set[str]()
    chosen = [i for i, name in enumerate(record_id.tolist()) if not (name in seen or seen.add(name))]
    positive = np.array([frame[..., 3].any() for frame in frames])
    fold = make_folds(group[chosen], positive[chosen], count)
    rows = []
    for i, k in zip(chosen, fold.tolist(), strict=True):
        (folder / f"fold-{k}").mkdir(parents=True, exist_ok=True)
        for q, part in enumerate(_parts(frames[i])):
            np.save(folder / f"fold-{k}" / f"{record_id[i]}-{q}.npy", part)
            rows.append([f"{record_id[i]}-{q}", group[i], k])
    settings = StoreSettings(composite, size=frames[0].shape[0] // PARTS)
    for k in range(count):
        source = open_source(folder / f"fold-{k}", "train", composite, InputFormat.FRAMES)
        build(source, settings, folder / f"fold-{k}.zarr", workers=1)
    write_csv(folder / GROUPS, ["record_id", "group", "fold"], rows)
    return Folds(folder, count)


def _frames(stores: list[xr.Dataset]) -> Iterator[npt.NDArray[np.float16]]:
    """Each sample's labelled frame as an ash frame (y, x, 4): the composite, then the mask."""
    for store in stores:
        scalars, read, read_mask = read_scalars(store), pixel_reader(store), pixel_reader(store, "mask")
        shape = store["image"].shape[2:]
        for sample, frame in enumerate(scalars["labelled_frame"].values.tolist()):
            image_tchw, mask_thw = np.empty((1, *shape), np.uint8), np.empty((1, *shape[1:]), np.uint8)
            read(sample, [frame], image_tchw)
            read_mask(sample, [0], mask_thw)
            yield np.stack([*(image_tchw[0] / np.float32(255)), mask_thw[0]], axis=-1).astype(np.float16)


def _parts(frame_yxc: npt.NDArray[np.float16]) -> list[npt.NDArray[np.float16]]:
    return [part for rows in np.split(frame_yxc, PARTS) for part in np.split(rows, PARTS, axis=1)]


def write_synthetic_folds(
    folder: Path, records: int, side: int, count: int, composites: Sequence[str], scenery: str
) -> dict[str, Folds]:
    """Write synthetic records, as many of a seed of their own for each fold, and their stores, unless they exist.

    Args:
        folder: Where to write.
        records: Number of records in all folds.
        side: Rows and columns.
        count: Number of folds.
        composites: Composites of the stores.
        scenery: A key of `contrail_data.synthetic.lines.SCENERIES`.

    Returns:
        The folds by composite.
    """
    for k in range(count):
        raw = folder / f"raw-{k}"
        write_records(raw, records // count, seed=k, validation_fraction=0.0, size=side, bands=BANDS, scenery=scenery)
        for name in composites:
            settings = StoreSettings(get_composite(name), size=side)
            path = folder / name / f"fold-{k}.zarr"
            build(open_source(raw, "train", settings.composite), settings, path, workers=2)
    return {name: Folds(folder / name, count) for name in composites}
