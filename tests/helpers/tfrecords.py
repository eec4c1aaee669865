"""Write TFRecords by code of others: protobuf's own messages, and tensorboard's framing and tensors."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.summary.writer.record_writer import RecordWriter

BANDS = ("upper_vapor", "mid_vapor", "low_vapor", "cloud_top", "ozone", "data_10um", "data_11um", "data_12um", "co2")
CODES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "int64": 9, "bool": 10}
VALUES = {1: "float_val", 2: "double_val", 3: "int_val", 4: "int_val", 5: "int_val", 6: "int_val"} | {
    9: "int64_val",
    10: "bool_val",
}
_SCHEMA = """
name: "example.proto" package: "contrail.test" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".contrail.test.BytesList"
          oneof_index: 0 }
  field { name: "float_list" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".contrail.test.FloatList"
          oneof_index: 0 }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".contrail.test.Int64List"
          oneof_index: 0 } }
message_type { name: "Features"
  nested_type { name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".contrail.test.Feature" } }
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE
          type_name: ".contrail.test.Features.FeatureEntry" } }
message_type { name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".contrail.test.Features" } }
"""


def _example_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("contrail.test.Example"))


Example = _example_class()


def tensor(array: np.ndarray, *, as_values: bool = False) -> bytes:
    """A serialised `TensorProto`, with its values one by one or as bytes."""
    code = CODES[str(array.dtype)]
    proto = TensorProto(dtype=code)
    for side in array.shape:
        proto.tensor_shape.dim.add(size=side)
    if as_values:
        getattr(proto, VALUES[code]).extend(array.ravel().tolist())
    else:
        proto.tensor_content = array.tobytes()
    return proto.SerializeToString()


def example(features: Mapping[str, Any], *, as_values: bool = False) -> bytes:
    """A serialised `tf.train.Example` of tensors, text, integers and floats."""
    message = Example()
    for name, value in features.items():
        feature = message.features.feature[name]
        if isinstance(value, np.ndarray):
            value = tensor(value, as_values=as_values)
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value[0], float):
            feature.float_list.value.extend(value)
        else:
            feature.int64_list.value.extend(value)
    return message.SerializeToString()


def write_shard(path: Path, payloads: Sequence[bytes]) -> list[int]:
    """Write a file of TFRecords; returns the offset of each record."""
    buffer, offsets = io.BytesIO(), []
    writer = RecordWriter(buffer)
    for payload in payloads:
        offsets.append(buffer.tell())
        if len(payload) < 20_000:
            writer.write(payload)
            continue
        with pytest.MonkeyPatch.context() as patch:  # tensorboard's crc32c takes a second per megabyte
            patch.setattr(pywrap_tensorflow, "crc32c", google_crc32c.value)
            writer.write(payload)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return offsets


def features_of(folder: Path, entry: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The features of a record folder as OpenContrails publishes them; bands become float64."""
    features: dict[str, Any] = {}
    for band, name in enumerate(BANDS, 8):
        if (path := folder / f"band_{band:02d}.npy").exists():
            features[name] = np.load(path).astype(np.float64)
    if {"data_11um", "data_12um"} <= features.keys():
        features["brightness_temperature_difference"] = features["data_11um"] - features["data_12um"]
    for name in ("human_pixel_masks", "human_individual_masks"):
        if (path := folder / f"{name}.npy").exists():
            features[name] = np.load(path)
    features |= {"n_times_before": [4], "n_times_after": [3], "record_id": folder.name.encode()}
    if entry is not None:
        start = int(entry["timestamp"])
        features["projection_wkt"] = entry["projection_wkt"].encode()
        features |= {name: [float(entry[name])] for name in ("row_min", "row_size", "col_min", "col_size")}
        features |= {"timestamp": [start], "satellite_scan_starts": [start + 600 * (i - 4) + 21 for i in range(8)]}
    return features


def convert(records: Path, out: Path, split: str = "train", shards: int = 2, *, as_values: bool = False) -> Path:
    """Write the records of a folder as TFRecords; returns the folder of the shards."""
    path = records / f"{split}_metadata.json"
    entries = {entry["record_id"]: entry for entry in json.loads(path.read_text())} if path.exists() else {}
    folders = sorted(folder for folder in (records / split).iterdir() if folder.is_dir())
    payloads = [example(features_of(folder, entries.get(folder.name)), as_values=as_values) for folder in folders]
    for shard in range(shards):
        write_shard(out / f"{split}.tfrecords-{shard:05d}-of-{shards:05d}", payloads[shard::shards])
    return out
