"""Scans: full-disk files to an ash composite compared with peers, and whole scans from files to files.

    python benchmarks/scene.py [--rounds 5] [--run RUN] [--only TABLE]

Tables:

- `composite`: three bands of a full disk (5424 x 5424) to the ash composite. Every measurement is a process of its own,
  so that its memory is its own; rounds take all methods in turn in a new order.
- `open`: CONUS files to brightness temperatures, places and angles in memory, compared with satpy, in one process.
- `stages`: a CONUS scan (1500 x 2500) from files to a NetCDF file, and the seconds spent in each stage of it.
- `cleaning`: what each step of cleaning is worth, on synthetic sectors whose contrails are known.

The files are L1b radiances of repeated synthetic imagery in NOAA's own packing and chunks. RUN is a finished run, such
as demo/runs/a, for `stages` and `cleaning`; without it only `composite` and `open` are measured.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest import mock

import h5py
import numpy as np

from contrail_data.cli.common import print_table
from timing import make_parser, run_main, spread, verdict

SIZES = {"F": (5424, 5424), "C": (1500, 2500)}
START = np.datetime64("2024-03-01T12:00")
STEP = 5.6e-5
"""Scan angle of a pixel, in radians."""


def write_large(folder: Path, scene: str, shrink: int) -> None:
    """Write files of a full scene, or of its middle part, that repeat a small synthetic sector."""
    from contrail_data.synthetic.abi import write_abi

    folder.mkdir(parents=True, exist_ok=True)
    small = folder / "small"
    height, width = (side // shrink for side in SIZES[scene])
    for source in write_abi(small, START, scans=1, size=(512, 512), scene=scene):
        target = folder / source.name
        shutil.copy(source, target)
        with h5py.File(target, "r+") as file:
            for name in ("Rad", "DQF"):
                old = file[name]
                pixels = np.tile(old[:], (-(-height // 512), -(-width // 512)))[:height, :width]
                attributes = {k: v for k, v in old.attrs.items() if k not in ("DIMENSION_LIST",)}
                del file[name]
                options = {
                    "chunks": (min(226, height), min(226, width)),
                    "compression": "gzip",
                    "compression_opts": 1,
                    "shuffle": True,
                }
                new = file.create_dataset(name, data=pixels, fillvalue=attributes["_FillValue"][0], **options)
                new.attrs.update(attributes)
            left, top = {"F": (-0.151844, 0.151844), "C": (-0.101332, 0.128212)}[scene]
            full_height, full_width = SIZES[scene]
            left += (full_width - width) / 2 * STEP  # a shrunken scene is the middle of the whole
            top -= (full_height - height) / 2 * STEP
            for name, count, first in (("x", width, left), ("y", height, top)):
                attributes = dict(file[name].attrs)
                del file[name]
                axis = file.create_dataset(name, data=np.arange(count, dtype=np.int16))
                kept = ("units", "axis", "standard_name", "long_name")
                axis.attrs.update({k: v for k, v in attributes.items() if k in kept})
                axis.attrs["scale_factor"] = np.array([STEP if name == "x" else -STEP], np.float32)
                axis.attrs["add_offset"] = np.array([first], np.float32)
                axis.make_scale(name)
            for name in ("Rad", "DQF"):
                file[name].dims[0].attach_scale(file["y"])
                file[name].dims[1].attach_scale(file["x"])
    shutil.rmtree(small)


def ours(files: list[str], dask: bool = False) -> list[np.ndarray]:
    """Return ash (channel, y, x) as float32, as all methods do."""
    from contrail_data import composite_of, open_abi

    return [composite_of(open_abi(files, dask=dask), "ash").values[0]]


def with_satpy(files: list[str]) -> list[np.ndarray]:
    """Read with satpy and compute with dask."""
    from satpy import Scene

    scene = Scene(files, reader="abi_l1b")
    scene.load(["C11", "C14", "C15"])
    b11, b14, b15 = (scene[f"C{b}"].data for b in (11, 14, 15))
    import dask.array as da

    ash = da.stack([(b15 - b14 + 4) / 6, (b14 - b11 + 4) / 9, (b14 - 243) / 60])
    return [da.clip(ash, 0, 1).compute()]


def with_netcdf4(files: list[str]) -> list[np.ndarray]:
    """Read with netCDF4 and compute with numpy."""
    import netCDF4

    kelvin = {}
    for name in files:
        with netCDF4.Dataset(name) as file:
            radiance = file["Rad"][:].filled(np.nan)
            fk1, fk2, bc1, bc2 = (float(file[f"planck_{k}"][:]) for k in ("fk1", "fk2", "bc1", "bc2"))
            bad = file["DQF"][:].filled(255) > 1
        with np.errstate(invalid="ignore", divide="ignore"):
            value = (fk2 / np.log(fk1 / radiance + 1) - bc1) / bc2
        value[bad] = np.nan
        kelvin[int(Path(name).name.split("-M6C")[1][:2])] = value
    ash = [(kelvin[15] - kelvin[14] + 4) / 6, (kelvin[14] - kelvin[11] + 4) / 9, (kelvin[14] - 243) / 60]
    return [np.clip(np.stack(ash), 0, 1).astype(np.float32)]


def opened(files: list[str], coordinates: Sequence[str]) -> list[np.ndarray]:
    """Return three bands, and coordinates of their pixels."""
    from contrail_data import open_abi

    scene = open_abi(files)
    names = ["brightness_temperature", *coordinates]
    scene = scene.drop_vars(set(scene.variables) - {*names, *scene.dims}).compute()
    return [*scene["brightness_temperature"].values[0], *(scene[name].values for name in coordinates)]


def opened_with_satpy(files: list[str], coordinates: Sequence[str]) -> list[np.ndarray]:
    """Return the same from satpy, which takes the sun where it is at the start of the scan."""
    import dask
    from satpy import Scene
    from satpy.modifiers.angles import get_angles

    scene = Scene(files, reader="abi_l1b")
    scene.load(["C11", "C14", "C15"])
    arrays = [scene[f"C{band}"].data for band in (11, 14, 15)]
    if coordinates:
        longitude, latitude = scene["C14"].attrs["area"].get_lonlats(chunks=scene["C14"].chunks)
        arrays += [latitude, longitude]
    if "solar_zenith" in coordinates:
        _, satellite_zenith, _, solar_zenith = get_angles(scene["C14"])
        arrays += [satellite_zenith.data, solar_zenith.data]
    return list(dask.compute(*arrays))


Method = Callable[[list[str]], list[np.ndarray]]
SATPY = "satpy, its reader and dask"
METHODS: dict[str, Method] = {
    "ours": ours,
    "ours, on dask arrays": partial(ours, dask=True),
    SATPY: with_satpy,
    "netCDF4 and numpy": with_netcdf4,
}
COORDINATES = {
    "three bands": [],
    "with latitude and longitude": ["latitude", "longitude"],
    "with these and zenith angles": ["latitude", "longitude", "satellite_zenith", "solar_zenith"],
}
OPENERS = {"ours": opened, "satpy": opened_with_satpy}
OPENINGS: dict[str, Method] = {
    f"{opener}: {outputs}": partial(run, coordinates=coordinates)
    for outputs, coordinates in COORDINATES.items()
    for opener, run in OPENERS.items()
}


def measure_one(run: Method, folder: Path) -> dict[str, Any]:
    """Measure a method once, after an unmeasured call."""
    import dask

    files = sorted(map(str, folder.glob("*.nc")))
    with dask.config.set(num_workers=2):
        run(files)  # imports, and reads the files into the page cache
        start, start_of_work = time.perf_counter(), time.process_time()
        arrays = run(files)
        seconds, work = time.perf_counter() - start, time.process_time() - start_of_work
    peak = peak_memory()
    means = [float(array[np.isfinite(array)].mean(dtype=np.float64)) for array in arrays]
    return {"seconds": seconds, "work": work, "peak": peak, "means": means}


def measure_in_process(method: str, folder: Path) -> dict[str, Any]:
    """Measure a method of `composite` once, in a process of its own."""
    command = [sys.executable, __file__, "--one", method, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory() -> float:
    """Return the largest memory of this process so far in MiB; `getrusage` would count that of its parent as well."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


