"""A Kafka partition that is read.

A partition's position: ``offset`` of the next message; ``from``, the first one that was ever to be read; ``topic_id``;
``base``, what is added to offsets to make ordinals (0, until a topic was made anew and its offsets began again);
``high``, the end of the log as it was known then; ``gaps``, ranges of offsets that were lost and accepted, with why;
``last``, the offset of the last message that was read, and ``leader_epoch``, that of the broker that took it: by these Kafka
tells a log that was cut off and went on with other messages from one that only grew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import TopicPartition

from merganser.sources import Position


@dataclass(slots=True)
class Reading:
    """One partition that is read. Offsets are Kafka's; ``base`` makes ordinals of them."""

    topic: str
    number: int
    topic_id: str
    first: int
    offset: int
    base: int = 0
    end: int | None = None
    """Where a run that does not follow ends."""
    gaps: list[list[Any]] = field(default_factory=list)
    over: bool = False
    last: int | None = None
    leader_epoch: int | None = None
    """Of the message ``last``."""

    @property
    def name(self) -> str:
        return f"{self.topic}/{self.number}"

    def at(self, offset: int) -> TopicPartition:
        return TopicPartition(self.topic, self.number, offset)

    def begin(self) -> TopicPartition:
        """Where to have it read on: behind the last message, so that its epoch can be checked. No other lies between."""
        if self.last is None or self.leader_epoch is None:
            return self.at(self.offset)
        return TopicPartition(self.topic, self.number, self.last + 1, leader_epoch=self.leader_epoch)

    def position(self) -> Position:
        found: Position = {"offset": self.offset, "from": self.first, "base": self.base, "topic_id": self.topic_id}
        if self.gaps:
            found["gaps"] = self.gaps
        if self.last is not None and self.leader_epoch is not None:
            found |= {"last": self.last, "leader_epoch": self.leader_epoch}
        return found


def split(partition: str) -> tuple[str, int]:
    topic, number = partition.rsplit("/", 1)
    return topic, int(number)
