"""Kafka clients: their settings, and their errors in words. What sources and sinks of Kafka share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined] # it is in the documented API

from merganser.errors import FlowError, SourceError
from merganser.secrets import Secret

log = logging.getLogger("merganser.kafka")

TIMEOUT = 10.0
"""Seconds to wait for a broker before saying that there is none."""

Setting = str | int | float | bool | Secret | Callable[..., Any]

HEALS = frozenset({
    KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE,
    KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE, KafkaError.NETWORK_EXCEPTION, KafkaError._WAIT_COORD,
})  # fmt: skip
"""Errors that pass when the broker is back; librdkafka tries again by itself."""

_WORDS = {
    KafkaError._AUTHENTICATION: "refused the login ({detail}); check sasl.username, sasl.password, sasl.mechanism",
    KafkaError.SASL_AUTHENTICATION_FAILED: "refused the login ({detail}); check sasl.username, sasl.password, sasl.mechanism",
    KafkaError._SSL: "and this client do not agree on TLS ({detail}); check security.protocol and ssl.ca.location",
    KafkaError._RESOLVE: "has no known address ({detail}); check brokers=",
    KafkaError.MSG_SIZE_TOO_LARGE: "takes no message of this size ({detail}); raise max.message.bytes of the topic, and"
    " message.max.bytes in settings=",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "does not let this user read or write the topic ({detail})",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "does not let this user write in transactions ({detail})",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "does not let this user do that ({detail})",
}
_TELLING = (
    KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL, KafkaError._RESOLVE, KafkaError._TRANSPORT,
)  # fmt: skip
"""Of several errors the one to show: the most telling first."""

_OURS = frozenset({"bootstrap.servers", "enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset", "isolation.level",
                   "enable.partition.eof", "group.id", "transactional.id", "enable.idempotence", "error_cb", "logger"})  # fmt: skip


@dataclass(frozen=True)
class Brokers:
    """A cluster and how to talk to it: any settings of librdkafka. Secrets are read when a client is made."""

    servers: str
    settings: tuple[tuple[str, Setting], ...] = field(default=(), repr=False)

    @classmethod
    def declare(cls, servers: str, settings: Mapping[str, Setting] | None) -> Brokers:
        if not isinstance(servers, str) or not servers.strip():
            raise FlowError(f"brokers={servers!r} must be text such as 'localhost:9092'")
        settings = dict(settings or {})
        taken = sorted(_OURS & settings.keys())
        if taken:
            raise FlowError(f"settings: {', '.join(taken)} cannot be set, since exactness depends on it; leave it out")
        return cls(servers, tuple(sorted(settings.items(), key=lambda item: item[0])))

    def client(self, make: Callable[[dict[str, Any]], Any], **more: Any) -> Any:
        """A client; ``more`` has underscores for the dots of settings."""
        config: dict[str, Any] = {"log_level": 0, "reconnect.backoff.max.ms": 2000}
        config |= {name: value.read() if isinstance(value, Secret) else value for name, value in self.settings}
        raised: list[Exception] = []
        if callable(token_of := config.get("oauth_cb")):
            config["oauth_cb"] = _watched(token_of, raised)
        config |= {"bootstrap.servers": self.servers} | {n if n == "error_cb" else n.replace("_", "."): v for n, v in more.items()}
        try:
            return make(config)
        except (KafkaException, TypeError) as error:
            text = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            if raised:
                text = f"oauth_cb raised {type(raised[0]).__name__}: {raised[0]}"
            raise FlowError(f"kafka settings: {text}") from None

    def error(self, error: KafkaError, hint: str = "") -> SourceError:
        """A client's error in words: one line, and what to do."""
        detail = error.str().split(": ", 1)[-1] if error.code() in (KafkaError._SSL, KafkaError._TRANSPORT) else error.str()
        words = _WORDS.get(error.code())
        if words is None and error.code() in HEALS:
            words = "cannot be reached ({detail}); is it running, and are brokers= and security.protocol right?"
        return SourceError(f"the Kafka broker {self.servers} {(words or 'said: {detail}').format(detail=detail.strip())}{hint}")


def _watched(callback: Callable[..., Any], raised: list[Exception]) -> Callable[..., Any]:
    """A callback of the user's, whose exceptions the client would keep to itself."""

    def called(*values: Any) -> Any:
        try:
            return callback(*values)
        except Exception as error:
            raised.append(error)
            raise

    return called


@dataclass
class Cluster:
    """What is asked of a cluster: its topics, their ids, offsets. For any thread."""

    brokers: Brokers
    _errors: dict[int, KafkaError] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _client: AdminClient | None = None
    reached: bool = False

    def topics(self, timeout: float = TIMEOUT) -> dict[str, int]:
        """The number of partitions of each topic."""
        client = self._admin()
        try:
            found = client.list_topics(timeout=timeout).topics
        except KafkaException as error:
            raise self.brokers.error(self._worst(error.args[0])) from None
        self.reached = True
        return {name: len(topic.partitions) for name, topic in found.items() if topic.error is None}

    def ids(self, topics: Iterable[str]) -> dict[str, str]:
        """The id of each topic: another one of the same name has another."""
        wanted = TopicCollection(sorted(set(topics)))
        found = self._answers(lambda: self._admin().describe_topics(wanted, request_timeout=TIMEOUT))
        return {name: str(topic.topic_id) for name, topic in found.items()}

    def offsets(self, partitions: Iterable[tuple[str, int]], when: str | int) -> dict[tuple[str, int], int]:
        """Of each partition the offset that is ``"earliest"``, ``"latest"`` (behind the last committed message), or the first
        one at or after a time in milliseconds since 1970; -1 where there is none."""
        spec: Any = OffsetSpec.for_timestamp(when) if isinstance(when, int) else getattr(OffsetSpec, when)()
        wanted = {TopicPartition(topic, number): spec for topic, number in partitions}
        if not wanted:
            return {}
        committed = IsolationLevel.READ_COMMITTED
        found = self._answers(
            lambda: self._admin().list_offsets(wanted, isolation_level=committed, request_timeout=TIMEOUT)
        )
        return {(tp.topic, tp.partition): answer.offset for tp, answer in found.items()}

    def _answers(self, ask: Callable[[], dict[Any, Any]]) -> dict[Any, Any]:
        """What futures give; asked again while the error is one that passes (a partition that has no leader yet)."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return {key: future.result(2 * TIMEOUT) for key, future in ask().items()}
            except KafkaException as error:
                if error.args[0].code() not in HEALS or time.monotonic() > deadline:
                    raise self.brokers.error(self._worst(error.args[0])) from None
                time.sleep(0.1)

    def _admin(self) -> AdminClient:
        with self._lock:
            if self._client is None:
                self._client = self.brokers.client(AdminClient, error_cb=self._note)
            return self._client

    def _note(self, error: KafkaError) -> None:
        self._errors[error.code()] = error

    def _worst(self, error: KafkaError) -> KafkaError:
        """The most telling of an error and those that the client noted on the way."""
        if self._client is not None:
            self._client.poll(0)
        noted, self._errors = {error.code(): error, **self._errors}, {}
        return next((noted[code] for code in _TELLING if code in noted), error)


_clusters: dict[Brokers, Cluster] = {}


def cluster(brokers: Brokers) -> Cluster:
    """The one client of this process for questions to a cluster."""
    return _clusters.setdefault(brokers, Cluster(brokers))
