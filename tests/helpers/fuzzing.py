"""Strategies and settings of the fuzzing tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from contrail_data.errors import ContrailError

SEED = 20261123
many = settings(max_examples=400, derandomize=False, database=None, suppress_health_check=list(HealthCheck))
some = settings(many, max_examples=80)
# Each edit: its relative position, the number of bytes to remove there, and the bytes to insert.
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4)


def mutated(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for position, removed, added in changes:
        if position < 0.9:  # anywhere; other positions are within the first 128 bytes, where headers are
            start = round(position * len(content))
        else:
            start = round((position - 0.9) * 10 * min(len(content), 128))
        content = content[:start] + added + content[start + removed :]
    return content


def one_line(error: ContrailError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 600


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
