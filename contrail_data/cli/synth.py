"""Commands that write synthetic input data: `synth` and `synth-scans`."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import options
from contrail_data.errors import ContrailError


class SceneryName(StrEnum):
    """Keys of `contrail_data.synthetic.records.SCENERIES`."""

    CLEAR = "clear"
    FAINT = "faint"
    MOVING = "moving"


class RecordFormat(StrEnum):
    """How records are written."""

    RECORDS = "records"
    TFRECORDS = "tfrecords"


Folder = Annotated[
    Path, typer.Argument(help="Folder to write the files into.", metavar="FOLDER", parser=options.local_path)
]
Bands = Annotated[str, typer.Option(help="ABI bands, comma-separated numbers from 8 to 16.")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Seed of the random numbers; the same seed gives the same files.")
]
Scenery = Annotated[
    SceneryName,
    typer.Option(
        help="clear: a small model learns it in minutes. faint: as hard as real data, with lookalikes that only motion "
        "distinguishes from contrails. moving: clear contrails in a strong wind, and as many or more lines of the "
        "same colour that stand still."
    ),
]


def synth(
    out: Folder,
    records: Annotated[
        int, typer.Option(min=2, max=1_000_000, help="Number of records, train and validation together.")
    ] = 400,
    seed: Seed = 0,
    validation: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Fraction of the records that becomes the validation split.")
    ] = 0.2,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Rows and columns of a record, in pixels.")] = 256,
    bands: Bands = "11,14,15",
    label_shift: Annotated[
        tuple[float, float],
        typer.Option(
            help="Pixels (down, right) by which labels are shifted against the image; OpenContrails: 0.5 0.5."
        ),
    ] = (0.5, 0.5),
    scenery: Scenery = SceneryName.CLEAR,
    record_format: Annotated[
        RecordFormat,
        typer.Option(
            "--format",
            help="records: folders of .npy files, as on Kaggle. tfrecord: TFRecords, as OpenContrails is published; "
            "they have masks of single contrails, too.",
        ),
    ] = RecordFormat.RECORDS,
    workers: options.Workers = options.CORES,
) -> None:
    """Write synthetic records in a layout of OpenContrails.

    They are physically plausible, for trying things out and for tests; a score reached on them says nothing about real
    contrails.
    """
    from contrail_data.storage.files import check_folder

    band_numbers = _parse_bands(bands)
    check_folder(out)

    from contrail_data.progress import progress
    from contrail_data.synthetic.records import write_records

    with progress("synth", records, unit="records") as advance:
        counts = write_records(
            out,
            records,
            seed=seed,
            validation_fraction=validation,
            size=size,
            bands=band_numbers,
            label_shift=label_shift,
            scenery=scenery.value,
            as_tfrecords=record_format is RecordFormat.TFRECORDS,
            advance=advance,
            workers=workers,
        )
    print(f"{out}: synthetic records, {', '.join(f'{n} {split}' for split, n in counts.items())}")


def synth_scans(
    out: Folder,
    start: Annotated[
        datetime, options.time(help="Time of the first scan, UTC.", show_default="2024-03-01T12:00")
    ] = datetime(2024, 3, 1, 12),
    scans: Annotated[int, typer.Option(min=1, max=8, help="Number of scans, 10 minutes apart.")] = 8,
    seed: Seed = 0,
    satellite: Annotated[int, typer.Option(min=16, max=19, help="GOES-16 to GOES-19.")] = 16,
    product: Annotated[str, typer.Option(help="L1b, CMIP or MCMIP.")] = "L1b",
    bands: Bands = "11,14,15",
    scenery: Scenery = SceneryName.CLEAR,
) -> None:
    """Write synthetic satellite scans as the ABI files that NOAA publishes.

    They show a mesoscale sector of 500 x 500 pixels of 2 km, for trying out build-ash and
    "contrail-train predict-scans".
    """
    from contrail_data.storage.files import check_folder

    band_numbers = _parse_bands(bands)
    check_folder(out)

    from numpy import datetime64

    from contrail_data.synthetic.abi import write_abi

    files = write_abi(
        out,
        datetime64(start),
        scans=scans,
        seed=seed,
        satellite=satellite,
        product=product,
        bands=band_numbers,
        scenery=scenery.value,
    )
    print(f"{out}: {len(files)} synthetic files of {scans} scans")


def _parse_bands(text: str) -> list[int]:
    try:
        return [int(band) for band in text.split(",")]
    except ValueError:
        raise ContrailError(f"--bands {text!r}: not a list of numbers; give for example 11,14,15") from None
