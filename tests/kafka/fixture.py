"""One broker for all workers of a test run, and topics of a test's own."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.kafka.broker import NoBrokerError, jars

START = 180.0
"""Seconds that a broker may take to start on a busy machine, fetching its jars included."""


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


    def read(self, topic: str) -> list[Message]:
        """All committed messages of a topic, partition by partition, in order."""
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


_started: list[subprocess.Popen[bytes]] = []
"""Kept, since a forgotten child is a warning. It ends by itself when the test run does."""


def _start(folder: Path) -> dict[str, str]:
    """Where the run's broker listens; the first worker that asks starts it."""
    port_file = folder / "kafka.json"
    with (folder / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not port_file.exists():
            jars()
            watched = os.getppid() if os.environ.get("PYTEST_XDIST_WORKER") else os.getpid()
            command = [sys.executable, "-m", "tests.kafka.broker", str(port_file), str(watched)]
            with (folder / "kafka.err").open("wb") as err:
                _started.append(subprocess.Popen(
                    command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err
                ))  # fmt: skip
            deadline = time.monotonic() + START
            while not port_file.exists():
                assert time.monotonic() < deadline, f"no broker: {(folder / 'kafka.err').read_text()}"
                time.sleep(0.1)
    found: dict[str, str] = json.loads(port_file.read_text())
    assert "error" not in found, found["error"]
    return found


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker: MERGANSER_TEST_KAFKA's, else our own; without either the test is skipped, in CI it fails."""
    named = os.environ.get("MERGANSER_TEST_KAFKA")
    if named:
        yield Kafka(named)
        return
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    try:
        yield Kafka(**_start(folder))
    except NoBrokerError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
