"""Values of Parquet and Arrow become those of the declared types, or are refused; they are never cut, however deep they are."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest

from merganser.codecs.columnar import cast

INTERVAL = pa.month_day_nano_interval()
FINE, COARSE = pa.MonthDayNano([0, 0, 1500]), pa.MonthDayNano([1, 2, 3000])
NOON, MIDNIGHT = datetime(2026, 1, 2, 12), datetime(2026, 1, 2)
WITHIN = {
    "interval in a list": (pa.list_(INTERVAL), pa.list_(INTERVAL), [COARSE], [COARSE, FINE]),
    "interval in a large list": (pa.large_list(INTERVAL), pa.list_(INTERVAL), [COARSE], [FINE]),
    "interval in a struct": (
        pa.struct([("i", INTERVAL), ("n", pa.int32())]), pa.struct([("i", INTERVAL)]), {"i": COARSE}, {"i": FINE},
    ),
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
