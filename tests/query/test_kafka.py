"""Read your writes, by the offsets that a producer was told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from confluent_kafka import Message

import merganser as mg
from tests.kafka.fixture import Kafka
from tests.query.running import counting, events, running


def test_waiting_for_offsets(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic(2)
    kafka.send(topic, *events(10), partition=0)
    with running([counting(mg.kafka(topic, brokers=kafka.plain))], tmp_path / "s.duckdb") as connection:
        written: dict[str, dict[str, int]] = {}

        def note(error: object, message: Message) -> None:
            assert error is None
            written[f"{message.topic()}/{message.partition()}"] = {"offset": (message.offset() or 0) + 1}

        producer = kafka.producer()
        for number, row in enumerate(events(20, 10)):
            producer.produce(topic, json.dumps(row).encode(), partition=number % 2, on_delivery=note)
        assert producer.flush(30) == 0 and written == {f"{topic}/0": {"offset": 20}, f"{topic}/1": {"offset": 10}}
        connection.wait_for({"events": written}, timeout=30)
        assert connection.sql("FROM total").fetchall() == [(30,)]
        kafka.send(topic, *events(5, 30), partition=1)
        connection.wait_for("now", timeout=30)
        assert connection.sql("FROM total").fetchall() == [(35,)]
        with pytest.raises(mg.WaitTimeoutError, match=r"partition '.*/1' of source 'events' is at record 15"):
            connection.wait_for({"events": {f"{topic}/1": {"offset": 16}}}, timeout=0.2)
        with pytest.raises(mg.WaitTimeoutError, match=f"is committed, of its partitions: {topic}/0, {topic}/1"):
            connection.wait_for({"events": {"1": {"offset": 1}}}, timeout=0.2)
