"""Records to a store, against the least that any program must do: read the bands' bytes, write the store's bytes.

    python benchmarks/build.py [--records 96] [--rounds 5]

Records are 256 x 256 x 8 float32 in 3 bands, page cache warm. The limit reads each needed file into one buffer and
writes one file a sample of the store's size, with as many threads. The script is what a notebook does: np.load,
arithmetic on whole arrays, np.save of uint8, one process.
"""

from __future__ import annotations

import argparse
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
from timing import medians, verdict, workplace

from contrail_data.build import Settings, build
from contrail_data.command import table
from contrail_data.composites import COMPOSITES
from contrail_data.sources import open_source

ASH = COMPOSITES["ash"]
TARGET = 1.3


def only_read_and_write(folders: list[Path], out: Path, sizes: list[int], threads: int) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()

    def one_part(part: int) -> None:
        buffer = bytearray(8 << 20)
        view = memoryview(buffer)
        for i in range(part, len(folders), threads):
            for band in ASH.bands:
                with (folders[i] / f"band_{band}.npy").open("rb", buffering=0) as file:
                    file.readinto(view)
            for name in ("human_pixel_masks.npy", "human_individual_masks.npy"):
                with (folders[i] / name).open("rb", buffering=0) as file:
                    file.readinto(view)
            with (out / str(i)).open("wb", buffering=0) as file:
                file.write(view[: sizes[i]])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one_part, range(threads)))


def usual_script(folders: list[Path], out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for folder in folders:
        b11, b14, b15 = (np.load(folder / f"band_{b}.npy") for b in ASH.bands)
        channels = [(b15 - b14 + 4) / 6, (b14 - b11 + 4) / 9, (b14 - 243) / 60]
        image = np.clip(np.stack(channels), 0, 1)
        image = (image * 255).round().astype(np.uint8).transpose(3, 0, 1, 2)
        np.save(out / f"{folder.name}.npy", image)
        np.save(out / f"{folder.name}_mask.npy", np.load(folder / "human_pixel_masks.npy"))


def ours(raw: Path, out: Path, workers: int) -> None:
    shutil.rmtree(out, ignore_errors=True)
    with redirect_stderr(StringIO()):
        build(open_source(raw, "train", ASH), Settings(ASH), out, workers=workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with workplace(options.records) as folder:
        raw = folder / "raw"
        folders = sorted((raw / "train").iterdir())
        ours(raw, folder / "size.zarr", 2)
        stored = [folder / "size.zarr" / n for n in ("image", "mask", "annotators")]
        size = sum(p.stat().st_size for s in stored for p in s.iterdir()) // len(folders)
        sizes = [size] * len(folders)
        took = medians(
            {
                "limit, 1 thread": partial(only_read_and_write, folders, folder / "l1", sizes, 1),
                "limit, 2 threads": partial(only_read_and_write, folders, folder / "l2", sizes, 2),
                "build-ash, 1 worker": partial(ours, raw, folder / "o1.zarr", 1),
                "build-ash, 2 workers": partial(ours, raw, folder / "o2.zarr", 2),
                "usual script": partial(usual_script, folders, folder / "s"),
            },
            options.rounds,
        )
    rows = []
    for name, seconds in took.items():
        limit = took["limit, 1 thread" if "1" in name or "usual" in name else "limit, 2 threads"]
        ratio = seconds / limit
        judged = verdict(ratio, TARGET, at_least=False) if "2 workers" in name else ""
        rate = len(folders) / seconds
        rows.append([name, f"{rate:.0f}", f"{ratio:.2f}", f"{took['usual script'] / seconds:.1f}", judged])
    title = f"build: {len(folders)} records, {size / 1e6:.2f} MB stored each, medians of {options.rounds}"
    table(title, ["what", "samples/s", "time / limit", "x script", "target"], rows)


if __name__ == "__main__":
    main()
