"""A declared stream of events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from merganser.clock import show_duration
from merganser.codecs import Codec, debezium
from merganser.codecs.cloudevents import KEY, CloudEvents, KafkaCodec, StructuredCodec, headers
from merganser.codecs.debezium import Debezium, DebeziumCodec
from merganser.codecs.upcasting import Upcaster, UpcastingCodec, widened
from merganser.errors import FlowError, on_users_line
from merganser.plan.text import code
from merganser.schema import Column, Schema
from merganser.sources import Connector
from merganser.sources.kafka import Kafka
from merganser.sources.rows import Rows
from merganser.sql import binder


@dataclass(frozen=True, slots=True)
class Source:
    """A declared stream of events: where they come from (the connector) and what their owner knows about them.

    ``lateness`` and ``max_ahead`` are microseconds; a lateness of None keeps every window open.
    """

    name: str
    connector: Connector
    schema: Schema
    time: str | None
    lateness: int | None
    id: str | None
    key: str | None
    on_error: str
    max_ahead: int
    time_unit: str | None = None
    """What the event time counts in, if it is a number."""
    idle_after: int | None = None
    """How long (of the clock, us) a partition without news holds back what is called final; None: as long as it is quiet."""
    version: str | None = None
    """The column that says which version an event is of."""
    upcasters: tuple[Upcaster, ...] = ()
    storm: float | None = field(default=0.5, compare=False)
    """The share of records that may be bad before the source pauses."""
    dead_letters: Connector | None = field(default=None, compare=False)
    """The topic that gets a copy of each dead letter."""

    @property
    def traceparent(self) -> str | None:
        """The column of the W3C trace context: a CloudEvent's, or one that is called so."""
        return next((n for n in ("ce_traceparent", "traceparent") if n in self.schema), None)

    @property
    def tracestate(self) -> str | None:
        return next((n for n in ("ce_tracestate", "tracestate") if n in self.schema), None)

    @on_users_line
    def upcast(
        self,
        from_version: int,
        *,
        sql: Mapping[str, str] | None = None,
        fn: Callable[[Any], Any] | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Source:
        """The source with a step that makes events of ``from_version`` events of the next one, when they are read.

        - ``sql``: column to SQL over the columns there are; those not named stay. Or
        - ``fn``: a function that takes a ``pyarrow.Table`` of events and returns one of as many rows.
        - ``columns``: columns that only older versions have, with their types.

        Steps are chained: from 1 to 2, from 2 to 3. What is stored stays as it was.
        """
        if self.version is None:
            raise FlowError(f"upcast() needs version= in the declaration of source {self.name!r}: the column that holds it")
        if (sql is None) == (fn is None):
            raise FlowError("upcast() takes either sql={column: expression} or fn=")
        if any(u.from_version == from_version for u in self.upcasters):
            raise FlowError(f"there is an upcaster from version {from_version} already")
        more = Schema.declare(columns).columns if columns else ()
        if more and self.schema.written is not None:
            raise FlowError("columns= is for schemas that are a mapping; declare old fields as optional ones in the schema file")
        made = Upcaster(from_version, more, tuple((sql or {}).items()), fn)
        source = replace(self, upcasters=(*self.upcasters, made))
        kinds = {c.name: c.type for c in widened(self.schema, source.upcasters).columns}
        for name in sql or {}:
            if name not in kinds:
                raise FlowError(f"upcast(sql={{{name!r}: …}}): there is no such column; there are {', '.join(kinds)}")
        if sql:
            binder().bind_select(dict(sql), kinds)
        return source

    def codec(self) -> Codec:
        """A new codec for its events, of whatever version."""
        if isinstance(self.connector, Rows):
            return self.connector.codec(self.schema)  # they were decoded before
        # A message without a payload has its record's time, but not as a count of some unit.
        time = None if self.time_unit else self.time
        schema = widened(self.schema, self.upcasters) if self.upcasters else self.schema
        if isinstance(schema.written, CloudEvents):
            codec: Codec = self._cloudevents(schema)
        elif isinstance(schema.written, Debezium):
            envelopes = self.connector.codec(self._enveloped(debezium.ENVELOPE, schema), None)
            codec = DebeziumCodec(envelopes, schema, timed=self.time in self.connector.metadata(schema))
        else:
            codec = self.connector.codec(schema, time)
        if not self.upcasters or self.version is None:
            return codec
        return UpcastingCodec(codec, self.schema, self.version, self.upcasters)

    def _enveloped(self, envelope: Schema, schema: Schema) -> Schema:
        """The schema of an envelope, with the columns that come with a message."""
        kinds = self.connector.metadata(schema)  # those that are not declared are for the codec alone
        more = [schema[name] if name in schema else Column(name, "BLOB") for name in kinds]
        return replace(envelope, columns=(*envelope.columns, *more))

    @property
    def around(self) -> frozenset[str]:
        """The columns that come with an event and are not what it says: of its message, of its envelope."""
        written = self.schema.written
        envelope = written.envelope if isinstance(written, (CloudEvents, Debezium)) else ()
        return frozenset((*self.connector.metadata(self.schema), *envelope))

    def _cloudevents(self, schema: Schema) -> Codec:
        """A codec for events in envelopes, whose attributes are headers of some messages, and in the value of others."""
        connector, envelope = self.connector, self._enveloped(schema.written.object, schema)
        if not isinstance(connector, Kafka):
            return StructuredCodec(connector.codec(envelope, None), schema)
        structured = StructuredCodec(replace(connector, format="json", registry=None).codec(envelope, None), schema)
        binary = replace(connector, columns=(*connector.columns, *headers(schema), (KEY, "header.ce_id")))
        return KafkaCodec(structured, binary.codec(replace(schema, written=schema.written.data.written), None))

    def signature(self) -> str:
        """What results depend on: not where the files lie, nor what is done with bad records."""
        parts = [f"source {self.name} ({self.schema.describe()})"]
        if self.time:
            late = "unbounded" if self.lateness is None else show_duration(self.lateness)
            unit = f" in {self.time_unit}" if self.time_unit else ""
            parts.append(f"time {self.time}{unit}, lateness {late}")
        if self.id:
            parts.append(f"id {self.id}")
        if self.key:
            parts.append(f"key {self.key}")
        parts += [f"{u.describe()}{f'#{code(u.fn)}' if u.fn else ''}" for u in self.upcasters]
        return ", ".join(parts)
