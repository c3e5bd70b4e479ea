"""Event times of decoded records, in microseconds, and which of them cannot be meant."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser.clock import MIN_TIME, TIME_UNITS, show_duration, show_time
from merganser.codecs import Chunk
from merganser.codecs.messages import Messages
from merganser.errors import SourceError
from merganser.plan import Source

YEAR_ONE = -62_135_596_800_000_000
"""0001-01-01T00:00:00 UTC in microseconds; nothing that is dated before is meant."""

PLAUSIBLE = 631_152_000_000_000
"""1990-01-01 UTC: numbers are taken for times of another unit if that makes all of them later than this, and none now is."""

FAR = 2**62
ENOUGH = 10
"""A declared unit is judged wrong by so many records at least; of fewer, each is judged for itself."""

Times = npt.NDArray[np.int64]
Bad = dict[int, tuple[int, str, str]]
"""Row to (ordinal, reason, detail)."""


def times(source: Source, table: pa.Table) -> Times:
    """Event times in microseconds; zeros for a source without; MIN_TIME for a NULL."""
    if source.time is None:
        return np.zeros(len(table), np.int64)
    column = table[source.time]
    if source.time_unit is not None:
        return _numbers(column, TIME_UNITS[source.time_unit])
    if column.type != pa.timestamp("us", column.type.tz if pa.types.is_timestamp(column.type) else None):
        column = column.cast(pa.timestamp("us"), safe=False)
    numbers = column.cast(pa.int64())
    if numbers.null_count:
        numbers = pc.fill_null(numbers, MIN_TIME)
    return np.ascontiguousarray(numbers.to_numpy())


def _numbers(column: pa.ChunkedArray, factor: int) -> Times:
    """Counts of some unit since 1970 as microseconds; what would not fit is far ahead or far behind."""
    given = column.is_null().to_numpy()
    if pa.types.is_integer(column.type) and column.type != pa.uint64():
        counts = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
        most = FAR // factor
        found = np.clip(counts, -most, most) * factor
        found[counts > most], found[counts < -most] = FAR, MIN_TIME + 1
    else:
        exact = np.nan_to_num(pc.fill_null(column.cast(pa.float64()), 0).to_numpy() * factor, nan=FAR, posinf=FAR, neginf=-FAR)
        found = np.rint(np.clip(exact, MIN_TIME + 1, FAR)).astype(np.int64)
    found[given] = MIN_TIME
    return np.ascontiguousarray(found)


def bad_times(source: Source, chunk: Chunk, table: pa.Table, found: Times, *, first: bool) -> Bad:
    """The rows whose event time is absent or impossible. ``first``: whether they are the first ones of the source.

    Raises SourceError if the first ones are all implausible and another unit would make all of them plausible.
    """
    if source.time is None or not len(found):
        return {}
    limits = _limits(source, chunk, table)
    if first and source.time_unit is not None and len(found) >= ENOUGH:
        _check_unit(source, table, found, int(limits.max()))
    if found.min() >= YEAR_ONE and found.max() <= limits.min():
        return {}
    bad: Bad = {}
    name = source.time
    what = "the record's timestamp" if isinstance(chunk.payload, Messages) else "the clock"
    for row in np.flatnonzero((found < YEAR_ONE) | (found > limits)).tolist():
        moment = int(found[row])
        if moment == MIN_TIME:
            reason, detail = "no event time", f"column {name!r} is NULL; every event needs its time"
        elif moment > limits[row]:
            ahead = show_duration(source.max_ahead)
            reason = "event time ahead"
            detail = f"column {name!r} is {_shown(moment)}, more than max_ahead ({ahead}) past {what}"
        else:
            reason, detail = "impossible event time", f"column {name!r} is before the year 1"
        bad[row] = (table["_seq"][row].as_py(), reason, detail)
    return bad


def _limits(source: Source, chunk: Chunk, table: pa.Table) -> Times:
    """The latest event time that each row may have: so far past its message's timestamp, or past the clock."""
    now = time.time_ns() // 1000
    moments = np.full(len(table), now)
    if isinstance(chunk.payload, Messages):
        stamps = chunk.payload.timestamps[np.searchsorted(chunk.payload.offsets, table["_seq"].to_numpy())]
        moments = np.where(stamps >= 0, stamps * 1000, now)
    return moments + source.max_ahead


def _check_unit(source: Source, table: pa.Table, found: Times, limit: int) -> None:
    """Refuse seconds that are milliseconds, and the like."""
    there = found[found != MIN_TIME]
    if not len(there) or ((there >= PLAUSIBLE) & (there <= limit)).any():
        return
    assert source.time is not None and source.time_unit is not None
    for unit, factor in TIME_UNITS.items():
        other = _numbers(table[source.time], factor)
        other = other[other != MIN_TIME]
        if ((other >= PLAUSIBLE) & (other <= limit)).all():
            value = table[source.time].drop_null()[0].as_py()
            raise SourceError(
                f"source {source.name!r}: column {source.time!r} is declared in {_NAMES[source.time_unit]}, and {value} would be"
                f" {_shown(int(there[0]))}; in {_NAMES[unit]} it is {show_time(int(other[0]))}: declare time_unit={unit!r}"
            )


_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}


def _shown(moment: int) -> str:
    """An event time for people; its year where no calendar reaches."""
    text = show_time(moment)
    return text if not text.endswith(" us") else f"the year {1970 + round(moment / 31_556_952_000_000)}"
