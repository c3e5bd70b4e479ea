"""Files, then a Kafka topic, as one log: what was exported before, gone on with by what comes.

The whole is one partition, so time, order and duplicates are those of one log: the topic must have one partition too.
Ordinals go on behind those of the files. A position says which ``part`` one is in (0, 1), ``at`` which position of that, and
``begin``, the offset at which the topic was begun, once that is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from merganser.brokers import cluster
from merganser.codecs import Chunk, Codec, Decoded, Place
from merganser.codecs.messages import Messages
from merganser.errors import FlowError, UsageError
from merganser.schema import Schema
from merganser.sources import Position, Reader
from merganser.sources.files import Files
from merganser.sources.kafka import Kafka

LOG = "log"
"""The name of the only partition."""


@dataclass(frozen=True, slots=True)
class Then:
    """The connector to files and a topic behind them; see ``Files.then``."""

    in_order: ClassVar[bool] = False

    files: Files
    kafka: Kafka

    def __post_init__(self) -> None:
        if self.files.partition_by is not None:
            raise FlowError("files(partition_by='file').then(…): only files that are one log can be gone on with")
        if not isinstance(self.kafka, Kafka) or len(self.kafka.names) != 1 or self.kafka.names[0].startswith("^"):
            raise FlowError("then() takes mg.kafka('topic', …) with one topic")

    def describe(self) -> str:
        return f"{self.files.describe()}, then {self.kafka.describe()}"

    def metadata(self, schema: Schema) -> dict[str, str]:
        return {}  # columns that messages bring must be in the files too, and so in the schema

    def check(self) -> None:
        self.files.check()
        self.partitions()

    def partitions(self) -> list[str]:
        there = self.kafka.partitions()
        if len(there) > 1:
            raise UsageError(
                f"topic {self.kafka.names[0]!r} has {len(there)} partitions, but files are one log, which only a topic of one"
                " partition can go on with; read them as two sources"
            )
        return [LOG]

    def open(self, source: str, *, follow: bool, accept_gap: bool = False) -> Reader:
        return ThenReader(self, source, follow, accept_gap)

    def origin(self, positions: Sequence[Position], *, late: bool = False, whole: bool = False) -> Position | None:
        begun = [p["begin"] for p in positions if p.get("begin") is not None]
        return {"part": 0, "at": None, "begin": begun[0]} if begun else None

    def moved(self, old: Position | None, new: Position) -> Position:
        return new

    def replayed(self, begin: str) -> Then:
        raise UsageError(f"a replay from {begin} needs a log that is in Kafka as a whole; use rebuild")

    def codec(self, schema: Schema, time: str | None = None) -> Codec:
        return ThenCodec(self.files.codec(schema, time), self.kafka.codec(schema, time))

    def total_bytes(self) -> int | None:
        return None


class ThenCodec:
    """Decodes chunks of either part."""

    def __init__(self, files: Codec, kafka: Codec) -> None:
        self._files, self._kafka = files, kafka

    def _of(self, chunk: Chunk) -> Codec:
        return self._kafka if isinstance(chunk.payload, Messages) else self._files

    def decode(self, chunk: Chunk) -> Decoded:
        return self._of(chunk).decode(chunk)

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        return self._of(chunk).locate(chunk, seqs)


class ThenReader:
    """Reads the files to their end, then the topic."""

    def __init__(self, then: Then, source: str, follow: bool, accept_gap: bool) -> None:
        self._then, self._source, self._follow, self._accept_gap = then, source, follow, accept_gap
        self._topic = f"{then.kafka.names[0]}/0"
        self._reader: Reader | None = None
        self._part = 0
        self._end = 0
        self._begin: int | None = None

    def add(self, partition: str, position: Position | None) -> None:
        position = position or {"part": 0, "at": None, "begin": None}
        self._part, self._begin = position["part"], position["begin"]
        if self._part == 0:
            self._end = (position["at"] or {}).get("seq", 0)
            self._reader = self._then.files.open(self._source, follow=False)
            self._reader.add("files", position["at"])
        else:
            self._open_topic(position["at"])

    def read(self, max_bytes: int) -> Chunk | None:
        while self._reader is not None:
            chunk = self._reader.read(max_bytes)
            if chunk is not None:
                self._end = chunk.end
                position: Position = {"part": self._part, "at": chunk.position, "begin": self._begin}
                return replace(chunk, partition=LOG, position=position)
            if self._part == 1 or not self._reader.finished():
                return None
            self._reader.close()
            self._cut_over()
        return None

    def finished(self) -> list[tuple[str, bool]]:
        if self._reader is None or self._part == 0 or not self._reader.finished():
            return []
        return [(LOG, False)]

    def committed(self, positions: Mapping[str, Position]) -> None:
        at = positions.get(LOG)
        if at is not None and at["part"] == 1 and self._part == 1 and self._reader is not None:
            self._reader.committed({self._topic: at["at"]})

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _cut_over(self) -> None:
        """Go on in the topic, where ``start`` says, or where it was begun before; with ordinals behind those of the files."""
        kafka = self._then.kafka
        key = kafka.names[0], 0
        if self._begin is None:
            self._begin = kafka.begin([key])[key]
        self._part = 1
        topic_id = cluster(kafka.brokers).ids([key[0]])[key[0]]
        begin = self._begin
        self._open_topic({
            "offset": begin, "from": begin, "needed": begin, "base": self._end - begin, "topic_id": topic_id,
        })  # fmt: skip

    def _open_topic(self, position: Position) -> None:
        self._reader = self._then.kafka.open(self._source, follow=self._follow, accept_gap=self._accept_gap)
        self._reader.add(self._topic, position)
