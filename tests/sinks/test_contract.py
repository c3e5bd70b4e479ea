"""All sinks pass the contract."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

import pytest

import merganser as mg
from merganser import sinks
from merganser.codecs.encoding import Encoding
from merganser.schema import Schema
from merganser.sinks import Sent, SinkAwayError
from tests.kafka.broker import Broker
from tests.kafka.fixture import Kafka
from tests.sinks.contract import Case, check, rows

JSON = Encoding("json", Schema(()))


def test_memory() -> None:
    memory = mg.memory([])

    def content() -> list[bytes | None]:
        return [r.value for s in memory.sent.values() for r in s]

    case = Case(lambda sender: sinks.writer(memory, "out", sender, JSON), content)
    check(case, 0)


@pytest.mark.parametrize("seed", range(3))
def test_files(seed: int, tmp_path: Path) -> None:
    def content() -> list[bytes | None]:
        lines = [line for path in sorted(tmp_path.glob("out/o-*.jsonl")) for line in path.read_bytes().splitlines()]
        return [None if line == b"null" else line for line in lines]

    files = mg.files(f"{tmp_path}/out/o-*.jsonl")
    check(Case(lambda sender: sinks.writer(files, "out", sender, JSON), content), seed)


@pytest.mark.parametrize("seed", range(2))
def test_kafka(seed: int, kafka: Kafka) -> None:
    topic = kafka.topic()
    case = Case(
        lambda sender: sinks.writer(mg.kafka(topic, brokers=kafka.plain), "out", sender, JSON),
        lambda: [m.value() for m in kafka.read(topic)],
    )
    check(case, seed)


def test_each_message_carries_its_epoch_and_number(kafka: Kafka) -> None:
    topic = kafka.topic(3)
    writer = sinks.writer(mg.kafka(topic, brokers=kafka.plain), "out", "cccc", JSON)
    writer.send(rows(1, 20))
    writer.close()
    found = {}
    for message in kafka.read(topic):
        headers = dict(message.headers())
        found[int(headers["merganser-seq"])] = (int(headers["merganser-epoch"]), message.key(), message.value())
    assert found == {row.seq: (row.epoch, row.key, row.value) for row in rows(1, 20)}
    keys = [m.key() for m in kafka.read(topic)]
    assert len({(m.key(), m.partition()) for m in kafka.read(topic)}) == len(set(keys))  # a key stays in its partition


def test_a_second_writer_fences_the_first_off(kafka: Kafka) -> None:
    topic = kafka.topic()
    first, second = (sinks.writer(mg.kafka(topic, brokers=kafka.plain), "out", "dddd", JSON) for _ in range(2))
    first.send(rows(1, 3))
    assert second.last() == 3
    with pytest.raises(mg.StoreError, match="another process sends with the identity of this store"):
        first.send(rows(4, 6))
    second.send(rows(4, 6))
    assert [m.value() for m in kafka.read(topic)] == [row.value for row in rows(1, 6)]
    second.close()


def test_a_row_that_is_too_large_is_no_matter_of_patience(kafka: Kafka) -> None:
    topic = kafka.topic(max_message_bytes="2000")
    writer = sinks.writer(mg.kafka(topic, brokers=kafka.plain), "out", "eeee", JSON)
    for size in (5000, 2_000_000):  # for the broker, for the client
        with pytest.raises(mg.SourceError, match=r"takes no message of this size.*max\.message\.bytes.*sink 'out'") as found:
            writer.send([rows(1, 1)[0], Sent(2, 1, b"k", random.Random(0).randbytes(size))])
        assert "\n" not in str(found.value)
    assert writer.last() == 0
    writer.send(rows(1, 2))
    assert [m.value() for m in kafka.read(topic)] == [row.value for row in rows(1, 2)]


def test_a_topic_that_there_is_not(kafka: Kafka) -> None:
    topic = kafka.topic(name=f"out-{kafka.topic()}")
    writer = sinks.writer(mg.kafka(f"{topic}s", brokers=kafka.plain), "out", "ffff", JSON)
    with pytest.raises(mg.UsageError, match=f"there is no topic '{topic}s' at .*, did you mean '{topic}'"):
        writer.send(rows(1, 1))


def test_a_broker_that_is_started_again_while_nothing_is_sent(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client may then wait for ever for the coordinator of the marker's group."""
    monkeypatch.setattr("merganser.sinks.kafka.TRANSACTION", 3.0)
    kafka = Kafka(broker.address)
    topic = kafka.topic()
    writer = sinks.writer(mg.kafka(topic, brokers=broker.address), "out", "gggg", JSON)
    writer.send(rows(1, 20))
    assert writer.last() == 20
    kafka.settle(topic)  # its commit is answered before it is in the partitions: nothing is under way any more
    broker.kill()
    with socket.create_server((broker.address.split(":")[0], broker.ports[0])) as closed:  # as a broker that refuses
        for _ in range(3):
            closed.accept()[0].close()
    broker.start()
    for _ in range(20):
        with suppress(SinkAwayError):  # as the run does: ask where it is, and go on there
            if (at := writer.last()) == 30:
                break
            writer.send(rows(at + 1, 30))
    assert [m.value() for m in kafka.read(topic)] == [row.value for row in rows(1, 30)]
