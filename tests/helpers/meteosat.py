"""Small files of Meteosat's imagers in their own formats: FCI level 1c (NetCDF) and SEVIRI level 1.5 (native)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

FCI_SIDE, SEVIRI_SIDE = 5568, 3712
"""Rows and columns of a full disk."""
FCI_ROWS = (3740, 3879, 4018)
"""First rows of two chunks of FCI, counted from the south, and the end of the second one."""
SEVIRI_SCAN = ("2024-03-01T12:00:10", "2024-03-01T12:12:40")
SEVIRI_RECTANGLE = {"South": 2950, "North": 3109, "East": 1750, "West": 1951}
"""Lines from the south and columns from the east, both ends included; 202 columns, which the format pads to 204."""
_FCI_WAVENUMBERS = {"ir_87": 1146.9, "ir_105": 952.8, "ir_123": 813.8}  # 1/cm
_FCI_SCALES = {"ir_87": 0.02, "ir_105": 0.04, "ir_123": 0.05}
_FCI_CHANNELS = (
    *("vis_04", "vis_05", "vis_06", "vis_08", "vis_09", "nir_13", "nir_16", "nir_22"),
    *("ir_38", "wv_63", "wv_73", "ir_87", "ir_97", "ir_105", "ir_123", "ir_133"),
)
_C1, _C2 = 1.1910429e-5, 1.4387752  # mW m-2 sr-1 (cm-1)-4 and K cm
_SEVIRI_CHANNELS = ("VIS006", "VIS008", "IR_016", "IR_039", "WV_062", "WV_073", "IR_087", "IR_097", "IR_108", "IR_120")
_SLOPE, _OFFSET = 0.2, -10.2


def kelvin(rows: np.ndarray, columns: np.ndarray, micrometres: float) -> np.ndarray:
    """Brightness temperature of made-up scenery with lines that are colder at 12 µm, for places in pixels."""
    smooth = 285 + 6 * np.sin(rows / 31) * np.cos(columns / 47) - (micrometres - 8.7) * 0.4
    is_line = np.abs((columns + rows) % 60 - 30) < 2
    return smooth - np.where(is_line, {8.7: 3.0, 10.5: 4.0, 10.8: 4.0, 12.3: 6.0, 12.0: 6.0}[micrometres], 0.0)


def fci_kelvin(channel: str, first: int, last: int) -> np.ndarray:
    """What `write_fci` writes to rows from the south and columns from the west, (last - first, 5568)."""
    micrometres = {"ir_87": 8.7, "ir_105": 10.5, "ir_123": 12.3}[channel]
    return kelvin(np.arange(first, last)[:, np.newaxis], np.arange(FCI_SIDE)[np.newaxis], micrometres)


def write_fci(folder: Path) -> list[Path]:
    """Write two of the forty chunks of a full disk, as IDPF-I disseminates them, but compressed by zlib."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (first, end) in enumerate(itertools.pairwise(FCI_ROWS), 27):
        start = np.datetime64("2024-03-01T12:06:00") + np.timedelta64(15 * (number - 27), "s")
        stamps = [str(time).replace("-", "").replace(":", "").replace("T", "") for time in (start, start + 14)]
        path = folder / (
            "W_XX-EUMETSAT-Darmstadt,IMG+SAT,MTI1+FCI-1C-RRAD-FDHSI-FD--CHK-BODY--DIS-NC4E_C_EUMT_20240301121000_"
            f"IDPFI_OPE_{stamps[0]}_{stamps[1]}_N_JLS_O_0073_{number:04d}.nc"
        )
        _write_chunk(path, first, end)
        paths.append(path)
    return paths


def _write_chunk(path: Path, first: int, end: int) -> None:
    import netCDF4

    with netCDF4.Dataset(path, "w") as file:
        file.platform = "MTI1"
        file.createDimension("index", 8)
        file.createVariable("index", "u2", ("index",))[:] = np.arange(1, 9)
        file.createVariable("time", "f8", ("index",))[:] = np.full(8, 762_609_960.0)
        data = file.createGroup("data")
        projection = data.createVariable("mtg_geos_projection", "i4")
        projection.setncatts({
            "grid_mapping_name": "geostationary", "semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563,
            "perspective_point_height": 35786400.0, "longitude_of_projection_origin": 0.0, "sweep_angle_axis": "y",
        })  # fmt: skip
        for name in ("swath_number", "swath_direction"):
            data.createVariable(name, "u1", ("index",))[:] = 1
        platform, celestial = file.createGroup("state/platform"), file.createGroup("state/celestial")
        for group, name, value in (
            *((platform, name, value) for name, value in _PLATFORM.items()),
            *((celestial, name, value) for name, value in _CELESTIAL.items()),
        ):
            group.createVariable(name, "f4", ("index",))[:] = value
        for channel in _FCI_CHANNELS:
            _write_channel(data.createGroup(f"{channel}/measured"), channel, first, end)


