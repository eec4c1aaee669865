"""What is trained on, what is held out: stores and pseudo-labels as frames with labels, checked for leaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.catalog.catalog import open_named
from contrail_data.composites import COMPOSITES
from contrail_data.errors import ContrailError
from contrail_data.scans.tiles import SIDE_KM
from contrail_data.splits.groups import groups_together, sampling_weights
from contrail_data.store.reader import PixelReader, pixel_reader, read_scalars
from contrail_data.store.samples import as_text
from contrail_data.store.schema import Kind, kind_of, require_kind
from contrail_data.store.stats import combined
from contrail_train.config.schema import DataConfig, PseudoConfig
from contrail_train.data.holdout import check_labellers, is_held_out, leaking_rows
from contrail_train.data.items import COLUMNS, Items, Labels, human_items, with_neighbours


@dataclass(frozen=True)
class TrainingData:
    train: Items
    holdout: Items
    pseudo_labelled: int
    """How many of `train` are labelled by a model."""
    without_neighbours: int
    """Labelled frames left out, as the sample has not all the frames around them that the model sees."""
    labellers_saw: frozenset[str]
    """Records that the models which made its pseudo-labels were trained on."""
    leaking: int
    """Items left out, as they leak into what is held out."""
    statistics: dict[str, Any]
    composite: dict[str, Any]
    label_shift: tuple[float, float]
    grid: dict[str, Any]
    """What kind of tiles: `native` (windows of an imager's own grid), `pixel` (metres), `size`, `dtype` as stored."""
    digests: dict[str, str]
    """Store digests by the name they were asked for."""


def open_training_data(config: DataConfig) -> TrainingData:
    """Open the stores of a run and set the hold-out apart.

    Raises ContrailError when a store does not fit the others or the run, a pseudo-label store's parent is not among
    them, or no labelled sample is left to train on.
    """
    if not config.train:
        raise ContrailError("data.train is empty: name stores, --set data.train=[data/train.zarr]")
    if twice := [name for name in config.train if config.train.count(name) > 1]:
        raise ContrailError(f"data.train names {twice[0]} twice: name each store once")
    opened = {name: open_named(name) for name in (*config.train, *config.validation)}
    validation = {name: opened[name] for name in config.validation}
    parents = {name: opened[name] for name in config.train if kind_of(opened[name]) is Kind.SAMPLES}
    pseudo = {name: opened[name] for name in config.train if kind_of(opened[name]) is Kind.PSEUDO_LABELS}
    for name, store in opened.items():
        if name in config.validation:
            require_kind(store, Kind.SAMPLES, remedy="data.validation takes only stores of samples")
        require_kind(store, Kind.SAMPLES, Kind.PSEUDO_LABELS, remedy="train on samples and pseudo-labels only")
    if not parents:
        raise ContrailError("data.train names no store with images: add the one the pseudo-labels were made from")
    if both := sorted(set(config.train) & set(config.validation)):
        raise ContrailError(f"{both[0]}: is in data.train and in data.validation: name it once")
    _check_kin(parents | validation, config, list(validation))
    reader = partial(pixel_reader, check=config.check, keep=config.keep)
    stores = [*parents.values(), *validation.values()]
    scalars = [read_scalars(s) for s in stores]
    human = human_items(stores, scalars, config, reader)
    trainable = human.store < len(parents)
    if not trainable.any():
        raise ContrailError(f"{', '.join(parents)}: no human-labelled sample: nothing to train on")
    everywhere, seen_by_labellers = _with_pseudo(human, stores, scalars, pseudo, config, reader)
    usable = with_neighbours(everywhere, stores)
    if not usable.any():
        raise ContrailError(
            f"{', '.join(parents)}: no labelled frame has the neighbours data.frames={config.frames} asks for "
            f"({stores[0].sizes['time']} frames a sample): choose other frames"
        )
    is_human = np.arange(len(everywhere)) < len(human)
    if config.records == "positive":
        wanted = usable & everywhere.positive
        if not wanted.any():
            raise ContrailError(f"{', '.join(parents)}: no positive record: data.records=positive leaves none")
    else:
        wanted = usable
    held, left_out = is_held_out(human, trainable, config)
    if config.validation:  # other stores may lie over these in space and time; groups within one store cannot
        leaked = leaking_rows(everywhere, scalars[: len(parents)], scalars[len(parents) :], config)
    else:
        leaked = np.zeros(len(everywhere), bool)
    check_labellers(human.record_id[held], seen_by_labellers, config)
    kept_apart = np.unique(human.group[held | left_out])
    train = wanted & ~leaked & (everywhere.store < len(parents))
    if not config.validation:
        train &= ~np.isin(everywhere.group, kept_apart)
    if not (train & is_human).any():
        raise ContrailError(f"data.holdout={config.holdout} leaves none of {len(human)} samples: lower it")
    # Whatever is trained on, scores are against the majority: the first labels are the masks, one a store.
    scored = replace(human, label=human.store)
    return TrainingData(
        train=everywhere[train],
        holdout=scored[held & wanted[: len(human)]],
        pseudo_labelled=int((train & ~is_human).sum()),
        without_neighbours=int((~usable).sum()),
        labellers_saw=frozenset().union(*seen_by_labellers.values()),
        leaking=int((wanted & leaked).sum()),
        statistics=combined([s.attrs["statistics"] for s in parents.values() if s.attrs["statistics"] is not None]),
        composite=stores[0].attrs["composite"],
        label_shift=tuple(stores[0].attrs["label_shift"]),
        grid=_grid(stores, scalars),
        digests={name: store.attrs["digest"] for name, store in opened.items()},
    )


def _grid(stores: Sequence[xr.Dataset], scalars: Sequence[xr.Dataset]) -> dict[str, Any]:
    wkt = [str(text) for s in scalars for text in s["crs_wkt"].values]
    steps = np.abs(np.concatenate([s["geotransform"].values[:, 1] for s in scalars]))
    return {
        "native": any("Geostationary" in text for text in wkt),
        # OpenContrails' own where nothing is known of places
        "pixel": round(float(np.nanmedian(steps)), 3) if np.isfinite(steps).any() else SIDE_KM * 1000 / 256,
        "size": int(stores[0].sizes["y"]),
        "dtype": str(stores[0]["image"].dtype),
    }


def _check_kin(parents: dict[str, xr.Dataset], config: DataConfig, only_scored: Sequence[str]) -> None:
    """Raises ContrailError unless the stores can be trained on together, as the run wants them."""
    first_name, first = next(iter(parents.items()))
    if all(store.attrs["statistics"] is None for name, store in parents.items() if name not in only_scored):
        raise ContrailError(f"{first_name}: holds no train samples, so it has no statistics: train on a train split")
    for name, store in parents.items():
        if config.composite not in (None, theirs := store.attrs["composite"]["name"]):
            known = config.composite in COMPOSITES
            remedy = f"build it with --composite {config.composite}, or set" if known else "correct"
            raise ContrailError(
                f"{name}: composite {theirs!r}, the run wants {config.composite!r}: {remedy} data.composite"
            )
        for key in ("composite", "label_shift"):
            if store.attrs[key] != first.attrs[key]:
                raise ContrailError(f"{name}: {key} differs from that of {first_name}: train on stores of one kind")
        if store["image"].shape[2:] != first["image"].shape[2:] or store["image"].dtype != first["image"].dtype:
            raise ContrailError(f"{name}: image size or dtype differs from that of {first_name}: rebuild one of them")


def _with_pseudo(
    human: Items,
    parents: list[xr.Dataset],
    scalars: list[xr.Dataset],
    pseudo: dict[str, xr.Dataset],
    config: DataConfig,
    reader: Callable[..., PixelReader],
) -> tuple[Items, dict[str, frozenset[str]]]:
    """The human rows, and one for each pseudo-labelled frame that is sure enough; and by store of pseudo-labels the
    records that the model which made them was trained on. Such a frame counts as positive when its mask is not empty.
    """
    labels = list(human.labels)
    columns = {name: [getattr(human, name)] for name in COLUMNS}
    digests = [p.attrs["digest"] for p in parents]
    seen = {}
    group = groups_together(scalars) if pseudo else []
    for name, store in pseudo.items():
        if store.attrs["parent"] not in digests:
            raise ContrailError(
                f"{name}: its parent {store.attrs['parent'][:15]}… is not in data.train: add that store"
            )
        parent = digests.index(store.attrs["parent"])
        made = read_scalars(store)
        seen[name] = frozenset(str(r) for r in made["trained_record"].values)
        ids = {str(r): i for i, r in enumerate(scalars[parent]["record_id"].values)}
        at = np.array([ids[str(r)] for r in made["record_id"].values])
        row, column = np.nonzero((made["frame_source"].values == "pseudo") & _sure(made, config.pseudo))
        if config.pseudo.target == "hard":
            labels.append(Labels(reader(store, "frame_mask"), 255))
        else:
            labels.append(Labels(reader(store, "probability"), table=_rounded(config.pseudo)))
        records = scalars[parent].isel(sample=at)
        values = {
            "store": np.full(len(row), parent),
            "sample": at[row],
            "frame": made["frame"].values[row, column].astype(np.int64),
            "label": np.full(len(row), len(labels) - 1),
            "label_sample": row,
            "label_frame": column,
            "positive": made["frame_pixels"].values[row, column] > 0,
            "weight": np.full(len(row), config.pseudo.weight, np.float32),
            "frequency": sampling_weights(records, config.balance, config.balance_power)[row],
            "group": group[parent][at[row]],
            "record_id": as_text(made["record_id"].values[row]),
        }
        for key in COLUMNS:
            columns[key].append(values[key])
    joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
    return replace(human, labels=labels, **joined), seen


def _sure(made: xr.Dataset, config: PseudoConfig) -> npt.NDArray[np.bool_]:
    """(sample, time) which pseudo-labelled frames are sure enough to train on."""
    kept = np.ones(made["frame"].shape, bool)
    pseudo = made["frame_source"].values == "pseudo"
    for name, least in (("frame_confidence", config.min_confidence), ("frame_agreement", config.min_agreement)):
        value = made[name].values.astype(np.float64)
        if config.of == "record":
            mean = np.where(pseudo, value, 0).sum(1) / np.maximum(pseudo.sum(1), 1)
            value = np.broadcast_to(mean[:, np.newaxis], value.shape)
        kept &= value >= least
    return kept


def _rounded(config: PseudoConfig) -> npt.NDArray[np.uint8] | None:
    """(1, 256) target by stored probability."""
    if config.target == "soft":
        return None
    steps = np.rint(np.arange(256) / (255 * config.step)) * (255 * config.step)
    return np.rint(np.minimum(steps, 255)).astype(np.uint8)[np.newaxis]
