"""MISSING DOCSTRING."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import common as command
from contrail_data.cli.common import Out, Overwrite, Store


def pseudo_label(
    store: Store,
    model: Annotated[Path, typer.Option(help="Directory of a run or pipeline, or a file that export wrote.")],
    out: Out,
    frames: Annotated[str, typer.Option(help=command.FRAMES)] = "all",
    tta: command.Tta = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples predicted at once.")] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Label frames of a store with a model; a frame that a human labelled keeps that label.

    Writes probabilities and gated masks, so that a run can take them soft, in steps or as masks (data.pseudo.target),
    with confidence and agreement to choose by, into a store of its own that names its parent and the model by digest,
    and the records that the model was trained on.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_train.inference.load import load_predictor

    parent, wanted, line = open_named(store), command.frames(frames), command.line()
    label = load_predictor(model, device, tta).label
    digest, resumed = label(parent, out, "pseudo-labels", frames=wanted, batch=batch, overwrite=overwrite, command=line)
    before = f", {resumed} of them found finished" if resumed else ""
    print(f"{out}: {parent.sizes['sample']} samples{before}, {digest}")


def propagate(
    store: Store,
    out: Out,
    frames: Annotated[str, typer.Option(help="all, or offsets from the labelled one, such as -1,1.")] = "all",
    overwrite: Overwrite = False,
) -> None:
    """Carry the human label of each record to its other frames by optical flow: a second opinion on pseudo-labels.

    Writes a store of pseudo-labels that training takes as it takes a model's.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_data.labels.flow import propagate as carry

    wanted = command.frames(frames)
    digest, resumed, count = carry(open_named(store), out, frames=wanted, overwrite=overwrite, command=command.line())
    before = f", {resumed} of them found finished" if resumed else ""
    print(f"{out}: {count} samples{before}, {digest}")


def compare_labels(
    a: Annotated[str, typer.Argument(help="Pseudo-labels or predictions.", metavar="A")],
    b: Annotated[str, typer.Argument(help="Others of the same store.", metavar="B")],
) -> None:
    """Tell how two stores of labels agree, by time from the labelled frame; frames that a human labelled are left out.

    `unmoved` is the agreement of B with the human label where it was drawn: what carrying it has to beat.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_data.labels.agreement import compared

    found = compared(open_named(a), open_named(b))
    rows = [
        [
            f"{one['offset']:+d}",
            *(f"{one[key]:,}" for key in ("frames", "a", "b")),
            *("" if one[key] is None else f"{one[key]:.3f}" for key in ("dice", "soft", "unmoved")),
        ]
        for one in found
    ]
    header = ["frame", "frames", "pixels of A", "pixels of B", "Dice", "soft Dice", "unmoved"]
    command.table(f"A {a}, B {b}", header, rows)
