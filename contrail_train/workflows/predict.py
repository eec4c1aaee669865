"""Predictions from Python, in memory: of arrays, of stores and of scenes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.catalog.catalog import open_named
from contrail_data.catalog.decoded import open_decoded
from contrail_data.composites import dequantise, quantise
from contrail_data.errors import ContrailError, UsageError
from contrail_data.labels.frames import frames_to_predict
from contrail_data.labels.predictor import LABELLED_FRAME
from contrail_data.sample import input_frames
from contrail_train.contrails.cleaning import Cleaning, clean
from contrail_train.inference.predictor import Predictor
from contrail_train.scenes.series import predict_scene

AXES = ("sample", "time", "channel", "y", "x")
KEPT = ("record_id", "split", "label_source", "latitude", "longitude")
"""Coordinates of samples that their predictions keep."""


def predict(
    predictor: Predictor,
    what: str | Path | xr.Dataset | xr.DataArray | npt.NDArray[Any],
    *,
    batch: int = 8,
) -> xr.Dataset:
    """Predict contrails in memory. `contrail-train predict` and `predict-scans` write stores and files instead.

    Args:
        predictor: What `load_predictor` returned.
        what: Path, URL or catalog name of a store, or samples of one as `contrail_data.open_store` opens it: their
            labelled frames are predicted. Or scans, as `contrail_data.open_abi` or `from_satpy` opens them. Or images
            of the predictor's composite as an array with the axes (sample, time, channel, y, x), of which sample and,
            for a single frame, time may be absent: uint8 as stores hold them, or float in [0, 1], with as many frames
            as `predictor.offsets`.
        batch: Images that are predicted at once.

    Returns:
        `probability` float32, `mask` uint8 at the fitted threshold and gate, and for arrays and stores the record's
        `score`, which the gate compares. Of arrays and stores they have the axes (sample, y, x) and lie on the pixel
        grid of the labels; of scans (time, y, x), on the satellite's grid.

    Raises:
        ContrailError: If the images are not what the predictor was trained on, it only classifies records, or it is the
            address of a model.
        UsageError: If `batch` is below 1, or a step by which masks are cleaned needs several times, and there is one.

    Examples:
        >>> import contrail_data, contrail_train
        >>> predictor = contrail_train.load_predictor("runs/a", device="cpu")
        >>> store = contrail_data.open_store("data/validation.zarr")
        >>> predicted = contrail_train.predict(predictor, store.isel(sample=slice(4)))
        >>> predicted.probability.dims, predicted.probability.shape
        (('sample', 'y', 'x'), (4, 64, 64))
        >>> image = store.image.isel(sample=0, time=4).values
        >>> bool((contrail_train.predict(predictor, image).mask[0] == predicted.mask[0]).all())
        True
    """
    if not isinstance(predictor, Predictor):
        raise ContrailError(f"predict: {predictor!r} is not a predictor; load it with contrail_train.load_predictor")
    if batch < 1:
        raise UsageError(f"predict: batch: cannot be {batch}; give a whole number from 1")
    predictor = predictor.for_masks()
    if isinstance(what, str | Path):
        what = open_decoded(what)
    if isinstance(what, xr.Dataset):
        if "brightness_temperature" in what:
            return predict_scene(predictor, what, batch)
        return _of_samples(predictor, what, batch)
    if isinstance(what, xr.DataArray):
        absent = [axis for axis in AXES[:2] if axis not in what.dims]
        named = what.variable.set_dims((*absent, *what.dims)).transpose(*AXES, missing_dims="ignore")
        image = _checked(predictor, named.values, what.coords.get("channel"))
        coordinates = {name: what[name] for name in KEPT if name in what.coords}
    else:
        image, coordinates = _checked(predictor, np.asarray(what)), {}
    parts = [_predicted(predictor, image[start : start + batch], None) for start in range(0, len(image), batch)]
    return _joined(parts, coordinates)


def _of_samples(predictor: Predictor, samples: xr.Dataset, batch: int) -> xr.Dataset:
    """Predict the labelled frames of samples of a store."""
    if "image" not in samples or "path" not in samples.attrs or not samples.sizes.get("sample"):
        raise ContrailError(
            "predict: the dataset is neither samples of a store nor scans; open it with contrail_data.open_store or "
            "open_abi, and select samples by lists or slices"
        )
    store = open_named(samples.attrs["path"])
    predictor = predictor.for_store(store)
    frames = frames_to_predict(
        samples[["labelled_frame"]].load(), store, LABELLED_FRAME, predictor.offsets, predictor.repeats_edges
    )[:, 0].tolist()
    parts = []
    for start in range(0, samples.sizes["sample"], batch):
        images, valid = [], []
        for sample in range(start, min(start + batch, samples.sizes["sample"])):
            one, frame = samples.isel(sample=sample), frames[sample]
            window = input_frames(frame, predictor.offsets, samples.sizes["time"])
            images.append(one["image"].isel(time=window).transpose(*AXES[1:]).values)
            if "valid" in one:
                valid.append(one["valid"].isel(time=frame).values > 0)
        parts.append(_predicted(predictor, _checked(predictor, np.stack(images)), np.stack(valid) if valid else None))
    return _joined(parts, {name: samples[name] for name in KEPT if name in samples})


def _joined(parts: Sequence[xr.Dataset], coordinates: Mapping[str, xr.DataArray]) -> xr.Dataset:
    """The predictions of all batches, found by record id where it is known."""
    joined = xr.concat(parts, "sample").assign_coords({name: values.variable for name, values in coordinates.items()})
    is_by_record = "record_id" in coordinates and coordinates["record_id"].dims == ("sample",)
    return joined.set_xindex("record_id") if is_by_record else joined


def _checked(predictor: Predictor, image: npt.NDArray[Any], named: xr.DataArray | None = None) -> npt.NDArray[Any]:
    """Windows (b, t, c, y, x) in the type of the predictor's stores; `named` are the names of their channels."""
    channels = [channel["name"] for channel in predictor.composite["channels"]]
    shape = len(predictor.offsets), len(channels)
    if image.ndim == 3 and shape[0] == 1:
        image = image[np.newaxis]
    image = image[np.newaxis] if image.ndim == 4 else image
    if image.ndim != 5 or image.shape[1:3] != shape or 0 in image.shape:
        raise ContrailError(
            f"predict: an array of shape {image.shape}, but the model takes (sample, {shape[0]}, {shape[1]}, y, x): "
            f"frames at {list(predictor.offsets)} and channels {', '.join(channels)}; select these"
        )
    if named is not None and named.values.tolist() != channels:
        own, theirs = ", ".join(channels), ", ".join(map(str, named.values.tolist()))
        raise ContrailError(f"predict: channels {theirs}, but the model takes {own}; select these")
    if image.dtype == predictor.dtype:
        return np.ascontiguousarray(image)
    unit = dequantise(image)
    if not (unit.min() >= 0 and unit.max() <= 1):  # NaN fails too
        raise ContrailError(
            "predict: images are not uint8 or within [0, 1]; give composites as stores hold them, without NaN"
        )
    stored = np.empty(unit.shape, predictor.dtype)
    quantise(unit, stored)
    return stored


def _predicted(
    predictor: Predictor, image_btchw: npt.NDArray[Any], valid_byx: npt.NDArray[np.bool_] | None
) -> xr.Dataset:
    """The predictions of a batch of windows."""
    probability, score, _ = predictor.predict(image_btchw, valid_byx)
    valid = np.ones(probability.shape, bool) if valid_byx is None else valid_byx
    probability = np.where(valid, probability, np.float32(0))
    cleaning = predictor.cleaning or Cleaning(predictor.decision.threshold)
    cleaning.check(times=1)
    pairs = zip(probability[:, np.newaxis], valid[:, np.newaxis], strict=True)
    mask = np.concatenate([clean(p_1yx, valid_1yx, cleaning) for p_1yx, valid_1yx in pairs])
    mask &= (score >= predictor.decision.gate)[:, np.newaxis, np.newaxis]
    axes = ("sample", "y", "x")
    return xr.Dataset(
        {"probability": (axes, probability), "mask": (axes, mask.astype(np.uint8)), "score": ("sample", score)},
        attrs={"model": predictor.decision.model, "threshold": predictor.decision.threshold},
    )
