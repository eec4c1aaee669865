"""Raw data that a recipe names: a strict schema for each kind, and how it is opened as a source of samples."""

from abc import abstractmethod
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema
from typing_extensions import override

from contrail_data.geo.areas import eastward
from contrail_data.scans.abi_files import is_archive
from contrail_data.settings.fields import Takes
from contrail_data.settings.strict import Strict, needs
from contrail_data.settings.times import EXAMPLE, utc_time
from contrail_data.sources.base import InputFormat, Source
from contrail_data.sources.drawn_labels import LabelRequest
from contrail_data.sources.kept_frames import check_frames, keep_frames
from contrail_data.sources.metadata import read_complete_metadata
from contrail_data.sources.open import open_source
from contrail_data.sources.scan_tiles import TileRequest
from contrail_data.sources.scans import open_scan_source
from contrail_data.storage.place import local_path, place_of
from contrail_data.store.settings import StoreSettings


def _time(value: Any) -> Any:
    """Read a time as YAML gives it, text or what YAML takes for a date or a time; or as NumPy does."""
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    return utc_time(value) if isinstance(value, str | date) else value


Time = Annotated[
    datetime,
    BeforeValidator(_time),
    PlainSerializer(datetime.isoformat, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?$"}),
    Takes(f"a time in UTC, as in {EXAMPLE}"),
]


def _to_180(longitude: float) -> float:
    """Return a longitude of -180 to 180; those are left as they are."""
    return longitude if abs(longitude) <= 180 else (longitude + 180) % 360 - 180


Latitude = Annotated[float, Field(ge=-90, le=90)]
Longitude = Annotated[float, Field(ge=-360, le=360)]
Degrees = tuple[Latitude, Longitude]
LabelArea = tuple[Latitude, Longitude, Latitude, Longitude]
Frames = Annotated[int, Field(ge=0, le=7)]


class Input(Strict):
    """Raw data of one kind in one place."""

    kind: str
    """What lies there."""
    path: str = Field(min_length=1)
    """Where it lies."""
    split: str = Field("train", min_length=1)
    """Split that the samples are filed under. Of records, also the folder that is read."""

    @abstractmethod
    def open(self, settings: StoreSettings) -> Source:
        """Open the data as a source.

        Args:
            settings: Those of the store: its composite decides which bands are read.

        Returns:
            The source.

        Raises:
            ContrailError: If the data cannot be found or used.
        """

    @property
    def draws_labels(self) -> bool:
        """Whether labels are drawn on the pixels of the image, instead of coming with the data."""
        return False

    def located(self) -> Self:
        """Name the same data by an address that holds in any working folder.

        Returns:
            The input with absolute paths.
        """
        return self.model_copy(update={"path": _absolute(self.path)})


class LabelledInput(Input):
    """Records of several frames, of which one is labelled."""

    frames: list[Annotated[int, Field(ge=-7, le=7)]] | None = Field(None, min_length=1)
    """Frames to keep, relative to the labelled one: 0 and its neighbours, without a gap. null: all of them."""

    def _check_combination(self) -> None:
        if self.frames is not None:
            check_frames(self.frames)


class RecordsInput(LabelledInput):
    """OpenContrails records: a folder with `train`, `validation` or `test`, whose folders hold `band_XX.npy`."""

    kind: Literal["records"]

    @override
    def open(self, settings: StoreSettings) -> Source:
        source = open_source(local_path(self.path), self.split, settings.composite, InputFormat.RECORDS)
        return keep_frames(source, self.frames)


class TfRecordsInput(LabelledInput):
    """OpenContrails records in TFRecords: a folder, a file, a glob, or a URL (`gs://`, `s3://`, `https://`)."""

    kind: Literal["tfrecords"]

    @override
    def open(self, settings: StoreSettings) -> Source:
        source = open_source(self.path, self.split, settings.composite, InputFormat.TFRECORDS)
        return keep_frames(source, self.frames)


class FramesInput(Input):
    """Ready-made frames of ash RGB, a `*.npy` each, with the mask as last channel."""

    kind: Literal["frames"]

    @override
    def open(self, settings: StoreSettings) -> Source:
        return open_source(local_path(self.path), self.split, settings.composite, InputFormat.FRAMES)


class ScanInput(Input):
    """Scans of a geostationary satellite, and the tiles to cut from them: at all times, all places."""

    time: list[Time] = Field(default_factory=list)
    """Times of the samples' reference frames. Empty: the scans' own times, `every` minutes apart."""
    every: int = Field(20, ge=1, le=10_080)
    """Minutes between samples."""
    at: list[Annotated[Degrees, Field(strict=False)]] = Field(default_factory=list)
    """Centres of the tiles, latitude and longitude in degrees. Empty: the site lattice of OpenContrails."""
    like: str | None = None
    """A metadata file such as train_metadata.json: the tiles, times and ids of its entries are cut."""
    pixel: float | None = Field(None, ge=100, le=20_000)
    """Side of a tile's pixel in metres. null: a tile is 500 km wide, whatever its `size`."""
    native: bool = False
    """Cut windows of the satellite's own grid instead of resampling to UTM."""
    before: Frames = 4
    """Frames before the reference frame, 10 minutes apart."""
    after: Frames = 3
    """Frames after the reference frame, 10 minutes apart."""
    tolerance: float = Field(5.0, ge=0, le=720)
    """Maximum time between a frame and the start of its scan, in minutes."""

    labels: list[str] = Field(default_factory=list)
    """Files of contrails drawn on the scans (.geojson, .gpkg, .tif, .nc). Their times are those of the samples."""
    label_area: Literal["scan"] | Annotated[LabelArea, Field(strict=False)] | None = None
    """What was looked at for labels: scan (all of each labelled scan), or south, west, north and east in degrees, west
    above east if it crosses 180 degrees. null: the areas that the files state."""
    line_width: str | None = None
    """Width of lines that state none: 4km, or 2px in pixels of a tile. null: 4km."""

    @property
    @override
    def draws_labels(self) -> bool:
        return bool(self.labels)

    def _check_combination(self) -> None:
        needs(self.like is None, "like=null", self, "time every at pixel native")
        needs(not self.time, "time=[]", self, "every")
        needs(not self.labels, "labels=[], which have the times", self, "every")
        needs(not self.native, "native=false", self, "pixel")
        needs(bool(self.labels), "labels", self, "label_area line_width")
        if isinstance(self.label_area, tuple):
            try:
                eastward(self.label_area)
            except ValueError as error:
                raise ValueError(f"label_area: {error}") from None

    @override
    def located(self) -> Self:
        like = None if self.like is None else _absolute(self.like)
        labels = [_absolute(file) for file in self.labels]
        return super().located().model_copy(update={"like": like, "labels": labels})

    def request(self, size: int) -> TileRequest:
        """State which samples to cut.

        Args:
            size: Rows and columns of a tile.

        Returns:
            The request.

        Raises:
            ContrailError: If the metadata file states no tile.
        """
        return TileRequest(
            times=[np.datetime64(time) for time in self.time],
            every=self.every,
            places=[(latitude, _to_180(longitude)) for latitude, longitude in self.at],
            records=() if self.like is None else read_complete_metadata(local_path(self.like)),
            size=size,
            pixel=self.pixel,
            native=self.native,
            before=self.before,
            after=self.after,
            tolerance=self.tolerance,
        )

    def drawn(self, shift: tuple[float, float]) -> LabelRequest | None:
        """State which labels to draw on the tiles.

        Args:
            shift: Pixels down and right by which they are drawn off the image.

        Returns:
            The request; None if no labels were drawn on the scans.
        """
        if not self.labels:
            return None
        return LabelRequest(
            files=[local_path(file) for file in self.labels],
            line_width=self.line_width,
            whole_scans=self.label_area == "scan",
            area=self.label_area if isinstance(self.label_area, tuple) else None,
            shift=shift,
        )


class AbiInput(ScanInput):
    """Files of GOES-R's ABI.

    A folder, a glob, an archive by name (goes-east, goes-west, goes16 ...) or a bucket (s3://noaa-goes16).
    """

    kind: Literal["abi"]
    since: Time | None = None
    """Time of the first scan. Archives need it and `until`, unless times are given."""
    until: Time | None = None
    """Time of the last scan."""
    product: str = "L1b-RadF"
    """Product to read from an archive: L1b-RadF, L1b-RadC, L2-MCMIPC ..."""
    quality: list[Annotated[int, Field(ge=0, le=4)]] = Field(default_factory=lambda: [0, 1], min_length=1)
    """Data quality flags of the pixels to accept, from 0 (good) to 4."""

    def _check_combination(self) -> None:
        super()._check_combination()
        needs(is_archive(self.path), "an archive as path", self, "product")
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError(f"until: {self.until} is before since: {self.since}; correct one")

    @override
    def open(self, settings: StoreSettings) -> Source:
        since, until = (None if limit is None else np.datetime64(limit) for limit in (self.since, self.until))
        return open_scan_source(
            self.path,
            self.request(settings.size),
            settings.composite,
            self.split,
            since=since,
            until=until,
            product=self.product,
            good=self.quality,
            labels=self.drawn(settings.label_shift),
        )


class SatpyInput(ScanInput):
    """Files of another imager (Himawari, GK-2A, MTG, MSG), read through satpy: a folder or a glob."""

    kind: Literal["satpy"]
    reader: str = Field("auto", min_length=1)
    """Name of satpy's reader. auto: recognised by the names of the files."""

    @override
    def open(self, settings: StoreSettings) -> Source:
        request, labels = self.request(settings.size), self.drawn(settings.label_shift)
        return open_scan_source(self.path, request, settings.composite, self.split, reader=self.reader, labels=labels)


AnyInput = Annotated[RecordsInput | TfRecordsInput | FramesInput | AbiInput | SatpyInput, Field(discriminator="kind")]
"""Raw data of any kind. A further kind is a schema like the ones above, and a member of this union."""


def _absolute(address: str) -> str:
    """Return a URL or the name of an archive as it is, and a path from the root of the disk."""
    return address if is_archive(address) else str(Path(place_of(address).url).resolve())
