"""Labels made by a model: every frame of a store through any predictor, into a sealed store of their own.

The derived store holds no images. It names its parent's digest; the loader joins it by `record_id`.

    probability   uint8 (sample, time, y, x), scale 1/255; where a human labelled the frame: that label, 0 or 1
    frame_mask    uint8 (sample, time, y, x) 0/1: probability over the threshold, empty where the gate is shut
    frame         int8 (sample, time): which frame of the parent's sample this is
    frame_source  string (sample, time): human or pseudo
    frame_score   float32 (sample, time): mean of the top-k pixel probabilities, what the gate compares
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data import journal
from contrail_data.errors import ContrailError
from contrail_data.journal import Files, Row, Shard
from contrail_data.places import place_of, same_place
from contrail_data.progress import progress
from contrail_data.shards import ShardWriter, writing_shards
from contrail_data.store import SHARD, Array, checksum_variables, create_arrays, kind, pixel_reader, read_scalars, seal

Predict = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
"""Consecutive frames (b, t, c, y, x) as stored → (b, t - span, y, x) float32 probability, on the labels' pixel grid,
of the frames that have all neighbours the model looks at; span is from the first of these to the last, 0 in 2D."""


@dataclass(frozen=True)
class Decision:
    """How probabilities become a mask, and by whom they were made: calibrated with the model, never here."""

    threshold: float
    gate: float
    """Frames whose score is lower get an empty mask; 0: no gate."""
    top_k: int
    model: str
    """The model's digest."""


def top_k_mean(probability: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.float32]:
    """Mean of the k highest pixel probabilities: (..., y, x) → (...), the record score of the notes' pipeline."""
    flat = probability.reshape(*probability.shape[:-2], -1)
    k = min(k, flat.shape[-1])
    return np.partition(flat, flat.shape[-1] - k, axis=-1)[..., -k:].mean(-1)


