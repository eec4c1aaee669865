"""From Enter to the first step: `contrail-train run` in a process of its own, on a store of many samples.

    python benchmarks/first_step.py [--samples 20000] [--side 128] [--batch 4] [--rounds 5] [--set KEY=VALUE]

The stages end with what the command prints or writes: imports with the line that names the device; opening (the store,
the hold-out, the leaks) with the number of frames to train on; the model with its number of parameters; the first step
with its line in `metrics.jsonl`. Then the process is killed. `import torch` is what no command that trains can do
without. Files are in the page cache.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES
from contrail_data.errors import ContrailError
from contrail_data.sources.open import open_source
from contrail_data.store.settings import StoreSettings
from contrail_train.runs.names import METRICS
from large_store import write_large_store
from timing import make_parser, record_folder, run_main, spread, verdict

TABLES = ("first",)
TARGET = 5.0
STAGES = {"imports": "device ", "stores, hold-out": " frames to train on", "model": " M parameters"}
"""By stage, a part of the line that the command prints at its end."""
TORCH, STEP, ALL = "import torch", "first step", "from Enter to the first step"


def seconds_by_stage(command: Sequence[str], out: Path) -> dict[str, float]:
    """Run the command up to its first step.

    Args:
        command: The command.
        out: Its run directory.

    Returns:
        Seconds of each stage, and of all of them.

    Raises:
        ContrailError: If the command ends before.
    """
    last = time.perf_counter()
    seconds: dict[str, float] = {}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for stage, end in STAGES.items():
                line = ""
                while end not in line:
                    before, line = line, process.stderr.readline()
                    if not line:
                        raise ContrailError(f"the command ended before its stage {stage!r}: {before.strip()}")
                seconds[stage], last = time.perf_counter() - last, time.perf_counter()
            while not (out / METRICS).exists():
                if process.poll() is not None:
                    raise ContrailError(f"the command ended before its first step: {process.stderr.read().strip()}")
                time.sleep(0.005)
            seconds[STEP] = time.perf_counter() - last
        finally:
            process.kill()
    return seconds | {ALL: sum(seconds.values())}


def seconds_of_torch() -> float:
    """Import torch in a process of its own."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, TABLES, rounds=5)
    parser.add_argument("--samples", type=int, default=20_000, help="samples of the store (20000)")
    parser.add_argument("--records", type=int, default=4, help="records whose pixels they repeat (4)")
    parser.add_argument("--side", type=int, default=128, help="pixels (128)")
    parser.add_argument("--batch", type=int, default=4, help="samples of a step (4)")
    parser.add_argument("--preset", default="unet2d", help="the model (unet2d)")
    parser.add_argument("--set", action="append", default=[], help="a setting of the run", metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    ash = COMPOSITES["ash"]
    with record_folder(options.records) as (folder, raw), tempfile.TemporaryDirectory() as runs:
        with redirect_stderr(StringIO()):
            settings = StoreSettings(ash, size=options.side)
            build(open_source(raw, "train", ash), settings, folder / "few.zarr", workers=2)
        store = write_large_store(folder / "few.zarr", options.samples, folder / "train.zarr")
        given = [f"data.train={store}", f"batch_size={options.batch}", "model.pretrained=false", *options.set]
        command = [sys.executable, "-m", "contrail_train", "run", options.preset]
        command += [part for setting in given for part in ("--set", setting)]
        rounds: list[dict[str, float]] = []
        for number in range(options.rounds):
            out = Path(runs) / f"{number}"
            rounds.append({TORCH: seconds_of_torch()} | seconds_by_stage([*command, "--out", os.fspath(out)], out))
    measured = {name: [each[name] for each in rounds] for name in rounds[0]}
    median = {name: statistics.median(values) for name, values in measured.items()}
    rows = [
        [name, f"{value:.2f}", f"{value / median[ALL]:.2f}", spread(measured[name])] for name, value in median.items()
    ]
    for row in rows:
        row.insert(3, verdict(median[ALL], TARGET, at_least=False) if row[0] == ALL else "")
    size = f"{options.preset}, {options.samples:,} samples of {options.side} px, batches of {options.batch}"
    header = ["stage", "s", "share", "target", "rounds / median"]
    print_table(f"{size}; medians of {options.rounds} rounds", header, rows)


if __name__ == "__main__":
    run_main(main)
