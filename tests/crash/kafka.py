"""A flow from Kafka to Kafka that is killed at any time, over a broker that may be killed too; and what must come of it."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from confluent_kafka import KafkaException, Producer

import merganser as mg
from merganser import faults
from tests.crash.harness import child
from tests.kafka.broker import Broker
from tests.kafka.fixture import Kafka

SCHEMA = {"id": "BIGINT NOT NULL", "at": "TIMESTAMP NOT NULL", "key": "VARCHAR", "amount": "BIGINT"}
START = datetime(2026, 1, 1)
PARTITIONS = 3
LATENESS = 20_000_000
POINTS = ("read.after", "epoch.begin", "step.write", "commit.before", "commit.after", "sink.before", "sink.within", "sink.after")


@dataclass(frozen=True)
class Job:
    """One run of the flow; ``follow``: until it is killed, else to the end of the topic."""

    brokers: str
    topic: str
    out: str
    store: str
    follow: bool = True
    workers: int = 1
    fault: tuple[str, int] | None = None


def make_flow(job: Job) -> mg.Flow:
    events = mg.source(
        "events", mg.kafka(job.topic, brokers=job.brokers, columns={"o": "offset", "p": "partition"}), schema=SCHEMA,
        time="at", lateness="20 seconds", id="id", key="key",
    )  # fmt: skip
    flow = mg.Flow("crash")
    once = flow.read(events).filter("amount >= 0").deduplicate()
    once.window(mg.tumbling("1 minute"), by="key").aggregate(n="count(*)", total="sum(amount)").materialize("per_minute")
    flow.read(events).latest(by="key").materialize("last_of_key")
    kept = once.select("p", "o", "id", "amount").materialize("kept")
    kept.write(mg.kafka(job.out, brokers=job.brokers, key="p"))
    return flow


def work(job: Job) -> None:
    if job.fault:
        faults.arm(*job.fault)
    mg.run([make_flow(job)], job.store, follow=job.follow, epoch=0.05, workers=job.workers)


class Publisher(threading.Thread):
    """Publishes transactions of events, a third of which it aborts, until ``stop`` is set; then says what it committed."""

    def __init__(self, kafka: Kafka, topic: str, seed: int, most: int) -> None:
        super().__init__(daemon=True)
        self._kafka, self._topic, self._chance, self._most = kafka, topic, random.Random(seed), most
        self.stop = threading.Event()
        self.published = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            producer, number, generation = self._producer(0), 0, 0
            while not self.stop.wait(0.02) and number < self._most:
                try:
                    number = self.published = self._transaction(producer, number)
                except KafkaException:  # the broker is gone: go on with a new producer when it is back
                    generation += 1
                    producer = self._producer(generation)
        except BaseException as error:
            self.failure = error

    def _producer(self, generation: int) -> Producer:
        while True:
            producer = self._kafka.producer(transactional_id=f"publisher-{self._topic}-{generation}")
            try:
                producer.init_transactions(10)
            except KafkaException:
                if self.stop.wait(0.2):
                    raise
                continue
            return producer

    def _transaction(self, producer: Producer, number: int) -> int:
        chance = self._chance
        producer.begin_transaction()
        end = number + chance.randrange(5, 60)
        for each in range(number, end):
            producer.produce(self._topic, self._value(each), partition=chance.randrange(PARTITIONS))
        if producer.flush(10):
            raise KafkaException("the broker is away")
        if chance.random() < 1 / 3:
            producer.abort_transaction(10)
        else:
            producer.commit_transaction(10)
        return end

    def _value(self, number: int) -> bytes:
        chance = self._chance
        if chance.random() < 0.01:
            return chance.choice([b"{broken", b"", b'{"id": null}', b"\xff\xfe"])
        behind = chance.uniform(0, 15) if chance.random() < 0.97 else chance.uniform(60, 300)
        moment = START + timedelta(seconds=number / 10) - timedelta(seconds=behind)
        event = {
            "id": number if chance.random() < 0.95 else max(0, number - chance.randrange(1, 30)), "at": moment.isoformat(),
            "key": chance.choice("abcd"), "amount": chance.randrange(-5, 100),
        }  # fmt: skip
        return json.dumps(event).encode()


def expected(kafka: Kafka, topic: str) -> dict[str, list[tuple[Any, ...]]]:
    """The views, by plain SQL over what a client that knows nothing of merganser reads in the topic."""
    rows = []
    for message in kafka.read(topic):
        try:
            value = json.loads(message.value())
            if value["id"] is not None:
                at = datetime.fromisoformat(value["at"])
                rows.append({**value, "at": at, "p": message.partition(), "o": message.offset()})
        except ValueError:
            continue
    con = duckdb.connect()
    con.register("read", pa.Table.from_pylist(rows))
    con.execute(
        f'CREATE TABLE events AS SELECT *, epoch_us("at") AS us, max(epoch_us("at")) OVER (PARTITION BY p ORDER BY o)'
        f" - {LATENESS} AS wm FROM read"
    )
    con.execute(
        "CREATE TABLE once AS SELECT * FROM events WHERE amount >= 0"
        " QUALIFY row_number() OVER (PARTITION BY p, id ORDER BY o) = 1"
    )
    start = "us - us % 60000000"
    queries = {
        "per_minute": f"SELECT key, make_timestamp({start}) AS w, count(*), sum(amount)::BIGINT FROM once"
        f" WHERE wm < {start} + 60000000 GROUP BY ALL",
        "last_of_key": 'SELECT DISTINCT ON (key) key, id, "at", amount FROM events ORDER BY key, us DESC, p DESC, o DESC',
        "kept": "SELECT p, o, id, amount FROM once",
    }
    return {name: sorted(con.execute(sql).fetchall(), key=repr) for name, sql in queries.items()}


def found(store: str) -> dict[str, list[tuple[Any, ...]]]:
    columns = {
        "per_minute": "key, window_start, n, total::BIGINT", "last_of_key": 'key, id, "at", amount', "kept": "p, o, id, amount",
    }  # fmt: skip
    with duckdb.connect(store, read_only=True) as con:
        for read, *fates in con.execute("SELECT read, applied, filtered, late, duplicate, dead FROM merganser.commits").fetchall():
            assert read == sum(fates)
        return {view: sorted(con.execute(f"SELECT {c} FROM {view}").fetchall(), key=repr) for view, c in columns.items()}


def check(kafka: Kafka, job: Job) -> int:
    """Views equal the oracle, and the output topic has each row once, each partition's in order. Returns the rows."""
    right = expected(kafka, job.topic)
    assert found(job.store) == right
    sent = [(message, json.loads(message.value())) for message in kafka.read(job.out)]
    assert sorted(((v["p"], v["o"], v["id"], v["amount"]) for _, v in sent), key=repr) == right["kept"]
    numbers = [int(dict(message.headers())["merganser-seq"]) for message, _ in sent]
    assert sorted(numbers) == list(range(1, len(sent) + 1))
    for partition in range(PARTITIONS):
        offsets = [v["o"] for _, v in sent if v["p"] == partition]
        assert offsets == sorted(offsets)  # a key's rows stay in order
    return len(sent)


def attempt(job: Job, kill_after: float | None = None, with_it: Callable[[], None] | None = None) -> int:
    return child(work, job, kill_after, with_it)


def killed(job: Job, chance: random.Random, longest: float) -> None:
    """Run the flow until it is killed: after some seconds, or half of the times at a named point before."""
    fault = (chance.choice(POINTS), chance.randrange(1, 4)) if chance.random() < 0.5 else None
    code = attempt(replace(job, fault=fault, workers=chance.choice([1, 2])), chance.uniform(0.15, longest))
    assert code == -9, f"the flow ended with {code}"


def killed_with_broker(job: Job, broker: Broker, chance: random.Random) -> None:
    """Run the flow until it and the broker are killed at the same moment; then start the broker again."""
    code = attempt(job, chance.uniform(0.8, 2.5), broker.kill)
    assert code == -9, f"the flow ended with {code}"
    broker.start()


def store_of(folder: Path) -> str:
    return str(folder / "s.duckdb")
