"""Kafka topics as a source: each partition of a topic is a partition, named ``topic/number``.

Only committed messages are read. Partitions are assigned by the flow, not by a consumer group, and positions are in the
store; the group gets a copy of them after each commit, so that lag shows in the usual tools.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from merganser.brokers import Brokers, Setting, cluster
from merganser.codecs import Codec
from merganser.codecs.framing import FORMATS, SchemaColumns
from merganser.codecs.framing import codec as values
from merganser.codecs.messages import ORIGINS, MessageCodec
from merganser.errors import FlowError, SourceError, UsageError, on_users_line
from merganser.registry import Registry
from merganser.schema import Schema
from merganser.sources import Position, Reader

EACH = "*"
"""Stands for every partition in ``start``: there the offset may be beyond what a partition has."""

Start = str | tuple[tuple[str, int], ...]


@on_users_line
def kafka(
    topics: str | Sequence[str],
    *,
    brokers: str,
    format: str = "json",
    key: str | None = None,
    columns: Mapping[str, str] | None = None,
    start: str | datetime | Mapping[int | str, int] = "earliest",
    group: str | None = None,
    settings: Mapping[str, Setting] | None = None,
    registry: Registry | None = None,
) -> Kafka:
    """Events in Kafka: a topic, several, or a pattern (``"^orders-.*"``, a regular expression for whole names).

    - ``key``: the column that is the message's key.
    - ``columns``: other columns that come from the message and not its value: ``{"sent_at": "timestamp"}``; what there is:
      key, timestamp, topic, partition, offset, headers, ``header.NAME``, and with a registry ``schema.id`` and
      ``schema.version``. Their types may be declared in the schema.
    - ``start``: where the first run begins: ``"earliest"``, ``"latest"``, a time, or ``{partition: offset}``. Later runs go on
      where the store is.
    - ``group``: the consumer group that gets a copy of the positions, ``merganser-SOURCE`` unless named.
    - ``format``: what values are: ``"json"``, ``"avro"``, ``"protobuf"``, ``"avro-single-object"``. ``registry``:
      ``mg.registry(…)`` if they name their schema as Confluent's serializers do; else they are bare, of the declared schema.
    - ``settings``: any of librdkafka's, such as ``{"security.protocol": "SASL_SSL"}``; passwords by ``mg.secret(env=…)``.
    """
    names = (topics,) if isinstance(topics, str) else tuple(topics)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise FlowError(f"kafka() takes the name of a topic, a pattern, or a list of these, not {topics!r}")
    for name in names:
        if name.startswith("^"):
            try:
                re.compile(name)
            except re.error as error:
                raise FlowError(f"kafka(): the pattern {name!r} is no regular expression: {error}") from None
    if format not in FORMATS:
        raise FlowError(f"format={format!r} is not known; there are {', '.join(FORMATS)}")
    taken = {**({key: "key"} if key else {}), **(columns or {})}
    for name, origin in taken.items():
        if origin not in ORIGINS and not origin.startswith("header."):
            raise FlowError(f"columns={{{name!r}: {origin!r}}}: a message has {', '.join(ORIGINS)} and header.NAME")
        if origin.startswith("schema."):
            _check_named(name, origin, format, registry)
    return Kafka(names, Brokers.declare(brokers, settings), format, key, tuple(taken.items()), _start(start), group, registry)


def _check_named(name: str, origin: str, format: str, registry: Registry | None) -> None:
    """Refuse a column of the schema that messages name, where they name none."""
    single = format == "avro-single-object"
    if registry is None or (registry.folder is not None) != single:
        raise FlowError(
            f"columns={{{name!r}: {origin!r}}} needs messages that name their schema: registry=mg.registry('http://…'), or"
            " format='avro-single-object' with registry=mg.registry('a folder of versions')"
        )
    if single and origin == "schema.id":
        raise FlowError(f"columns={{{name!r}: 'schema.id'}}: in a folder schemas have no ids; take 'schema.version'")


def _start(start: Any) -> Start:
    if start in ("earliest", "latest"):
        return str(start)
    if isinstance(start, Mapping) and all(isinstance(offset, int) and offset >= 0 for offset in start.values()):
        return tuple(sorted((str(partition), offset) for partition, offset in start.items()))
    try:
        moment = start if isinstance(start, datetime) else datetime.fromisoformat(start)
    except (TypeError, ValueError):
        raise FlowError(
            f"start={start!r} must be 'earliest', 'latest', a time such as '2026-01-31T12:00:00', or {{partition: offset}}"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


@dataclass(frozen=True, slots=True)
class Kafka:
    """The connector to Kafka; see ``kafka``."""

    in_order: ClassVar[bool] = False

    names: tuple[str, ...]
    brokers: Brokers
    format: str
    key: str | None
    columns: tuple[tuple[str, str], ...]
    start: Start = field(compare=False)
    group: str | None = field(compare=False)
    registry: Registry | None = None
    whole: bool = field(default=False, compare=False)
    """Whether keys and headers are read even if no column is taken from them."""

    def describe(self) -> str:
        by = f" by {self.registry.where}" if self.registry is not None else ""
        return f"kafka {' '.join(self.names)} at {self.brokers.servers}, {self.format}{by}"

    def metadata(self, schema: Schema) -> dict[str, str]:
        return {name: ORIGINS.get(origin, "BLOB") for name, origin in self.columns}

    def check(self) -> None:
        self.partitions()

    def partitions(self) -> list[str]:
        """``topic/number`` of each partition there is. Where the cluster cannot be asked, having been reached before: none."""
        asked = cluster(self.brokers)
        try:
            there = asked.topics()
        except SourceError:
            if asked.reached:
                return []
            raise
        found: list[str] = []
        for name in self.names:
            if name.startswith("^"):
                found += sorted(t for t in there if re.fullmatch(name, t) and not t.startswith("__"))
            elif name in there:
                found.append(name)
            else:
                near = difflib.get_close_matches(name, there, 1)
                hint = f", did you mean {near[0]!r}?" if near else ""
                others = ", ".join(sorted(t for t in there if not t.startswith("__"))[:20]) or "none"
                raise UsageError(
                    f"there is no topic {name!r} at {self.brokers.servers}{hint} (there are: {others}); create it, or mend the name"
                )
        return [f"{topic}/{number}" for topic in dict.fromkeys(found) for number in range(there[topic])]

    def open(self, source: str, *, follow: bool, accept_gap: bool = False) -> Reader:
        from merganser.sources.kafka_reader import KafkaReader

        return KafkaReader(self, source, follow, accept_gap)

    def origin(self, positions: Sequence[Position], *, late: bool = False, whole: bool = False) -> Position | None:
        """``offset``: where to begin; it is no loss if the log begins later by now, up to ``needed``."""
        if not positions:
            return {"offset": 0, "from": 0, "needed": 0} if late else None
        first = min(positions, key=lambda p: int(p["from"]) + int(p["base"]))
        needed = first["from"] if whole else min(int(p["offset"]) + int(p["base"]) for p in positions) - int(first["base"])
        begin = first["from"]
        return {"offset": begin, "from": begin, "needed": needed, "base": first["base"], "topic_id": first["topic_id"]}

    def moved(self, old: Position | None, new: Position) -> Position:
        return {**new, "from": old["from"]} if old and old["base"] == new["base"] else new

    def replayed(self, begin: str) -> Kafka:
        try:
            return replace(self, start=((EACH, int(begin)),) if begin.isdecimal() else _start(begin))
        except FlowError:
            raise UsageError(f"--from {begin}: expected an offset, or a time such as 2026-01-31T12:00:00") from None

    def codec(self, schema: Schema, time: str | None = None) -> Codec:
        named = None if self.registry is None else SchemaColumns(self.registry, self.format).take
        return MessageCodec(schema, self.columns, time, values(self.format, self.registry), named)

    def total_bytes(self) -> int | None:
        return None

    def ends(self) -> dict[str, int]:
        """The offset behind the last committed message of each partition, now."""
        split = {name: (name.rsplit("/", 1)[0], int(name.rsplit("/", 1)[1])) for name in self.partitions()}
        found = cluster(self.brokers).offsets(split.values(), "latest")
        return {name: found[key] for name, key in split.items()}

    def begin(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The offset at which a first run begins in each partition."""
        asked = cluster(self.brokers)
        earliest = asked.offsets(partitions, "earliest")
        if self.start == "earliest":
            return earliest
        latest = asked.offsets(partitions, "latest")
        if self.start == "latest":
            return latest
        if isinstance(self.start, str):
            moment = round(datetime.fromisoformat(self.start).timestamp() * 1000)
            found = asked.offsets(partitions, moment)
            return {p: offset if offset >= 0 else latest[p] for p, offset in found.items()}
        given = dict(self.start)
        if EACH in given:
            return {p: min(max(given[EACH], earliest[p]), latest[p]) for p in partitions}
        begin = {(t, n): given.get(f"{t}/{n}", given.get(str(n), earliest[t, n])) for t, n in partitions}
        for (topic, number), offset in begin.items():
            low, high = earliest[topic, number], latest[topic, number]
            if not low <= offset <= high:
                raise UsageError(
                    f"start: partition {topic}/{number} has offsets {low} to {high}, there is no {offset} to begin at"
                )
        return begin
