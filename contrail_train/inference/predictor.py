"""A trained run, pipeline or exported file as a predictor: stored frames in, probabilities on the label grid out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Labeller, MakeMasks, Predicted, SingleContrail, check_min_pixels
from contrail_data.sample import input_frames, predictable_frames
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_data.store.schema import require_samples
from contrail_train.contrails.cleaning import Cleaning, Mask, clean
from contrail_train.contrails.confidence import FEATURES, Confidence
from contrail_train.contrails.linking import Linking
from contrail_train.data.training_data import pixel_size
from contrail_train.inference.detector import Detect, Detector, Shift, on_label_grid
from contrail_train.inference.label_grid import on_learned_grid
from contrail_train.runs.address import recorded_address
from contrail_train.runs.calibration import Calibration, ConfidenceFit, LabelGrid

log = logging.getLogger(__name__)

SAME_PIXELS = 0.1
"""Relative difference up to which two sizes of pixels count as the same. Tiles of OpenContrails have pixels of 1847 to
2080 m, by their latitude, so that a few of them differ by up to 7 % from the median of all."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Anything that predicts contrails, with what is needed to use it."""

    path: Path
    """The run, pipeline or file."""
    detect: Detect = field(repr=False)
    offsets: tuple[int, ...]
    """Input frames relative to the predicted frame, ascending."""
    mask_shift: Shift
    """Offset of the masks of `detect` from the image."""
    device: torch.device
    composite: dict[str, Any] = field(repr=False)
    """The composite of the training data, as stores declare it."""
    label_shift: Shift
    """Offset of the label grid from the image."""
    decision: Decision
    trained_records: frozenset[str] = field(repr=False)
    """Ids of the records that the model was trained on."""
    calibrated_records: frozenset[str] = field(repr=False)
    """Ids of the held-out records by which epochs, thresholds and weights were chosen."""
    head: str
    """`mask`, `record` or `both`, see `ModelConfig`."""
    native: bool
    """Whether it was trained on windows of an imager's own grid rather than UTM tiles."""
    pixel: float
    """Pixel size in metres of the tiles it was trained on."""
    size: int
    """Side in pixels of these tiles."""
    dtype: str
    """Type of the stored images."""
    repeats_edges: bool = False
    """Whether the first and last frame of a stored sample stand for frames beyond its ends."""
    scores_masks: bool = False
    """Whether record scores are the Dice that masks are expected to have."""
    min_pixels: int | None = None
    """Minimum size of a region that was fitted on the hold-out; None if none was."""
    label_grid: LabelGrid | None = None
    """The learned map onto the label grid, to which the threshold belongs; None for the fixed shift."""
    instances: bool = False
    """Whether masks of stores are separated into single contrails."""
    confidence: Confidence | None = None
    """Fitted confidence of single contrails; None if none was fitted."""
    cleaning: Cleaning | None = None
    """How masks of stores are cleaned; None for the threshold only."""

    @classmethod
    def from_calibration(
        cls,
        path: Path,
        detector: Detector,
        calibration: Calibration,
        *,
        digest: str,
        head: str,
        repeats_edges: bool = False,
        scores_masks: bool,
    ) -> Self:
        """Create the predictor of a finished run or pipeline.

        Args:
            path: Its directory.
            detector: Its networks, on the device to use.
            calibration: Its calibration.
            digest: Digest of its weights and of what else decides on its predictions.
            head: `mask`, `record` or `both`.
            repeats_edges: Whether the first and last frame of a sample stand for frames beyond its ends.
            scores_masks: Whether its record scores are the Dice that masks are expected to have.

        Returns:
            The predictor.
        """
        held_out = frozenset(calibration["holdout_records"])
        down, right = calibration["label_shift"]
        model = cls(
            path=path,
            detect=detector,
            offsets=detector.offsets,
            mask_shift=detector.mask_shift,
            device=next(detector.buffers()).device,
            composite=calibration["composite"],
            label_shift=(down, right),
            decision=Decision(calibration["threshold"], calibration["gate"], calibration["top_k"], digest),
            trained_records=frozenset(calibration["seen_records"]) - held_out,
            calibrated_records=held_out,
            head=head,
            repeats_edges=repeats_edges,
            scores_masks=scores_masks,
            min_pixels=calibration.get("min_pixels"),
            **calibration["grid"],
        )
        model = model.with_confidence(calibration.get("confidence"))
        return model.with_label_grid(calibration.get("label_grid"))._with_grid_that_fits()

    def with_confidence(self, fitted: ConfidenceFit | None) -> Self:
        """Use a fitted confidence of single contrails.

        Args:
            fitted: As in a calibration; None if none was fitted.

        Returns:
            The predictor with this confidence.
        """
        return replace(self, confidence=None if fitted is None else Confidence(fitted["weights"], fitted["bias"]))

    def with_label_grid(self, grid: LabelGrid | None) -> Self:
        """Map masks onto the label grid in another way, which makes it another model.

        Args:
            grid: A learned map, whose threshold the predictor has already; None leaves the predictor as it is.

        Returns:
            The predictor with this map.
        """
        if grid is None:
            return self
        identity = f"{self.decision.model} {json.dumps(grid, sort_keys=True)}"
        digest = "sha256:" + hashlib.sha256(identity.encode()).hexdigest()
        return replace(self, label_grid=grid, decision=replace(self.decision, model=digest))

    def with_fixed_shift(self) -> Self:
        """Resample masks by a fixed shift, with the threshold that belongs to it.

        Returns:
            The predictor without a learned map.
        """
        if self.label_grid is None:
            return self
        threshold = self.label_grid["fixed_threshold"]
        cleaning = None if self.cleaning is None else replace(self.cleaning, threshold=threshold)
        return replace(self, label_grid=None, decision=replace(self.decision, threshold=threshold), cleaning=cleaning)

    def _with_grid_that_fits(self) -> Self:
        """The predictor, without its learned map if labels lie elsewhere than those that it was learned from."""
        if self.label_grid is None or np.allclose(self.label_grid["shift"], self.label_offset, atol=1e-6):
            return self
        return self.with_fixed_shift()

    @property
    def label_offset(self) -> Shift:
        """Offset of the label grid from the grid of the masks."""
        return self.label_shift[0] - self.mask_shift[0], self.label_shift[1] - self.mask_shift[1]

    @property
    def detect_on_label_grid(self) -> Detect:
        """The detector, with its probabilities on the label grid."""
        if self.label_grid is not None:
            return on_learned_grid(self.detect, self.label_grid)
        return on_label_grid(self.detect, self.label_offset)

    def for_store(self, store: xr.Dataset) -> Self:
        """Adapt the predictor to the label grid of a store, which may differ from that of the training data.

        A learned map is used only if the labels lie as those that it was learned from.

        Args:
            store: A store of samples.

        Returns:
            The predictor for this store.

        Raises:
            ContrailError: If the store has another composite or no images.
        """
        self.check_store(store)
        pixel = pixel_size([read_scalars(store)], store.sizes["y"])
        if abs(pixel / self.pixel - 1) > SAME_PIXELS:
            log.warning(
                "%s has pixels of %.0f m, the model was trained on %.0f m: contrails differ in width",
                *(store.attrs["path"], pixel, self.pixel),
            )
        adapted = replace(self, label_shift=tuple(store.attrs["label_shift"]))
        fitting = adapted._with_grid_that_fits()
        if fitting.label_grid is not self.label_grid:
            log.warning(
                "%s has a label shift of %s: the learned label grid is not used, but the fixed shift",
                *(store.attrs["path"], list(adapted.label_shift)),
            )
        return fitting

    def for_masks(self) -> Self:
        """Check that the predictor has masks.

        Returns:
            The predictor itself.

        Raises:
            ContrailError: If it only classifies records.
        """
        if self.head == "record":
            raise ContrailError(
                f"{self.path}: classifies records, not pixels; choose a run with model.decoder, or write its "
                "probabilities of records with `contrail-train predict -o NAME.csv`"
            )
        return self

    def with_cleaning(
        self,
        min_pixels: str = "1",
        hysteresis: float | None = None,
        consistent: int | None = None,
        fill_gaps: float | None = None,
        elongation: float | None = None,
    ) -> Self:
        """Clean the masks, see `Cleaning`.

        Args:
            min_pixels: Regions of fewer pixels are removed; `fit` for the size that was fitted on the hold-out.
            hysteresis: Probability to which regions grow.
            consistent: Reach within which a neighbouring time must have a contrail.
            fill_gaps: Probability of pixels that are added between two times with a contrail.
            elongation: Regions of a smaller ratio of length to width are removed.

        Returns:
            The predictor with these steps.

        Raises:
            ContrailError: If no size was fitted.
        """
        if check_min_pixels(min_pixels) == "fit" and self.min_pixels is None:
            raise ContrailError(
                f"{self.path}: has no fitted --min-pixels (no hold-out with contrails, or trained with an earlier "
                "version); give a number of pixels"
            )
        cleaning = Cleaning(
            threshold=self.decision.threshold,
            low=hysteresis,
            fill=fill_gaps,
            min_pixels=self.min_pixels or 1 if min_pixels == "fit" else int(min_pixels),
            elongation=elongation,
            reach=consistent,
        )
        cleaning.check()
        return replace(self, cleaning=cleaning if cleaning.steps else None)

    def mask_maker(self, store: xr.Dataset) -> MakeMasks | None:
        """Return a function that makes cleaned masks of the frames of a store.

        Neighbouring frames of the sample that a mask depends on are predicted as well, if they are not given, those of
        one call at a time.

        Args:
            store: A store of samples, for which the predictor was adapted (`for_store`).

        Returns:
            The function; None if masks are not cleaned.

        Raises:
            UsageError: If the samples have too few frames for a step.
        """
        if (cleaning := self.cleaning) is None:
            return None
        predictable = predictable_frames(self.offsets, store.sizes["time"], self.repeats_edges)
        first, last = predictable.start, predictable.stop - 1
        cleaning.check(times=last + 1 - first)
        read = self.window_reader(store)
        read_valid = pixel_reader(store, "valid") if "valid" in store.variables else None
        predicting = Lock()  # threads that predict at the same time would share the cores or the memory of a GPU

        def _masks(
            sample: int,
            frames: Sequence[int],
            probability_tyx: npt.NDArray[np.float32],
            valid_tyx: npt.NDArray[np.bool_] | None,
        ) -> Mask:
            start, end = max(frames[0] - cleaning.neighbours, first), min(frames[-1] + cleaning.neighbours, last)
            p_tyx = np.empty((end + 1 - start, *probability_tyx.shape[1:]), np.float32)
            all_valid_tyx = np.ones(p_tyx.shape, bool)
            own = [frame - start for frame in frames]
            p_tyx[own] = probability_tyx
            if valid_tyx is not None:
                all_valid_tyx[own] = valid_tyx
            if others := sorted(set(range(start, end + 1)) - set(frames)):
                valid_nyx = None
                if read_valid is not None:
                    stored_nyx = np.empty((len(others), *p_tyx.shape[1:]), np.uint8)
                    read_valid(sample, others, stored_nyx)
                    valid_nyx = all_valid_tyx[[frame - start for frame in others]] = stored_nyx > 0
                windows = read([(sample, frame) for frame in others])
                with predicting:
                    predicted = self.predict(windows, valid_nyx)
                p_tyx[[frame - start for frame in others]] = predicted.probability
            return clean(p_tyx, all_valid_tyx, cleaning)[own]

        return _masks

    def window_reader(self, store: xr.Dataset) -> Callable[[Sequence[tuple[int, int]]], npt.NDArray[Any]]:
        """Return a function that reads windows of frames from a store.

        Args:
            store: A store of samples.

        Returns:
            A function of the sample and the predicted frame of each window. It returns the frames at `offsets` as
            stored, shape (b, t, c, y, x).
        """
        read_image, image = pixel_reader(store), store["image"]

        def _read(windows: Sequence[tuple[int, int]]) -> npt.NDArray[Any]:
            x_btchw = np.empty((len(windows), len(self.offsets), *image.shape[2:]), image.dtype)
            for (sample, frame), x_tchw in zip(windows, x_btchw, strict=True):
                read_image(sample, input_frames(frame, self.offsets, store.sizes["time"]), x_tchw)
            return x_btchw

        return _read

    @torch.inference_mode()
    def predict(self, window_btchw: npt.NDArray[Any], valid_bhw: npt.NDArray[np.bool_] | None = None) -> Predicted:
        """Predict windows of frames on the label grid.

        Args:
            window_btchw: Stored frames at `offsets`, shape (b, t, c, y, x).
            valid_bhw: Where the predicted frame has pixels, bool (b, y, x); None for everywhere. Scores ignore
                predictions where there is no pixel.

        Returns:
            Probability, record score and agreement of each window.
        """
        valid = None if valid_bhw is None else torch.from_numpy(valid_bhw).to(self.device)
        prediction = self.detect_on_label_grid(torch.from_numpy(window_btchw).to(self.device), valid)
        return Predicted(*(part.cpu().numpy() for part in prediction))

    def labeller_for(self, store: xr.Dataset) -> Labeller:
        """Return this predictor in the form that labels the frames of a store.

        Args:
            store: Store of samples to label.

        Returns:
            The labeller, for `contrail_data.labels.write.write_labels`.

        Raises:
            ContrailError: If the model classifies records only, or the store has another composite or no images.
        """
        own = self.for_masks().for_store(store)
        return Labeller(
            predict=lambda _, window_btchw, valid_bhw: own.predict(window_btchw, valid_bhw),
            decision=own.decision,
            offsets=own.offsets,
            repeats_edges=own.repeats_edges,
            address=recorded_address(own.path),
            trained_records=own.trained_records,
            masks=own.mask_maker(store),
            cleaning=own.cleaning.steps if own.cleaning else {},
            contrails=own.contrails_of if own.instances else None,
            separation=own.separation if own.instances else {},
            scores_masks=own.scores_masks,
        )

    @property
    def separation(self) -> dict[str, float]:
        """Settings by which masks are separated into contrails, for the provenance of what is written."""
        fitted = {} if self.confidence is None else dict(zip(FEATURES, self.confidence.weights, strict=True))
        bias = {} if self.confidence is None else {"bias": self.confidence.bias}
        return {**vars(Linking()), **{f"confidence: {name}": value for name, value in (fitted | bias).items()}}

    def contrails_of(
        self, mask_yx: Mask, probability_yx: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int32], list[SingleContrail]]:
        """Separate the mask of a frame into single contrails, see `SingleContrails`.

        Args:
            mask_yx: Mask, (y, x).
            probability_yx: Probability, (y, x).

        Returns:
            Number of the contrail that each pixel belongs to, and the contrails.
        """
        from contrail_train.contrails.instances import separate_mask  # which imports numba

        separated = separate_mask(mask_yx, probability_yx, confidence=self.confidence)
        contrails = [SingleContrail(c.confidence, c.length, c.width, c.orientation) for c in separated.instances]
        return separated.labels_yx, contrails

    def check_store(self, store: xr.Dataset) -> None:
        """Check that the predictor can be used on a store.

        Args:
            store: The store.

        Raises:
            ContrailError: If it has another composite or no images.
        """
        require_samples(store)
        own, theirs = self.composite, store.attrs["composite"]
        if own["channels"] != theirs["channels"]:
            difference = f"composite {theirs['name']!r}, the model was trained on {own['name']!r}"
            raise ContrailError(f"{store.attrs['path']}: {difference}; build the store with --composite {own['name']}")
