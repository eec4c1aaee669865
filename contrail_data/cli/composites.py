"""Commands of `contrail-data composites`: what bands and composites show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import add_command, new_group, print_fields, print_note, print_table, refuse_options
from contrail_data.cli.examples import EXAMPLES
from contrail_data.errors import ContrailError
from contrail_data.reports.choices import Theme

if TYPE_CHECKING:
    from contrail_data.composites import Composite


def list_composites(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=options.local_path,
            help="YAML files with composites of your own, or folders of such files.",
            metavar="[FILE]",
            show_default="the working folder",
        ),
    ] = None,
) -> None:
    """List the bands, the composites that come with the package, and your own."""
    from contrail_data.bands import BANDS
    from contrail_data.composites import COMPOSITES

    bands = [[f"b{band.number:02d}", f"{band.wavelength:.1f}", band.name, band.sees] for band in BANDS.values()]
    print_table("Bands: numbers and wavelengths of ABI", ["band", "micrometres", "name", "sees"], bands, (0, 2, 3))
    rows = [_row(name, composite) for name, composite in COMPOSITES.items()]
    rows += [_row(str(file), composite) for file, composite in _own(files or [])]
    header = ["composite", "channels", "bands", "stored as", "reference"]
    print_table("Composites: `composites show NAME` gives channels and bounds", header, rows, (0, 1, 2, 3, 4))


def show(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A composite, a .yaml file with one, or several joined by +.", metavar="NAME|FILE")
    ],
    picture: Annotated[
        Path | None, options.local_output("--picture", help="PNG to draw the composite of a scan to; needs --scan.")
    ] = None,
    scan: Annotated[
        str | None,
        typer.Option(
            help="A scan to draw: a folder or glob of files of ABI or of another imager. Of several scans the first is "
            "drawn.",
            metavar="SCAN",
        ),
    ] = None,
    reader: options.SatpyReader = None,
    theme: options.PictureTheme = Theme.DARK,
    overwrite: options.OverwriteFile = False,
) -> None:
    """Explain a composite: its channels, their bounds in kelvin, and what they and their bands see."""
    from contrail_data.bands import BANDS, DIFFERENCES
    from contrail_data.composites import get_composite
    from contrail_data.scans.abi_files import local_paths
    from contrail_data.scans.find import check_scans
    from contrail_data.scans.satpy_files import readers_of
    from contrail_data.storage.files import check_new

    composite = get_composite(name)
    if picture is None:
        refuse_options(context, ("scan", "reader", "theme", "overwrite"), "without --picture")
    else:
        check_new(picture, overwrite, ".png")
        if scan is None:
            raise ContrailError("--picture: needs a scan to draw; give one with --scan")
        scan = str(options.local_path(scan))
        if reader is None and readers_of(local_paths(scan)):
            reader = "auto"
        check_scans(scan, reader)

    from contrail_data.reports.composite_picture import difference_text

    fields = {"composite": composite.name, "reference": composite.reference or "none", "stored as": composite.dtype}
    print_fields(fields)
    rows, seen = [], []
    for channel in composite.channels:
        numbers, wavelengths = difference_text(channel)
        pair = (channel.band, channel.minus)
        rows.append([channel.name, numbers, wavelengths, f"{channel.low:g}", f"{channel.high:g}"])
        if channel.minus is not None and pair in DIFFERENCES:
            seen.append([numbers, wavelengths, DIFFERENCES[pair]])
    header = ["channel", "shows", "micrometres", "K at 0", "K at 1"]
    print_table("", header, rows, (0, 1, 2))
    seen += [[f"b{n:02d}", f"{BANDS[n].wavelength:.1f}", f"{BANDS[n].name}: {BANDS[n].sees}"] for n in composite.bands]
    print_table("", ["", "micrometres", "sees"], seen, (0, 1, 2))
    if picture is not None and scan is not None:
        _draw(composite, scan, reader, picture, theme)


def _draw(composite: Composite, where: str, reader: str | None, picture: Path, theme: Theme) -> None:
    from contrail_data.reports.composite_picture import composite_picture
    from contrail_data.reports.figures import encode_png
    from contrail_data.scans.listing import list_abi_scans, list_satpy_scans
    from contrail_data.storage.files import write_atomically

    if reader is None:
        listing = list_abi_scans(where, composite.bands)
    else:
        listing = list_satpy_scans(where, reader, composite.bands)
    print_note(*listing.notes, *listing.problems)
    if len(listing.scans) > 1:
        print_note(f"{where}: holds {len(listing.scans)} scans, of which the first is drawn")
    drawn = composite_picture(listing.scans[0].open(), composite, theme)
    write_atomically(picture, [encode_png(drawn)])
    print(picture)


def _row(name: str, composite: Composite) -> list[str]:
    channels = composite.channel_names
    shown = ", ".join(channels) if len(channels) <= 4 else f"{len(channels)}: {channels[0]} ... {channels[-1]}"
    bands = ", ".join(map(str, composite.bands)) if len(composite.bands) <= 4 else f"{len(composite.bands)} bands"
    return [name, shown, bands, composite.dtype, composite.reference]


def _own(files: list[Path]) -> list[tuple[Path, Composite]]:
    """Read composites of the user; of a folder, the YAML files that look like one."""
    from contrail_data.composites import get_composite
    from contrail_data.storage.documents import read_document

    composites = []
    for given in files or [Path()]:
        for file in sorted(given.glob("*.y*ml")) if given.is_dir() else [given]:
            try:
                declaration = read_document(file)
                if file is given or (isinstance(declaration, dict) and "channels" in declaration):
                    composites.append((file, get_composite(str(file))))
            except ContrailError as error:
                if file is given:
                    raise
                print_note(str(error))
    return composites


app = new_group("Explain bands and composites.")
add_command(app, list_composites, name="ls", examples=EXAMPLES["composites ls"])
add_command(app, show, examples=EXAMPLES["composites show"])