@dataclass(frozen=True)
class Measured:
    """What was measured of a method."""

    rounds: list[dict[str, Any]]

    def median(self, name: str) -> float:
        """Return the median of a figure over the rounds."""
        return statistics.median(each[name] for each in self.rounds)

    @property
    def spread(self) -> str:
        """How far the rounds lie apart."""
        return spread([each["seconds"] for each in self.rounds])

    def difference(self, other: Self) -> float:
        """Return the largest relative difference of the means of an array from those of another method."""
        pairs = zip(self.rounds[0]["means"], other.rounds[0]["means"], strict=True)
        return max(abs(mean / its - 1) for mean, its in pairs)


def measure_in_turn(measurements: Mapping[str, Callable[[], dict[str, Any]]], rounds: int) -> dict[str, Measured]:
    """Measure methods in turn, in every round in a new order."""
    results: dict[str, list[dict[str, Any]]] = {method: [] for method in measurements}
    shuffler = random.Random(0)
    for _ in range(rounds):
        for method in shuffler.sample([*measurements], len(measurements)):
            results[method].append(measurements[method]())
    return {method: Measured(each) for method, each in results.items()}


def compare_composites(scratch: Path, options: argparse.Namespace) -> None:
    """Print the table `composite`."""
    folder = scratch / "F"
    write_large(folder, "F", options.shrink)
    measured = measure_in_turn({name: partial(measure_in_process, name, folder) for name in METHODS}, options.rounds)
    reference = measured["ours"]
    rows = []
    for method, its in measured.items():
        ratio = its.median("seconds") / reference.median("seconds")
        target = f" ({verdict(ratio, 2.5, at_least=True)})" if method == SATPY else ""
        figures = [f"{its.median('seconds'):.2f}", f"{ratio:.2f}{target}", f"{its.median('work'):.2f}"]
        rows.append([method, *figures, f"{its.median('peak'):,.0f}", f"{its.difference(reference):.1e}", its.spread])
    header = ["method", "s", "time / ours", "CPU s", "peak MiB", "mean differs by", "rounds / median"]
    print_table("composite: full disk, three bands to ash", header, rows)


