"""TFRecords to bands and masks, compared with other readers and with reading and checksumming the bytes.

    python benchmarks/tfrecords.py [--samples 32] [--rounds 5] [--only TABLE] [--folder FOLDER --split SPLIT]

Tables:

- `readers`: bands 11, 14 and 15 as float32 and the masks of every record, in one thread, from a warm page cache. The
  limit reads the payloads and computes their crc32c. The plain loop is what a script does without TensorFlow: the
  lengths by `struct`, the messages by protobuf's own code, without checksums. `--peers tensorflow` and
  `--peers tfrecord` add these packages; neither is needed otherwise.
- `build`: a store of ash from the shards, and from the same records as folders of `.npy` files. The limit reads the
  payloads and computes their crc32c in one thread.
- `index`: what lies where in the shards, by small reads, and the same from the cache.
- `memory`: peak memory of builds of few and many records in one shard, each in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES
from contrail_data.sources.open import open_source
from contrail_data.store.settings import StoreSettings
from contrail_data.synthetic.records import write_records
from timing import make_parser, measure, medians, run_main, spread

ASH = COMPOSITES["ash"]
BANDS = ("cloud_top", "data_11um", "data_12um")
MASKS = ("human_pixel_masks", "human_individual_masks")


@dataclass(frozen=True)
class Shards:
    """The shards to read, and how to measure."""

    folder: Path
    """Where stores are written."""
    root: Path
    split: str
    records: Path | None
    """The same records as folders of `.npy` files; None for shards of the user."""
    rounds: int
    memory: Sequence[int]
    """Numbers of records whose builds' memory is compared."""
    size: int
    peers: Sequence[str]

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return sorted(self.root.glob(f"{self.split}.tfrecord*"))


def payloads(paths: Sequence[Path]) -> Iterator[bytes]:
    """Read every record of the files, unchecked."""
    for path in paths:
        with path.open("rb") as file:
            while header := file.read(12):
                yield file.read(struct.unpack("<Q", header[:8])[0])
                file.seek(4, os.SEEK_CUR)


def read_and_checksum(paths: Sequence[Path]) -> None:
    """Read the payloads and compute their checksums: the limit."""
    for payload in payloads(paths):
        google_crc32c.value(payload)


def read_ours(shards: Shards) -> None:
    """Read every record as a sample, verified and checked."""
    source = open_source(shards.root, shards.split, ASH)
    for record_id in source.record_ids:
        source.read_sample(record_id)


def plain_loop(paths: Sequence[Path]) -> Callable[[], None]:
    """Return a loop that parses the messages by protobuf's code."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="benchmark.proto", package="benchmark", syntax="proto3")

    def message(name: str, kind: int, of: str = "", label: int = kinds.LABEL_REPEATED, number: int = 1) -> None:
        described = file.message_type.add(name=name)
        described.field.add(name="value", number=number, type=kind, type_name=of or None, label=label)
        if name == "Entry":
            described.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)

    message("Bytes", kinds.TYPE_BYTES)
    message("Feature", kinds.TYPE_MESSAGE, ".benchmark.Bytes", kinds.LABEL_OPTIONAL)
    message("Entry", kinds.TYPE_MESSAGE, ".benchmark.Feature", kinds.LABEL_OPTIONAL, 2)
    message("Features", kinds.TYPE_MESSAGE, ".benchmark.Entry")
    message("Example", kinds.TYPE_MESSAGE, ".benchmark.Features", kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    example = message_factory.GetMessageClass(pool.FindMessageTypeByName("benchmark.Example"))

    def run() -> None:
        for payload in payloads(paths):
            for entry in example.FromString(payload).value.value:
                if entry.key in (*BANDS, *MASKS):
                    tensor = TensorProto.FromString(entry.value.value.value[0])
                    shape = [dimension.size for dimension in tensor.tensor_shape.dim]
                    dtype = np.float64 if entry.key in BANDS else np.int32
                    as_stored(np.frombuffer(tensor.tensor_content, dtype).reshape(shape))

    return run


def as_stored(array: np.ndarray) -> np.ndarray:
    """Convert bands to float32 and masks to bytes."""
    return array.astype(np.float32 if array.dtype.kind == "f" else np.uint8)


def tensorflow_reader(paths: Sequence[Path]) -> Callable[[], None]:
    """Return a loop over TensorFlow's data set, which verifies checksums."""
    import tensorflow as tf

    spec = {name: tf.io.FixedLenFeature([], tf.string, default_value=b"") for name in (*BANDS, *MASKS)}

    def run() -> None:
        for payload in tf.data.TFRecordDataset([str(path) for path in paths]):
            for name, value in tf.io.parse_single_example(payload, spec).items():
                if value.numpy():
                    as_stored(tf.io.parse_tensor(value, tf.float64 if name in BANDS else tf.int32).numpy())

    return run


