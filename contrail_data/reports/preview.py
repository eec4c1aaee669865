"""Previews of a store: sheets of single records frame by frame, and contact sheets of many records."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

from contrail_data.errors import ContrailError
from contrail_data.reports.pictures import (
    LABEL_COLOUR,
    PREDICTION_COLOUR,
    VOTE_COLOUR,
    SampleViewer,
    check_viewable,
    draw_outlines,
    enlarge,
    find_record,
)
from contrail_data.reports.selection import choose
from contrail_data.reports.sheet_layout import Captioned, add_captions, draw_sheet, in_rows
from contrail_data.reports.sheets import Sheet
from contrail_data.sample import check_record_id
from contrail_data.storage.files import write_atomically
from contrail_data.storage.place import place_of
from contrail_data.store.reader import read_scalars
from contrail_data.store.schema import Kind, kind_of

_PANEL = 512  # least width in pixels
_TITLES = {
    Sheet.POSITIVES: "most labelled pixels first",
    Sheet.DISAGREED: "most disputed between annotators first",
    Sheet.BRIGHTEST: "clear scenes first, in which contrails show best; labels are not looked at",
    Sheet.RANDOM: "drawn at random",
}


def preview(store: xr.Dataset, record_id: str, out: Path, prediction: xr.Dataset | None = None) -> list[Path]:
    """Write a sheet of one record as PNG and, if it has several frames, an animation as GIF.

    The sheet shows the labelled frame enlarged: without outlines, with the label outlined in yellow and, if there are
    predictions, with the predicted mask outlined in cyan and as probability. All frames follow below.

    Args:
        store: A store of samples.
        record_id: The record to show.
        out: Folder for the pictures, which go into a subfolder named after the store.
        prediction: Predictions or pseudo-labels for the store.

    Returns:
        Paths of the written files.

    Raises:
        ContrailError: If a store lacks the record, its id cannot be a file name, or a file cannot be written.
    """
    check_viewable(store, prediction)
    sample = find_record(store, record_id)
    check_record_id(record_id)
    if prediction is not None:
        find_record(prediction, record_id)
    viewer = SampleViewer(store, read_scalars(store), prediction)
    count, shown = store.sizes["time"], viewer.reference_frame(sample)
    frames = [viewer.rgb(sample, frame) for frame in range(count)]
    label, predictions = viewer.label(sample), viewer.predictions(sample)

    panels = [(f"{store.attrs['composite']['name']}, frame {shown}", frames[shown])]
    marked = list(frames)
    if label is not None:
        marked[shown] = draw_outlines(frames[shown], (label, LABEL_COLOUR))
        panels.append((f"label, {int(label.sum())} px", marked[shown]))
    if shown in predictions:
        mask, probability = predictions[shown]
        panels.append((f"predicted, {int(mask.sum())} px", draw_outlines(frames[shown], (mask, PREDICTION_COLOUR))))
        panels.append(("probability", np.repeat(probability[..., np.newaxis], 3, -1)))
    for frame, (mask, _) in predictions.items():
        marked[frame] = draw_outlines(marked[frame], (mask, PREDICTION_COLOUR))

    width = frames[0].shape[1]
    large, small = max(1, _PANEL // width), max(1, _PANEL // 2 // width)
    captions = [viewer.frame_caption(sample, frame) for frame in range(count)]
    rows = [[Captioned(caption, enlarge(rgb, large)) for caption, rgb in panels]]
    if count > 1:
        tiles = [Captioned(caption, enlarge(rgb, small)) for caption, rgb in zip(captions, marked, strict=True)]
        columns = max(4, sum(panel.picture.width for panel in rows[0]) // tiles[0].picture.width)
        rows += [tiles[i : i + columns] for i in range(0, count, columns)]
    legend = [("label", LABEL_COLOUR)] * (label is not None) + [("predicted", PREDICTION_COLOUR)] * bool(predictions)
    where = " ".join(viewer.caption(sample))
    title = f"record {record_id}   {where}   split {viewer.records['split'].values[sample]}"
    path = _path(out, store, record_id, prediction)
    _save(path, draw_sheet(title, legend, rows))
    if count == 1:
        return [path]
    large_frames = [Captioned(caption, enlarge(rgb, large)) for caption, rgb in zip(captions, marked, strict=True)]
    animation = add_captions(large_frames)
    gif = path.with_name(path.name.removesuffix(".png") + ".gif")
    _save(gif, animation[0], save_all=True, append_images=animation[1:], duration=500, loop=0)
    return [path, gif]


def default_sheets(store: xr.Dataset) -> list[Sheet]:
    """Choose the sheets to draw if none was named.

    Args:
        store: A store of any kind.

    Returns:
        Positives, if there are any, and random.
    """
    if kind_of(store) == Kind.SAMPLES and (read_scalars(store)["positive_pixels"].values > 0).any():
        return [Sheet.POSITIVES, Sheet.RANDOM]
    return [Sheet.RANDOM]


def contact_sheet(
    store: xr.Dataset, sheet: Sheet, out: Path, *, count: int = 24, seed: int = 0, prediction: xr.Dataset | None = None
) -> Path:
    """Write a PNG with the labelled frames of many records.

    Labels are outlined in yellow and predicted masks in cyan; on the sheet of disagreement, what too few annotators
    marked for a majority is outlined in pink.

    Args:
        store: A store of samples.
        sheet: Which records to show, and in what order; see `choose`.
        out: Folder for the pictures, which go into a subfolder named after the store.
        count: Largest number of records.
        seed: Seed of the random sheet.
        prediction: Predictions or pseudo-labels for the store.

    Returns:
        Path of the written file.

    Raises:
        ContrailError: If the store has no such record or no images, or the file cannot be written.
    """
    check_viewable(store, prediction)
    viewer = SampleViewer(store, read_scalars(store), prediction)
    selection = choose(store, sheet, count, seed)
    votes = sheet == Sheet.DISAGREED
    tiles = []
    for sample, rank in selection.ranks.items():
        lines = [str(viewer.records["record_id"].values[sample]), *viewer.caption(sample), rank]
        if prediction is not None and viewer.reference_frame(sample) not in viewer.predictions(sample):
            lines.append("no prediction")
        tiles.append(Captioned("\n".join(filter(None, lines)), viewer.tile(sample, votes=votes)))
    legend = [("label", LABEL_COLOUR)] + [("marked by too few annotators", VOTE_COLOUR)] * votes
    legend += [("predicted", PREDICTION_COLOUR)] * (prediction is not None)
    seed_text = f", seed {seed}" if sheet == Sheet.RANDOM else ""
    title = (
        f"{place_of(store.attrs['path']).name}: {sheet}, {_TITLES[sheet]}{seed_text}; "
        f"{len(tiles)} of {selection.candidates} records"
    )
    path = _path(out, store, sheet, prediction)
    _save(path, draw_sheet(title, legend, in_rows(tiles)))
    return path


def _path(out: Path, store: xr.Dataset, name: str, prediction: xr.Dataset | None) -> Path:
    # Named after its stores; creates the folder.
    folder = out / _store_label(store)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContrailError(f"{out}: cannot be a folder for pictures ({error.strerror}); choose another -o") from None
    return folder / (f"{name}.png" if prediction is None else f"{name}.{_store_label(prediction)}.png")


def _store_label(store: xr.Dataset) -> str:
    """Join name and digest, so that pictures of two stores of one name, or of a rebuilt store, are kept apart."""
    stem = re.sub(r"[^\w.\-]", "_", place_of(store.attrs["path"]).name.removesuffix(".zarr"))
    digest = re.sub(r"\W", "", str(store.attrs["digest"]).removeprefix("sha256:"))
    return f"{stem}-{digest[:8]}"


def _save(path: Path, picture: Image.Image, **options: Any) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, path.suffix[1:], **options)
    write_atomically(path, [buffer.getvalue()])
