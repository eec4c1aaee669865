"""Options that several commands share, and the panels of `--help` that list them."""

from __future__ import annotations

import os
from functools import partial
from typing import Annotated

import typer

from contrail_data.labels.predictor import Symmetries

CORES = os.cpu_count() or 1
time = partial(typer.Option, formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"], metavar="TIME")
"""An option that takes a time, UTC."""

# Options that `--help` lists in a panel of their own.
output = partial(typer.Option, rich_help_panel="Output")
selection = partial(typer.Option, rich_help_panel="Selection")
execution = partial(typer.Option, rich_help_panel="Execution")
scans = partial(typer.Option, rich_help_panel="Scans")
scan_time = partial(time, rich_help_panel="Scans")

Store = Annotated[str, typer.Argument(help="A store: a path, a URL or a name in data_catalog.yaml.", metavar="STORE")]
Stores = Annotated[list[str], typer.Argument(help="Stores: paths, URLs or catalog names.", metavar="STORE")]
Out = Annotated[str, output("-o", "--out", help="The store to write: a path or a URL (s3://...).")]
Overwrite = Annotated[bool, output("--overwrite", help="Replace the store, or the unfinished build, at --out.")]
OverwriteFile = Annotated[bool, output("--overwrite", help="Replace an existing file.")]
AsJson = Annotated[bool, output("--json", help="Print JSON instead of text.")]
Workers = Annotated[
    int,
    execution(
        min=1, max=1024, help="Number of parallel workers (threads or processes).", show_default="number of cores"
    ),
]
Device = Annotated[str, execution(help="auto (CUDA if available), cpu, cuda, cuda:1 ...")]
Batch = Annotated[int, execution(min=1, max=4096, help="Samples predicted at once.")]
Frames = Annotated[
    str, selection(help="Frames to predict: labelled, all, or offsets from the labelled frame, such as -1,0,1.")
]
Tta = Annotated[
    Symmetries | None,
    typer.Option(
        "--tta",
        help="Average the predictions over these copies of each image.",
        show_default="none for a run, a pipeline's own setting",
    ),
]
Product = Annotated[str, scans(help="Product to read from an archive: L1b-RadF, L1b-RadC, L2-MCMIPC ...")]
SatpyReader = Annotated[
    str | None,
    scans(
        help="Read the files of another imager (Himawari, GK-2A) with this satpy reader, or auto. Needs the extra "
        "'satpy'."
    ),
]
