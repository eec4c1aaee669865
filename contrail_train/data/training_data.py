"""The data of a run: stores and pseudo-labels as items to train on and held-out items, checked for leaks."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError
from contrail_data.sample import RECORD_SIDE_KM
from contrail_data.splits.leaks import Checked
from contrail_data.storage.place import place_of
from contrail_data.store.reader import pixel_reader
from contrail_data.store.stats import combined
from contrail_train.config.data import DataConfig, PseudoConfig
from contrail_train.data.epochs import Epochs, every_item, one_of_each_record
from contrail_train.data.holdout import check_labellers, leaking_items, split_records
from contrail_train.data.items import (
    Bools,
    Items,
    SampleStores,
    add_pseudo_labels,
    balanced_frequency,
    has_all_frames,
    human_items,
)
from contrail_train.data.named import check_names, check_stated, divide, unlabelled_of
from contrail_train.data.unlabelled import unlabelled_items


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The items of a run and the properties of their stores."""

    train: Items
    epochs: Epochs
    """How these are drawn."""
    holdout: Items
    unlabelled: Items | None = None
    """Frames that are learnt from without labels; None if `data.unlabelled` names no store."""
    pseudo_labelled: int
    """How many of `train` are labelled by a model; they are the last ones."""
    taught: int = 0
    """How many of the others have a target in which a teacher has a share."""
    without_neighbours: int
    """Labelled frames left out because the sample lacks some of the frames around them that the model sees."""
    labellers_saw: frozenset[str]
    """Records on which the models that made the pseudo-labels, and the teacher, were trained."""
    leaking: int
    """Items left out because they leak into the hold-out."""
    checked: dict[str, Checked]
    """By store of samples, how many records could be compared with others by each criterion."""
    statistics: dict[str, Any]
    """Statistics of all training stores together, in the form in which stores hold them; those of the validation
    stores if they have none."""
    composite: dict[str, Any]
    """The composite, as stores declare it."""
    label_shift: tuple[float, float]
    """(down, right) offset of the labels from the image, pixels."""
    native: bool
    """Whether the tiles are windows of an imager's own grid rather than UTM tiles."""
    pixel: float
    """Side of a pixel in metres; that of OpenContrails if no sample has a place."""
    size: int
    """Side of a tile in pixels."""
    dtype: str
    """Type of the stored images."""
    digests: dict[str, str]
    """Digest of each store by the name under which it was opened, and of the file of folds."""
    places: dict[str, str]
    """Absolute path or URL of each of them."""

    @property
    def human_labelled(self) -> int:
        """How many of `train` are labelled by humans; they are the first ones."""
        return len(self.train) - self.pseudo_labelled


_Stores = dict[str, xr.Dataset]


def open_training_data(config: DataConfig, opened_stores: _Stores | None = None, annotators: int = 0) -> TrainingData:
    """Open the stores of a run and divide their labelled frames into training data and hold-out.

    Args:
        config: Stores, frames, targets and hold-out.
        opened_stores: The stores by name, if they are open already; unlabelled ones are then left out.
        annotators: Number of targets that are masks of annotators, see `human_items`.

    Returns:
        The items to train on and those held out.

    Raises:
        ContrailError: If the stores do not fit together or do not fit the settings, if records leak, or if nothing is
            left to train on.
    """
    train_stores, validation, pseudo = _open_stores(config, opened_stores)
    extra: _Stores = {}
    if opened_stores is None:
        extra = unlabelled_of(config, {name: open_named(name) for name in config.unlabelled})
    opened = train_stores | validation
    statistics = statistics_of(train_stores) or statistics_of(validation)
    if not statistics:
        raise ContrailError(
            f"{next(iter(train_stores))}: has no train samples, so it has no statistics; train on a train split"
        )
    check_consistent(opened | extra, config)
    stores = SampleStores([*opened.values()], partial(pixel_reader, check=config.check, keep=config.keep))
    names, count = ", ".join(train_stores), len(train_stores)
    human, first = human_items(stores, config, annotators), stores.datasets[0]
    trainable = human.store < count
    if not trainable.any():
        _check_unlabelled(names, config, is_labelled_by_models=bool(pseudo))
    items = add_pseudo_labels(human, stores, pseudo, config)
    has_frames = has_all_frames(items)
    if not has_frames.any():
        raise ContrailError(
            f"{names}: no labelled frame has the neighbours that data.frames={config.frames} needs "
            f"({first.sizes['time']} frames per sample); choose other frames, or set data.edges=repeat"
        )
    selected = has_frames & items.positive if config.records == "positive" else has_frames
    if not selected.any():
        raise ContrailError(f"{names}: no positive record, so data.records=positive leaves none; set it to all")
    held, left_out = split_records(human, trainable, config)
    seen = {name: frozenset(map(str, store["trained_record"].values)) for name, store in pseudo.items()}
    check_labellers(human.record_id[held], seen, config)
    train = selected & (items.store < count)
    leaking = np.zeros(len(items), bool)
    if config.validation:  # these stores may overlap the others in space and time; groups within a store cannot
        leaking = leaking_items(items, stores, count, config)
        train &= ~leaking
    else:
        train &= ~np.isin(items.group, np.unique(human.group[held | left_out]))
    is_human = np.arange(len(items)) < len(human)
    if trainable.any() and not (train & is_human).any():
        raise ContrailError(f"data.holdout={config.holdout}: leaves none of {len(human)} samples; lower it")
    _check_pseudo(pseudo, config, is_any_left=bool((train & ~is_human).any()))
    # scores are always against the majority mask, whatever the training target
    scored = replace(human, label=human.store[:, np.newaxis], of_annotators=False)
    chosen = items[train]
    unlabelled = None
    if extra:
        every = {**opened, **extra}
        joint = stores if len(every) == len(opened) else replace(stores, datasets=[*every.values()])
        numbers = [list(every).index(name) for name in extra]
        unlabelled = unlabelled_items(joint, numbers, human[held | left_out], chosen, config)
    digests, places = _digests_and_places(opened | pseudo | extra, config)
    return TrainingData(
        train=chosen,
        epochs=_epochs(chosen, is_human[train], stores, config),
        holdout=scored[held & selected[: len(human)]],
        unlabelled=unlabelled,
        pseudo_labelled=int((train & ~is_human).sum()),
        without_neighbours=int((~has_frames).sum()),
        labellers_saw=frozenset().union(*seen.values()),
        leaking=int((selected & leaking).sum()),
        checked={
            name: Checked.of(scalars, compared)
            for name, scalars, compared in zip(opened, stores.scalars, stores.similar.compared, strict=True)
        },
        statistics=statistics,
        composite=first.attrs["composite"],
        label_shift=tuple(first.attrs["label_shift"]),
        native=any("Geostationary" in str(wkt) for s in stores.scalars for wkt in s["crs_wkt"].values),
        pixel=pixel_size(stores.scalars, int(first.sizes["y"])),
        size=int(first.sizes["y"]),
        dtype=str(first["image"].dtype),
        digests=digests,
        places=places,
    )


