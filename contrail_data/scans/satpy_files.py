"""Files of AHI, AMI, FCI, SEVIRI and other imagers that satpy reads: which imager, band and scan."""

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from contrail_data.errors import ContrailError
from contrail_data.storage.files import first_line

INFRARED = range(8, 17)
"""ABI bands from 6 to 14 micrometres."""
_AMI_CHANNELS = ("wv063", "wv069", "wv073", "ir087", "ir096", "ir105", "ir112", "ir123", "ir133")
CHANNELS = dict(zip(_AMI_CHANNELS, INFRARED, strict=True)) | {f"{band:02d}": band for band in INFRARED}
"""ABI bands of the channels in the names of files: 14 for AHI's "14" and AMI's "ir112"."""
NAMES = {
    "ahi_hsd": re.compile(r"HS_H\d\d_\d{8}_\d{4}_B(?P<channel>\d\d)_\w{4}_R\d\d_S\d{4}\.DAT(\.bz2)?"),
    "ami_l1b": re.compile(r"gk2[a-z]_ami_le1b_(?P<channel>[a-z]{2}\d{3})_[a-z]{2}\w*_\d{12}\.nc"),
    "fci_l1c_nc": re.compile(
        r"W_XX-EUMETSAT-\w+,IMG\+SAT,(?P<satellite>MTI\d)\+FCI-1C-RRAD-FDHSI-(?P<coverage>\w\w)-.*-BODY-.*"
        r"_(?P<day>\d{8})\d{6}_\d{14}_\w_\w*_\w_(?P<cycle>\d{4})_(?P<chunk>\d{4})\.nc"
    ),
    "seviri_l1b_native": re.compile(r"MSG\d-SEVI-MSG15-\w{4}-NA-\d{14}\.\d+Z(-.+)?(\.nat)?"),
}
"""Names of files by the reader that they show. A file without a channel in its name holds all bands."""
_FORMER_READERS = ("fci_l1c_fdhsi", "viirs_l2_cloud_mask_nc")
"""Names that satpy still takes for readers of other names."""
IMAGERS = "AHI HSD, AMI L1b, FCI L1c or SEVIRI native"


def readers_of(paths: Iterable[str | Path]) -> list[str]:
    """Recognise imagers by the names of their files.

    Args:
        paths: The files; those of other names are ignored.

    Returns:
        satpy's names of the readers, some of `NAMES`.
    """
    names = [os.path.basename(path) for path in paths]
    return [reader for reader, pattern in NAMES.items() if any(map(pattern.fullmatch, names))]


def reader_for(paths: Iterable[str | Path], where: str) -> str:
    """Choose the reader of files by their names.

    Args:
        paths: The files.
        where: What they were found in, for messages.

    Returns:
        satpy's name of the reader.

    Raises:
        ContrailError: If the files are of no known imager, or of several.
    """
    readers = readers_of(paths)
    if not readers:
        raise ContrailError(f"{where}: contains no files named like {IMAGERS} ones; name satpy's reader")
    if len(readers) > 1:
        raise ContrailError(f"{where}: files of several imagers ({', '.join(readers)}); choose those of one")
    return readers[0]


def check_reader(reader: str) -> None:
    """Check that files can be read with a reader; satpy, which imports slowly, is only looked for.

    Args:
        reader: satpy's name of the reader.

    Raises:
        ContrailError: If satpy is not installed, or has no such reader.
    """
    for module in ("satpy", "pyspectral") if reader == "ami_l1b" else ("satpy",):
        if find_spec(module) is None:
            remedy = "run pip install '.[satpy]' in the checkout"
            raise ContrailError(f"{module}: not installed, but needed to read these files; {remedy}")
    satpy = find_spec("satpy")
    folders = [Path(folder) / "etc" for folder in (satpy and satpy.submodule_search_locations) or ()]
    if not folders or "SATPY_CONFIG_PATH" in os.environ:
        return  # readers may come from anywhere
    names = sorted(path.stem for folder in folders for path in (folder / "readers").glob("*.yaml"))
    if reader not in (*names, *_FORMER_READERS):
        close = difflib.get_close_matches(reader, names, 1)
        hint = f"did you mean {close[0]}?" if close else "give auto, or a name that satpy.available_readers() lists"
        raise ContrailError(f"--reader {reader}: satpy has no such reader; {hint}")


def band_of_file(path: Path, reader: str) -> int | None:
    """Return the band that the name of a file states.

    Args:
        path: The file.
        reader: satpy's name of the reader.

    Returns:
        The ABI band; None if its name does not state an infrared one.
    """
    match = NAMES[reader].fullmatch(path.name) if reader in NAMES else None
    return CHANNELS.get(match.groupdict().get("channel", "")) if match else None


def group_files(paths: Iterable[Path], reader: str, bands: Sequence[int]) -> list[tuple[Path, ...]]:
    """Group files by scan, as the configuration of the reader distinguishes them.

    Args:
        paths: The files; of the readers in `NAMES`, those of other names or bands are left out.
        reader: satpy's name of the reader.
        bands: ABI bands.

    Returns:
        The files of each scan.

    Raises:
        ContrailError: If satpy is not installed or has no such reader, or the reader does not know the files.
    """
    check_reader(reader)
    from satpy.readers.core import grouping

    if reader == "fci_l1c_nc":
        _find_decompressor()
        return _group_chunks(paths)
    if reader in NAMES:
        chosen = [path for path in paths if _may_hold(path, reader, bands)]
        # satpy would take a file next to its compressed copy for another segment.
        paths = {path.name.removesuffix(".bz2"): path for path in sorted(chosen, key=lambda p: -len(p.name))}.values()
    paths = list(paths)
    try:
        groups = grouping.group_files([os.fspath(path) for path in paths], reader=reader) if paths else []
    except Exception as error:
        where = paths[0].parent
        raise ContrailError(
            f"{where}: not files of satpy's reader {reader} ({first_line(error)[:100]}); name another"
        ) from None
    return [tuple(sorted(map(Path, group[reader]))) for group in groups if group[reader]]


def _may_hold(path: Path, reader: str, bands: Sequence[int]) -> bool:
    """Return whether the name of a file is one of the reader, and does not state another band."""
    match = NAMES[reader].fullmatch(path.name)
    return match is not None and ("channel" not in match.groupdict() or band_of_file(path, reader) in bands)


def _find_decompressor() -> None:
    """Let netCDF4 find the decompressor of FCI's files (JPEG-LS), for which it looks when it is imported."""
    if find_spec("hdf5plugin"):
        import hdf5plugin

        folders = os.environ.get("HDF5_PLUGIN_PATH", "").split(":")
        os.environ["HDF5_PLUGIN_PATH"] = ":".join(dict.fromkeys(filter(None, (hdf5plugin.PLUGIN_PATH, *folders))))


def _group_chunks(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Group chunks of FCI by repeat cycle; satpy would take each for a scan. Of equal ones the latest counts."""
    scans: dict[tuple[str, ...], dict[str, Path]] = {}
    for path in sorted(paths, key=lambda path: path.name):
        if match := NAMES["fci_l1c_nc"].fullmatch(path.name):
            scan = tuple(match[key] for key in ("satellite", "coverage", "day", "cycle"))
            scans.setdefault(scan, {})[match["chunk"]] = path
    return [tuple(chunks.values()) for chunks in scans.values()]