def tfrecord_reader(paths: Sequence[Path]) -> Callable[[], None]:
    """Return a loop over the reader of the package `tfrecord`, with protobuf for the tensors; nothing is verified."""
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tfrecord.reader import tfrecord_loader

    def run() -> None:
        for path in paths:
            for example in tfrecord_loader(str(path), None, None):
                for name in (*BANDS, *MASKS):
                    if name in example:
                        tensor = TensorProto.FromString(bytes(example[name]))
                        dtype = np.float64 if name in BANDS else np.int32
                        as_stored(np.frombuffer(tensor.tensor_content, dtype))

    return run


PEERS = {"tensorflow": tensorflow_reader, "tfrecord": tfrecord_reader}


def compare_readers(shards: Shards) -> None:
    """Print the table `readers`."""
    paths = shards.paths
    variants: dict[str, Callable[[], Any]] = {
        "limit: read and checksum": partial(read_and_checksum, paths),
        "ours": partial(read_ours, shards),
        "plain loop, protobuf": plain_loop(paths),
    }
    for peer in shards.peers:
        if find_spec(peer) is not None:
            variants[peer] = PEERS[peer](paths)
    seconds = measure(variants, shards.rounds)
    median = medians(seconds)
    count = sum(1 for _ in payloads(paths))
    megabytes = sum(path.stat().st_size for path in paths) / count / 1e6
    limit = median["limit: read and checksum"]
    rows = [
        [name, f"{count / each:,.1f}", f"{each / limit:.2f}", spread(seconds[name])] for name, each in median.items()
    ]
    title = f"readers: {count} records of {megabytes:.1f} MB, one thread; medians of {shards.rounds} shuffled rounds"
    print_table(title, ["variant", "records/s", "time / limit", "rounds / median"], rows)


def build_store(root: Path, shards: Shards, workers: int) -> None:
    """Build a store without showing its progress."""
    with redirect_stderr(StringIO()):
        settings = StoreSettings(ASH, size=shards.size)
        build(open_source(root, shards.split, ASH), settings, shards.folder / "out", workers=workers)


def limit_of(shards: Shards) -> None:
    """Read and checksum the shards, and make the folder that is removed after each variant."""
    (shards.folder / "out").mkdir()
    read_and_checksum(shards.paths)


def compare_builds(shards: Shards) -> None:
    """Print the table `build`."""
    variants: dict[str, Callable[[], Any]] = {"limit: read and checksum, one thread": partial(limit_of, shards)}
    for workers in (1, 2):
        variants[f"TFRecords, {workers} workers"] = partial(build_store, shards.root, shards, workers)
        if shards.records is not None:
            variants[f"records, {workers} workers"] = partial(build_store, shards.records, shards, workers)
    seconds = measure(variants, shards.rounds, after=partial(shutil.rmtree, shards.folder / "out"))
    median, count = medians(seconds), sum(1 for _ in payloads(shards.paths))
    limit = next(iter(median.values()))
    rows = [
        [name, f"{count / each:,.1f}", f"{each / limit:.2f}", spread(seconds[name])] for name, each in median.items()
    ]
    print_table("build: ash, uint8", ["variant", "samples/s", "time / limit", "rounds / median"], rows)


