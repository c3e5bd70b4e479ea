"""Event-time windows. Times and sizes are microseconds; windows are half open, ``[start, end)``, aligned to 1970-01-01 UTC.

The terms are those of Akidau et al., "The Dataflow Model": tumbling (fixed) and hopping (sliding) windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from merganser.clock import duration, show_duration
from merganser.errors import FlowError, on_users_line


@dataclass(frozen=True, slots=True)
class Window:
    """Windows of ``size`` that begin every ``every``; tumbling where the two are equal."""

    size: int
    every: int

    def __str__(self) -> str:
        if self.size == self.every:
            return f"tumbling {show_duration(self.size)}"
        return f"hopping {show_duration(self.size)} every {show_duration(self.every)}"

    @property
    def overlap(self) -> int:
        """The most windows that one event time can belong to."""
        return -(-self.size // self.every)

    def last_start_sql(self, time: str = "_time") -> str:
        """The start of the last window that ``time`` (BIGINT, us) belongs to; right for times before 1970 too."""
        return f"({time} - (({time} % {self.every}) + {self.every}) % {self.every})"


@dataclass(frozen=True, slots=True)
class Session:
    """Windows of activity: events of a key that are less than ``gap`` apart. ``[first event, last event + gap)``."""

    gap: int

    def __str__(self) -> str:
        return f"session {show_duration(self.gap)}"


@on_users_line
def session(gap: str | timedelta) -> Session:
    """A window for each stretch of activity of a key, which ends when no event came for ``gap`` of event time."""
    return Session(_positive(gap, "session gap"))


@on_users_line
def tumbling(size: str | timedelta) -> Window:
    """Windows that follow each other without overlap: each event belongs to exactly one.

    ``size``: a duration such as ``"1 minute"``.
    """
    us = _positive(size, "window size")
    return Window(us, us)


@on_users_line
def hopping(size: str | timedelta, *, every: str | timedelta) -> Window:
    """Windows of ``size`` that begin every ``every`` and overlap: an event belongs to about ``size / every`` of them."""
    us, step = _positive(size, "window size"), _positive(every, "every")
    if step > us:
        raise FlowError(
            f"hopping windows of {show_duration(us)} every {show_duration(step)} leave gaps; every must not exceed size"
        )
    if us // step > 1000:
        raise FlowError(
            f"hopping windows of {show_duration(us)} every {show_duration(step)} put each event into {us // step} windows;"
            " the most is 1000"
        )
    return Window(us, step)


def _positive(text: str | timedelta, what: str) -> int:
    us = duration(text, what)
    if us <= 0:
        raise FlowError(f"{what} {text!r} must be longer than nothing")
    return us


def moment_sql(microseconds: str, kind: str) -> str:
    """SQL for microseconds since 1970 as a TIMESTAMP, or one WITH TIME ZONE.

    Not by a cast from one to the other: that takes a TIMESTAMP for a time in the zone of whoever reads, and fifteen times as long.
    """
    return f"make_timestamp{'tz' if kind == 'TIMESTAMP WITH TIME ZONE' else ''}({microseconds})"
