"""``source``: what its owner knows about a stream of events, checked when it is declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from merganser import sinks
from merganser.clock import TIME_UNITS, duration
from merganser.codecs import debezium
from merganser.codecs.cloudevents import KEY, TIME, CloudEvents
from merganser.codecs.debezium import Debezium
from merganser.errors import FlowError, on_users_line
from merganser.plan import Source
from merganser.schema import Column, Schema
from merganser.sources import Connector
from merganser.sources.kafka import Kafka

NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "DOUBLE", "DECIMAL")
TIME_TYPES = ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_MS", "TIMESTAMP_S", "TIMESTAMP_NS", "TIMESTAMPTZ_NS", "DATE")


@on_users_line
def source(
    name: str,
    connector: Connector,
    *,
    schema: Mapping[str, str] | str | Path | Schema,
    types: Mapping[str, str] | None = None,
    time: str | None = None,
    time_unit: str | None = None,
    lateness: str | timedelta | None = None,
    idle_after: str | timedelta | None = None,
    id: str | None = None,
    key: str | None = None,
    on_error: str = "dead_letter",
    max_ahead: str | timedelta = "1 day",
    version: str | None = None,
    storm: float | None = 0.5,
    dead_letters: Connector | None = None,
) -> Source:
    """Declare a stream of events.

    - ``connector``: where they are, ``mg.files(…)`` or ``mg.kafka(…)``.
    - ``schema``: column to DuckDB type (``{"amount": "DECIMAL(18,2)", "id": "VARCHAR NOT NULL"}``), or an ``.avsc``,
      ``.proto#Message`` or ``.schema.json`` file, or ``mg.cloudevents(…)`` or ``mg.debezium(…)`` of one of these.
    - ``types``: other types than the schema file or the envelope gives some of the columns, such as ``{"at": "TIMESTAMPTZ_NS"}``
      for times with nanoseconds.
    - ``time``: the column of the event time; ``lateness``: how far behind the newest event of its partition one may
      come and still be counted in its window (None: however far, and every window stays open).
    - ``time_unit``: what the event time counts in from 1970-01-01 UTC if it is a number: ``"s"``, ``"ms"`` or ``"us"``.
    - ``idle_after``: a partition without news for so long, by the clock, no longer holds back which windows are called final.
    - ``id``: the column that names an event once and for all, ``key``: the column of what it is about.
    - ``on_error``: ``"dead_letter"`` keeps a bad record in ``merganser.dead_letters`` and goes on, ``"stop"`` stops.
    - ``max_ahead``: an event time later than this past the message's timestamp, or past the clock where there is none, is
      a bad record.
    - ``version``: the column that says which version an event is of; ``upcast`` on the source then makes older ones current.
    - ``storm``: the run stops, and nothing of the epoch is kept, when 1,000 records and more than this share of the last ones
      are bad: the format or schema is wrong then, and not the records. None: keep them all as dead letters.
    - ``dead_letters``: ``mg.kafka("orders.dlq", brokers=…)``, a topic that gets a copy of each dead letter, exactly once.
    """
    if not name or not name.replace("_", "").replace("-", "").isalnum():
        raise FlowError(f"source name {name!r} must be letters, digits, _ and -")
    if not isinstance(connector, Connector):
        raise FlowError(f"the events of source {name!r} are somewhere, such as mg.files(…), not in {connector!r}")
    declared = schema if isinstance(schema, Schema) else Schema.declare(schema)
    if isinstance(declared.written, CloudEvents):
        time, id = time or TIME, id or KEY
    if isinstance(declared.written, Debezium):
        time = time or debezium.TIME
        key = key or (declared.written.key[0] if len(declared.written.key) == 1 else None)
    metadata = connector.metadata(declared)
    more = tuple(Column(n, t) for n, t in metadata.items() if n not in declared)
    declared = replace(declared, columns=(*declared.columns, *more)).typed(types or {})
    if isinstance(declared.written, Debezium) and isinstance(connector, Kafka):
        if connector.format != "json":
            raise FlowError(f"mg.debezium(…) reads JSON, and source {name!r} is declared with format={connector.format!r}")
        connector = replace(connector, columns=(*connector.columns, (debezium.MESSAGE_KEY, "key")))
    _check_columns(name, declared, time, id, key, version)
    if time is not None:
        _check_time(time, declared[time].type, time_unit)
    if lateness is not None and time is None:
        raise FlowError(f"lateness is measured in event time, but source {name!r} has no time=")
    _check_errors(name, on_error, storm, dead_letters)
    if isinstance(connector, Kafka) and (dead_letters is not None or isinstance(declared.written, CloudEvents)):
        connector = replace(connector, whole=True)
    late = None if lateness is None else duration(lateness, "lateness")
    idle = None if idle_after is None else duration(idle_after, "idle_after")
    ahead = duration(max_ahead, "max_ahead")
    return Source(
        name, connector, declared, time, late, id, key, on_error, ahead, time_unit, idle, version, storm=storm,
        dead_letters=dead_letters,
    )  # fmt: skip


def _check_columns(
    name: str, declared: Schema, time: str | None, id: str | None, key: str | None, version: str | None
) -> None:
    """Refuse roles of columns that are not there, and a version that is no number."""
    for role, column in (("time", time), ("id", id), ("key", key), ("version", version)):
        if column is not None and column not in declared:
            raise FlowError(f"{role}={column!r} is no column of source {name!r}; it has {', '.join(declared.names())}")
    if version is not None and declared[version].type.split("(")[0] not in NUMBERS:
        raise FlowError(f"version={version!r} is a {declared[version].type}; declare it in the schema as an INTEGER")


def _check_errors(name: str, on_error: str, storm: float | None, dead_letters: Connector | None) -> None:
    """Refuse what cannot become of bad records."""
    if on_error not in ("dead_letter", "stop"):
        raise FlowError(f"on_error={on_error!r} must be 'dead_letter' or 'stop'")
    if storm is not None and not 0 <= storm <= 1:
        raise FlowError(f"storm={storm!r} must be a share between 0 and 1, or None")
    if dead_letters is not None:
        if not isinstance(dead_letters, Kafka):
            raise FlowError(f"dead_letters={dead_letters!r} must be a topic, mg.kafka('{name}.dlq', brokers=…)")
        sinks.check(dead_letters)


def _check_time(time: str, kind: str, unit: str | None) -> None:
    """Refuse a column that is no event time, or a number without its unit."""
    number = kind.split("(")[0] in NUMBERS
    if unit is not None and unit not in TIME_UNITS:
        raise FlowError(f"time_unit={unit!r}: there are {', '.join(map(repr, TIME_UNITS))}")
    if number and unit is None:
        raise FlowError(
            f"time={time!r} is a {kind}: say what it counts, time_unit='s', 'ms' or 'us' (seconds, milliseconds or"
            " microseconds since 1970-01-01 UTC)"
        )
    if unit is not None and not number:
        raise FlowError(f"time_unit={unit!r} is for numbers, and {time!r} is a {kind}")
    if not number and kind not in TIME_TYPES:
        zones = "; declare it TIMESTAMPTZ: texts are read with their zones" if kind == "VARCHAR" else ""
        raise FlowError(f"time={time!r} is a {kind}; an event time is a TIMESTAMP, TIMESTAMPTZ, DATE or a number{zones}")
