"""Files of scans, recognised mostly by their names, so that a place without scans is refused before pixels are read."""

from pathlib import Path

from contrail_data.errors import ContrailError
from contrail_data.scans.abi_files import check_archive, describe, find_files, is_archive, local_paths
from contrail_data.scans.satpy_files import NAMES, check_reader, reader_for, readers_of


def check_scans(where: str, reader: str | None, product: str = "L1b-RadF", *, timed: bool = False) -> None:
    """Refuse a place that does not hold scans, as far as that can be said without a request.

    Args:
        where: A folder, glob, URL or archive of ABI files, or a folder or glob of files that satpy reads.
        reader: Name of satpy's reader, or `auto`; None for ABI files.
        product: Which product of an archive, see `find_files`.
        timed: Whether times are given, at which an archive is searched.
    """
    if reader is not None:
        satpy_paths(where, reader)
    elif is_archive(where):
        check_archive(where, product, timed=timed)
    elif not timed or not any(map(describe, local_paths(where))):  # files of several kinds may be of other times
        find_files(where)


def satpy_paths(where: str, reader: str) -> tuple[list[Path], str]:
    """Find the files that a satpy reader is to read.

    Args:
        where: A folder (searched recursively) or a glob.
        reader: Name of satpy's reader, or `auto` to recognise it by the names of the files.

    Returns:
        The files, sorted, and the name of the reader.

    Raises:
        ContrailError: If there are none, they are of no known imager or of several, or satpy has no such reader or is
            not installed.
    """
    paths = [Path(path) for path in sorted(local_paths(where))]
    if not paths:
        raise ContrailError(f"{where}: contains no files; check the path")
    if reader == "auto":
        reader = reader_for(paths, where)
    check_reader(reader)
    if reader in NAMES and reader not in readers_of(paths):
        raise ContrailError(f"{where}: contains no files named like those of {reader}; check the path and --reader")
    return paths, reader
