"""Single contrails as vector files and tables: GeoJSON, GeoParquet, GeoDataFrame, and a style for QGIS."""

import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.storage.files import write_atomically
from contrail_train.contrails.shapes import Contrail, geometries, to_features

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

STYLE = ".qml"
"""Suffix of a style that QGIS applies to the file of the same name."""
_COLUMNS = {
    "id": "int64",
    "time": "time",
    "satellite": "string",
    "length_km": "float64",
    "width_km": "float64",
    "orientation_deg": "float64",
    "confidence": "float64",
    "mean_probability": "float64",
    "max_probability": "float64",
    "pixels": "int64",
    "altitude_m": "float64",
    "track": "string",
    "speed_m_s": "float64",
    "heading_deg": "float64",
    "length_growth_km_h": "float64",
    "width_growth_km_h": "float64",
    "first_seen": "time",
    "last_seen": "time",
    "began": "string",
    "ended": "string",
    "split_from": "string",
    "merged_into": "string",
}
"""Columns of a table and their types: the same in every file, so that files can be read as one table."""


def provenance_of(scenes: Sequence[xr.Dataset]) -> dict[str, Any]:
    """State where the contrails of scenes come from.

    Args:
        scenes: Predicted scenes.

    Returns:
        Model, threshold, gate, composite, software, satellites and input files.
    """
    provenance = {key: scenes[0].attrs[key] for key in ("model", "threshold", "gate", "composite", "software")}
    provenance["platform"] = ", ".join(sorted({str(scene.attrs["platform"]) for scene in scenes}))
    provenance["inputs"] = sorted({name for scene in scenes for name in scene.attrs["inputs"]})
    return provenance


def geojson(traced: Sequence[Sequence[Contrail]], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Express contrails as one feature collection.

    Args:
        traced: Contrails of each time, in order of time.
        provenance: Where they come from.

    Returns:
        The centre line of each contrail of a time, then the outline of each, for each time, with the provenance.
        Features are numbered from 1, because GDAL takes the property `id`, which is not unique, where they are not.
    """
    features = (feature for image in traced for feature in to_features(image))
    numbered = [{**feature, "id": number} for number, feature in enumerate(features, 1)]
    return {"type": "FeatureCollection", "features": numbered, **provenance}


def to_geodataframe(traced: Sequence[Contrail], provenance: Mapping[str, Any] | None = None) -> "GeoDataFrame":
    """Express contrails as a table.

    Args:
        traced: The contrails.
        provenance: Where they come from.

    Returns:
        One row for each contrail: the properties as in GeoJSON, times as UTC, the centre line as `geometry`, and the
        outline as the column `outline`, both in WGS84. `attrs` holds the provenance.

    Raises:
        ContrailError: If geopandas is not installed.
    """
    geopandas = require_geopandas("a table of contrails")
    import pandas as pd

    lines, outlines = geometries(traced)
    table = pd.DataFrame({name: [contrail.properties.get(name) for contrail in traced] for name in _COLUMNS})
    for name, dtype in _COLUMNS.items():
        table[name] = (
            pd.to_datetime(table[name], utc=True).dt.as_unit("ms") if dtype == "time" else table[name].astype(dtype)
        )
    table["outline"] = geopandas.GeoSeries(outlines, crs="EPSG:4326")
    frame = geopandas.GeoDataFrame(table, geometry=geopandas.GeoSeries(lines, crs="EPSG:4326"))
    frame.attrs = dict(provenance or {})
    return frame


def write_geoparquet(traced: Sequence[Contrail], provenance: Mapping[str, Any], out: Path) -> None:
    """Write contrails as GeoParquet 1.1, with the table of `to_geodataframe`.

    Args:
        traced: The contrails.
        provenance: Where they come from.
        out: The file.
    """
    content = io.BytesIO()
    frame = to_geodataframe(traced, provenance)
    frame.to_parquet(content, index=False, schema_version="1.1.0", compression="zstd")
    write_atomically(out, [content.getvalue()])


def write_style(geojson_file: Path) -> Path:
    """Write a style beside a GeoJSON file, which QGIS applies when it opens the file.

    Args:
        geojson_file: The file.

    Returns:
        The style's file.
    """
    out = geojson_file.with_suffix(STYLE)
    write_atomically(out, [files(__package__).joinpath("contrails.qml").read_bytes()])
    return out


def require_geopandas(purpose: str) -> Any:
    """Import what writes tables of shapes.

    Args:
        purpose: What it is needed for, to begin the message with.

    Returns:
        The package geopandas.

    Raises:
        ContrailError: If geopandas or pyarrow is not installed.
    """
    try:
        import geopandas
        import pyarrow  # noqa: F401 - geopandas writes parquet with it
    except ImportError as error:
        raise ContrailError(
            f"{purpose}: {error.name} is not installed; run \"pip install '.[geo]'\" in the checkout of contrail"
        ) from None
    return geopandas
