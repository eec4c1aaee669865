"""Opens records, TFRecords and ash frames as a source."""

from pathlib import Path

from contrail_data.composites import Composite
from contrail_data.errors import UsageError
from contrail_data.sample import check_record_id
from contrail_data.sources.base import InputFormat, Source
from contrail_data.sources.recognise import find_format
from contrail_data.sources.records import open_frames, open_records
from contrail_data.sources.tfrecords import open_tfrecords
from contrail_data.storage.place import place_of


def open_source(
    root: str | Path, split: str, composite: Composite, input_format: InputFormat = InputFormat.AUTO
) -> Source:
    """Open OpenContrails records, as folders or as TFRecords, or ash frames.

    Args:
        root: A folder with subfolders `train`, `validation` or `test` (records), with `*.npy` (ash frames), or with
            TFRecord files. Of the latter also a file, a glob or a URL.
        split: Which split of the records to open; frames are filed under it.
        composite: The composite to build, which decides which bands are read.
        input_format: RECORDS, TFRECORDS or FRAMES; AUTO looks at what lies there.

    Returns:
        The source.

    Raises:
        UsageError: If the folder holds scans.
    """
    check_record_id(split)
    input_format = find_format(str(root), split, input_format)
    if input_format is InputFormat.ABI:
        raise UsageError(f"{root}: holds scans, not records; build them with contrail-data build-ash, then merge")
    if input_format is InputFormat.TFRECORDS:
        return open_tfrecords(str(root), split, composite)
    open_folder = open_frames if input_format is InputFormat.FRAMES else open_records
    return open_folder(place_of(root).path, split, composite)
