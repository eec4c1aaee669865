"""A torch Dataset over the labelled frames of stores, for training loops of one's own.

Images, targets and augmentation are those of `contrail-train run`, one sample at a time. Its own loop reads batches
ahead in threads (`data.loader`) and augments them on the device, which is faster.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError, UsageError
from contrail_data.settings.parse import as_plain, validated
from contrail_data.store.reader import shared_reader
from contrail_data.store.schema import require_samples
from contrail_train.config.augment import AugmentConfig
from contrail_train.config.data import DataConfig
from contrail_train.config.schema import check_samples
from contrail_train.data.augment import augment_images, draw_labels
from contrail_train.data.items import SampleStores, has_all_frames, human_items
from contrail_train.data.loader import read_batch
from contrail_train.data.normalise import normalisation_of, normalise
from contrail_train.data.training_data import check_consistent, statistics_of

CPU = torch.device("cpu")
_SEEDS = 2**62


class ContrailItem(TypedDict):
    """A labelled frame with those around it; torch's default collation makes batches of it."""

    image: Tensor
    """float32 (time, channel, y, x), normalised; missing pixels are white."""
    mask: Tensor
    """float32 (1, y, x): 1 is contrail. Fractions where pixels mix, and with the targets mean and clip2."""
    valid: Tensor
    """bool (1, y, x): where the labelled frame has data. A loss should leave out the rest."""
    record_id: str


class ContrailDataset(Dataset[ContrailItem]):
    """The human-labelled frames of stores, as tensors on the CPU.

    Random changes are drawn from torch's global generator: `torch.manual_seed` fixes them, and a `DataLoader` gives
    each worker a seed of its own in each epoch. The dataset can be pickled; processes open the stores for themselves.

    Args:
        store: Path, URL or catalog name of a store of samples; or several of them.
        frames: Offsets of the input frames relative to the labelled one, ascending, with 0.
        edges: Near the ends of a record, drop labelled frames that lack some of these frames, or repeat its first or
            last one.
        target: `majority`, the mask; `mean`, the mean of the annotators' masks; or `clip2`, twice that, at most 1.
        records: `all` labelled frames, or only `positive` ones, with a contrail.
        normalise: `statistics`, those of the stores' train split; `image`, those of each sample; or `imagenet`.
        statistics: Lists `mean` and `std` by channel, to use instead of those of the stores, such as
            `train.statistics` for a dataset of validation records.
        augment: Settings of the group `augment` of a run: what is left out has its default, and `{}` has them all. The
            label shift is then removed, so that masks lie on the image. None changes nothing: masks are those of the
            data set.

    Attributes:
        record_id: (n) record ids.
        positive: (n) whether a frame has a contrail, for samplers.
        group: (n) groups of records that show the same scene, place or day; no split should divide one.
        channels: Names of the channels.
        statistics: Those of the train split of the stores together, or the given ones.
        label_shift: (down, right) pixels by which the masks lie off the image.

    Raises:
        ContrailError: If the stores cannot be used together, have no labels, or a setting is not valid.
        UsageError: If a setting has no effect.

    Examples:
        >>> from torch.utils.data import DataLoader
        >>> from contrail_train import ContrailDataset
        >>> train = ContrailDataset("data/train.zarr", frames=[-1, 0, 1], augment={"flip": 0.5})
        >>> validation = ContrailDataset("data/validation.zarr", frames=[-1, 0, 1], statistics=train.statistics)
        >>> batch = next(iter(DataLoader(train, batch_size=4, shuffle=True)))
        >>> tuple(batch["image"].shape), tuple(batch["mask"].shape), len(batch["record_id"])
        ((4, 3, 3, 64, 64), (4, 1, 64, 64), 4)
    """

    def __init__(
        self,
        store: str | Path | Sequence[str | Path],
        *,
        frames: Sequence[int] = (0,),
        edges: Literal["drop", "repeat"] = "drop",
        target: Literal["majority", "mean", "clip2"] = "majority",
        records: Literal["all", "positive"] = "all",
        normalise: Literal["statistics", "image", "imagenet"] = "statistics",
        statistics: Mapping[str, Any] | None = None,
        augment: AugmentConfig | Mapping[str, Any] | None = None,
    ) -> None:
        given = [store] if isinstance(store, str | Path) else [*store]
        if isinstance(store, Mapping) or not all(isinstance(name, str | Path) for name in given):
            raise ContrailError("ContrailDataset: an opened store is not read; give paths, URLs or catalog names")
        names = [str(name) for name in given]
        settings = {"frames": frames, "edges": edges, "target": target, "records": records, "normalise": normalise}
        self._config = validated(DataConfig, as_plain(settings), "ContrailDataset: data")
        self._augment = _augmentation(augment, self._config)
        opened = {name: open_named(name) for name in names}
        if not opened:
            raise ContrailError("ContrailDataset: no store is named; name one")
        for each in opened.values():
            require_samples(each)
        check_consistent(opened, self._config)
        first = next(iter(opened.values()))
        self.channels = [str(channel) for channel in first["channel"].values]
        self.statistics = _statistics(statistics, statistics_of(opened), self._config, self.channels, ", ".join(names))
        self._normalisation = normalisation_of(self._config, self.statistics, CPU)
        self._removed = (0.0, 0.0)
        stored = down, right = tuple(first.attrs["label_shift"])
        if self._augment is not None:
            self._removed = stored if self._augment.label_shift is None else self._augment.label_shift
        self.label_shift = down - self._removed[0], right - self._removed[1]
        items = human_items(SampleStores([*opened.values()], shared_reader), self._config)
        usable = has_all_frames(items)
        if self._config.records == "positive":
            usable &= items.positive
        if not usable.any():
            raise ContrailError(
                f"{', '.join(names)}: no labelled frame is usable, of {len(items)}, with frames={self._config.frames} "
                f"and records={records!r}; choose others, or a labelled store"
            )
        self._items = items[usable]

    @property
    def record_id(self) -> npt.NDArray[np.str_]:
        """Return the record ids, (n)."""
        return self._items.record_id

    @property
    def positive(self) -> npt.NDArray[np.bool_]:
        """Return whether each frame has a contrail, (n)."""
        return self._items.positive

    @property
    def group(self) -> npt.NDArray[np.str_]:
        """Return the group of each record, (n)."""
        return self._items.group

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> ContrailItem:
        row = np.arange(len(self._items))[index]
        batch = read_batch(self._items, row[np.newaxis])
        valid_b1hw = None if batch.valid_b1hw is None else batch.valid_b1hw.float()
        batch = replace(batch, target_bkhw=batch.target_bkhw.float() / 255, valid_b1hw=valid_b1hw)
        x_btchw = normalise(batch.image_btchw, self._normalisation)
        if (augment := self._augment) is not None:
            seed, only = int(torch.randint(_SEEDS, ())), np.zeros(1, np.int64)
            drawn, batch = draw_labels(batch, only, 1, augment, self._removed, seed=seed, step=0)
            grid = x_btchw.shape[-2], x_btchw.shape[-1]
            x_btchw = augment_images(x_btchw, drawn, augment, grid, labels=batch)
        valid_b1hw = torch.ones_like(batch.target_bkhw) if batch.valid_b1hw is None else batch.valid_b1hw
        return {
            "image": x_btchw[0],
            "mask": batch.target_bkhw[0],
            "valid": valid_b1hw[0] > 0,
            "record_id": str(self._items.record_id[row]),
        }