def compare_indexes(shards: Shards) -> None:
    """Print the table `index`."""
    cache = Path(os.environ["CONTRAIL_CACHE"])
    run = partial(open_source, shards.root, shards.split, ASH)
    with redirect_stderr(StringIO()):
        seconds = measure(
            {"searched": run, "from the cache": run},
            shards.rounds,
            before={"searched": partial(shutil.rmtree, cache, ignore_errors=True)},
        )
    count = sum(1 for _ in payloads(shards.paths))
    rows = [[name, f"{1e3 * each / count:.2f}", spread(seconds[name])] for name, each in medians(seconds).items()]
    print_table("index", ["variant", "ms per record", "rounds / median"], rows)


def compare_memory(shards: Shards) -> None:
    """Print the table `memory`."""
    first = _without_id(next(payloads(shards.paths)))
    rows = []
    for count in shards.memory:
        folder = shards.folder / f"many-{count}"
        folder.mkdir()
        with (folder / f"{shards.split}.tfrecord").open("wb") as file:
            for _ in range(count):
                file.write(first)
        rows.append([f"{count:,}", f"{count * len(first) / 2**20:,.0f}", f"{_peak_memory(folder, shards):,.0f}"])
    print_table("memory: builds with 2 workers", ["records in the shard", "MiB", "peak MiB"], rows)


def _without_id(payload: bytes) -> bytes:
    """Frame a record, with the feature of its id renamed: copies are then named by their position, not all the same."""
    from contrail_data.storage.tfrecord import frame

    return b"".join(frame(payload.replace(b"record_id", b"record_no")))


def _peak_memory(folder: Path, shards: Shards) -> float:
    program = (
        "import resource, sys; from contrail_data.cli.main import app; app(sys.argv[1:], standalone_mode=False);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    out = folder / "out.zarr"
    command = [sys.executable, "-c", program, "build-ash", str(folder), "--split", shards.split, "--workers", "2"]
    command += ["--size", str(shards.size), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(folder)
    return float(done.stdout.splitlines()[-1])


TABLES = {
    "readers": compare_readers,
    "build": compare_builds,
    "index": compare_indexes,
    "memory": compare_memory,
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, list(TABLES), rounds=5)
    parser.add_argument("--samples", type=int, default=32, help="number of synthetic records (32)")
    parser.add_argument("--side", type=int, default=256, help="rows and columns of a synthetic record (256)")
    parser.add_argument("--folder", type=Path, help="folder of shards to use instead of synthetic ones")
    parser.add_argument("--split", default="train", help="split of --folder")
    parser.add_argument("--memory", type=int, nargs="+", default=[16, 128], help="numbers of records (16 128)")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        default=[],
        help="packages to compare with, if they are installed; a process can import only one of them",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="contrail-benchmark-") as name:
        folder, earlier = Path(name), os.environ.get("CONTRAIL_CACHE")
        os.environ["CONTRAIL_CACHE"] = str(folder / "cache")
        root, records = options.folder, None
        if root is None:
            root, records = folder / "tf", folder / "records"
            settings = {"validation_fraction": 0.0, "scenery": "faint", "size": options.side}
            write_records(root, options.samples, bands=range(8, 17), as_tfrecords=True, **settings)
            write_records(records, options.samples, **settings)
        shards = Shards(
            folder, root, options.split, records, options.rounds, options.memory, options.side, options.peers
        )
        try:
            for table in options.only or TABLES:
                TABLES[table](shards)
        finally:
            if earlier is None:
                del os.environ["CONTRAIL_CACHE"]
            else:
                os.environ["CONTRAIL_CACHE"] = earlier


if __name__ == "__main__":
    run_main(main)