def _write_channel(group: Any, channel: str, first: int, end: int) -> None:
    """Write a channel of a chunk; those without a temperature are empty."""
    fine = 2 if channel[:3] in ("vis", "nir") else 1  # 1 km
    first_row, rows, side = fine * (first - 1) + 1, fine * (end - first), fine * FCI_SIDE
    step = 5.58878e-5 / fine  # radians, as in the product user guide
    group.createDimension("y", rows)
    group.createDimension("x", side)
    for name, row in (("start_position_row", first_row), ("end_position_row", first_row + rows - 1)):
        group.createVariable(name, "u2")[:] = row
    for name, scale, offset, begin, count in (
        ("x", -step, step * (side + 1) / 2, 1, side),
        ("y", step, -step * (side + 1) / 2, first_row, rows),
    ):
        axis = group.createVariable(name, "u2", (name,))
        axis.setncatts({"scale_factor": scale, "add_offset": offset})
        axis.set_auto_maskandscale(False)
        axis[:] = np.arange(begin, begin + count)
    wavenumber = _FCI_WAVENUMBERS.get(channel, 1000.0)
    for name, value in {
        **{"radiance_to_bt_conversion_coefficient_wavenumber": wavenumber, "radiance_unit_conversion_coefficient": 1.0},
        **{"radiance_to_bt_conversion_coefficient_a": 0.999, "radiance_to_bt_conversion_coefficient_b": 0.4},
        **{"radiance_to_bt_conversion_constant_c1": _C1, "radiance_to_bt_conversion_constant_c2": _C2},
        "channel_effective_solar_irradiance": 50.0,
    }.items():
        group.createVariable(name, "f4")[:] = value
    for name in ("pixel_quality", "index_map"):
        group.createVariable(name, "u1" if name == "pixel_quality" else "u2", ("y", "x"), zlib=True)
    scale = _FCI_SCALES.get(channel, 0.05)
    variable = group.createVariable("effective_radiance", "u2", ("y", "x"), fill_value=65535, zlib=True)
    variable.set_auto_maskandscale(False)
    variable.setncatts({
        "scale_factor": scale, "add_offset": -2.0, "valid_range": np.array([0, 4095], np.uint16),
        "warm_scale_factor": 1.0, "warm_add_offset": 0.0, "ancillary_variables": "pixel_quality",
        "long_name": "Effective Radiance", "units": "mW.m-2.sr-1.(cm-1)-1",
    })  # fmt: skip
    if channel in _FCI_WAVENUMBERS:
        effective = 0.999 * fci_kelvin(channel, first, end) + 0.4
        radiance = _C1 * wavenumber**3 / np.expm1(_C2 * wavenumber / effective)
        variable[:] = np.rint((radiance + 2) / scale).astype(np.uint16)


_PLATFORM = {"platform_altitude": 35786400.0, "subsatellite_latitude": 0.0, "subsatellite_longitude": 0.0}
_CELESTIAL = {
    "earth_sun_distance": 148.5e6,
    "subsolar_latitude": -7.0,
    "subsolar_longitude": 0.0,
    "sun_satellite_distance": 148.5e6,
}


def seviri_kelvin(channel: str) -> np.ndarray:
    """What `write_seviri` writes: rows from the south, columns from the east."""
    rectangle = SEVIRI_RECTANGLE
    rows, columns = (np.arange(rectangle[a], rectangle[b] + 1) for a, b in (("South", "North"), ("East", "West")))
    micrometres = {"IR_087": 8.7, "IR_108": 10.8, "IR_120": 12.0}[channel]
    return kelvin(rows[:, np.newaxis], columns[np.newaxis], micrometres)