def _augmentation(augment: AugmentConfig | Mapping[str, Any] | None, data: DataConfig) -> AugmentConfig | None:
    """The settings of augmentation, checked against what is read."""
    config = augment
    if isinstance(augment, Mapping):
        config = validated(AugmentConfig, as_plain(augment), "ContrailDataset: augment")
    assert config is None or isinstance(config, AugmentConfig)
    try:
        check_samples(data, AugmentConfig() if config is None else config)
    except ValueError as error:
        raise UsageError(f"ContrailDataset: {error}") from None
    if config is not None and config.together > 1:
        raise UsageError(
            "ContrailDataset: augment.mixup, cutmix and copy_paste mix the samples of a batch, and a dataset gives "
            "single ones; mix them in the training loop"
        )
    return config


def _statistics(
    given: Mapping[str, Any] | None, own: dict[str, Any], data: DataConfig, channels: Sequence[str], names: str
) -> dict[str, Any]:
    """The statistics by which images are normalised."""
    if data.normalise != "statistics":
        if given is not None:
            raise UsageError(f"ContrailDataset: statistics have no effect with normalise={data.normalise!r}; omit them")
        return own or {"mean": [0.0] * len(channels), "std": [1.0] * len(channels)}
    if given is not None and not isinstance(given, Mapping):
        raise ContrailError("ContrailDataset: statistics are not a mapping; give lists mean and std by channel")
    if not (statistics := own if given is None else as_plain(given)):
        raise ContrailError(
            f"{names}: has no train samples, so it has no statistics; give statistics=train.statistics, those of the "
            "dataset to train on, or another normalise"
        )
    if not all(_are_numbers(statistics.get(name), len(channels)) for name in ("mean", "std")):
        raise ContrailError(
            f"ContrailDataset: statistics are not those of {len(channels)} channels; give lists mean and std of as "
            "many numbers"
        )
    return statistics


def _are_numbers(values: object, count: int) -> bool:
    """Whether this is a list of so many finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    )
