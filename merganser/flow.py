"""What users write: flows and streams. One verb adds one node to the plan; everything is checked there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from merganser import plan, sinks
from merganser.aggregates import analyse
from merganser.asking import Service
from merganser.clock import duration
from merganser.codecs.encoding import Encoding
from merganser.codecs.encoding.declaring import declared as encoded
from merganser.errors import FlowError, on_users_line, users_line
from merganser.fetching import Fetching
from merganser.operators.changes import RETRACTED
from merganser.plan import Columns, Node, Source
from merganser.routing import Routing
from merganser.rowlocal import RowLocal, column_type
from merganser.schema import Schema
from merganser.sources import Connector
from merganser.sql import binder
from merganser.temporal import Temporal, policy
from merganser.windows import Session, Window

if TYPE_CHECKING:
    from merganser.notebook import Preview, Running


class Flow:
    """A named set of streams, each ending in a materialised view. Nothing runs until ``merganser run`` or ``run()``."""

    def __init__(self, name: str) -> None:
        if not name:
            raise FlowError("a flow needs a name", where=users_line())
        self.name = name
        self.materialized: list[plan.Materialize] = []
        self.written: list[plan.Write] = []
        self.views: list[plan.View] = []
        self._sources: dict[str, Source] = {}

    @on_users_line
    def read(self, source: Source) -> Stream:
        """All events of a source, with the columns of its schema."""
        if not isinstance(source, Source):
            raise FlowError(f"read() takes a source made by mg.source(…), this is a {type(source).__name__}")
        if self._sources.setdefault(source.name, source) != source:
            raise FlowError(f"there are two different sources named {source.name!r}; give one another name")
        columns = {c.name: c.type for c in source.schema.columns}
        return Stream(self, plan.Read(users_line(), columns, None, source))

    @on_users_line
    def view(self, name: str, sql: str) -> Flow:
        """A plain SQL view over the flow's materialised views, computed when it is queried."""
        self._free(name)
        tables = {m.name: dict(m.columns) for m in self.materialized} | {v.name: dict(v.columns) for v in self.views}
        columns = binder().bind_query(sql, tables)
        self.views.append(plan.View(name, sql.strip().rstrip(";"), users_line(), columns))
        return self

    @property
    def sources(self) -> list[Source]:
        """The sources that are read, each once, in the order of first use by a view."""
        return list(dict.fromkeys(source for end in self.ends for source in end.sources))

    @property
    def ends(self) -> list[plan.Materialize]:
        """Where streams end: the views that are kept, then what is sent on."""
        return [*self.materialized, *self.written]

    def reading(
        self,
        connectors: Mapping[str, Connector],
        sinks: Mapping[str, Connector] | None = None,
        services: Mapping[str, Service] | None = None,
    ) -> Flow:
        """This flow with other connectors for some of its sources, and other services that ``fetch`` asks, by name; and with those
        sinks only that are given, by name. Dead letters go nowhere else then."""
        known = {s.name: replace(s, dead_letters=None) for s in self.sources}
        sources = {name: replace(s, connector=connectors.get(name, s.connector)) for name, s in known.items()}
        other = Flow(self.name)
        others, given = services or {}, sinks or {}
        other.materialized = [plan.reading(view, sources, others) for view in self.materialized]
        other.written = [
            replace(plan.reading(w, sources, others), sink=given[w.name], encoding=w.encoding.legible())
            for w in self.written
            if w.name in given
        ]
        other.views = list(self.views)
        other._sources = self._sources | sources
        return other

    def _free(self, name: str) -> None:
        if not name.isidentifier():
            raise FlowError(f"view name {name!r} must be letters, digits and _, and not begin with a digit")
        taken = [m.name for m in self.ends] + [v.name for v in self.views]
        if name.lower() in (other.lower() for other in taken):
            raise FlowError(f"the flow already has a view or sink named {name!r}")

    def __str__(self) -> str:
        from merganser.display import plan_text

        return plan_text(self)

    def _repr_html_(self) -> str:
        from merganser.picture import plan_svg

        return plan_svg(self)

    def running(self, store: str | Path | None = None, *, epoch: float = 0.5) -> Running:
        """Run in the background, reading on as events come: ``with flow.running() as views: views.sql("…")``.

        What is returned is a connection (``mg.connect``) with ``stop()``; what the sources have by now is in its views. Without
        ``store`` the store is a temporary one, which goes when it stops. ``epoch``: seconds of input committed together.
        """
        from merganser.notebook import running

        return running(self, store, epoch=epoch)