def write_seviri(folder: Path) -> Path:
    """Write a rectangle of a scan, as EUMETSAT's Data Store cuts it, with the channels of ash."""
    from satpy.readers.core.seviri import CALIB
    from satpy.readers.seviri_l1b_native_hdr import GSDTRecords, Msg15NativeHeaderRecord, native_trailer

    folder.mkdir(parents=True, exist_ok=True)
    channels = ("IR_087", "IR_108", "IR_120")
    side = {
        axis: SEVIRI_RECTANGLE[b] - SEVIRI_RECTANGLE[a] + 1
        for axis, a, b in (("y", "South", "North"), ("x", "East", "West"))
    }
    padded = -(-side["x"] // 4) * 4
    header = np.zeros(1, Msg15NativeHeaderRecord().get(with_archive_header=True))
    main, secondary = header["15_MAIN_PRODUCT_HEADER"], header["15_SECONDARY_PRODUCT_HEADER"]
    main["FormatName"]["Name"], main["FormatName"]["Value"] = b"FormatName                  : ", b"NATIVE"
    main["QQOV"]["Value"] = b"OK"
    secondary["SelectedBandIDs"]["Value"] = (
        "".join("X" if name in channels else "-" for name in _SEVIRI_CHANNELS) + "--"
    )
    for name, axis in (("South", "Line"), ("North", "Line"), ("East", "Column"), ("West", "Column")):
        secondary[f"{name}{axis}SelectedRectangle"]["Value"] = str(SEVIRI_RECTANGLE[name])
    for name, value in (
        ("NumberLinesVISIR", side["y"]),
        ("NumberColumnsVISIR", padded),
        ("NumberLinesHRV", 0),
        ("NumberColumnsHRV", 0),
    ):
        secondary[name]["Value"] = str(value)
    data = header["15_DATA_HEADER"]
    data["SatelliteStatus"]["SatelliteDefinition"]["SatelliteId"] = 324  # Meteosat-11
    earth = data["GeometricProcessing"]["EarthModel"]
    earth["TypeOfEarthModel"], earth["EquatorialRadius"] = 2, 6378.169
    earth["NorthPolarRadius"] = earth["SouthPolarRadius"] = 6356.5838
    description = data["ImageDescription"]
    description["ProjectionDescription"]["LongitudeOfSSP"] = 0.0
    description["Level15ImageProduction"]["PlannedChanProcessing"] = 2  # effective radiance
    grid = description["ReferenceGridVIS_IR"]
    grid["NumberOfLines"] = grid["NumberOfColumns"] = SEVIRI_SIDE
    grid["LineDirGridStep"] = grid["ColumnDirGridStep"] = 3.0004031658172607
    grid["GridOrigin"] = 2  # south-east
    times = data["ImageAcquisition"]["PlannedAcquisitionTime"]
    for name, time in (
        ("TrueRepeatCycleStart", "2024-03-01T12:00:10"),
        ("PlannedRepeatCycleEnd", "2024-03-01T12:15:00"),
    ):
        times[name]["Days"], times[name]["Milliseconds"] = _cds(time)
    calibration = data["RadiometricProcessing"]["Level15ImageCalibration"]
    calibration["CalSlope"], calibration["CalOffset"] = _SLOPE, _OFFSET
    packet = [("GP_PK_HEADER", GSDTRecords.gp_pk_header), ("GP_PK_SH1", GSDTRecords.gp_pk_sh1)]
    line: Any = np.dtype([
        ("gp_pk", packet), ("version", "u1"), ("satid", "u2"), ("time", "u2", 5), ("lineno", "u4"), ("chan_id", "u1"),
        ("acq_time", [("Days", ">u2"), ("Milliseconds", ">u4")]), ("validity", "u1", 3),
        ("line_data", "u1", padded * 5 // 4),
    ])  # fmt: skip
    lines = np.zeros((side["y"], len(channels)), line)
    lines["acq_time"]["Days"], lines["acq_time"]["Milliseconds"] = _cds("2024-03-01T12:10:00")
    for index, channel in enumerate(channels):
        constants = CALIB[324][channel]
        effective = constants["ALPHA"] * seviri_kelvin(channel) + constants["BETA"]
        radiance = _C1 * constants["VC"] ** 3 / np.expm1(_C2 * constants["VC"] / effective)
        counts = np.zeros((side["y"], padded), ">u2")
        counts[:, : side["x"]] = np.clip(np.rint((radiance - _OFFSET) / _SLOPE), 1, 1023)
        bits = np.unpackbits(counts.view(np.uint8).reshape(side["y"], padded, 2), axis=-1)[..., 6:]
        lines["line_data"][:, index] = np.packbits(bits.reshape(side["y"], -1), axis=-1)
    trailer = np.zeros(1, native_trailer)
    summary = trailer["15TRAILER"]["ImageProductionStats"]["ActualScanningSummary"]
    for name, time in zip(("ForwardScanStart", "ForwardScanEnd"), SEVIRI_SCAN, strict=True):
        summary[name]["Days"], summary[name]["Milliseconds"] = _cds(time)
    path = folder / "MSG4-SEVI-MSG15-0100-NA-20240301121240.532000000Z-NA.nat"
    path.write_bytes(header.tobytes() + lines.tobytes() + trailer.tobytes())
    return path


def _cds(time: str) -> tuple[int, int]:
    """Days and milliseconds since 1958."""
    since = np.datetime64(time, "ms") - np.datetime64("1958-01-01", "ms")
    days, rest = divmod(int(since.astype(np.int64)), 86_400_000)
    return days, rest
