"""How far a flow is behind its logs: for ``status``, and whatever else shows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from merganser.flow import Flow
from merganser.sources.kafka import Kafka


@dataclass(frozen=True, slots=True)
class Lag:
    """One partition of a source whose log tells where it ends.

    ``position``: the offset where the views that have read least go on; ``end``: behind the last message, as the last commit
    knew it or as a broker says now. ``newest``: the largest event time so far, in microseconds; ``committed``: when its source
    last got something into the store, UTC.
    """

    source: str
    partition: str
    position: int
    end: int
    newest: int | None
    committed: datetime | None

    @property
    def messages(self) -> int:
        """Offsets between the two: messages, and what is no message (markers of transactions, compacted ones)."""
        return max(0, self.end - self.position)


def lags(rows_of: Callable[[str], list[tuple[Any, ...]]], flows: Sequence[Flow] = ()) -> list[Lag]:
    """The lag of each Kafka partition in a store; with ``flows`` their brokers are asked where the logs end now.

    ``rows_of`` answers a query of the store.
    """
    found = rows_of(
        "SELECT source, partition, arg_min(position, seq), max(max_time), any_value(c.at ORDER BY c.at) FROM merganser.positions p"
        " LEFT JOIN (SELECT source, max(committed_at) AS at FROM merganser.commits GROUP BY source) c USING (source)"
        " WHERE position::JSON->>'$.offset' IS NOT NULL GROUP BY source, partition ORDER BY source, partition"
    )
    asked: dict[tuple[str, str], int] = {}
    for source in {s.name: s for flow in flows for s in flow.sources}.values():
        if isinstance(source.connector, Kafka):
            asked |= {(source.name, partition): end for partition, end in source.connector.ends().items()}
    rows = []
    for source_name, partition, text, newest, committed in found:
        position = json.loads(text)
        end = asked.get((source_name, partition), int(position["high"]))
        rows.append(Lag(source_name, partition, int(position["offset"]), end, newest, committed))
    known = {(lag.source, lag.partition) for lag in rows}
    rows += [Lag(s, p, 0, end, None, None) for (s, p), end in asked.items() if (s, p) not in known]
    return sorted(rows, key=lambda lag: (lag.source, lag.partition.rpartition("/")[0], int(lag.partition.rpartition("/")[2])))