class Stream(RowLocal, Temporal, Routing, Fetching):
    """An immutable stream of rows: a verb returns a new one, and two verbs on one stream fan out."""

    _flow: Flow

    def __init__(self, flow: Flow, node: Node) -> None:
        self._flow = flow
        self._node = node

    @property
    def columns(self) -> Columns:
        """Column names and DuckDB types of the rows here."""
        return dict(self._node.columns)

    def __repr__(self) -> str:
        columns = ", ".join(f"{name} {type}" for name, type in self._node.columns.items())
        return f"Stream({self._node.line()}: {columns})"

    def _then(self, node: Node) -> Self:
        return type(self)(self._flow, node)

    def _open(self, verb: str) -> Node:
        """The node here, if rows can still be worked on: behind windows, that of the closed ones' rows."""
        node = self._node
        if isinstance(node, plan.Aggregated) and node.window is not None:
            return self._final(node, verb)
        if node.table:
            what = "aggregate() without a window" if isinstance(node, plan.Aggregated) else f"{type(node).__name__.lower()}()"
            raise FlowError(
                f"{verb}() cannot follow {what}, whose rows still change; materialize() it, and use flow.view(name, sql)"
                " for SQL over the result" + ("; or write(…, emit='updates')" if verb == "write" else "")
            )
        return node

    def _changes(self) -> plan.Changes:
        """What changes in the table here, as a stream."""
        node = self._node
        if not isinstance(node, (plan.Aggregated, plan.Latest, plan.Fold)):
            raise FlowError("emit='updates' is for tables: behind aggregate(), latest(), fold() or process(); leave it out here")
        if "retracted" in node.columns:
            raise FlowError("emit='updates' adds a column retracted, and there is one already; give that another name")
        windowed = isinstance(node, plan.Aggregated) and node.window is not None
        columns = {name: kind for name, kind in node.columns.items() if not (windowed and name == "final")}
        return plan.Changes(users_line(), columns | {"retracted": "BOOLEAN"}, node)

    def _final(self, node: plan.Aggregated, verb: str) -> plan.Final:
        """The rows of closed windows as a stream."""
        unbounded = [s.name for s in node.sources if s.lateness is None]
        if unbounded:
            raise FlowError(
                f"{verb}() works on closed windows, and none ever closes without lateness= in the declaration of source"
                f" {unbounded[0]!r}; declare lateness='0 seconds' if its events come in order"
            )
        if node.late == "update":
            raise FlowError(f"{verb}() cannot follow windows with late='update', which change after they were closed")
        columns = {name: kind for name, kind in node.columns.items() if name != "final"}
        return plan.Final(users_line(), columns, node)

    @on_users_line
    def deduplicate(
        self, by: str | Sequence[str] | None = None, *, within: str | timedelta | None = None
    ) -> Stream:
        """Only the first row of each id, in the order of its partition.

        ``by``: the column(s) of the id; the source's ``id`` without. ``within``: a row is a duplicate if its event
        time is at most this far from the first one's, and ids further behind the watermark are forgotten, which
        bounds what is kept; without it every id is kept for ever. Partitions are logs of their own: a duplicate is
        looked for in the partition that the row came from.
        """
        node = self._open("deduplicate")
        if not node.events:
            raise FlowError(
                "deduplicate() looks for the first event of an id in the order of its partition, and rows here are in no such"
                " order any more; put it right behind read() and row-local verbs"
            )
        if by is None:
            column = node.reference("id")
            if column is None:
                raise FlowError(
                    f"deduplicate() needs by=, or id= in the declaration of source {node.source.name!r}"
                )
            columns: tuple[str, ...] = (column,)
        else:
            columns = _columns(by, node.columns, "deduplicate by")
        if within is not None and node.source.time is None:
            raise FlowError(f"within is measured in event time, but source {node.source.name!r} has no time=")
        distance = None if within is None else duration(within, "within")
        return self._then(plan.Deduplicate(users_line(), node.columns, node, columns, distance))

    @on_users_line
    def window(self, window: Window | Session, *, by: str | Sequence[str] = (), late: str = "keep") -> Grouped:
        """Group rows by event-time window and by the columns ``by``; ``aggregate`` follows.

        ``late``: what becomes of a row whose windows are all closed by its own partition's watermark: ``"keep"`` puts it
        into ``merganser.late``, ``"drop"`` only counts it, ``"update"`` opens the windows again, corrects and closes them.
        """
        node = self._open("window")
        if not isinstance(window, (Window, Session)):
            raise FlowError(
                "window() takes mg.tumbling('1 minute'), mg.hopping('1 hour', every='15 minutes') or mg.session('30 minutes')"
            )
        if node.source.time is None:
            raise FlowError(f"windows need event time, but source {node.source.name!r} has no time=")
        keys = _columns(by, node.columns, "window by") if by else ()
        for taken in ("window_start", "window_end", "final"):
            if taken in keys:
                raise FlowError(f"{taken} is a column of every windowed result; derive() the group column another name")
        if late == "update":
            if isinstance(window, Session):
                raise FlowError("late='update' is for windows of a fixed size; a late row's session is not known any more")
            return Grouped(self._flow, node, window, keys, late)
        return Grouped(self._flow, node, window, keys, policy(late, "'update' (windows of a fixed size)"))

    @on_users_line
    def group_by(self, *by: str) -> Grouped:
        """Group rows by columns, without a window; ``aggregate`` follows. One group of all rows without columns."""
        node = self._open("group_by")
        return Grouped(self._flow, node, None, _columns(by, node.columns, "group_by") if by else (), "keep")

    @on_users_line
    def latest(self, by: str | Sequence[str] | None = None) -> Stream:
        """The last row of each key: latest event time; on ties the later partition name, then position.

        ``by``: the key's column(s); the source's ``key`` without. A row whose columns besides key, id and event time
        are all NULL deletes its key (a tombstone).
        """
        node = self._open("latest")
        if by is None:
            key = node.declared("key")
            if key is None:
                raise FlowError(f"latest() needs by=, or key= in the declaration of source {node.source.name!r}")
            by = key
        return self._then(plan.Latest(users_line(), node.columns, node, _columns(by, node.columns, "latest by")))

    @on_users_line
    def materialize(self, name: str) -> Stream:
        """Keep the rows, or the aggregates, as a view of this name in the store."""
        if isinstance(self._node, plan.Materialize):
            raise FlowError("this stream is materialized already")
        self._flow._free(name)
        node = plan.Materialize(users_line(), self._node.columns, self._node, name)
        self._flow.materialized.append(node)
        return self

    @on_users_line
    def write(
        self,
        sink: Connector,
        *,
        schema: Mapping[str, str] | str | Path | None = None,
        name: str | None = None,
        emit: str = "final",
        subject: str | None = None,
    ) -> Stream:
        """Send the rows on, each once: to ``mg.kafka("topic", brokers=…)`` or ``mg.files("out/orders-*.jsonl")``.

        Of windows the final rows are sent, when they close. ``emit="updates"`` sends what each commit changed in windows,
        groups, ``latest`` or ``fold``: rows with a column ``retracted``, true for a row as it was and false as it is now.
        If the sink's key is the table's key, only the new row of a key is sent, and a tombstone when it is gone.

        - ``schema``: what is written, as ``mg.source`` takes it (a mapping, ``order.avsc``, ``order.proto#Order``,
          ``order.schema.json``); without, it is derived from the columns. A row that it cannot hold is a dead letter.
        - ``name``: what the sink is called in the store, else after its topic or files.
        - ``subject``: under which a registry knows the schema, ``TOPIC-value`` unless named.
        """
        sinks.check(sink)
        if emit not in ("final", "updates"):
            raise FlowError(f"write(emit={emit!r}): there are 'final' and 'updates'")
        node = self._changes() if emit == "updates" else self._open("write")
        name = name or sinks.default_name(sink)
        taken = [end.name for end in self._flow.ends] + [view.name for view in self._flow.views]
        if name in taken:
            raise FlowError(f"the flow already has a view or sink named {name!r}; name this one: write(…, name='…')")
        key = getattr(sink, "key", None)
        if key is not None:
            column_type(key, node.columns, "write key")
        registry = getattr(sink, "registry", None)
        if registry is not None and registry.folder is not None:
            registry = None  # a folder has no ids that could be written
        if subject is not None and registry is None:
            raise FlowError("write(subject=…) is for a sink with registry=mg.registry('http://…')")
        if registry is not None:
            subject = subject or f"{sinks.default_name(sink)}-value"
        write = plan.Write(users_line(), node.columns, node, name, sink, key, Encoding("json", Schema(())))
        shown = {n: t for n, t in node.columns.items() if not (write.upserts and n == RETRACTED)}
        encoding = encoded(sinks.format_of(sink), shown, schema, name, registry, subject)
        self._flow.written.append(replace(write, encoding=encoding))
        return self

    def preview(self, events: int = 5, rows: int = 5) -> Preview:
        """The first rows after each verb so far, for the first events of the sources; runs in memory, keeps nothing."""
        from merganser.notebook import preview

        return preview(self._node, events, rows)


