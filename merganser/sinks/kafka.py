"""A Kafka topic as a sink: rows in transactions, with a marker in each of how far it brings the topic.

The marker is an offset of the consumer group ``merganser-SENDER-NAME`` that is committed in the transaction of the rows: it is the
number of the last row. After a crash the broker has either both or neither. Where this ends: docs/kafka.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import wait
from dataclasses import replace
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from merganser import faults
from merganser.aside import aside
from merganser.brokers import HEALS, TIMEOUT
from merganser.codecs.encoding import Encoding
from merganser.codecs.messages import Messages
from merganser.errors import FlowError, SourceError, StoreError
from merganser.sinks import Content, Sent, SinkAwayError
from merganser.sources.kafka import Kafka

EPOCH, SEQ, SINK = "merganser-epoch", "merganser-seq", "merganser-sink"
"""Headers of each message: the epoch and the row's number in decimal digits, and ``SENDER/NAME``."""

FENCED = (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)
"""Another producer has the same identity."""

LASTING = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_RECORD,
           KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)  # fmt: skip
"""Errors that sending the same again does not mend."""

ASK = 2.0
"""Seconds for one question to the coordinator of a group."""

TRANSACTION = 30.0
"""Seconds after which the broker takes back a transaction that was not ended."""


def open(connector: Kafka, name: str, sender: str, encoding: Encoding) -> KafkaWriter:
    return KafkaWriter(connector, name, sender)


def content(connector: Kafka, name: str, sender: str, encoding: Encoding) -> dict[int, Content]:
    found: dict[int, Content] = {}
    reader = replace(connector, columns=(("k", "key"), ("h", "headers")), start="earliest").open(f"verify-{sender}", follow=False)
    left = connector.partitions()
    for partition in left:
        reader.add(partition, None)
    mine = f"{sender}/{name}".encode()
    while left:
        chunk = reader.read(8 << 20)
        if chunk is None:
            over = {partition for partition, _ in reader.finished()}
            left = [partition for partition in left if partition not in over]
            time.sleep(0.002)
        elif chunk.records:
            messages: Messages = chunk.payload
            assert messages.keys is not None and messages.headers is not None
            for key, value, headers in zip(*(a.to_pylist() for a in (messages.keys, messages.values, messages.headers))):
                told = {h["name"]: h["value"] for h in headers}
                if told.get(SINK) == mine:
                    found[int(told[SEQ])] = key, value
    reader.close()
    return found


def check(connector: Kafka) -> None:
    if len(connector.names) != 1 or connector.names[0].startswith("^"):
        raise FlowError(f"write() takes one topic, not {' '.join(connector.names)}")
    if any(origin != "key" for _, origin in connector.columns):
        raise FlowError("write(mg.kafka(…)): columns= is for sources; key= names the column of the key")


def format_of(connector: Kafka) -> str:
    return connector.format


def default_name(connector: Kafka) -> str:
    return connector.names[0]


class KafkaWriter:
    """Sends each batch in one transaction of an idempotent producer; another producer of the same id is fenced off."""

    linger = 0.0

    def __init__(self, kafka: Kafka, name: str, sender: str) -> None:
        self._kafka, self._name, self._topic = kafka, name, kafka.names[0]
        self._id = f"merganser-{sender}-{name}"
        self._mine = f"{sender}/{name}".encode()
        self._marker = TopicPartition(self._topic, 0)
        self._producer: Producer | None = None
        self._group: Any = None

    def last(self) -> int:
        if self._producer is None:
            self._connect()
        consumer = self._kafka.brokers.client(
            Consumer, group_id=self._id, isolation_level="read_committed", enable_auto_commit=False, enable_metrics_push=False
        )
        try:
            self._group = consumer.consumer_group_metadata()
            return self._committed(consumer)
        finally:
            consumer.close()

    def _committed(self, consumer: Consumer) -> int:
        """The marker; asked again for a while, since the first question to a new group may find no coordinator yet."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                # As a consumer that reads what is committed, it waits for what the coordinator still has to finish.
                # Asked for a short time, often: the client may miss that the coordinator is there, and wait for that in vain.
                [found] = consumer.committed([self._marker], timeout=ASK)
                return max(0, int(found.offset))
            except KafkaException as error:
                if error.args[0].code() not in HEALS or time.monotonic() > deadline:
                    raise self._away(error) from None
                time.sleep(0.1)

    def send(self, rows: Sequence[Sent]) -> None:
        if self._producer is None:
            self.last()
        producer = self._producer
        assert producer is not None
        # Its timeouts do not hold: where a broker was restarted while nothing was sent, the client may wait for ever for an answer
        # of the group's coordinator. Such a one is left to itself: the next producer takes back what it did.
        sent = aside(partial(self._transact, producer, rows), f"merganser-transaction-{self._name}")
        if wait([sent], TRANSACTION).not_done:
            self.close()
            raise SinkAwayError(
                f"the Kafka broker {self._kafka.brokers.servers} has not answered for {TRANSACTION:g} s (sink {self._name!r})"
            )
        try:
            sent.result()
        except KafkaException as error:
            raise self._undo(error) from None

    def _transact(self, producer: Producer, rows: Sequence[Sent]) -> None:
        producer.begin_transaction()
        self._produce(producer, rows)
        producer.send_offsets_to_transaction([TopicPartition(self._topic, 0, rows[-1].seq)], self._group, TIMEOUT)
        faults.point("sink.within")
        producer.commit_transaction(TIMEOUT)

    def close(self) -> None:
        self._producer = None

    def _connect(self) -> None:
        producer: Producer = self._kafka.brokers.client(
            Producer, transactional_id=self._id, transaction_timeout_ms=round(TRANSACTION * 1000), partitioner="murmur2_random",
            linger_ms=5, compression_type="lz4", queue_buffering_max_messages=1_000_000, enable_metrics_push=False,
        )  # fmt: skip
        try:
            producer.init_transactions(TIMEOUT)  # ends what a producer before it left open
        except KafkaException as error:
            raise self._away(error) from None
        self._kafka.partitions()  # without the topic, sending would wait for it until it times out
        self._producer = producer

    def _produce(self, producer: Producer, rows: Sequence[Sent]) -> None:
        mine = self._mine
        for seq, epoch, key, value, more in rows:
            headers: list[tuple[str, str | bytes | None]]
            headers = [(EPOCH, b"%d" % epoch), (SEQ, b"%d" % seq), (SINK, mine), *more]
            while True:
                try:
                    producer.produce(self._topic, value, key, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush(TIMEOUT)  # a row that could not be delivered fails the commit

    def _undo(self, error: KafkaException) -> Exception:
        """Go on with a new producer, which ends the transaction; whether a commit without an answer counts, ``last`` tells."""
        cause: KafkaError = error.args[0]
        self.close()
        if cause.code() in FENCED:
            return StoreError(
                f"sink {self._name!r}: another process sends with the identity of this store; run one of a store and its copies"
            )
        return self._away(error)

    def _away(self, error: KafkaException) -> Exception:
        cause: KafkaError = error.args[0]
        words = self._kafka.brokers.error(cause, f" (sink {self._name!r})")
        heals = cause.code() not in LASTING and (cause.code() in HEALS or cause.retriable() or cause.txn_requires_abort())
        return SinkAwayError(words.message) if heals else SourceError(words.message)