def compare_opening(scratch: Path, options: argparse.Namespace) -> None:
    """Print the table `open`."""
    folder = scratch / "open"
    write_large(folder, "C", options.shrink)
    measured = measure_in_turn(
        {name: partial(measure_one, run, folder) for name, run in OPENINGS.items()}, options.rounds
    )
    rows = []
    for outputs in COORDINATES:
        each = [measured[f"{opener}: {outputs}"] for opener in OPENERS]
        first, second = each
        ratio = second.median("seconds") / first.median("seconds")
        figures = [f"{its.median(name):.2f}" for name in ("seconds", "work") for its in each]
        rows.append([outputs, *figures, f"{ratio:.2f} ({verdict(ratio, 1, at_least=True)})"])
        rows[-1] += [f"{second.difference(first):.1e}", first.spread]
    header = ["CONUS", *(f"{opener}, {unit}" for unit in ("s", "CPU s") for opener in OPENERS), "satpy / ours"]
    print_table("open: three bands of CONUS in memory", [*header, "means differ by", "rounds / median"], rows)


class Stopwatch:
    """The seconds spent in functions, which are replaced by measured ones until the end of the block."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.work: dict[str, float] = {}
        """CPU seconds of the threads that called them."""
        self._patches = ExitStack()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *error: object) -> None:
        """Put the original functions back."""
        self._patches.close()

    def watch(self, owner: object, name: str, stage: str) -> None:
        """Measure the calls of a function of a module or class."""
        original = getattr(owner, name)
        self.seconds[stage] = self.work[stage] = 0.0

        def measured(*args: object, **options: object) -> object:
            start, start_of_work = time.perf_counter(), time.thread_time()
            try:
                return original(*args, **options)
            finally:
                self.seconds[stage] += time.perf_counter() - start
                self.work[stage] += time.thread_time() - start_of_work

        self._patches.enter_context(mock.patch.object(owner, name, measured))

    def reset(self) -> None:
        """Start again from zero."""
        self.seconds, self.work = dict.fromkeys(self.seconds, 0.0), dict.fromkeys(self.work, 0.0)


def compare_stages(scratch: Path, options: argparse.Namespace) -> None:
    """Print the table `stages`: seconds of each, added up over threads."""
    from contrail_data.scans import abi
    from contrail_train.contrails.cleaning import Cleaning
    from contrail_train.inference.load import load_model
    from contrail_train.inference.predictor import Predictor
    from contrail_train.scenes import predict, series
    from contrail_train.scenes.tiling import Mosaic, Tiling

    write_large(scratch / "C", "C", options.shrink)
    model = load_model(options.run, "cpu")
    scene = series.SceneRequest(
        source=str(scratch / "C"),
        outs=[scratch / "all.nc"],
        tiling=Tiling(model.size),
        cleaning=Cleaning(model.decision.threshold),
        product="",
        overwrite=True,
    )
    with Stopwatch() as stopwatch:
        stopwatch.watch(abi, "read_temperature", "read, calibrate")
        stopwatch.watch(predict, "cut_window", "resample to tiles")
        stopwatch.watch(Predictor, "predict", "infer")
        stopwatch.watch(Mosaic, "add", "resample back, blend")
        stopwatch.watch(series, "write", "write")
        for _ in range(2):  # the first one is not measured
            stopwatch.reset()
            start, start_of_work = time.perf_counter(), time.process_time()
            series.predict_files(model, scene)
            total, work = time.perf_counter() - start, time.process_time() - start_of_work
    slowest = max(stopwatch.seconds.values())
    rows = [
        [name, f"{each:.2f}", f"{each / slowest:.2f}", f"{stopwatch.work[name]:.2f}"]
        for name, each in stopwatch.seconds.items()
    ]
    ratio = predict.WORKERS * total / slowest
    share = f"{ratio:.2f} ({verdict(ratio, 1.15, at_least=False)})"
    rows.append([f"end to end, on {predict.WORKERS} threads", f"{total:.2f}", share, f"{work:.2f}"])
    header = ["stage", "s", "time / slowest stage", "CPU s"]
    print_table("stages: CONUS, files to NetCDF", header, rows)


def compare_cleaning(scratch: Path, options: argparse.Namespace) -> None:
    """Print the table `cleaning`."""
    from contrail_data.scans.listing import list_abi_scans
    from contrail_data.synthetic.abi import write_abi
    from contrail_data.synthetic.lines import SCENERIES
    from contrail_data.synthetic.scene import synthesize
    from contrail_train.contrails.cleaning import Cleaning, clean
    from contrail_train.evaluation.metrics import dice
    from contrail_train.inference.load import load_model
    from contrail_train.scenes.predict import predict_scan
    from contrail_train.scenes.tiling import Tiling

    model = load_model(options.run, "cpu")
    threshold = model.decision.threshold
    steps: dict[str, dict[str, Any]] = {
        "threshold alone": {},
        "regions of 10 pixels or more": {"min_pixels": 10},
        "hysteresis down to 0.7 of the threshold": {"low": 0.7 * threshold},
        "seen within 3 pixels 10 minutes before or after": {"reach": 3},
        "at least 3 times as long as wide": {"elongation": 3.0},
    }
    counts = {name: np.zeros(3, np.int64) for name in steps}
    times = [START + np.timedelta64(minutes, "m") for minutes in (30, 40, 50)]
    side = options.sector
    for seed in range(1, options.sectors + 1):
        folder = scratch / f"sector-{seed}"
        write_abi(folder, START, seed=seed, size=(side, side), scenery="faint")
        scans = list_abi_scans(str(folder), (11, 14, 15)).scans
        scenes = [predict_scan(model, scans, time, Tiling(model.size)) for time in times]
        p_tyx = np.concatenate([scene["probability"].values for scene in scenes])
        scene = synthesize(seed, 0, size=side, bands=(14,), label_shift=(0.0, 0.0), scenery=SCENERIES["faint"])
        truth = scene.mask[..., 0] > 0
        for name, settings in steps.items():
            mask = clean(np.nan_to_num(p_tyx), ~np.isnan(p_tyx), Cleaning(threshold, **settings))[1]
            counts[name] += (mask & truth).sum(), (mask & ~truth).sum(), (~mask & truth).sum()
    reference = float(dice(*counts["threshold alone"]))
    rows = []
    for name, (tp, fp, fn) in counts.items():
        score = float(dice(tp, fp, fn))
        difference = f"{score - reference:+.3f}" if rows else ""
        rows.append([name, f"{score:.3f}", difference, f"{tp / max(tp + fp, 1):.3f}", f"{tp / max(tp + fn, 1):.3f}"])
    header = ["cleaning", "Dice", "less first", "precision", "recall"]
    print_table(f"cleaning: {options.sectors} synthetic sectors of {side} x {side} pixels", header, rows)


TABLES = {
    "composite": compare_composites,
    "open": compare_opening,
    "stages": compare_stages,
    "cleaning": compare_cleaning,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES), rounds=5)
    parser.add_argument("--run", help="a finished run or builtin:starter, for stages and cleaning")
    parser.add_argument("--shrink", type=int, default=1, help="divide the sides of full disk and CONUS by this")
    parser.add_argument("--sectors", type=int, default=6, help="sectors for cleaning (default 6)")
    parser.add_argument("--sector", type=int, default=500, help="rows and columns of a sector (default 500)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        method, folder = options.one
        print(json.dumps(measure_one(METHODS[method], Path(folder))))
        return
    if options.run is None and {"stages", "cleaning"} & set(options.only or ()):
        parser.error("--only stages and cleaning need a finished run; add --run")
    with tempfile.TemporaryDirectory() as scratch:
        for table in options.only or (TABLES if options.run else ["composite", "open"]):
            TABLES[table](Path(scratch), options)


if __name__ == "__main__":
    run_main(main)
