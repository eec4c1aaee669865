"""Label the frames of a store with any labeller, into a sealed store of its own.

The derived store holds no images. It names its parent by digest, and the loader joins the two by `record_id`.

    logit             int16 (sample, time, y, x): the probability, see `logits`; 0 or 1 where a frame keeps its label
    frame_mask        uint8 (sample, time, y, x) 0/1: probability at or above the threshold; empty if the gate is shut
    frame             int8 (sample, time): index of the frame in the parent's sample
    frame_source      string (sample, time): human or pseudo
    frame_pixels      int32 (sample, time): contrail pixels of the mask
    frame_score       float32 (sample, time): what the gate compares, such as the mean of the top-k probabilities
    frame_confidence  float32 (sample, time): mean probability of the mask's pixels, or the Dice that a score head
                      expects; 1 - score if the mask is empty
    frame_agreement   float32 (sample, time): agreement of an ensemble's models on the frame, 0 to 1; 1 for one model
    frame_instance    int16 (sample, time, y, x): number of the contrail that a pixel belongs to, from 1 in each frame;
                      only if masks are separated into contrails, of which each then has an entry in these:
    contrail_sample   int32 (contrail): index of its sample; contrail_frame, contrail_number likewise int16
    contrail_confidence, contrail_length, contrail_width, contrail_orientation
                      float32 (contrail): see `SingleContrail`
    trained_record    string (trained): ids of the records that the model was trained on, to be excluded from scores
"""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NotRequired, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.ahead import map_ahead
from contrail_data.errors import ContrailError
from contrail_data.labels.frames import frames_to_predict
from contrail_data.labels.predictor import ALL_FRAMES, FrameSelection, Labeller, Predicted, SingleContrail
from contrail_data.progress import progress
from contrail_data.sample import input_frames
from contrail_data.storage.place import Place, place_of
from contrail_data.store import journal, logits
from contrail_data.store.journal import Row, Shard
from contrail_data.store.layout import Layout
from contrail_data.store.manifest import set_aside_lines
from contrail_data.store.reader import PixelReader, pixel_reader, read_scalars
from contrail_data.store.schema import (
    INSTANCE_DTYPE,
    LOGIT_DTYPE,
    SHARD,
    ArraySpec,
    Codec,
    Kind,
    PixelDtype,
    require_samples,
)
from contrail_data.store.shards import Packed, pack, writing_shards
from contrail_data.store.writer import SealedContents, checksum_variables, create_arrays, seal


class LabelRow(Row):
    """Journal row of a labelled sample: a value per frame."""

    pixels: list[int]
    score: list[float]
    confidence: list[float]
    agreement: list[float]
    contrails: NotRequired[list[list[SingleContrail]]]
    """The single contrails of each frame."""


_PackedSample: TypeAlias = tuple[dict[str, Packed], LabelRow]
"""What is stored of a sample, by array, and its journal row."""


@dataclass(frozen=True)
class LabelledStore:
    """A finished store of labels."""

    digest: str
    samples: int
    resumed: int
    """Samples that an earlier, interrupted call had already labelled."""