def _check_unlabelled(names: str, config: DataConfig, *, is_labelled_by_models: bool) -> None:
    """Refuse stores without human labels where these are needed to train on or to hold out."""
    if not is_labelled_by_models:
        raise ContrailError(f"{names}: no human-labelled sample, so there is nothing to train on; add a labelled store")
    if not config.validation and (config.holdout or config.folds):
        raise ContrailError(
            f"{names}: no human-labelled sample to hold out; name labelled stores in data.validation, or set "
            "data.holdout=0"
        )


def _check_pseudo(pseudo: _Stores, config: DataConfig, *, is_any_left: bool) -> None:
    """Refuse settings of pseudo-labels without any, and pseudo-labels of which none is trained on."""
    if config.pseudo != PseudoConfig() and not pseudo:
        raise ContrailError("data.pseudo: has no effect, as data.train names no pseudo-labels; omit these settings")
    if pseudo and not is_any_left:
        raise ContrailError(
            f"{', '.join(pseudo)}: no pseudo-labelled frame is left to train on, by the limits of data.pseudo, the "
            "hold-out and data.edges; lower the limits, or omit these stores"
        )


def _digests_and_places(stores: _Stores, config: DataConfig) -> tuple[dict[str, str], dict[str, str]]:
    """Digest and place of each store, and of the file of folds if it decides on the hold-out, by name."""
    digests = {name: store.attrs["digest"] for name, store in stores.items()}
    places = {name: str(place_of(store.attrs["path"]).resolved()) for name, store in stores.items()}
    if config.folds is not None and not config.validation:
        path = Path(config.folds)
        digests[config.folds] = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        places[config.folds] = str(path.absolute())
    return digests, places


def _epochs(items: Items, is_human: Bools, stores: SampleStores, config: DataConfig) -> Epochs:
    """How often items are drawn."""
    probability = config.pseudo.probability
    epochs = every_item(len(items)) if probability is None else one_of_each_record(items, is_human, probability)
    frequency = balanced_frequency(items[epochs.representatives], stores, config.balance)
    return replace(epochs, frequency=frequency)


def _open_stores(config: DataConfig, opened_stores: _Stores | None) -> tuple[_Stores, _Stores, _Stores]:
    """The stores of samples to train on, those held out, and those of pseudo-labels, by name."""
    check_names(config)
    return divide(config, opened_stores or {name: open_named(name) for name in (*config.train, *config.validation)})


def statistics_of(stores: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """Join the statistics of stores.

    Args:
        stores: The stores by name.

    Returns:
        Their statistics together, in the form in which stores hold them; empty if they have none, as without samples of
        the train split.
    """
    each = [store.attrs["statistics"] for store in stores.values() if store.attrs["statistics"]]
    return combined(each) if each else {}


def check_consistent(stores: Mapping[str, xr.Dataset], config: DataConfig) -> None:
    """Refuse stores that cannot be used together or lack what the settings ask for.

    Args:
        stores: Stores of samples by name.
        config: The settings.

    Raises:
        ContrailError: If they cannot; the message names the store that differs from the first one.
    """
    check_stated(stores, config)
    first_name, first = next(iter(stores.items()))
    for name, store in stores.items():
        if store["image"].shape[2:] != first["image"].shape[2:] or store["image"].dtype != first["image"].dtype:
            raise ContrailError(f"{name}: image size or type differs from that of {first_name}; rebuild one of them")


def pixel_size(scalars: Sequence[xr.Dataset], side: int) -> float:
    """Measure the pixels of stores.

    Args:
        scalars: The per-sample variables of each store.
        side: Side of their tiles in pixels.

    Returns:
        Median side of a pixel in metres; that in a tile of OpenContrails if no sample has a place.
    """
    steps = np.abs(np.concatenate([store["geotransform"].values[:, 1] for store in scalars]))
    return round(float(np.nanmedian(steps)), 3) if np.isfinite(steps).any() else RECORD_SIDE_KM * 1000 / side
