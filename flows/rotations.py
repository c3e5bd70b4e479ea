"""Each aircraft's legs in order, and the delay that it carries from one to the next."""

from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import merganser as mg
from connectors.nyc import flights

flow = mg.Flow("rotations")


@dataclass(frozen=True)
class Rotation:
    """An aircraft's day so far. ``carried``: minutes by which a late arrival made the next departure late."""

    day: date | None = None
    legs: int = 0
    carried: int = 0
    arrived_late: int = 0
    worst_day: date | None = None
    worst_carried: int = 0


def fly(state: Rotation, leg: dict[str, Any]) -> Rotation:
    if state.day != leg["day"]:
        state = replace(state, day=leg["day"], legs=0, carried=0, arrived_late=0)
    carried = state.carried + max(0, min(state.arrived_late, leg["dep_delay"] or 0))
    state = replace(state, legs=state.legs + 1, carried=carried, arrived_late=leg["arr_delay"] or 0)
    if carried > state.worst_carried:
        state = replace(state, worst_day=state.day, worst_carried=carried)
    return state


legs = (
    flow.read(flights)
    .filter("tailnum IS NOT NULL AND NOT cancelled")
    .derive(day="(departed_at - INTERVAL 5 HOUR)::DATE")
    .select("tailnum", "day", "flight", "origin", "dest", "departed_at", "dep_delay", "arr_delay")
    .order(by="tailnum")
)
legs.materialize("legs")
legs.fold(by="tailnum", initial=Rotation(), apply=fly).materialize("rotations")

flow.view(
    "changes_of_delay",
    """
    SELECT tailnum, seq, departed_at, origin, dest, dep_delay,
        dep_delay - lag(arr_delay) OVER (PARTITION BY tailnum, day ORDER BY seq) AS since_last_arrival
    FROM legs
    """,
)
