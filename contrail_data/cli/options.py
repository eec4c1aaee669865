"""Options that several commands share, and the panels of `--help` that list them."""

import os
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from contrail_data.geo.areas import Area, eastward
from contrail_data.labels.predictor import Symmetries, check_device, check_min_pixels
from contrail_data.reports.choices import Theme
from contrail_data.settings.times import utc_time

CORES = os.cpu_count() or 1


def _time(value: str | datetime) -> datetime:
    try:
        return utc_time(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


time = partial(typer.Option, parser=_time, metavar="TIME")
"""An option that takes a time, UTC unless it states an offset."""


def _checked_area(area: Area | None) -> Area | None:
    if area is not None:
        try:
            eastward(area)
        except ValueError as error:
            raise typer.BadParameter(f"{' '.join(f'{limit:g}' for limit in area)}: {error}") from None
    return area


area = partial(typer.Option, callback=_checked_area)
"""An option that takes an area."""


def local_path(text: str | Path) -> Path:
    """Parse the path of something that is not a store, and so lies on a local disk.

    Args:
        text: A path, or a URL file:///...

    Returns:
        The path.

    Raises:
        UsageError: If it is another URL.
    """
    from contrail_data.storage import place

    return place.local_path(text)


def store_address(text: str) -> str:
    """Parse the address of a store, which is refused before xarray is imported if no intact store lies there.

    Args:
        text: Path, URL or catalog name.

    Returns:
        The address.
    """
    from contrail_data.catalog.stores import check_store

    return check_store(text)


def samples_address(text: str) -> str:
    """Parse the address of a store of samples, as `store_address` does.

    Args:
        text: Path, URL or catalog name.

    Returns:
        The address.
    """
    from contrail_data.catalog.stores import read_header
    from contrail_data.store.schema import require_samples

    if (header := read_header(text)) is not None:
        require_samples(header)
    return text


def store_target(text: str) -> str:
    """Parse the address of a store to write, which is refused before the work if something else lies there.

    Args:
        text: Path or URL.

    Returns:
        The address.
    """
    from contrail_data.storage.place import place_of
    from contrail_data.store.journal import check_place

    if not (place := place_of(text)).remote:
        check_place(place)
    return text


# Options that `--help` lists in a panel of their own.
output = partial(typer.Option, rich_help_panel="Output")
local_output = partial(output, parser=local_path, metavar="PATH")
"""An option that names a local file or folder to write."""
selection = partial(typer.Option, rich_help_panel="Selection")
execution = partial(typer.Option, rich_help_panel="Execution")
scans = partial(typer.Option, rich_help_panel="Scans")
labels = partial(typer.Option, rich_help_panel="Labels drawn on scans")
cleaning = partial(typer.Option, rich_help_panel="Cleaning of masks")
contrails = partial(typer.Option, rich_help_panel="Single contrails")
scan_time = partial(time, rich_help_panel="Scans")

STORE_HELP = "A store: a path, a URL or a name in data_catalog.yaml."
store_argument = partial(typer.Argument, parser=store_address)
Store = Annotated[str, store_argument(help=STORE_HELP, metavar="STORE")]
Stores = Annotated[list[str], store_argument(help="Stores: paths, URLs or catalog names.", metavar="STORE")]
Samples = Annotated[str, typer.Argument(parser=samples_address, help=STORE_HELP, metavar="STORE")]
SamplesOfStores = Annotated[
    list[str], typer.Argument(parser=samples_address, help="Stores: paths, URLs or catalog names.", metavar="STORE")
]
Out = Annotated[
    str,
    output("-o", "--out", parser=store_target, metavar="TEXT", help="The store to write: a path or a URL (s3://...)."),
]
Overwrite = Annotated[bool, output("--overwrite", help="Replace the store, or the unfinished build, at --out.")]
OverwriteFile = Annotated[bool, output("--overwrite", help="Replace an existing file.")]
AsJson = Annotated[bool, output("--json", help="Print JSON instead of text.")]
Workers = Annotated[
    int,
    execution(
        min=1, max=1024, help="Number of parallel workers (threads or processes).", show_default="number of cores"
    ),
]
Scheduler = Annotated[
    str, execution(help="threads, processes, or tcp://host:8786 of a dask cluster that sees the same files.")
]
Strict = Annotated[bool, execution("--strict", help="Stop at the first bad record instead of setting it aside.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting; the value is YAML. Repeatable.", metavar="KEY=VALUE"),
]
Device = Annotated[
    str, execution(parser=check_device, metavar="TEXT", help="auto (CUDA if available), cpu, cuda, cuda:1 ...")
]
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
MinPixels = Annotated[
    str,
    cleaning(
        parser=check_min_pixels,
        help="Remove regions of fewer pixels. fit: the size fitted on the hold-out.",
        metavar="PIXELS|fit",
    ),
]
Hysteresis = Annotated[
    float | None, cleaning(min=0, max=1, help="Let regions grow to connected pixels of at least this probability.")
]
Consistent = Annotated[
    int | None,
    cleaning(
        min=1,
        max=1000,
        help="Remove regions without a contrail within this many pixels at the time or frame before or after, at most "
        "20 minutes away.",
    ),
]
FillGaps = Annotated[
    float | None,
    cleaning(
        min=0,
        max=1,
        help="With --consistent: add pixels of at least this probability between two times with a contrail.",
    ),
]
Elongation = Annotated[
    float | None, cleaning(min=1, max=1000, help="Remove regions with a smaller ratio of length to width.")
]
CLEANING = ("min_pixels", "hysteresis", "consistent", "fill_gaps", "elongation")
"""Names of the options that clean masks."""
INSTANCES_HELP = "Separate single contrails, also where they cross, touch or are broken, each with a confidence."
Instances = Annotated[bool, cleaning("--instances", help=INSTANCES_HELP)]
PictureTheme = Annotated[Theme, output("--theme", help="Colours around the images of a picture: dark or light.")]
Product = Annotated[str, scans(help="Product to read from an archive: L1b-RadF, L1b-RadC, L2-MCMIPC ...")]
SatpyReader = Annotated[
    str | None,
    scans(
        help="Read the files of another imager (Himawari, GK-2A, MTG, MSG) with this satpy reader, or auto. Needs the "
        "extra 'satpy'."
    ),
]
