"""Messages of TensorFlow are decoded as protobuf's own code encodes them, and nothing else is taken for one."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contrail_data.storage.example import (
    decode_tensor,
    encode_example,
    find_features,
    read_numbers,
    read_text,
    tensor_header,
    text_span,
)
from helpers.fuzzing import many, some
from helpers.tfrecords import CODES, Example, TensorProto, example, tensor

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=5)
ARRAYS = st.sampled_from(sorted(CODES)).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))


def reader(content: bytes):
    return lambda start, length: memoryview(content)[start : start + length]


@some
@given(ARRAYS, st.booleans())
def test_a_tensor_of_any_type_is_decoded_bit_by_bit(array: np.ndarray, as_values: bool) -> None:
    content = tensor(array, as_values=as_values)
    decoded = decode_tensor(memoryview(content))
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)
    assert tensor_header(reader(content), 0, len(content)) == (array.dtype, array.shape)


@pytest.mark.parametrize(("values", "expected"), [([], 0), ([7], 7), ([1, 2, 3], 3), ([-5], -5)])
def test_values_that_are_not_stated_repeat_the_last_one(values: list[int], expected: int) -> None:
    proto = TensorProto(dtype=3, int_val=values)
    for side in (4, 5):
        proto.tensor_shape.dim.add(size=side)
    decoded = decode_tensor(memoryview(proto.SerializeToString()))
    np.testing.assert_array_equal(decoded.ravel(), values + [expected] * (20 - len(values)))


@some
@given(
    st.dictionaries(
        st.text("abc_é", min_size=1, max_size=8),
        st.one_of(
            st.binary(max_size=50),
            st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
            st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_features_are_read_and_written_as_protobuf_does(features: dict) -> None:
    for content in (example(features), encode_example(features)):
        read = reader(content)
        spans = find_features(read, 0, len(content))
        assert spans.keys() == features.keys()
        for name, value in features.items():
            if isinstance(value, bytes):
                assert read_text(read, spans[name]) == value
            else:
                assert read_numbers(read, spans[name]).tolist() == value
    assert Example.FromString(encode_example(features)) == Example.FromString(example(features))


def test_our_tensors_are_read_by_protobuf() -> None:
    array = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    (content,) = Example.FromString(encode_example({"a": array})).features.feature["a"].bytes_list.value
    proto = TensorProto.FromString(content)
    assert (proto.dtype, [dim.size for dim in proto.tensor_shape.dim]) == (2, [2, 3, 4])
    np.testing.assert_array_equal(np.frombuffer(proto.tensor_content).reshape(2, 3, 4), array)


SOUND = example({"a": np.arange(6, dtype=np.float64).reshape(2, 3), "n": [1, -2], "f": [0.5], "t": b"text"})


@many
@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=4), st.data())
def test_a_damaged_message_is_refused_and_never_fails_otherwise(changes: list, data: st.DataObject) -> None:
    content = bytearray(SOUND)
    for position, value in changes:
        content[position] = value
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    read = reader(content)
    with suppress(ValueError):
        for feature in find_features(read, 0, len(content)).values():
            if feature.kind == 1:
                start, stop = text_span(read, feature)
                decode_tensor(memoryview(content)[start:stop])
            else:
                read_numbers(read, feature)


@pytest.mark.parametrize("sides", [(1 << 40, 1 << 40), (1 << 62, 4), (3, 3)])
def test_a_shape_that_its_values_do_not_fill_allocates_no_memory(sides: tuple[int, int]) -> None:
    for proto in (TensorProto(dtype=2, tensor_content=b"\0" * 64), TensorProto(dtype=2, double_val=[1.0] * 10)):
        for side in sides:
            proto.tensor_shape.dim.add(size=side)
        with pytest.raises(ValueError, match="a tensor of shape"):
            decode_tensor(memoryview(proto.SerializeToString()))