def write_labels(
    parent: xr.Dataset,
    labeller: Labeller,
    out: str | Path,
    *,
    kind: Kind,
    frames: FrameSelection = ALL_FRAMES,
    samples: npt.NDArray[np.int64] | None = None,
    batch: int = 8,
    overwrite: bool = False,
) -> LabelledStore:
    """Label frames of a store of samples. An interrupted call resumes like a build.

    Args:
        parent: Store of samples.
        labeller: Predicts the frames.
        out: Path or URL of the store to write.
        kind: Pseudo-labels or predictions. In pseudo-labels a frame with a human label keeps that label.
        frames: Frames to label in each sample.
        samples: Indices of the samples to label, int64. None labels all.
        batch: Samples predicted at once. The next two batches are read meanwhile, and the masks of the last two made,
            packed and written, by as many threads as there are cores.
        overwrite: Replace the store, or the unfinished build, at `out`.

    Returns:
        The digest and the number of samples.

    Raises:
        ContrailError: If `parent` has no images or lacks the frames, if `out` holds something else, or if the disk is
            full.
    """
    require_samples(parent)
    chosen = np.arange(parent.sizes["sample"]) if samples is None else samples
    if not len(chosen):
        raise ContrailError(f"{parent.attrs['path']}: no samples selected; there is nothing to predict")
    scalars = read_scalars(parent).isel(sample=chosen)
    frames_nt = frames_to_predict(scalars, parent, frames, labeller.offsets, labeller.repeats_edges)
    job = _Job(
        parent=parent,
        labeller=labeller,
        kind=kind,
        samples_n=chosen,
        frames_nt=frames_nt,
        human_nt=(frames_nt == scalars["labelled_frame"].values[:, np.newaxis])
        & (scalars["label_source"].values == "human")[:, np.newaxis]
        & (kind is Kind.PSEUDO_LABELS),
    )
    place = place_of(out).resolved()
    if place == place_of(parent.attrs["path"]).resolved():
        raise ContrailError(f"{out}: is the store to read from; choose another -o")
    if overwrite:
        journal.remove_store(place, kind)
    if (done := journal.finished_store(place, job.plan)) is not None:
        return LabelledStore(done["digest"], done["samples"], done["samples"])
    with journal.building(place, job.plan):
        layouts = create_arrays(place, job.arrays, len(chosen))
        finished = {shard.number: shard for shard in journal.read_entries(place, layouts)}
        resumed = sum(len(shard.rows) for shard in finished.values())
        with progress(kind, len(chosen), resumed) as advance:
            for shard in _label_shards(job, place, layouts, set(finished), batch, advance):
                finished[shard.number] = shard
        digest = _seal(job, scalars, place, layouts, finished)
    return LabelledStore(digest, len(chosen), resumed)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is labelled, by what, and how its frames are read and stored."""

    parent: xr.Dataset
    labeller: Labeller
    kind: Kind
    samples_n: npt.NDArray[np.int64]
    """Indices of the samples in the parent."""
    frames_nt: npt.NDArray[np.int64]
    """Frames to predict, ascending."""
    human_nt: npt.NDArray[np.bool_]
    """True where the human label is kept."""

    @property
    def plane(self) -> tuple[int, int]:
        return self.parent.sizes["y"], self.parent.sizes["x"]

    @property
    def arrays(self) -> dict[str, ArraySpec]:
        shape = self.frames_nt.shape[1], *self.plane
        arrays = {
            "logit": ArraySpec(
                shape, LOGIT_DTYPE, Codec.LZ4
            ),  # decodes 3 times as fast as zstd, which is a third smaller
            "frame_mask": ArraySpec(shape, PixelDtype.UINT8, Codec.ZSTD),
        }
        if self.labeller.contrails is not None:
            arrays["frame_instance"] = ArraySpec(shape, INSTANCE_DTYPE, Codec.ZSTD)
        return arrays

    @property
    def plan(self) -> str:
        labeller, frames, samples = self.labeller, self.frames_nt.tolist(), self.samples_n.tolist()
        parent = [self.kind, self.parent.attrs["digest"]]
        model = [*astuple(labeller.decision), frames, *labeller.offsets, samples, sorted(labeller.trained_records)]
        model += sorted(labeller.cleaning.items())
        model += sorted(labeller.separation.items())
        model += ["edges repeated"] * labeller.repeats_edges
        return journal.plan_of([*parent, *model], self.kind)

    @cached_property
    def readers(self) -> dict[str, PixelReader]:
        names = [name for name in ("image", "mask", "valid") if name in self.parent.variables]
        return {name: pixel_reader(self.parent, name) for name in names}

    def read(self, rows: Sequence[int]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
        # Windows (rows x frames, t, c, y, x), and where the predicted frames have pixels.
        offsets, image, count = self.labeller.offsets, self.parent["image"], self.parent.sizes["time"]
        frames = self.frames_nt.shape[1]
        x_bntchw = np.empty((len(rows), frames, len(offsets), *image.shape[2:]), image.dtype)
        valid_bnyx = np.empty((len(rows), frames, *self.plane), np.uint8)
        for row, x_ntchw, valid_nyx in zip(rows, x_bntchw, valid_bnyx, strict=True):
            sample, frames_n = int(self.samples_n[row]), self.frames_nt[row].tolist()
            for frame, x_tchw in zip(frames_n, x_ntchw, strict=True):
                self.readers["image"](sample, input_frames(frame, offsets, count), x_tchw)
            if "valid" in self.readers:
                self.readers["valid"](sample, frames_n, valid_nyx)
        windows = x_bntchw.reshape(-1, *x_bntchw.shape[2:])
        return windows, valid_bnyx.reshape(-1, *self.plane) > 0 if "valid" in self.readers else None

    def packed(
        self, row: int, predicted: Predicted, valid_nyx: npt.NDArray[np.bool_] | None, layouts: Mapping[str, Layout]
    ) -> _PackedSample:
        # Make the masks of a sample from the predictions of its frames, and pack what is stored of it.
        decision = self.labeller.decision
        probability_nyx, score_n, agreement_n = predicted
        sample, frames_n = int(self.samples_n[row]), self.frames_nt[row].tolist()
        if valid_nyx is not None:
            probability_nyx = np.where(valid_nyx, probability_nyx, np.float32(0))
        if (make_masks := self.labeller.masks) is None:
            mask_nyx = probability_nyx >= decision.threshold
        else:
            mask_nyx = make_masks(sample, frames_n, probability_nyx, valid_nyx)
        mask_nyx = mask_nyx & (score_n >= decision.gate)[:, np.newaxis, np.newaxis]
        if valid_nyx is not None:
            mask_nyx &= valid_nyx  # at a threshold of 0 as well
        confidence_n = _confidence(probability_nyx, mask_nyx, score_n, self.labeller.scores_masks)
        logit_nyx = logits.encode(probability_nyx)
        if (human_n := self.human_nt[row]).any():
            human_label = np.empty((1, *self.plane), np.uint8)
            self.readers["mask"](sample, [0], human_label)
            mask_nyx[human_n] = human_label
            logit_nyx[human_n] = logits.encode(human_label.astype(np.float32))
        arrays: dict[str, npt.NDArray[Any]] = {"logit": logit_nyx, "frame_mask": mask_nyx.astype(np.uint8)}
        contrails: list[list[SingleContrail]] = []
        if self.labeller.contrails is not None:
            separated = [self.labeller.contrails(*frame) for frame in zip(mask_nyx, probability_nyx, strict=True)]
            arrays["frame_instance"] = np.stack([numbers_yx for numbers_yx, _ in separated]).astype(INSTANCE_DTYPE)
            contrails = [list(frame) for _, frame in separated]
        packed = {name: pack(layouts[name], values) for name, values in arrays.items()}
        journal_row: LabelRow = {
            "index": row,
            "checksums": {name: each.checksums for name, each in packed.items()},
            "pixels": [int(np.count_nonzero(mask_yx)) for mask_yx in mask_nyx],
            "score": score_n.tolist(),
            "confidence": confidence_n.tolist(),
            "agreement": agreement_n.tolist(),
            "contrails": contrails,
        }
        return packed, journal_row


def _label_shards(
    job: _Job,
    place: Place,
    layouts: dict[str, Layout],
    finished: Collection[int],
    batch: int,
    advance: Callable[[int], None],
) -> Iterator[Shard[LabelRow]]:
    """Label and write the shards that are not finished, see `write_labels` for what happens at the same time."""
    count = len(job.samples_n)
    batches = [
        range(start, min(start + batch, (number + 1) * SHARD, count))
        for number in range(-(-count // SHARD))
        if number not in finished
        for start in range(number * SHARD, min((number + 1) * SHARD, count), batch)
    ]
    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(os.cpu_count()) as packers,
        ThreadPoolExecutor(1) as writer,
    ):
        inputs = map_ahead(reader, job.read, batches, most=2)
        packing: deque[list[Future[_PackedSample]]] = deque()
        writing: deque[Future[Shard[LabelRow]]] = deque()
        for number, batches_of_shard in groupby(batches, key=lambda rows: rows[0] // SHARD):
            of_shard: list[Future[_PackedSample]] = []
            for rows in batches_of_shard:
                windows, valid = next(inputs)
                predicted = job.labeller.predict(job.samples_n[rows].tolist(), windows, valid)
                by_sample = zip(*(np.split(part, len(rows)) for part in predicted), strict=True)
                valid_by_sample = [None] * len(rows) if valid is None else np.split(valid, len(rows))
                packing.append(
                    [
                        packers.submit(job.packed, row, Predicted(*own), own_valid, layouts)
                        for row, own, own_valid in zip(rows, by_sample, valid_by_sample, strict=True)
                    ]
                )
                of_shard += packing[-1]
                if len(packing) > 2:  # at most two batches wait to be packed
                    for sample in packing.popleft():
                        sample.result()
                advance(len(rows))
            writing.append(writer.submit(_write_shard, place, layouts, number, of_shard))
            if len(writing) > 1:
                yield writing.popleft().result()
        for shard in writing:
            yield shard.result()


def _write_shard(
    place: Place, layouts: Mapping[str, Layout], number: int, samples: Sequence[Future[_PackedSample]]
) -> Shard[LabelRow]:
    """Write a shard and its entry in the journal."""
    rows = []
    with writing_shards(layouts, number) as writers:
        for sample in samples:
            packed, row = sample.result()
            for name, each in packed.items():
                writers[name].write(row["index"] % SHARD, each)
            rows.append(row)
        files = {name: shard_writer.finish() for name, shard_writer in writers.items()}
    shard = Shard(number, files, rows)
    journal.write_entry(place, shard)
    return shard


def _seal(
    job: _Job,
    scalars: xr.Dataset,
    place: Place,
    layouts: Mapping[str, Layout],
    shards: Mapping[int, Shard[LabelRow]],
) -> str:
    """Seal the store of the finished shards; returns its digest."""
    rows = [row for _, shard in sorted(shards.items()) for row in shard.rows]
    decision, parent = job.labeller.decision, job.parent
    attributes = {
        "kind": job.kind.value,
        "parent": parent.attrs["digest"],
        **{name: getattr(decision, name) for name in ("model", "threshold", "gate", "top_k")},
        **{name: parent.attrs[name] for name in ("label_shift", "composite")},
    }
    if job.labeller.cleaning:
        attributes["cleaning"] = dict(job.labeller.cleaning)
    variables = scalars[["record_id", "split", "labelled_frame"]].copy()
    variables.attrs = {}  # not those of the parent, such as its path
    variables["frame"] = (("sample", "time"), job.frames_nt.astype(np.int8))
    variables["frame_source"] = (("sample", "time"), np.where(job.human_nt, "human", "pseudo").astype(object))
    for name in ("score", "confidence", "agreement"):
        variables[f"frame_{name}"] = (("sample", "time"), np.array([row[name] for row in rows], np.float32))
    variables["frame_pixels"] = (("sample", "time"), np.array([row["pixels"] for row in rows], np.int32))
    if job.labeller.contrails is not None:
        attributes["separation"] = dict(job.labeller.separation)
        variables = variables.assign(_contrail_variables(rows))
    variables["trained_record"] = (("trained",), np.array(sorted(job.labeller.trained_records), object))
    contents = SealedContents(
        arrays=job.arrays,
        scalars=variables.assign(checksum_variables(rows, list(job.arrays))),
        attributes=attributes,
        chunk_files={layouts[name].key(n): shard.files[name] for n, shard in shards.items() for name in job.arrays},
        provenance={
            "plan": job.plan,
            "parent_path": parent.attrs["path"],
            **({"model_address": job.labeller.address} if job.labeller.address else {}),
            "set_aside_before": set_aside_lines(place_of(parent.attrs["path"])),
        },
    )
    return seal(place, contents)


def _contrail_variables(rows: Sequence[LabelRow]) -> dict[str, Any]:
    """List the single contrails of all frames, as xarray takes them."""
    contrails = [
        (sample, frame, number, *contrail)
        for sample, row in enumerate(rows)
        for frame, of_frame in enumerate(row.get("contrails", []))
        for number, contrail in enumerate(of_frame, 1)
    ]
    columns = dict(zip(("sample", "frame", "number", *SingleContrail.__annotations__), range(7), strict=True))
    dtypes = {"sample": np.int32, "frame": np.int16, "number": np.int16}
    table = np.array(contrails, np.float64).reshape(-1, len(columns))
    return {
        f"contrail_{name}": (("contrail",), table[:, column].astype(dtypes.get(name, np.float32)))
        for name, column in columns.items()
    }


def _confidence(
    probability_nyx: npt.NDArray[np.float32],
    mask_nyx: npt.NDArray[np.bool_],
    score_n: npt.NDArray[np.float32],
    scores_masks: bool,
) -> npt.NDArray[np.float32]:
    """(n) score of the mask, or mean probability of its pixels; 1 - score where it is empty."""
    marked = mask_nyx.sum((1, 2))
    mean = np.where(mask_nyx, probability_nyx, 0).sum((1, 2)) / np.maximum(marked, 1)
    return np.where(marked > 0, score_n if scores_masks else mean, 1 - score_n).astype(np.float32)
