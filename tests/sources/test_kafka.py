"""Kafka as a source, against a real broker: nothing twice, nothing left out, nothing lost in silence."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import NewPartitions

import merganser as mg
from merganser.lag import lags
from merganser.store import Store
from merganser.verify import verify
from tests.flows import balanced, rows
from tests.kafka.broker import PASSWORD, USER
from tests.kafka.fixture import Kafka
from tests.sources.contract import Case, check
from tests.sources.contract import rows as contract_rows

SCHEMA = {"id": "BIGINT", "name": "VARCHAR"}


def make(
    kafka: Kafka, topic: str, *, schema: Any = SCHEMA, time: str | None = None, latest: str | None = None, **more: Any
) -> mg.Flow:
    flow = mg.Flow("f")
    source = mg.source("events", mg.kafka(topic, brokers=kafka.plain, **more), schema=schema, time=time)
    stream = flow.read(source)
    (stream.latest(by=latest) if latest else stream).materialize("v")
    return flow


def ids(store: Path) -> list[int]:
    return [n for (n,) in rows(store, "SELECT id FROM v ORDER BY id NULLS FIRST")]


def positions(store: Path) -> dict[str, dict[str, Any]]:
    return {p: json.loads(at) for p, at in rows(store, "SELECT partition, position FROM merganser.positions")}


def publish(kafka: Kafka, topic: str, *numbers: int, partition: int = 0, abort: bool = False) -> None:
    """Publish events in one transaction."""
    producer = kafka.producer(transactional_id=f"{topic}-{partition}")
    producer.init_transactions(30)
    producer.begin_transaction()
    for n in numbers:
        producer.produce(topic, json.dumps({"id": n}).encode(), partition=partition)
    producer.flush(30)
    (producer.abort_transaction if abort else producer.commit_transaction)(30)


class Following:
    """A run that follows, in a thread."""

    def __init__(self, flow: mg.Flow, store: Path, **more: Any) -> None:
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self.progressed: Any = None
        self._thread = threading.Thread(target=self._run, args=(flow, store), kwargs=more)
        self._thread.start()

    def _run(self, flow: mg.Flow, store: Path, **more: Any) -> None:
        def begin(progressed: Any) -> None:
            self.progressed = progressed

        try:
            mg.run([flow], store, follow=True, epoch=0.05, stop=self._stop, progress=begin, **more)
        except BaseException as error:
            self.error = error

    def until(self, condition: Callable[[Any], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not (self.progressed is not None and condition(self.progressed)):
            assert time.monotonic() < deadline and self._thread.is_alive(), (self.progressed, self.error)
            time.sleep(0.02)

    def ended(self, seconds: float = 30.0) -> BaseException | None:
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        return self.error

    def stop(self) -> None:
        self._stop.set()
        assert self.ended() is None, self.error


def test_the_contract_of_sources(kafka: Kafka) -> None:
    topic = kafka.topic(2)
    every = contract_rows(24)
    parts = {f"{topic}/0": every[:16], f"{topic}/1": every[16:]}
    for number, part in enumerate(parts.values()):
        kafka.send(topic, *part, partition=number)
    check(Case(lambda: mg.kafka(topic, brokers=kafka.plain), parts), 1)


def test_only_committed_messages_are_read_and_what_lies_between_is_no_loss(kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    publish(kafka, topic, 1, 2)
    publish(kafka, topic, 3, abort=True)
    publish(kafka, topic, 4)
    flow = make(kafka, topic)
    mg.run([flow], store)
    assert ids(store) == [1, 2, 4]
    at = positions(store)[f"{topic}/0"]
    assert at["offset"] == at["high"] == 7  # behind the last transaction's marker
    publish(kafka, topic, 5, abort=True)
    mg.run([flow], store)
    assert positions(store)[f"{topic}/0"]["offset"] == 9  # aborted messages may go, that is no loss
    publish(kafka, topic, 6)
    mg.run([flow], store)
    assert ids(store) == [1, 2, 4, 6]
    balanced(store)
    assert all(found.ok for found in verify([flow], store))


def test_keys_headers_timestamps_and_offsets_as_columns(kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(2), tmp_path / "s.duckdb"
    trace = bytes(range(256))
    kafka.send(topic, {"id": 1}, key=b"7", partition=1, headers=[("trace", trace), ("empty", None)], timestamp=1_767_225_600_000)
    kafka.send(topic, {"id": 2}, key=None)
    columns = {"at": "timestamp", "p": "partition", "o": "offset", "t": "topic", "h": "headers", "trace": "header.trace"}
    mg.run([make(kafka, topic, schema={**SCHEMA, "k": "INTEGER"}, key="k", columns=columns)], store)
    first, second = rows(store, "SELECT id, k, \"at\", p, o, t, h, trace FROM v ORDER BY id")
    assert first == (
        1, 7, datetime(2026, 1, 1), 1, 0, topic, [{"name": "trace", "value": trace}, {"name": "empty", "value": None}], trace
    )  # fmt: skip
    assert (second[0], second[1], second[3:6], second[6:]) == (2, None, (0, 0, topic), ([], None))


def test_a_tombstone_deletes_in_latest(kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    schema = {"name": "VARCHAR", "at": "TIMESTAMP"}
    flow = make(kafka, topic, schema=schema, time="at", key="k", columns={"o": "offset"}, latest="k")
    for key, value in ((b"a", "x"), (b"b", "y"), (b"a", None)):
        kafka.send(topic, value and {"name": value, "at": "2026-01-01"}, key=key)
    mg.run([flow], store)
    assert rows(store, "SELECT k, name, o FROM v") == [("b", "y", 1)]
    assert all(found.ok for found in verify([flow], store))


def test_a_message_of_ten_megabytes(kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    kafka.send(topic, {"id": 1}, {"id": 2, "name": "x" * 10_000_000}, {"id": 3})
    mg.run([make(kafka, topic)], store)
    assert rows(store, "SELECT id, length(name) FROM v ORDER BY id") == [(1, None), (2, 10_000_000), (3, None)]


def test_a_thousand_partitions(kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(1000), tmp_path / "s.duckdb"
    producer = kafka.producer()
    for n in range(450):  # the first message of a partition costs the broker 20 ms
        producer.produce(topic, json.dumps({"id": n}).encode(), partition=n % 150 * 6)
    assert producer.flush(60) == 0
    flow = make(kafka, topic)
    mg.run([flow], store, workers=2)
    assert ids(store) == list(range(450))
    assert len(positions(store)) == 1000
    kafka.send(topic, {"id": 450}, partition=999)
    mg.run([flow], store, workers=2)
    assert ids(store) == list(range(451))


def test_a_run_that_follows_finds_new_partitions_and_topics(kafka: Kafka, tmp_path: Path) -> None:
    name = kafka.topic()
    flow = make(kafka, f"^{name}.*", start="latest")
    kafka.send(name, {"id": 0})
    following = Following(flow, tmp_path / "s.duckdb")
    following.until(lambda p: p.epochs >= 1)
    kafka.send(name, {"id": 1})
    following.until(lambda p: p.committed == 1)
    kafka.admin.create_partitions([NewPartitions(name, 2)])[name].result(20)
    kafka.send(name, {"id": 2}, partition=1)
    other = kafka.topic(name=f"{name}-other")
    kafka.send(other, {"id": 3})
    following.until(lambda p: p.committed == 3)
    following.stop()
    assert ids(tmp_path / "s.duckdb") == [1, 2, 3]  # what is new is read from its beginning
    assert all(found.ok for found in verify([flow], tmp_path / "s.duckdb"))


@pytest.mark.parametrize("start", ["latest", "time", "offsets", "name"])
def test_where_a_first_run_begins(start: str, kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(2), tmp_path / "s.duckdb"
    for n in range(4):
        kafka.send(topic, {"id": n}, partition=n % 2, timestamp=1_767_225_600_000 + n)
    begin = {
        "latest": "latest", "time": datetime.fromtimestamp(1_767_225_600.002, UTC), "offsets": {0: 1, 1: 2},
        "name": {f"{topic}/1": 1},
    }  # fmt: skip
    expected = {"latest": [], "time": [2, 3], "offsets": [2], "name": [0, 2, 3]}[start]
    flow = make(kafka, topic, start=begin[start])
    mg.run([flow], store)
    assert ids(store) == expected
    kafka.send(topic, {"id": 4}, {"id": 5})
    mg.run([flow], store)
    assert ids(store) == [*expected, 4, 5]
    assert all(found.ok for found in verify([flow], store))


def test_a_view_that_is_added_later_begins_where_the_source_did(kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    kafka.send(topic, *({"id": n} for n in range(3)))
    flow = make(kafka, topic, start={0: 1})
    mg.run([flow], store)
    kafka.send(topic, {"id": 3})
    flow.read(flow.sources[0]).filter("id % 2 = 1").materialize("odd")
    mg.run([flow], store)
    assert (ids(store), rows(store, "SELECT id FROM odd ORDER BY id")) == ([1, 2, 3], [(1,), (3,)])


@pytest.mark.parametrize(("begin", "expected"), [("2026-01-01T00:00:00.002", [2, 3]), ("1", [1, 3]), ("9", [])])
def test_a_replay_from_a_time_or_an_offset(begin: str, expected: list[int], kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(2), tmp_path / "s.duckdb"
    for n, partition in enumerate((0, 0, 1, 1)):
        kafka.send(topic, {"id": n}, partition=partition, timestamp=1_767_225_600_000 + n)
    flow = make(kafka, topic)
    flow.read(flow.sources[0]).materialize("other")
    mg.run([flow], store)
    mg.rebuild([flow], ["v"], store, begin=begin)
    assert ids(store) == expected
    kafka.send(topic, {"id": 4})
    mg.run([flow], store)
    assert ids(store) == [*expected, 4]
    assert rows(store, "SELECT count(*) FROM other") == [(5,)]
    assert all(found.ok for found in verify([flow], store))


def test_the_lag_of_a_flow(kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(2), tmp_path / "s.duckdb"
    flow = make(kafka, topic, schema={"id": "BIGINT", "at": "TIMESTAMP"}, time="at")
    kafka.send(topic, {"id": 1, "at": "2026-01-01"}, {"id": 2, "at": "2026-01-02"})
    mg.run([flow], store)
    kafka.send(topic, {"id": 3, "at": "2026-01-03"}, partition=1)
    with Store(store, read_only=True) as opened:
        known, now = lags(opened.rows), lags(opened.rows, [flow])
    day = 86_400_000_000
    assert [(x.partition, x.position, x.end, x.messages) for x in known] == [(f"{topic}/0", 2, 2, 0), (f"{topic}/1", 0, 0, 0)]
    assert [(x.end, x.messages, x.newest) for x in now] == [(2, 0, 1_767_225_600_000_000 + day), (1, 1, None)]
    assert all(x.committed is not None for x in known)


def test_records_that_retention_took_stop_the_flow_until_that_is_accepted(kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    flow = make(kafka, topic)
    kafka.send(topic, {"id": 0})
    mg.run([flow], store)
    kafka.send(topic, *({"id": n} for n in range(1, 6)))
    kafka.admin.delete_records([TopicPartition(topic, 0, 4)])[TopicPartition(topic, 0, 4)].result(20)
    lost = rf"begins at offset 4 by now.*offsets 1 to 3 \(3 of them\) of {topic}/0 are lost.*--accept-gap"
    with pytest.raises(mg.SourceError, match=lost):
        mg.run([flow], store)
    assert ids(store) == [0]
    mg.run([flow], store, accept_gap=True)
    assert ids(store) == [0, 4, 5]
    [[begin, end, why]] = positions(store)[f"{topic}/0"]["gaps"]
    assert (begin, end) == (1, 4) and "retention" in why
    mg.run([flow], store)
    with pytest.raises(mg.SourceError, match="offsets 0 to 3"):
        verify([flow], store)


def test_a_view_is_not_built_anew_of_less_than_it_had_until_that_is_accepted(kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(2), tmp_path / "s.duckdb"
    kafka.send(topic, *({"id": n} for n in range(6)), partition=0)
    kafka.send(topic, {"id": 6}, {"id": 7}, partition=1)
    flow = make(kafka, topic, start={0: 2, 1: 0})
    mg.run([flow], store)
    kafka.admin.delete_records([TopicPartition(topic, 0, 2)])[TopicPartition(topic, 0, 2)].result(20)
    mg.rebuild([flow], ["v"], store)  # nothing is gone of what the view has
    assert ids(store) == [2, 3, 4, 5, 6, 7]
    kafka.admin.delete_records([TopicPartition(topic, 0, 4)])[TopicPartition(topic, 0, 4)].result(20)
    lost = rf"{topic}/0 begins at offset 4 by now.*the store has of it at 2, so offsets 2 to 3 \(2 of them\).*with --accept-gap"
    for _ in range(2):  # what was begun is no reason to go on
        with pytest.raises(mg.SourceError, match=lost):
            mg.rebuild([flow], ["v"], store)
        assert ids(store) == [2, 3, 4, 5, 6, 7]
    mg.run([flow], store)
    mg.rebuild([flow], ["v"], store, accept_gap=True)
    assert ids(store) == [4, 5, 6, 7]
    assert [(begin, end) for begin, end, _ in positions(store)[f"{topic}/0"]["gaps"]] == [(2, 4)]
    mg.rebuild([flow], ["v"], store)
    kafka.send(topic, {"id": 8}, partition=0)
    mg.run([flow], store)
    assert ids(store) == [4, 5, 6, 7, 8]
    assert all(found.ok for found in verify([flow], store))


def test_a_topic_made_anew_stops_the_flow_until_that_is_accepted(kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    flow = make(kafka, topic, columns={"o": "offset"})
    kafka.send(topic, {"id": 0}, {"id": 1})
    mg.run([flow], store)
    kafka.admin.delete_topics([topic])[topic].result(20)
    with pytest.raises(mg.UsageError, match=f"there is no topic '{topic}'"):
        mg.run([flow], store)
    again(kafka, topic)
    kafka.send(topic, *({"id": n} for n in range(2, 6)))
    with pytest.raises(mg.SourceError, match="was deleted and made anew"):
        mg.run([flow], store)
    mg.run([flow], store, accept_gap=True)
    kafka.send(topic, b"bad", {"id": 6})
    mg.run([flow], store)
    assert rows(store, "SELECT id, o FROM v ORDER BY id") == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 2), (5, 3), (6, 5)]
    assert rows(store, "SELECT file, line FROM merganser.dead_letters") == [(f"{topic}/0", 4)]
    flow.read(flow.sources[0]).materialize("later")
    mg.run([flow], store)
    assert rows(store, "SELECT count(*) FROM later") == [(5,)]
    balanced(store)


def again(kafka: Kafka, topic: str) -> None:
    """Make a topic that was just deleted; the broker may need a moment."""
    deadline = time.monotonic() + 20
    while True:
        try:
            kafka.topic(name=topic)
        except Exception:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def test_a_topic_that_is_deleted_while_it_is_read(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic()
    kafka.send(topic, {"id": 0})
    following = Following(make(kafka, topic), tmp_path / "s.duckdb")
    following.until(lambda p: p.committed == 1)
    kafka.admin.delete_topics([topic])[topic].result(20)
    error = following.ended()
    assert isinstance(error, (mg.SourceError, mg.UsageError)) and topic in str(error)
    assert ids(tmp_path / "s.duckdb") == [0]


def test_the_consumer_group_gets_a_copy_of_the_positions(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic()
    kafka.send(topic, {"id": 0}, {"id": 1})
    mg.run([make(kafka, topic, group=f"g-{topic}")], tmp_path / "s.duckdb")
    asked = kafka.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(f"g-{topic}")])
    [found] = asked[f"g-{topic}"].result(20).topic_partitions
    assert (found.topic, found.partition, found.offset) == (topic, 0, 2)


def test_an_event_time_far_past_the_records_timestamp_is_a_dead_letter(kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    for moment in ("2020-01-01T12:00:00", "2020-01-03"):
        kafka.send(topic, {"id": 1, "at": moment}, timestamp=1_577_836_800_000)  # 2020-01-01
    mg.run([make(kafka, topic, schema={"id": "BIGINT", "at": "TIMESTAMP"}, time="at")], store)
    assert rows(store, "SELECT \"at\"::VARCHAR FROM v") == [("2020-01-01 12:00:00",)]
    [(reason, detail)] = rows(store, "SELECT reason, detail FROM merganser.dead_letters")
    assert reason == "event time ahead" and "past the record's timestamp" in detail


def test_an_unknown_topic(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic(name=f"orders-{kafka.topic()}")
    with pytest.raises(mg.UsageError, match=f"there is no topic '{topic}s' at .*, did you mean '{topic}'"):
        mg.run([make(kafka, f"{topic}s")], tmp_path / "a.duckdb")


@pytest.mark.parametrize(("address", "settings", "message", "patience"), [
    ("127.0.0.1:1", {}, "127.0.0.1:1 cannot be reached", 1.0),
    ("no-such-host.invalid:9092", {}, "no-such-host.invalid:9092 (cannot be reached|has no known address)", 1.0),
    ("plain", {"security.protocol": "SSL"}, "SSL.*security.protocol right", 3.0),
    ("tls", {"security.protocol": "SSL"}, "do not agree on TLS", 3.0),
    ("tls", {}, "security.protocol", 3.0),
])  # fmt: skip
def test_what_cannot_be_reached(
    address: str, settings: Any, message: str, patience: float, kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merganser.brokers.TIMEOUT", patience)
    monkeypatch.setattr("merganser.brokers.Cluster.topics.__defaults__", (patience,))
    brokers = getattr(kafka, address, address)
    if brokers is None:
        pytest.skip("a broker that is not our own")
    flow = mg.Flow("f")
    flow.read(mg.source("events", mg.kafka("orders", brokers=brokers, settings=settings), schema=SCHEMA)).materialize("v")
    with pytest.raises(mg.SourceError, match=message) as found:
        mg.run([flow], tmp_path / "a.duckdb")
    assert "\n" not in str(found.value)


def run_with(kafka: Kafka, topic: str, store: Path, brokers: str, settings: Any) -> mg.Flow:
    """Read a topic, and write it to another."""
    flow = mg.Flow("f")
    stream = flow.read(mg.source("events", mg.kafka(topic, brokers=brokers, settings=settings), schema=SCHEMA))
    stream.materialize("v")
    stream.write(mg.kafka(f"{topic}-out", brokers=brokers, settings=settings))
    mg.run([flow], store)
    return flow


def test_login_and_tls_with_secrets_that_are_nowhere(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if kafka.sasl is None or kafka.tls is None:
        pytest.skip("a broker that is not our own")
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    out = kafka.topic(name=f"{topic}-out")
    kafka.send(topic, {"id": 0})
    monkeypatch.setenv("PASSWORD_OF_KAFKA", PASSWORD)
    login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": USER,
             "sasl.password": mg.secret(env="PASSWORD_OF_KAFKA")}  # fmt: skip
    flow = run_with(kafka, topic, store, kafka.sasl, login)
    tls = {"security.protocol": "SSL", "ssl.ca.location": str(kafka.certificate)}
    kafka.send(topic, {"id": 1})
    run_with(kafka, topic, store, kafka.tls, tls)
    assert ids(store) == [0, 1]
    assert len(kafka.read(out)) == 2
    monkeypatch.setattr("merganser.brokers.TIMEOUT", 3.0)
    monkeypatch.setattr("merganser.brokers.Cluster.topics.__defaults__", (3.0,))
    with pytest.raises(mg.SourceError, match="refused the login") as found:
        run_with(kafka, topic, store, kafka.sasl, {**login, "sasl.username": "nobody"})
    assert "\n" not in str(found.value)
    for text in (str(flow), repr(flow.sources), store.read_bytes().decode("latin-1"), str(found.value), caplog.text):
        assert PASSWORD not in text


def token(_: str) -> tuple[str, float]:
    """An unsecured JSON Web Token, which the broker takes; and when it expires."""
    now = time.time()
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, {"sub": "shop", "iat": now, "exp": now + 3600})]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + ".", now + 3600


@pytest.mark.parametrize("how", [
    {"enable.sasl.oauthbearer.unsecure.jwt": True, "sasl.oauthbearer.config": "principal=shop"}, {"oauth_cb": token},
])  # fmt: skip
def test_oauthbearer(how: Any, kafka: Kafka, tmp_path: Path) -> None:
    if kafka.sasl is None:
        pytest.skip("a broker that is not our own")
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    out = kafka.topic(name=f"{topic}-out")
    kafka.send(topic, {"id": 0})
    run_with(kafka, topic, store, kafka.sasl, {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER", **how})
    assert ids(store) == [0]
    assert len(kafka.read(out)) == 1


@pytest.mark.parametrize(("wrong", "message"), [
    ({"topics": []}, "name of a topic"), ({"topics": "^("}, "no regular expression"), ({"format": "xml"}, "there are json"),
    ({"columns": {"x": "when"}}, "a message has key, timestamp"), ({"start": "yesterday"}, "'earliest', 'latest', a time"),
    ({"settings": {"enable.auto.commit": True}}, "cannot be set"), ({"brokers": ""}, "such as 'localhost:9092'"),
])  # fmt: skip
def test_declarations_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(mg.FlowError, match=message) as found:
        mg.kafka(**{"topics": "t", "brokers": "localhost:9092", **wrong})
    assert found.value.where is not None and "test_kafka.py" in found.value.where


def test_the_examples_of_the_documentation() -> None:
    text = (Path(__file__).parent.parent.parent / "docs/kafka.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(example, {"mg": mg})  # noqa: S102 # our own documentation
