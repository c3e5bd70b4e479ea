"""Durations, and event time as integers.

Event time is counted in microseconds since 1970-01-01T00:00:00 UTC, in 64-bit integers. A watermark is such a number:
the largest event time seen so far in a partition, less the lateness (Akidau et al., "The Dataflow Model", VLDB 2015).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from merganser.errors import FlowError

MICROSECOND = 1
UNITS: dict[str, int] = {
    "microsecond": 1,
    "us": 1,
    "millisecond": 1_000,
    "ms": 1_000,
    "second": 1_000_000,
    "sec": 1_000_000,
    "s": 1_000_000,
    "minute": 60_000_000,
    "min": 60_000_000,
    "m": 60_000_000,
    "hour": 3_600_000_000,
    "h": 3_600_000_000,
    "day": 86_400_000_000,
    "d": 86_400_000_000,
    "week": 604_800_000_000,
    "w": 604_800_000_000,
}
TIME_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Units in which an event time may count from 1970-01-01 UTC, in microseconds."""

MIN_TIME = -(2**62)
"""Below every event time: the watermark of a partition that nothing was read from, or whose lateness is unbounded.
Far enough from the smallest 64-bit integer for a duration to be taken from it."""

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


def duration(text: str | timedelta, what: str = "duration") -> int:
    """Microseconds of ``"10 minutes"``, ``"1h 30m"``, ``"250ms"`` or a timedelta.

    Raises FlowError for anything else, months and years included (their length varies).
    """
    if isinstance(text, timedelta):
        return round(text / timedelta(microseconds=1))
    parts = _PART.findall(text.strip().lower()) if isinstance(text, str) else []
    if not parts or _PART.sub("", text.strip().lower()).strip(" ,"):
        raise FlowError(f"{what} {text!r} is not a duration; write a number and a unit, such as '10 minutes' or '1h 30m'")
    total = 0
    for number, unit in parts:
        size = UNITS.get(unit) or UNITS.get(unit.removesuffix("s"))
        if size is None:
            units = "us, ms, second, minute, hour, day, week"
            raise FlowError(f"{what} {text!r} has the unknown unit {unit!r}; there are {units}")
        total += round(float(number) * size)
    return total


def show_duration(us: int) -> str:
    """The shortest exact way to write a duration: ``90000000`` is ``1 minute 30 seconds``."""
    words = []
    for name in ("day", "hour", "minute", "second", "millisecond", "microsecond"):
        count, us = divmod(us, UNITS[name])
        if count:
            words.append(f"{count} {name}{'s' if count > 1 else ''}")
    return " ".join(words) or "0 seconds"


def show_time(us: int | None) -> str:
    """An event time for people, in UTC: ``2013-01-01 10:15:00``; ``-`` where there is none."""
    if us is None or us <= MIN_TIME:
        return "-"
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    except OverflowError:
        return f"{us} us"
    return moment.strftime("%Y-%m-%d %H:%M:%S") + (f".{us % 1_000_000:06d}".rstrip("0") if us % 1_000_000 else "")
