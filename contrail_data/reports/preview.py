"""Previews of a store: sheets of single records frame by frame, and contact sheets of many records."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.reports.choices import Sheet, Theme
from contrail_data.reports.figures import Mark, Mask, Panel, draw_picture, enlarged
from contrail_data.reports.image_files import write_images
from contrail_data.reports.pictures import SampleViewer, check_viewable, find_record
from contrail_data.reports.selection import choose
from contrail_data.sample import check_record_id
from contrail_data.storage.files import make_folder
from contrail_data.storage.place import place_of
from contrail_data.store.reader import read_scalars
from contrail_data.store.schema import Kind, kind_of

_PANEL = 512
"""Approximate width of the enlarged frame, pixels."""
_TITLES = {
    Sheet.POSITIVES: "most labelled pixels first",
    Sheet.DISAGREED: "most disputed between annotators first",
    Sheet.BRIGHTEST: "clear scenes first, in which contrails show best; labels are not looked at",
    Sheet.RANDOM: "drawn at random",
}


def preview(
    store: xr.Dataset,
    record_id: str,
    out: Path,
    prediction: xr.Dataset | None = None,
    theme: Theme = Theme.DARK,
    *,
    flow: bool = False,
) -> list[Path]:
    """Write a sheet of one record as PNG and, if it has several frames, an animation as GIF.

    The sheet shows the labelled frame enlarged: with coastlines and a graticule, with the label outlined and, if there
    are predictions, with the predicted mask outlined and as probability. All frames follow below. With `flow` there is
    also the motion from the frame before to the labelled one and from there to the next, over the earlier of both.

    Args:
        store: A store of samples.
        record_id: The record to show.
        out: Folder for the pictures, which go into a subfolder named after the store.
        prediction: Predictions or pseudo-labels for the store.
        theme: Colours around the images.
        flow: Draw the optical flow between the labelled frame and its neighbours.

    Returns:
        Paths of the written files.

    Raises:
        ContrailError: If a store lacks the record, its id cannot be a file name, a file cannot be written, or flow is
            asked for and the samples are single frames.
    """
    check_viewable(store, prediction)
    sample = find_record(store, record_id)
    check_record_id(record_id)
    if prediction is not None:
        find_record(prediction, record_id)
    if flow and store.sizes["time"] == 1:
        raise ContrailError(
            f"{store.attrs['path']}: its samples are single frames, which have no flow; omit --flow, or choose a store "
            "of records"
        )
    viewer = SampleViewer(store, read_scalars(store), prediction)
    count, shown = store.sizes["time"], viewer.reference_frame(sample)
    label, predictions = viewer.label(sample), viewer.predictions(sample)
    outlines: list[dict[Mark, Mask]] = [{} for _ in range(count)]
    if label is not None:
        outlines[shown][Mark.LABEL] = label
    for frame, (mask, _) in predictions.items():
        outlines[frame][Mark.PREDICTION] = mask
    frames = [
        Panel(image=viewer.rgb(sample, i), width=0, caption=viewer.frame_caption(sample, i), outlines=outlines[i])
        for i in range(count)
    ]

    large, small = (enlarged(store.sizes["x"], width) for width in (_PANEL, _PANEL // 2))
    main = replace(frames[shown], width=large, outlines={})
    composite = f"{store.attrs['composite']['name']}, frame {shown}"
    panels = [replace(main, caption=composite, ground=viewer.ground(sample))]
    if label is not None:
        panels.append(replace(main, caption=f"label, {int(label.sum())} px", outlines={Mark.LABEL: label}))
    if prediction is not None and shown in predictions:
        mask, probability = predictions[shown]
        outline = {Mark.PREDICTION: mask}
        panels.append(replace(main, caption=f"predicted, {int(mask.sum())} px", outlines=outline))
        threshold = float(prediction.attrs["threshold"])
        panels.append(replace(main, image=probability, caption="probability", outlines=outline, threshold=threshold))
    rows = [panels]
    if flow:
        earlier = [frame for frame in (shown - 1, shown) if 0 <= frame < count - 1]
        captions = {frame: f"optical flow, frame {frame} to {frame + 1}" for frame in earlier}
        rows.append(
            [
                replace(frames[frame], width=large, caption=caption, outlines={}, motion=viewer.motion(sample, frame))
                for frame, caption in captions.items()
            ]
        )
    if count > 1:
        tiles = [replace(frame, width=small) for frame in frames]
        columns = max(4, len(panels) * large // small)
        rows += [tiles[i : i + columns] for i in range(0, count, columns)]
    where = "  ".join([str(viewer.records["satellite"].values[sample]), *viewer.caption(sample)])
    title = f"record {record_id}\n{where}  split {viewer.records['split'].values[sample]}"
    marks = _marks_in(outlines)
    path = _path(out, store, record_id, prediction)
    write_images(path, [draw_picture(rows, title=title, marks=marks, theme=theme)])
    if count == 1:
        return [path]
    images = [draw_picture([[replace(frame, width=large)]], title=title, marks=marks, theme=theme) for frame in frames]
    gif = path.with_name(path.name.removesuffix(".png") + ".gif")
    write_images(gif, images)
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
    store: xr.Dataset,
    sheet: Sheet,
    out: Path,
    *,
    count: int = 24,
    seed: int = 0,
    prediction: xr.Dataset | None = None,
    theme: Theme = Theme.DARK,
) -> Path:
    """Write a PNG with the labelled frames of many records.

    Labels and predicted masks are outlined; on the sheet of disagreement also what too few annotators marked for a
    majority.

    Args:
        store: A store of samples.
        sheet: Which records to show, and in what order; see `choose`.
        out: Folder for the pictures, which go into a subfolder named after the store.
        count: Largest number of records.
        seed: Seed of the random sheet.
        prediction: Predictions or pseudo-labels for the store.
        theme: Colours around the images.

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
        tiles.append(replace(viewer.tile(sample, votes=votes), caption="\n".join(filter(None, lines))))
    marks = _marks_in([tile.outlines for tile in tiles])
    seed_text = f", seed {seed}" if sheet == Sheet.RANDOM else ""
    title = (
        f"{place_of(store.attrs['path']).name}: {sheet}, {_TITLES[sheet]}{seed_text}; "
        f"{len(tiles)} of {selection.candidates} records"
    )
    path = _path(out, store, sheet, prediction)
    write_images(path, [draw_picture(_in_rows(tiles), title=title, marks=marks, theme=theme)])
    return path