def label_store(
    parent: xr.Dataset,
    predict: Predict,
    decision: Decision,
    out: str | Path,
    *,
    store_kind: str,
    all_frames: bool,
    keep_human: bool,
    offsets: Sequence[int] = (0,),
    batch: int = 8,
    overwrite: bool = False,
    command: Sequence[str] = (),
) -> tuple[str, int]:
    """Predict frames of a store of samples into `out`; returns the digest and how many samples were done before.

    `all_frames`: all of each sample, else the labelled one alone (the middle one where none is labelled).
    `keep_human`: a frame that a human labelled keeps that label. `offsets`: the frames that `predict` looks at, from
    the one it predicts; frames without these neighbours are left out. Resumable like a build. Raises ContrailError
    for a parent without images or neighbours, an `out` that holds something else, or a full disk.
    """
    if kind(parent) != "samples":
        raise ContrailError(f"{parent.attrs['path']}: holds {kind(parent)}, no images: name the store it came from")
    scalars = read_scalars(parent)
    frames = frames_to_predict(scalars, parent, all_frames, offsets)
    plane = (parent.sizes["y"], parent.sizes["x"])
    arrays = {
        "probability": Array((frames.shape[1], *plane), "uint8", "zstd"),
        "frame_mask": Array((frames.shape[1], *plane), "uint8", "zstd"),
    }
    facts = (decision.threshold, decision.gate, decision.top_k, decision.model)
    plan = journal.plan_of([store_kind, parent.attrs["digest"], *facts, all_frames, keep_human, *offsets])
    place = place_of(out).resolved()
    if same_place(place.url, parent.attrs["path"]):
        raise ContrailError(f"{out}: is the store to read from: choose another -o")
    if overwrite:
        journal.remove_store(place)
    if (done := journal.finished_store(place, plan)) is not None:
        return done["digest"], done["samples"]
    with journal.building(place, plan):
        layouts = create_arrays(place, arrays, len(frames))
        finished = {shard.number: shard for shard in journal.read_entries(place, layouts)}
        resumed = sum(len(shard.rows) for shard in finished.values())
        human = _human_frames(scalars, frames) & keep_human
        read_image, read_mask = pixel_reader(parent), pixel_reader(parent, "mask")

        def label(samples: Sequence[int], writers: dict[str, ShardWriter]) -> list[Row]:
            needed = frames.shape[1] + offsets[-1] - offsets[0]
            x_btchw = np.empty((len(samples), needed, *parent["image"].shape[2:]), parent["image"].dtype)
            for sample, x_tchw in zip(samples, x_btchw, strict=True):
                first = int(frames[sample, 0]) + offsets[0]
                read_image(sample, range(first, first + needed), x_tchw)
            probability = predict(x_btchw)
            score = top_k_mean(probability, decision.top_k)
            mask = (probability >= decision.threshold) & (score >= decision.gate)[..., np.newaxis, np.newaxis]
            stored = np.rint(probability * 255).astype(np.uint8)
            made = []
            for i, sample in enumerate(samples):
                if human[sample].any():
                    human_label = np.empty((1, *plane), np.uint8)
                    read_mask(sample, [0], human_label)
                    mask[i, human[sample]] = human_label
                    stored[i, human[sample]] = human_label * 255
                pixels = {"probability": stored[i], "frame_mask": mask[i].astype(np.uint8)}
                checksums = {name: writers[name].add(sample % SHARD, pixels[name]) for name in arrays}
                made.append({"index": sample, "checksums": checksums, "score": score[i].tolist()})
            return made

        with progress(store_kind, len(frames), resumed) as advance:
            for number in range(-(-len(frames) // SHARD)):
                if number in finished:
                    continue
                members = range(number * SHARD, min((number + 1) * SHARD, len(frames)))
                rows: list[Row] = []
                with writing_shards(layouts, number) as writers:
                    for start in range(0, len(members), batch):
                        rows += label(members[start : start + batch], writers)
                        advance(len(members[start : start + batch]))
                    files: Files = {name: writer.finish() for name, writer in writers.items()}
                finished[number] = Shard(number, files, rows)
                journal.write_entry(place, finished[number])
        ordered = [row for _, shard in sorted(finished.items()) for row in shard.rows]
        chunk_files = {layouts[name].key(n): shard.files[name] for n, shard in finished.items() for name in arrays}
        attributes = {
            "kind": store_kind,
            "parent": parent.attrs["digest"],
            "model": decision.model,
            "threshold": decision.threshold,
            "gate": decision.gate,
            "top_k": decision.top_k,
            "label_shift": parent.attrs["label_shift"],
            "composite": parent.attrs["composite"],
        }
        variables = scalars[["record_id", "split", "labelled_frame"]].copy()
        variables.attrs = {}  # the parent's own, and where it happened to lie
        variables["frame"] = (("sample", "time"), frames.astype(np.int8))
        variables["frame_source"] = (("sample", "time"), np.where(human, "human", "pseudo").astype(object))
        variables["frame_score"] = (("sample", "time"), np.array([r["score"] for r in ordered], np.float32))
        variables = variables.assign(checksum_variables(ordered, list(arrays)))
        provenance: dict[str, Any] = {"plan": plan, "samples": len(frames), "parent_path": parent.attrs["path"]}
        digest = seal(place, arrays, variables, attributes, chunk_files, command, provenance)
    return digest, resumed


def frames_to_predict(
    scalars: xr.Dataset, parent: xr.Dataset, all_frames: bool, offsets: Sequence[int]
) -> npt.NDArray[np.int64]:
    """(sample, time): the frames to predict, consecutive, each with its neighbours at `offsets`.

    `all_frames`: all that have them, else the labelled one (the middle one where none is labelled). Raises
    ContrailError where samples have too few frames.
    """
    count = parent.sizes["time"]
    able = np.arange(-offsets[0], count - offsets[-1])
    if all_frames:
        frames = np.tile(able, (scalars.sizes["sample"], 1))
    else:
        labelled = scalars["labelled_frame"].values.astype(np.int64)
        frames = np.where(labelled < 0, count // 2, labelled)[:, np.newaxis]
    if not len(able) or not np.isin(frames, able).all():
        raise ContrailError(
            f"{parent.attrs['path']}: samples of {count} frames lack the neighbours {list(offsets)} that the model "
            "looks at: choose a store of records, or a 2D model"
        )
    return frames


def _human_frames(scalars: xr.Dataset, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(sample, time): where a frame carries a human label."""
    human = frames == scalars["labelled_frame"].values[:, np.newaxis]
    return human & (scalars["label_source"].values == "human")[:, np.newaxis]
