"""Dead letters that a topic gets a copy of, through the outbox as rows of ``write`` do, so each once.

A message has the record's bytes, its key and headers, and those that Kafka Connect gives a dead letter (``__connect.errors.…``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from merganser.codecs import Reject
from merganser.codecs.encoding import Encoding
from merganser.codecs.messages import HEADERS
from merganser.plan import Source
from merganser.schema import Schema
from merganser.sources import Connector
from merganser.store import Store

CONNECT = "__connect.errors."

Dead = tuple[Reject, str, str | None, str | None, int | None]
"""A dead letter on its way to the store: the record, its source and partition, the view that refused it, and that one's cohort."""


@dataclass(frozen=True)
class Forward:
    """Where the dead letters of a source go besides the store; delivered as a ``Write`` is."""

    source: str
    sink: Connector

    @property
    def encoding(self) -> Encoding:
        """Of no meaning here: what is sent is what was read."""
        return Encoding("json", Schema(()))

    @property
    def name(self) -> str:
        return f"dead-letters-{self.source}"


def forwards(sources: Iterable[Source]) -> dict[str, Forward]:
    """By source, for those whose dead letters go to a topic. Raises a MerganserError if there is no such topic."""
    found = {s.name: Forward(s.name, s.dead_letters) for s in sources if s.dead_letters is not None}
    for forward in found.values():
        forward.sink.check()
    return found


def begin(store: Store, found: Iterable[Forward]) -> None:
    """Note sinks that are new, in a transaction of their own."""
    known = {name for (name,) in store.rows("SELECT sink FROM merganser.sinks")}
    new = [forward.name for forward in found if forward.name not in known]
    if new:
        with store.transaction():
            for name in new:
                store.con.execute("INSERT INTO merganser.sinks VALUES (?, NULL, 0, 0)", [name])


def keep(store: Store, found: Mapping[str, Forward], dead: Sequence[Dead], epoch: int) -> None:
    """Put letters into the outbox, in the open transaction."""
    for source, forward in found.items():
        mine = [d for d in dead if d[1] == source]
        if not mine:
            continue
        store.con.register("_letters", pa.table({
            "n": pa.array(range(1, len(mine) + 1), pa.int64()),
            "key": pa.array([reject.key for reject, *_ in mine], pa.binary()),
            "value": pa.array([reject.raw for reject, *_ in mine], pa.binary()),
            "headers": pa.array([[{"name": n, "value": v} for n, v in _headers(d)] for d in mine], HEADERS),
        }))  # fmt: skip
        store.con.execute(
            "INSERT INTO merganser.outbox SELECT $1, (SELECT seq FROM merganser.sinks WHERE sink = $1) + n, $2, key, value, headers"
            " FROM _letters", [forward.name, epoch],
        )  # fmt: skip
        store.con.unregister("_letters")
        store.con.execute("UPDATE merganser.sinks SET seq = seq + $2 WHERE sink = $1", [forward.name, len(mine)])


def _headers(dead: Dead) -> list[tuple[str, bytes | None]]:
    """What the record had, then what is known of its error; places are those that ``dead-letters list`` shows."""
    reject, source, partition, view, _ = dead
    place = reject.place
    told: dict[str, object] = {"connector.name": source, "stage": "TRANSFORMATION" if view else "VALUE_CONVERTER"}
    topic, _, number = place.file.rpartition("/")
    if number.isdigit() and place.byte is None and place.line is not None:
        told |= {"topic": topic, "partition": number, "offset": place.line}
    else:
        told |= {"file": place.file, "byte": place.byte, "line": place.line}
    told |= {"exception.class.name": reject.reason, "exception.message": reject.detail}
    letter = ":".join(map(str, (source, partition, reject.seq, *([view] if view else []))))
    known = [(f"{CONNECT}{name}", str(value).encode()) for name, value in told.items() if value is not None]
    return [*reject.headers, *known, ("merganser-letter", letter.encode())]
