"""Commands that make and compare labels: `pseudo-label`, `propagate` and `compare-labels`."""

from typing import Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import print_table, print_written_store, refuse_options
from contrail_data.labels.predictor import FlowKind, FrameSelection
from contrail_data.process import share_cores

WHERE_MODELS_LIE = (
    "a path, a URL of a model folder (hf://org/name@revision, s3://...), a name in data_catalog.yaml, or "
    "builtin:starter, a small detector that comes with the package."
)
MODEL_HELP = f"A finished run or pipeline, a model folder, or an exported file (.pt2, .onnx): {WHERE_MODELS_LIE}"


def model_address(text: str) -> str:
    """Parse the address of a model, which is refused before torch is imported if it is unfinished or something else.

    Args:
        text: Run or pipeline directory, model folder, exported file, URL or catalog name.

    Returns:
        The address.
    """
    from contrail_train.runs.address import check_address

    return check_address(text)


def pseudo_label(
    store: options.Samples,
    model: Annotated[str, typer.Option(parser=model_address, help=MODEL_HELP, metavar="MODEL")],
    out: options.Out,
    frames: options.Frames = "all",
    tta: options.Tta = None,
    batch: options.Batch = 4,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    min_pixels: options.MinPixels = "1",
    hysteresis: options.Hysteresis = None,
    consistent: options.Consistent = None,
    fill_gaps: options.FillGaps = None,
    elongation: options.Elongation = None,
) -> None:
    """Label the frames of a store with a model.

    A frame that a human labelled keeps that label. The new store holds probabilities, masks, confidence and agreement;
    how a run uses them is set by data.pseudo. It names its parent and the model by digest, and the records that the
    model was trained on.
    """
    selection = FrameSelection.parse(frames)

    share_cores()

    from contrail_data.catalog.catalog import open_named
    from contrail_data.labels.write import write_labels
    from contrail_data.store.schema import Kind
    from contrail_train.workflows.symmetries import load_predictor

    parent = open_named(store)
    predictor = load_predictor(model, device, tta)
    labelled = write_labels(
        parent,
        predictor.with_cleaning(min_pixels, hysteresis, consistent, fill_gaps, elongation).labeller_for(parent),
        out,
        kind=Kind.PSEUDO_LABELS,
        frames=selection,
        batch=batch,
        overwrite=overwrite,
    )
    print_written_store(out, labelled.samples, labelled.resumed, labelled.digest)


def propagate(
    context: typer.Context,
    store: options.Samples,
    out: options.Out,
    frames: options.Frames = "all",
    flow: Annotated[
        FlowKind, typer.Option(help="How motion is computed: dis (dense inverse search) or raft (a network).")
    ] = FlowKind.DIS,
    weights: Annotated[
        str | None,
        typer.Option(
            help="With --flow raft: file or URL of the weights of torchvision's raft_small or raft_large.",
            metavar="PATH|URL",
            show_default="raft_small's, from the torch hub",
        ),
    ] = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
) -> None:
    """Carry the human label of each record to its other frames by optical flow.

    The result is a store of pseudo-labels for training, or a second opinion on those of a model.
    """
    selection = FrameSelection.parse(frames)
    if flow is FlowKind.DIS:
        refuse_options(context, ["weights", "device"], "without --flow raft")

    from contrail_data.catalog.catalog import open_named
    from contrail_data.labels.flow import DIS
    from contrail_data.labels.flow import propagate as carry

    parent, method = open_named(store), DIS
    if flow is FlowKind.RAFT:
        from contrail_train.inference.flow import flow_method

        method = flow_method(flow, weights, device)
    labelled = carry(parent, out, frames=selection, method=method, overwrite=overwrite)
    print_written_store(out, labelled.samples, labelled.resumed, labelled.digest)


def compare_labels(
    a: Annotated[str, options.store_argument(help="A store of pseudo-labels or predictions.", metavar="A")],
    b: Annotated[str, options.store_argument(help="Another one, made from the same store.", metavar="B")],
) -> None:
    """Print how two stores of labels agree, by offset from the labelled frame.

    Frames that a human labelled are left out. The column "unmoved" is the agreement of B with the human label left
    where it is: what a carried label has to beat.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_data.labels.agreement import compare_label_stores

    header = ["frame", "frames", "pixels of A", "pixels of B", "Dice", "soft Dice", "unmoved"]
    rows = [
        [
            f"{one.offset:+d}",
            *(f"{count:,}" for count in (one.frames, one.pixels_a, one.pixels_b)),
            *(f"{dice:.3f}" if dice is not None else "" for dice in (one.dice, one.soft_dice, one.unmoved_dice)),
        ]
        for one in compare_label_stores(open_named(a), open_named(b))
    ]
    print_table(f"A {a}, B {b}", header, rows)
