"""Records to a store, against the least any program must do: read the needed files, write the store's bytes.

    python benchmarks/build.py [--samples 96] [--rounds 7] [--raw FOLDER --split SPLIT]

Records are 3 bands of 256 x 256 x 8 float32 with masks, page cache warm. The limit reads each needed file of a record
(bands side by side in memory, as the arithmetic needs them, in the same buffer for every record) and writes the bytes
that the store holds for it (image, mask, annotators) to one file, nothing else, with as many threads as the build. The
script is what a notebook does in one process: np.load, arithmetic on whole arrays, np.save of the result. Every run
writes into a fresh folder; removing it is off the clock.
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
from timing import interleaved, medians, spread, verdict, workplace

from contrail_data.build import Settings, build
from contrail_data.command import table
from contrail_data.composites import COMPOSITES
from contrail_data.errors import ContrailError
from contrail_data.sources import open_source

ASH = COMPOSITES["ash"]
TARGET = 1.3


def read_and_write(inputs: list[list[Path]], stored: list[int], out: Path, threads: int) -> None:
    """The limit. `inputs` are the files of each record, `stored` the bytes its samples take in the store."""
    out.mkdir()
    most = max(*stored, *(sum(path.stat().st_size for path in files) for files in inputs))

    def one_part(part: int) -> None:
        memory = memoryview(bytearray(most))
        for i in range(part, len(inputs), threads):
            at = 0
            for path in inputs[i]:
                with path.open("rb", buffering=0) as file:
                    at += file.readinto(memory[at:])
            with (out / str(i)).open("wb", buffering=0) as file:
                file.write(memory[: stored[i]])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one_part, range(threads)))


def ours(raw: Path, split: str, out: Path, workers: int) -> None:
    with redirect_stderr(StringIO()):
        build(open_source(raw, split, ASH), Settings(ASH), out, workers=workers)


def script(folders: list[Path], out: Path, dtype: type) -> None:
    out.mkdir()
    for folder in folders:
        b11, b14, b15 = (np.load(folder / f"band_{b}.npy") for b in (11, 14, 15))
        channels = [(b15 - b14 + 4) / 6, (b14 - b11 + 4) / 9, (b14 - 243) / 60]
        image = np.clip(np.stack(channels), 0, 1)
        if dtype is np.uint8:
            image = (image * 255).round().astype(np.uint8)
        np.save(out / f"{folder.name}.npy", image)
        np.save(out / f"{folder.name}_mask.npy", np.load(folder / "human_pixel_masks.npy").astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=96, help="records a run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--raw", type=Path, help="folder of records, in place of synthetic ones")
    parser.add_argument("--split", default="train", help="split of --raw")
    options = parser.parse_args()
    with workplace(options.samples, options.raw, options.split) as (folder, raw):
        folders = sorted((raw / options.split).iterdir())
        source = open_source(raw, options.split, ASH)
        inputs = [[path for path in source.files(f.name) if path.exists()] for f in folders]
        out = folder / "out"
        ours(raw, options.split, out, 2)
        sizes = [sum(p.stat().st_size for p in out.glob(f"*/c.{i}.*")) for i in range(len(folders))]
        shutil.rmtree(out)
        seconds = interleaved(
            {
                "limit, 1 thread": partial(read_and_write, inputs, sizes, out, 1),
                "limit, 2 threads": partial(read_and_write, inputs, sizes, out, 2),
                "build-ash, 1 worker": partial(ours, raw, options.split, out, 1),
                "build-ash, 2 workers": partial(ours, raw, options.split, out, 2),
                "script, np.save of uint8": partial(script, folders, out, np.uint8),
                "script, np.save of float32": partial(script, folders, out, np.float32),
            },
            options.rounds,
            after=partial(shutil.rmtree, out),
        )
        read = sum(path.stat().st_size for files in inputs for path in files) / len(folders)
    took = medians(seconds)
    rows = []
    for name, each in took.items():
        two = name in ("limit, 2 threads", "build-ash, 2 workers")
        ratio = each / took["limit, 2 threads" if two else "limit, 1 thread"]
        judged = verdict(ratio, TARGET, at_least=False) if name == "build-ash, 2 workers" else ""
        faster = took["script, np.save of uint8"] / each
        rate = len(folders) / each
        rows.append([name, f"{rate:,.0f}", f"{ratio:.2f}", judged, f"{faster:.2f}", spread(seconds[name])])
    title = (
        f"build: {len(folders)} records, {read / 1e6:.2f} MB read and {np.mean(sizes) / 1e6:.2f} MB stored each; "
        f"medians of {options.rounds} shuffled rounds"
    )
    table(title, ["what", "samples/s", "time / limit", "target", "rate / script", "rounds / median"], rows)


if __name__ == "__main__":
    try:
        main()
    except ContrailError as error:
        raise SystemExit(f"error: {error}") from None
