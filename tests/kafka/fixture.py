"""One broker for all workers of a test run, and topics of a test's own."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from tests.kafka.broker import Broker, jars
from tests.services import MissingError, shared


@dataclass
class Kafka:
    """Where the broker listens. ``sasl`` and ``tls`` are None where it is somebody else's."""

    plain: str
    sasl: str | None = None
    tls: str | None = None
    certificate: str | None = None

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.plain, "log_level": 0})

    def topic(self, partitions: int = 1, name: str | None = None, **config: str) -> str:
        """Make a topic; its name is new."""
        name = name or f"t-{uuid.uuid4().hex[:12]}"
        new = NewTopic(name, partitions, 1, config={k.replace("_", "."): v for k, v in config.items()})
        self.admin.create_topics([new])[name].result(20)
        return name

    def producer(self, **config: Any) -> Producer:
        return Producer({
            "bootstrap.servers": self.plain, "log_level": 0, "linger.ms": 5, "message.max.bytes": 32 << 20,
            **{k.replace("_", "."): v for k, v in config.items()},
        })  # fmt: skip

    def send(self, topic: str, *values: Any, partition: int = 0, key: Any = None, **more: Any) -> None:
        """Publish values (bytes, None, or what JSON can say) to a partition, and wait until they are there."""
        producer = self.producer()
        for value in values:
            data = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
            producer.produce(topic, data, key=key, partition=partition, **more)
        assert producer.flush(30) == 0

    def settle(self, topic: str) -> None:
        """Wait until what was committed can be read: a broker answers a commit before its marker is in the partitions.

        A transaction that is left open is waited for for fifteen seconds.
        """
        partitions = [TopicPartition(topic, number) for number in self.admin.list_topics(topic, 20).topics[topic].partitions]
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            ends = [
                [asked.result(20).offset for asked in self.admin.list_offsets(
                    {partition: OffsetSpec.latest() for partition in partitions}, isolation_level=level,
                ).values()]
                for level in (IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED)
            ]  # fmt: skip
            if ends[0] == ends[1]:
                return

    def read(self, topic: str) -> list[Message]:
        """All committed messages of a topic, partition by partition, in order."""
        self.settle(topic)
        consumer = Consumer({
            "bootstrap.servers": self.plain, "group.id": "tests", "isolation.level": "read_committed", "log_level": 0,
            "enable.partition.eof": True, "auto.offset.reset": "earliest",
        })  # fmt: skip
        try:
            left = set(consumer.list_topics(topic, 20).topics[topic].partitions)
            consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in left])
            found: list[Message] = []
            deadline = time.monotonic() + 60
            while left:
                assert time.monotonic() < deadline
                message = consumer.poll(1.0)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    found.append(message)
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    left.discard(int(message.partition() or 0))
            return sorted(found, key=lambda m: (m.partition(), m.offset()))
        finally:
            consumer.close()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker: MERGANSER_TEST_KAFKA's, else our own, of Java or in Docker; without any the test is skipped."""
    named = os.environ.get("MERGANSER_TEST_KAFKA")
    if named:
        yield Kafka(named)
        return
    yield Kafka(**shared("tests.kafka.broker", jars, tmp_path_factory))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of this worker's own, which may be killed."""
    try:
        jars()
    except MissingError as error:
        pytest.skip(str(error))
    own = Broker(tmp_path_factory.mktemp("broker"))
    try:
        own.start()
        yield own
    finally:
        own.kill()
