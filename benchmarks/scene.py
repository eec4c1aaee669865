"""Scans: full-disk files to an ash composite against peers, and a CONUS-sized scan from files to files, stage by stage.

    python benchmarks/scene.py [--rounds 5] [--run RUN]

The files are L1b radiances of the size of a full disk (5424 x 5424) and of CONUS (1500 x 2500), three bands, made of
synthetic imagery repeated, in NOAA's own packing and chunks. Every measurement is a process of its own, so that its
memory is its own; rounds take all in turn in a new order. RUN is a finished run, such as demo/runs/a, for the second
and third table: CONUS from files to a file, and what each step of cleaning up is worth.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from contrail_data.cli.common import print_table
from contrail_data.synthetic.abi import write_abi
from timing import spread, verdict

SIZES = {"F": (5424, 5424), "C": (1500, 2500)}
START = np.datetime64("2024-03-01T12:00")


def write_large(folder: Path, scene: str) -> None:
    """Files of a scene's full size, out of a small synthetic sector's."""
    folder.mkdir(parents=True, exist_ok=True)
    small = folder / "small"
    height, width = SIZES[scene]
    for source in write_abi(small, START, scans=1, size=(512, 512), scene=scene):
        target = folder / source.name
        shutil.copy(source, target)
        with h5py.File(target, "r+") as file:
            for name in ("Rad", "DQF"):
                old = file[name]
                pixels = np.tile(old[:], (-(-height // 512), -(-width // 512)))[:height, :width]
                attributes = {k: v for k, v in old.attrs.items() if k not in ("DIMENSION_LIST",)}
                del file[name]
                options = {"chunks": (226, 226), "compression": "gzip", "compression_opts": 1, "shuffle": True}
                new = file.create_dataset(name, data=pixels, fillvalue=attributes["_FillValue"][0], **options)
                new.attrs.update(attributes)
            offset = {"F": (-0.151844, 0.151844), "C": (-0.101332, 0.128212)}[scene]
            for name, count, first in (("x", width, offset[0]), ("y", height, offset[1])):
                attributes = dict(file[name].attrs)
                del file[name]
                axis = file.create_dataset(name, data=np.arange(count, dtype=np.int16))
                kept = ("units", "axis", "standard_name", "long_name")
                axis.attrs.update({k: v for k, v in attributes.items() if k in kept})
                axis.attrs["scale_factor"] = np.array([5.6e-5 if name == "x" else -5.6e-5], np.float32)
                axis.attrs["add_offset"] = np.array([first], np.float32)
                axis.make_scale(name)
            for name in ("Rad", "DQF"):
                file[name].dims[0].attach_scale(file["y"])
                file[name].dims[1].attach_scale(file["x"])
    shutil.rmtree(small)


def ours(files: list[str]) -> np.ndarray:
    from contrail_data import open_abi
    from contrail_data.composites import COMPOSITES
    from contrail_data.scans.scene import composite_of

    return np.asarray(composite_of(open_abi(files), COMPOSITES["ash"]).values[0])


def with_satpy(files: list[str]) -> np.ndarray:
    from satpy import Scene

    scene = Scene(files, reader="abi_l1b")
    scene.load(["C11", "C14", "C15"])
    b11, b14, b15 = (scene[f"C{b}"].data for b in (11, 14, 15))
    import dask.array as da

    ash = da.stack([(b15 - b14 + 4) / 6, (b14 - b11 + 4) / 9, (b14 - 243) / 60])
    return np.asarray(da.clip(ash, 0, 1).compute())


def with_netcdf4(files: list[str]) -> np.ndarray:
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
    return np.clip(np.stack(ash), 0, 1).astype(np.float32)


WAYS: dict[str, Callable[[list[str]], np.ndarray]] = {
    "ours": ours,
    "satpy, its reader and dask": with_satpy,
    "netCDF4 and numpy": with_netcdf4,
}


def one(way: str, folder: str) -> None:
    """What a child process does: once to warm up, once to measure."""
    import dask

    files = sorted(map(str, Path(folder).glob("*.nc")))
    with dask.config.set(num_workers=2):
        WAYS[way](files)  # imports, and the files' pages
        start = time.perf_counter()
        made = WAYS[way](files)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({"seconds": seconds, "peak": peak, "sum": float(np.nansum(made, dtype=np.float64))}))


def composites(folder: Path, rounds: int) -> None:
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    shuffle = random.Random(0)
    for _ in range(rounds):
        for way in shuffle.sample(list(WAYS), len(WAYS)):
            told = subprocess.run(
                [sys.executable, __file__, "--one", way, str(folder)], capture_output=True, text=True, check=True
            )
            found[way].append(json.loads(told.stdout.splitlines()[-1]))
    medians = {way: statistics.median(r["seconds"] for r in rows) for way, rows in found.items()}
    rows = []
    for way, runs in found.items():
        seconds = [r["seconds"] for r in runs]
        peak = statistics.median(r["peak"] for r in runs)
        differs = abs(runs[0]["sum"] / found["ours"][0]["sum"] - 1)
        ratio = medians[way] / medians["ours"]
        rows.append([way, f"{medians[way]:.2f}", f"{ratio:.2f}", f"{peak:,.0f}", f"{differs:.1e}", spread(seconds)])
    header = ["full disk, three bands to ash", "s", "time / ours", "peak MiB", "sum differs by", "rounds / median"]
    print_table("", header, rows)


def stages(folder: Path, run: Path, scratch: Path) -> None:
    """A scan end to end, and the time spent in each stage of it, whether or not another went on meanwhile."""
    import torch

    from contrail_data.scans import abi
    from contrail_train.contrails.cleaning import Cleaning
    from contrail_train.inference.load import load_predictor
    from contrail_train.inference.predictor import Predictor
    from contrail_train.scenes import predict, request
    from contrail_train.scenes.tiling import Mosaic, Tiling

    torch.set_num_threads(2)
    spent: dict[str, float] = {}

    def timed(owner: object, name: str, stage: str) -> None:
        original = getattr(owner, name)
        spent[stage] = 0.0

        def wrapper(*args: object, **options: object) -> object:
            start = time.perf_counter()
            try:
                return original(*args, **options)
            finally:
                spent[stage] += time.perf_counter() - start

        setattr(owner, name, wrapper)

    timed(abi, "read_temperature", "read, calibrate")
    timed(predict, "cut", "resample to tiles")
    timed(Predictor, "predict", "infer")
    timed(Mosaic, "add", "resample back, blend")
    timed(request, "write", "write")
    model = load_predictor(run, "cpu")
    cleaning, tiling = Cleaning(model.decision.threshold), Tiling(model.size)
    scene = request.SceneRequest(
        source=str(folder), outs=[scratch / "all.nc"], tiling=tiling, cleaning=cleaning, product="", overwrite=True
    )
    for _ in range(2):  # the first warms up
        spent = dict.fromkeys(spent, 0.0)
        start = time.perf_counter()
        request.predict_files(model, scene)
        whole = time.perf_counter() - start
    slowest = max(spent.values())
    rows = [[name, f"{seconds:.2f}", f"{seconds / slowest:.2f}"] for name, seconds in spent.items()]
    ratio = whole / slowest
    rows.append(["end to end", f"{whole:.2f}", f"{ratio:.2f} ({verdict(ratio, 1.2, at_least=False)})"])
    print_table("", ["CONUS, files to NetCDF", "s", "time / slowest stage"], rows)


def switches(run: Path, scratch: Path) -> None:
    """What each step of cleaning up is worth, on synthetic sectors whose contrails are known."""
    from contrail_data.scans.listing import list_abi_scans
    from contrail_data.synthetic.scene import synthesize
    from contrail_train.contrails.cleaning import Cleaning, clean
    from contrail_train.evaluation.metrics import dice
    from contrail_train.inference.load import load_predictor
    from contrail_train.scenes.predict import predict_scans
    from contrail_train.scenes.tiling import Tiling

    model = load_predictor(run, "cpu")
    threshold = model.decision.threshold
    chosen = {
        "threshold alone": {},
        "regions of 10 pixels or more": {"min_pixels": 10},
        "hysteresis down to 0.7 of the threshold": {"low": 0.7 * threshold},
        "seen within 3 pixels 10 minutes before or after": {"reach": 3},
        "at least 3 times as long as wide": {"elongation": 3.0},
    }
    counts = {name: np.zeros(3, np.int64) for name in chosen}
    moments = [START + np.timedelta64(minutes, "m") for minutes in (30, 40, 50)]
    for seed in range(1, 7):
        folder = scratch / f"sector-{seed}"
        write_abi(folder, START, seed=seed)
        shots = list_abi_scans(str(folder), (11, 14, 15)).scans
        p_tyx = predict_scans(model, shots, moments, Tiling(model.size))["probability"].values
        truth = synthesize(seed, 0, size=500, bands=(14,), label_shift=(0.0, 0.0)).mask[..., 0] > 0
        for name, options in chosen.items():
            mask = clean(np.nan_to_num(p_tyx), ~np.isnan(p_tyx), Cleaning(threshold, **options))[1]
            counts[name] += (mask & truth).sum(), (mask & ~truth).sum(), (~mask & truth).sum()
    first = next(iter(counts.values()))
    rows = []
    for name, (tp, fp, fn) in counts.items():
        score = float(dice(tp, fp, fn))
        differs = "" if counts[name] is first else f"{score - float(dice(*first)):+.3f}"
        rows.append([name, f"{score:.3f}", differs, f"{tp / max(tp + fp, 1):.3f}", f"{tp / (tp + fn):.3f}"])
    print_table("", ["cleaning, 6 synthetic sectors", "Dice", "less first", "precision", "recall"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    with tempfile.TemporaryDirectory() as scratch:
        for scene in SIZES:
            write_large(Path(scratch) / scene, scene)
        composites(Path(scratch) / "F", options.rounds)
        if options.run is not None:
            stages(Path(scratch) / "C", options.run, Path(scratch))
            switches(options.run, Path(scratch))


if __name__ == "__main__":
    main()
