"""merganser: exact, live DuckDB views of event logs.

    import merganser as mg

    orders = mg.source("orders", mg.files("data/*.jsonl"), schema={"id": "VARCHAR", "at": "TIMESTAMPTZ"}, time="at")
    flow = mg.Flow("orders")
    flow.read(orders).window(mg.tumbling("1 minute")).aggregate(n="count(*)").materialize("orders_per_minute")
    mg.run([flow], "orders.duckdb")
"""

from importlib.metadata import version as _version

from merganser.codecs.cloudevents import cloudevents
from merganser.codecs.debezium import debezium
from merganser.declaration import source
from merganser.engine import Report, rebuild, run
from merganser.errors import (
    FetchError,
    FlowError,
    MerganserError,
    PlanChangedError,
    QueryError,
    RecordError,
    SourceError,
    StoreError,
    StoreInUseError,
    UsageError,
    WaitTimeoutError,
)
from merganser.flow import Flow, Stream
from merganser.plan import Source
from merganser.query.connection import Connection, Result, connect
from merganser.reference import Reference, reference
from merganser.registry import registry
from merganser.secrets import secret
from merganser.sources.event_store import event_store
from merganser.sources.files import files
from merganser.sources.kafka import kafka
from merganser.sources.memory import memory
from merganser.sources.outbox import outbox
from merganser.windows import Session, Window, hopping, session, tumbling

__version__ = _version("merganser")

__all__ = [
    "Connection",
    "FetchError",
    "Flow",
    "FlowError",
    "MerganserError",
    "PlanChangedError",
    "QueryError",
    "RecordError",
    "Reference",
    "Report",
    "Result",
    "Session",
    "Source",
    "SourceError",
    "StoreError",
    "StoreInUseError",
    "Stream",
    "UsageError",
    "WaitTimeoutError",
    "Window",
    "cloudevents",
    "connect",
    "debezium",
    "event_store",
    "files",
    "hopping",
    "kafka",
    "memory",
    "outbox",
    "rebuild",
    "reference",
    "registry",
    "run",
    "secret",
    "session",
    "source",
    "tumbling",
]
