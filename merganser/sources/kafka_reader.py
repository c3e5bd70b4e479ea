"""The reader of Kafka partitions: one consumer for all of them, messages taken in thousands straight into Arrow arrays."""

from __future__ import annotations

import gc
import itertools
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from merganser.brokers import HEALS, cluster, log
from merganser.codecs import Chunk, Place
from merganser.codecs.messages import HEADERS, Messages, joined
from merganser.errors import SourceError
from merganser.sources import Position
from merganser.sources.kafka import Kafka
from merganser.sources.kafka_partition import Reading, split

TAKE = 2_000
"""Messages that are taken from the client at a time: few enough to be in the processor's cache while arrays are made of them."""

ADVISE_EVERY = 1.0
"""Seconds between copies of the positions to the consumer group."""

GONE = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_ID)

CUT = re.compile(r"(?:truncation detected|No epoch found).*end offset is (-?\d+)")
"""What librdkafka says of a log that does not have what was read any more (KIP-320)."""


class KafkaReader:
    """Reads the partitions that were added, in a thread of its own callers."""

    def __init__(self, kafka: Kafka, source: str, follow: bool, accept_gap: bool) -> None:
        self._kafka, self._source, self._follow, self._accept_gap = kafka, source, follow, accept_gap
        self._cluster = cluster(kafka.brokers)
        self._keys = kafka.whole or any(origin == "key" for _, origin in kafka.columns)
        self._headers = kafka.whole or any(origin.startswith("header") for _, origin in kafka.columns)
        self._consumer: Consumer = kafka.brokers.client(
            Consumer, group_id=kafka.group or f"merganser-{source}", enable_auto_commit=False, enable_auto_offset_store=False,
            auto_offset_reset="error", isolation_level="read_committed", enable_partition_eof=True, error_cb=self._note,
            fetch_queue_backoff_ms=2, enable_metrics_push=False,
        )  # fmt: skip
        self._new: list[tuple[str, Position | None]] = []
        self._readings: dict[tuple[str, int], Reading] = {}
        self._topics: list[str] = []
        self._ready: deque[Chunk] = deque()
        self._finished: list[tuple[str, bool]] = []
        self._trouble: KafkaError | None = None
        self._advice: dict[str, int] = {}
        self._advised = 0.0

    def add(self, partition: str, position: Position | None) -> None:
        self._new.append((partition, position))

    def read(self, max_bytes: int) -> Chunk | None:
        if self._new:
            self._begin()
        if not self._ready:
            self._pull(max_bytes)
        return self._ready.popleft() if self._ready else None

    def finished(self) -> list[tuple[str, bool]]:
        if self._ready:
            return []  # first what was read of them
        found, self._finished = self._finished, []
        return found

    def committed(self, positions: Mapping[str, Position]) -> None:
        self._advice |= {name: int(at["offset"]) for name, at in positions.items()}
        if time.monotonic() - self._advised >= ADVISE_EVERY:
            self._advise(wait=False)

    def close(self) -> None:
        self._advise(wait=self._trouble is None)
        self._consumer.close()

    # -- beginning ----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Assign the partitions that were added, each where it goes on."""
        new, self._new = [(split(name), position) for name, position in self._new], []
        keys = [key for key, _ in new]
        ids = self._cluster.ids(topic for topic, _ in keys)
        earliest = self._cluster.offsets(keys, "earliest")
        latest = self._cluster.offsets(keys, "latest")
        begin = self._kafka.begin([key for key, position in new if position is None])
        for key, position in new:
            reading = self._reading(key, position, ids[key[0]], begin.get(key, 0), earliest[key], latest[key])
            # Behind the end? Then the log was cut off, or its new leader does not know yet how far it goes: the next end will do.
            reading.end = None if self._follow or reading.offset > latest[key] else latest[key]
            self._readings[key] = reading
            if key[0] not in self._topics:
                self._topics.append(key[0])
            if position is None or "needed" in position or reading.gaps != position.get("gaps", []):
                # Where it begins is to be known from now on, even if nothing comes; what is left out is covered too.
                start = reading.offset
                if position is not None:
                    reading.offset = int(position["offset"]) + int(position.get("base", 0)) - reading.base
                self._emit(reading, start, None, 0)
            self._end_if_over(reading)
        self._consumer.incremental_assign([r.begin() for key in keys if not (r := self._readings[key]).over])

    def _reading(
        self, key: tuple[str, int], position: Position | None, topic_id: str, begin: int, earliest: int, latest: int
    ) -> Reading:
        """Where a partition goes on; what is lost before that is an error, or accepted and noted."""
        if position is None:
            return Reading(*key, topic_id, begin, begin)
        offset, base = int(position["offset"]), int(position.get("base", 0))
        needed = int(position.get("needed", offset))
        gaps = list(position.get("gaps", []))
        first = int(position.get("from", offset))
        known = str(position.get("topic_id", topic_id))
        if known != topic_id:
            why = f"topic {key[0]!r} was deleted and made anew (its id was {known}, it is {topic_id})"
            self._lost(key, needed, None, why)
            gaps.append([offset + base, offset + base, why])
            # Ordinals only grow: those of the new log come behind those of the old one.
            return Reading(*key, topic_id, earliest, earliest, base + max(needed, offset) - earliest, None, gaps)
        if needed < earliest:
            before = f", and what the store has of it at {first}" if "needed" in position else ""
            why = f"the log of {key[0]}/{key[1]} begins at offset {earliest} by now (retention){before}"
            self._lost(key, needed, earliest, why)
            gaps.append([needed, earliest, why])
        elif "cut" in position or (needed > latest and "leader_epoch" not in position):  # with it Kafka says where it was cut
            cut = int(position.get("cut", latest))
            why = f"the log of {key[0]}/{key[1]} was cut off at offset {cut}"
            self._lost(key, cut, needed, why)
            gaps.append([cut, needed, why])
            return Reading(*key, topic_id, cut, cut, base + max(needed, offset) - cut, None, gaps)
        start = max(offset, earliest)
        first = max(first, start) if "needed" in position else first  # a new view begins with what there is
        reading = Reading(*key, topic_id, first, start, base, None, gaps)
        if int(position.get("last", -1)) + 1 >= earliest:
            reading.last, reading.leader_epoch = position.get("last"), position.get("leader_epoch")
        return reading

    def _lost(self, key: tuple[str, int], begin: int, end: int | None, why: str) -> None:
        """Stop, unless losses are accepted."""
        lost = f"offsets {begin} to {end - 1} ({end - begin} of them)" if end is not None else f"what followed offset {begin - 1}"
        text = f"source {self._source!r} cannot be read on: {why}, so {lost} of {key[0]}/{key[1]} are lost"
        if not self._accept_gap:
            raise SourceError(
                f"{text}. `merganser run` and `rebuild` go on without them with --accept-gap (it is recorded)"
            )
        log.warning("%s; accepted", text)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _pull(self, max_bytes: int) -> None:
        """Take what the client has, up to about so many bytes, and make chunks of it."""
        taken: list[Messages] = []
        which: list[npt.NDArray[np.int64]] = []
        ends: dict[tuple[str, int], int] = {}
        errors: list[Message] = []
        nbytes = 0
        with _without_collector():
            while nbytes < max_bytes:
                # With few bytes wanted, few messages at a time: so a reader that stops early has taken little more than it gave.
                some = self._consumer.consume(min(TAKE, max(1, (max_bytes - nbytes) // 100)), timeout=0)
                if not some:
                    break
                if any(map(Message.error, some)):
                    some = self._without_errors(some, ends, errors)
                if some:
                    taken.append(self._arrays(some))
                    which.append(self._which(some))
                    self._note_epochs(some, which[-1])
                    nbytes += taken[-1].values.nbytes
                del some  # before the collector can see them
        for reading, messages in self._sorted(taken, which):
            end = int(messages.offsets[-1]) + 1
            key = reading.topic, reading.number
            self._emit(reading, max(end, ends.get(key, end)), messages, messages.values.nbytes)
        for key in ends.keys() & self._readings.keys():
            reading = self._readings[key]
            if ends[key] > reading.offset:
                self._emit(reading, ends[key], None, 0)
            if reading.end is None and not self._follow:
                reading.end = reading.offset
            self._end_if_over(reading)
        for message in errors:  # now that offsets are behind what came before
            self._failed(message)

    def _sorted(
        self, taken: Sequence[Messages], which: Sequence[npt.NDArray[np.int64]]
    ) -> list[tuple[Reading, Messages]]:
        """The messages of each partition, in order."""
        if not taken:
            return []
        numbers = np.concatenate(which)
        order = np.argsort(numbers, kind="stable")
        messages, numbers = joined(taken).take(order), numbers[order]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        found = []
        for start, end in itertools.pairwise([*starts.tolist(), len(order)]):
            topic, number = divmod(int(numbers[start]), 1 << 32)
            reading = self._readings[self._topics[topic], number]
            if not reading.over:
                found.append((reading, messages.slice(start, end)))
        return found

    def _arrays(self, taken: Sequence[Message]) -> Messages:
        count = len(taken)
        return Messages(
            pa.array(list(map(Message.value, taken)), pa.binary()),
            np.fromiter(map(Message.offset, taken), np.int64, count),
            np.fromiter(map(itemgetter(1), map(Message.timestamp, taken)), np.int64, count),
            pa.array(list(map(Message.key, taken)), pa.binary()) if self._keys else None,
            _headers(taken) if self._headers else None,
        )

    def _which(self, taken: Sequence[Message]) -> npt.NDArray[np.int64]:
        """The partition of each message as a number: the one of its topic, then its own."""
        numbers = np.fromiter(map(Message.partition, taken), np.int64, len(taken))
        if len(self._topics) == 1:
            return numbers
        places: dict[str | None, int] = {topic: place << 32 for place, topic in enumerate(self._topics)}
        return numbers + np.fromiter(map(places.__getitem__, map(Message.topic, taken)), np.int64, len(taken))

    def _note_epochs(self, taken: Sequence[Message], which: npt.NDArray[np.int64]) -> None:
        """The leader epoch of the last message of each partition."""
        for i in np.flatnonzero(np.diff(which, append=-1)).tolist():
            message = taken[i]
            reading = self._readings.get((str(message.topic()), int(message.partition() or 0)))
            if reading is not None:
                reading.last, reading.leader_epoch = message.offset(), message.leader_epoch()

    def _emit(self, reading: Reading, end: int, messages: Messages | None, nbytes: int) -> None:
        """A chunk up to offset ``end``; without messages it only moves the position."""
        begin, base = reading.offset, reading.base
        if messages is not None and base:
            messages = Messages(
                messages.values, messages.offsets + base, messages.timestamps, messages.keys, messages.headers, base
            )
        reading.offset = end
        high = self._consumer.get_watermark_offsets(reading.at(end), cached=True)[1]
        position = {**reading.position(), "high": max(high, end)}
        records = 0 if messages is None else len(messages)
        self._ready.append(Chunk(
            self._source, reading.name, begin + base, records, Place(reading.name, None, None), messages, position, nbytes,
            until=end + base,
        ))  # fmt: skip
        self._end_if_over(reading)

    def _end_if_over(self, reading: Reading) -> None:
        if reading.end is not None and reading.offset >= reading.end and not reading.over:
            reading.over = True
            self._finished.append((reading.name, False))
            with suppress(KafkaException):  # it was not assigned yet
                self._consumer.incremental_unassign([reading.at(reading.offset)])

    # -- what is no message ---------------------------------------------------------------------------------------------

    def _without_errors(
        self, some: Sequence[Message], ends: dict[tuple[str, int], int], errors: list[Message]
    ) -> list[Message]:
        """The messages; ``ends`` gets where partitions end, ``errors`` what else is no message."""
        good = []
        for message in some:
            error = message.error()
            if error is None:
                good.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                ends[str(message.topic()), int(message.partition() or 0)] = int(message.offset() or 0)
            else:
                errors.append(message)
        return good

    def _failed(self, message: Message) -> None:
        """Raise an error that does not pass."""
        error, topic, number = message.error(), message.topic(), message.partition()
        assert error is not None
        key = (str(topic), int(number)) if topic is not None and number is not None else None
        reading = self._readings.get(key) if key else None
        if error.code() in HEALS:
            self._note(error)
        elif error.code() in GONE and key:
            raise SourceError(
                f"source {self._source!r}: {key[0]}/{key[1]} is gone from {self._kafka.brokers.servers}, its topic was deleted"
                " while it was read; make it again and go on with --accept-gap, or take it out of the flow"
            )
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE) and reading is not None:
            self._go_on(reading, error)
        else:
            raise self._kafka.brokers.error(error, f" (source {self._source!r}{f', {topic}' if topic else ''})")

    def _go_on(self, reading: Reading, error: KafkaError) -> None:
        """The log no longer has the next offset: stop, or go on where it begins, or where it was cut off."""
        position = reading.position()
        position.pop("leader_epoch", None)
        if (cut := CUT.search(error.str())) is not None:
            position["cut"] = max(0, int(cut[1]))
        self._consumer.incremental_unassign([reading.at(reading.offset)])
        self._ready = deque(chunk for chunk in self._ready if chunk.partition != reading.name or chunk.end <= reading.offset)
        self._new.append((reading.name, position))
        del self._readings[reading.topic, reading.number]
        self._begin()

    def _note(self, error: KafkaError) -> None:
        """Say once that a broker is away; the client goes on trying."""
        if error.code() not in HEALS and error.code() != KafkaError._AUTHENTICATION:
            return
        if self._trouble is None and error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._trouble = error
            log.warning("source %r: %s; trying again until it is", self._source, self._kafka.brokers.error(error).message)

    # -- the consumer group ---------------------------------------------------------------------------------------------

    def _advise(self, wait: bool) -> None:
        """Copy positions to the consumer group. They are advice for people: if that fails, nothing is lost."""
        self._advised = time.monotonic()
        advice, self._advice = self._advice, {}
        if not advice:
            return
        offsets = [TopicPartition(*split(name), offset) for name, offset in advice.items()]
        with suppress(KafkaException):
            if wait:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Messages are in no cycles, but so many new objects make Python look for cycles all the time, in the whole heap too.

    That took as long as all else that is done to messages here.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _headers(taken: Sequence[Message]) -> pa.ListArray:
    found = [[{"name": h[0], "value": h[1]} for h in message.headers() or ()] for message in taken]
    return pa.array(found, HEADERS)