def _marks_in(outlines: Sequence[Mapping[Mark, Mask]]) -> list[Mark]:
    return [mark for mark in Mark if any(mark in of_image for of_image in outlines)]


def _in_rows(tiles: list[Panel]) -> list[list[Panel]]:
    """Arrange the tiles of a sheet so that it comes near 16:10 and its last row is not much emptier than the others."""
    width, height = tiles[0].width, tiles[0].height + 60

    def cost(columns: int) -> float:
        rows = math.ceil(len(tiles) / columns)
        return abs(math.log(columns * width / (rows * height) / 1.6)) + 1 - len(tiles) / (rows * columns)

    columns = min(range(1, len(tiles) + 1), key=cost)
    return [tiles[i : i + columns] for i in range(0, len(tiles), columns)]


def _path(out: Path, store: xr.Dataset, name: str, prediction: xr.Dataset | None) -> Path:
    # Named after its stores; creates the folder.
    folder = out / _store_label(store)
    make_folder(folder)
    return folder / (f"{name}.png" if prediction is None else f"{name}.{_store_label(prediction)}.png")


def _store_label(store: xr.Dataset) -> str:
    """Join name and digest, so that pictures of two stores of one name, or of a rebuilt store, are kept apart."""
    stem = re.sub(r"[^\w.\-]", "_", place_of(store.attrs["path"]).name.removesuffix(".zarr"))
    digest = re.sub(r"\W", "", str(store.attrs["digest"]).removeprefix("sha256:"))
    return f"{stem}-{digest[:8]}"
