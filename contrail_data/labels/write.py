"""Labels made by a model: frames of a store through any predictor, into a sealed store of their own.

The derived store holds no images. It names its parent's digest; the loader joins it by `record_id`.

    probability       uint8 (sample, time, y, x), scale 1/255; where a human labelled the frame: that label, 0 or 1
    frame_mask        uint8 (sample, time, y, x) 0/1: probability over the threshold, empty where the gate is shut
    frame             int8 (sample, time): which frame of the parent's sample this is
    frame_source      string (sample, time): human or pseudo
    frame_pixels      int32 (sample, time): of the mask
    frame_score       float32 (sample, time): what the gate compares, such as the mean of the top-k probabilities
    frame_confidence  float32 (sample, time): mean probability of the mask's pixels; 1 - score of an empty mask
    frame_agreement   float32 (sample, time): of the models of an ensemble on the frame, 0 to 1; 1 of a single one
    trained_record    string (trained): the records that the model was trained on, for who scores on them
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Frames, Predict, Predicted, Tell
from contrail_data.progress import progress
from contrail_data.sample import reference_frame
from contrail_data.storage.place import place_of, same_place
from contrail_data.store import journal
from contrail_data.store.journal import Files, Row, Shard
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_data.store.schema import SHARD, Array, kind
from contrail_data.store.shards import ShardWriter, writing_shards
from contrail_data.store.writer import checksum_variables, create_arrays, seal


def label_store(
    parent: xr.Dataset, predict: Predict, decision: Decision, out: str | Path, **options: Any
) -> tuple[str, int]:
    """`write_labels` by a model, which knows no more than what it sees."""
    return write_labels(parent, lambda _, windows, valid: predict(windows, valid), decision, out, **options)


def write_labels(
    parent: xr.Dataset,
    tell: Tell,
    decision: Decision,
    out: str | Path,
    *,
    store_kind: Literal["pseudo-labels", "predictions"],
    frames: Frames,
    offsets: Sequence[int] = (0,),
    samples: npt.NDArray[np.int64] | None = None,
    trained_records: Collection[str] = (),
    batch: int = 8,
    overwrite: bool = False,
    command: Sequence[str] = (),
) -> tuple[str, int]:
    """Label frames of a store of samples into `out`; returns the digest and how many samples were done before.

    store_kind: among "pseudo-labels" a frame that a human labelled keeps that label, among "predictions" it does not.
    frames: as in `frames_to_predict`. offsets: the frames that `tell` looks at, from the one it tells of; frames that
    lack one of these are left out. samples: indices of those to predict; None: all. batch: samples at once; the next
    are read, and those before written, meanwhile. Resumable like a build. Raises ContrailError for a parent without
    images or neighbours, an `out` that holds something else, or a full disk.
    """
    if kind(parent) != "samples":
        raise ContrailError(f"{parent.attrs['path']}: holds {kind(parent)}, no images: name the store it came from")
    scalars = read_scalars(parent)
    chosen = np.arange(parent.sizes["sample"]) if samples is None else samples
    scalars = scalars.isel(sample=chosen)
    if not len(chosen):
        raise ContrailError(f"{parent.attrs['path']}: none of its samples is asked for: nothing to predict")
    wanted = frames_to_predict(scalars, parent, frames, offsets)
    plane = (parent.sizes["y"], parent.sizes["x"])
    arrays = {
        "probability": Array((wanted.shape[1], *plane), "uint8", "zstd"),
        "frame_mask": Array((wanted.shape[1], *plane), "uint8", "zstd"),
    }
    trained = sorted(trained_records)
    keep_human = store_kind == "pseudo-labels"
    facts = (decision.threshold, decision.gate, decision.top_k, decision.model)
    plan = journal.plan_of(
        [store_kind, parent.attrs["digest"], *facts, wanted.tolist(), keep_human, *offsets, chosen.tolist(), trained]
    )
    place = place_of(out).resolved()
    if same_place(place.url, parent.attrs["path"]):
        raise ContrailError(f"{out}: is the store to read from: choose another -o")
    if overwrite:
        journal.remove_store(place)
    if (done := journal.finished_store(place, plan)) is not None:
        return done["digest"], done["samples"]
    with journal.building(place, plan):
        layouts = create_arrays(place, arrays, len(wanted))
        finished = {shard.number: shard for shard in journal.read_entries(place, layouts)}
        resumed = sum(len(shard.rows) for shard in finished.values())
        human = _human_frames(scalars, wanted) & keep_human
        read_image, read_mask = pixel_reader(parent), pixel_reader(parent, "mask")
        read_valid = pixel_reader(parent, "valid") if "valid" in parent.variables else None

        def read(rows: Sequence[int]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
            """Windows (rows · frames, t, c, y, x), and where the frames that are predicted have pixels."""
            x_bntchw = np.empty(
                (len(rows), wanted.shape[1], len(offsets), *parent["image"].shape[2:]), parent["image"].dtype
            )
            valid_bnyx = np.empty((len(rows), wanted.shape[1], *plane), np.uint8)
            for row, x_ntchw, valid_nyx in zip(rows, x_bntchw, valid_bnyx, strict=True):
                for frame, x_tchw in zip(wanted[row].tolist(), x_ntchw, strict=True):
                    read_image(int(chosen[row]), [frame + offset for offset in offsets], x_tchw)
                if read_valid is not None:
                    read_valid(int(chosen[row]), wanted[row].tolist(), valid_nyx)
            windows = x_bntchw.reshape(-1, *x_bntchw.shape[2:])
            return windows, None if read_valid is None else valid_bnyx.reshape(-1, *plane) > 0

        def label(
            rows: Sequence[int], told: Predicted, valid: npt.NDArray[np.bool_] | None, writers: dict[str, ShardWriter]
        ) -> list[Row]:
            shape = len(rows), wanted.shape[1]
            if valid is not None:
                told = told._replace(probability=np.where(valid, told.probability, np.float32(0)))
            probability, score, agreement = (part.reshape(*shape, *part.shape[1:]) for part in told)
            opened = (score >= decision.gate)[..., np.newaxis, np.newaxis]
            mask = (probability >= decision.threshold) & opened
            confidence = _confidence(probability, mask, score)
            stored = np.rint(probability * 255).astype(np.uint8)
            made = []
            for i, row in enumerate(rows):
                if human[row].any():
                    human_label = np.empty((1, *plane), np.uint8)
                    read_mask(int(chosen[row]), [0], human_label)
                    mask[i, human[row]] = human_label
                    stored[i, human[row]] = human_label * 255
                pixels = {"probability": stored[i], "frame_mask": mask[i].astype(np.uint8)}
                marked = mask[i].sum((1, 2)).tolist()
                checksums = {name: writers[name].add(row % SHARD, pixels[name]) for name in arrays}
                values = {"score": score[i], "confidence": confidence[i], "agreement": agreement[i]}
                made.append(
                    {"index": row, "checksums": checksums, "pixels": marked}
                    | {name: value.tolist() for name, value in values.items()}
                )
            return made

        todo = [
            range(start, min(start + batch, (number + 1) * SHARD, len(wanted)))
            for number in range(-(-len(wanted) // SHARD))
            if number not in finished
            for start in range(number * SHARD, min((number + 1) * SHARD, len(wanted)), batch)
        ]
        with (
            progress(store_kind, len(wanted), resumed) as advance,
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as writer,
        ):
            ahead = deque(reader.submit(read, rows) for rows in todo[:2])
            for number, batches in groupby(enumerate(todo), lambda step: step[1][0] // SHARD):
                with writing_shards(layouts, number) as writers:
                    behind: list[Future[list[Row]]] = []
                    for at, rows in batches:
                        windows, valid = ahead.popleft().result()
                        told = tell([int(chosen[row]) for row in rows], windows, valid)
                        if at + 2 < len(todo):
                            ahead.append(reader.submit(read, todo[at + 2]))
                        if len(behind) > 1:
                            behind[-2].result()  # no more than two wait in memory
                        behind.append(writer.submit(label, rows, told, valid, writers))
                        advance(len(rows))
                    made = [row for task in behind for row in task.result()]
                    files: Files = {name: one.finish() for name, one in writers.items()}
                finished[number] = Shard(number, files, made)
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
        variables["frame"] = (("sample", "time"), wanted.astype(np.int8))
        variables["frame_source"] = (("sample", "time"), np.where(human, "human", "pseudo").astype(object))
        for name in ("score", "confidence", "agreement"):
            values = np.array([row[name] for row in ordered], np.float32)
            variables[f"frame_{name}"] = (("sample", "time"), values)
        variables["frame_pixels"] = (("sample", "time"), np.array([row["pixels"] for row in ordered], np.int32))
        variables["trained_record"] = (("trained",), np.array(trained, object))
        variables = variables.assign(checksum_variables(ordered, list(arrays)))
        provenance: dict[str, Any] = {"plan": plan, "samples": len(wanted), "parent_path": parent.attrs["path"]}
        digest = seal(place, arrays, variables, attributes, chunk_files, command, provenance)
    return digest, resumed


def _confidence(
    probability: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], score: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """(b, n) how sure of frames (b, n, y, x) a model is."""
    marked = mask.sum((2, 3))
    mean = np.where(mask, probability, 0).sum((2, 3)) / np.maximum(marked, 1)
    return np.where(marked > 0, mean, 1 - score).astype(np.float32)


def frames_to_predict(
    scalars: xr.Dataset, parent: xr.Dataset, frames: Frames, offsets: Sequence[int]
) -> npt.NDArray[np.int64]:
    """(sample, time): the frames to predict, each with its neighbours at `offsets`; in order.

    Of "all", those that have them. Where none is labelled the middle one stands for it. Raises ContrailError where
    samples have too few frames.
    """
    count = parent.sizes["time"]
    able = np.arange(-offsets[0], count - offsets[-1])
    around = [0] if isinstance(frames, str) else sorted(set(frames))
    if frames == "all":
        wanted = np.tile(able, (scalars.sizes["sample"], 1))
    else:
        reference = reference_frame(scalars["labelled_frame"].values, count)
        wanted = reference[:, np.newaxis] + np.array(around, np.int64)
    path = parent.attrs["path"]
    if (lacking := ~np.isin(wanted, np.arange(count))).any():
        at = around[int(np.argmax(lacking.any(0)))]
        raise ContrailError(
            f"{path}: samples of {count} frames have none at {at:+d} from the labelled one: ask for others"
        )
    if not len(able) or not np.isin(wanted, able).all():
        raise ContrailError(
            f"{path}: of {count} frames not all that are asked for have the neighbours {list(offsets)} that the model "
            "looks at: choose other frames, a store of records, or a 2D model"
        )
    return wanted


def _human_frames(scalars: xr.Dataset, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(sample, time): where a frame carries a human label."""
    human = frames == scalars["labelled_frame"].values[:, np.newaxis]
    return human & (scalars["label_source"].values == "human")[:, np.newaxis]
