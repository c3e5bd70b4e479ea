"""Values of Parquet and Arrow become those of the declared types, or are refused; they are never cut, however deep they are."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest

from merganser.codecs.columnar import cast

INTERVAL = pa.month_day_nano_interval()
FINE, COARSE = pa.MonthDayNano([0, 0, 1500]), pa.MonthDayNano([1, 2, 3000])
TIMED = pa.struct([("union", INTERVAL)])
NOON, MIDNIGHT = datetime(2026, 1, 2, 12), datetime(2026, 1, 2)
WITHIN = {
    "interval in a list": (pa.list_(INTERVAL), pa.list_(INTERVAL), [COARSE], [COARSE, FINE]),
    "interval in a large list": (pa.large_list(INTERVAL), pa.list_(INTERVAL), [COARSE], [FINE]),
    "interval in a struct": (
        pa.struct([("i", INTERVAL), ("n", pa.int32())]), pa.struct([("i", INTERVAL)]), {"i": COARSE}, {"i": FINE},
    ),
    "interval in a field that is called union": (TIMED, TIMED, {"union": COARSE}, {"union": FINE}),
    "interval in a map": (pa.map_(pa.string(), INTERVAL), pa.map_(pa.string(), INTERVAL), [("a", COARSE)], [("a", FINE)]),
    "time of day in an array": (pa.list_(pa.timestamp("us"), 2), pa.list_(pa.date32()), [MIDNIGHT, None], [MIDNIGHT, NOON]),
    "time of day in a map": (
        pa.map_(pa.string(), pa.timestamp("us")), pa.map_(pa.string(), pa.date32()),
        [("a", MIDNIGHT)], [("a", MIDNIGHT), ("b", NOON)],
    ),
    "a third place, two lists deep": (
        pa.list_(pa.list_(pa.float64())), pa.list_(pa.list_(pa.decimal128(9, 2))), [[], None, [1.25]], [[1.25], [1.255]],
    ),
    "too large in a list": (pa.list_(pa.int64()), pa.list_(pa.int8()), [127], [128]),
}  # fmt: skip


@pytest.mark.parametrize(("own", "kind", "fits", "not_"), WITHIN.values(), ids=[*WITHIN])
def test_no_value_within_others_is_cut(own: pa.DataType, kind: pa.DataType, fits: Any, not_: Any) -> None:
    column = pa.chunked_array([pa.array([not_, fits, None], own), pa.array([None, fits, not_, fits], own).slice(1)])
    made, lost = cast(column, kind)
    assert lost == [0, 4]
    assert [value is None for value in made.to_pylist()] == [True, False, True, False, True, False]


@pytest.mark.parametrize("depth", ["struct", "struct that can be NULL", "list", "map"])
def test_no_interval_in_a_union_is_cut(depth: str) -> None:
    """Arrow makes no UNIONs of Python's values, and casts none."""
    codes, numbers = pa.array([0, 0, 1, 0], pa.int8()), pa.array([1, 2, 3, 4])
    union = pa.UnionArray.from_sparse(codes, [pa.array([COARSE, FINE, FINE, COARSE], INTERVAL), numbers])
    each = pa.array([0, 1, 2, 3, 4], pa.int32())
    deep = {
        "struct": pa.StructArray.from_arrays([union], ["u"]),
        "struct that can be NULL": pa.StructArray.from_arrays([union], ["u"], mask=pa.array([False] * 4)),
        "list": pa.ListArray.from_arrays(each, union),
        "map": pa.MapArray.from_arrays(each, pa.array(["a", "b", "c", "d"]), union),
    }[depth]
    column = pa.chunked_array([deep, deep.slice(1), deep.slice(4)])
    made, lost = cast(column, column.type)
    assert lost == [1, 4]
    assert made.is_null().to_pylist() == [False, True, False, False, True, False, False]


@pytest.mark.parametrize("kind", [INTERVAL, pa.list_(INTERVAL), pa.map_(pa.string(), INTERVAL)])
def test_no_intervals_at_all_are_none_that_is_cut(kind: pa.DataType) -> None:
    """Whatever is in the buffer of an array without values."""
    none = pa.Array.from_buffers(INTERVAL, 0, [None, pa.py_buffer(b"123")])
    for empty in (none, pa.array([], kind)):
        assert cast(pa.chunked_array([empty]), empty.type) == (pa.chunked_array([empty]), [])
    assert cast(pa.chunked_array([], kind), kind)[1] == []


def test_what_stands_in_a_struct_that_is_null_is_not_looked_at() -> None:
    column = pa.StructArray.from_arrays([pa.array([FINE, COARSE], INTERVAL)], ["i"], mask=pa.array([True, False]))
    assert cast(pa.chunked_array([column]), column.type)[1] == []