class Grouped:
    """What ``window`` and ``group_by`` return: only ``aggregate`` can follow."""

    def __init__(self, flow: Flow, node: Node, window: Window | Session | None, by: tuple[str, ...], late: str) -> None:
        self._flow, self._node, self._window, self._by, self._late = flow, node, window, by, late

    @on_users_line
    def aggregate(self, **aggregates: str) -> Stream:
        """``name="sql"`` with any of DuckDB's aggregates that can be kept incrementally, ``FILTER`` included.

        The result has the group columns, ``window_start`` and ``window_end`` where there is a window, then these.
        """
        node, window = self._node, self._window
        if not aggregates:
            raise FlowError("aggregate() needs at least one result, such as aggregate(orders='count(*)')")
        columns = {name: node.columns[name] for name in self._by}
        if window is not None:
            columns |= dict.fromkeys(("window_start", "window_end"), _window_type(node.source))
        keys = dict(columns)
        for name in aggregates:
            if name in columns or name.startswith("_") or (window is not None and name == "final"):
                raise FlowError(f"aggregate({name}=…): the name is taken by a column that every result has")
        found = tuple(analyse(name, sql, node.columns, keys=keys) for name, sql in aggregates.items())
        columns |= {a.name: a.type for a in found}
        if window is not None:
            columns["final"] = "BOOLEAN"
        return Stream(self._flow, plan.Aggregated(users_line(), columns, node, window, self._by, found, self._late))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise FlowError(f"{name}() cannot follow window() or group_by(); aggregate(name='sql') must", where=users_line())


def _window_type(source: Source) -> str:
    assert source.time is not None
    zoned = source.schema[source.time].type in ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")
    return "TIMESTAMP WITH TIME ZONE" if zoned else "TIMESTAMP"


def _columns(by: str | Sequence[str], columns: Columns, what: str) -> tuple[str, ...]:
    names = (by,) if isinstance(by, str) else tuple(by)
    for name in names:
        column_type(name, columns, what)
    if len(set(names)) < len(names):
        raise FlowError(f"{what}: a column is named twice")
    return names
