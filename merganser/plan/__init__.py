"""The plan: frozen nodes that say what a flow does. A node knows its inputs and derives its columns.

A node's rows are of one of three kinds:

- *events* (up to ``Deduplicate`` and ``Fetch``): each partition's in the partition's order, with the watermark at each row;
- *a stream* (behind ``Order``, ``Final``, ``Join``, ``AsOf``, ``Emits``): rows that do not change any more, in no order but that of
  their event times. None of them is late, and none has an event time below the stream's watermark once that is reached;
- *a table* (``Aggregated``, ``Latest``, ``Fold``, ``Process``, ``Enriched``): rows by key that still change.

Nodes compare by value, so two streams that begin with the same verbs share them; ``where`` (the user's line) is not
part of a node's value. ``line`` prints a node on one line, and those lines are a view's *signature*: what the store
compares to find out whether a flow changed since it was written.
"""

from __future__ import annotations

from merganser.plan.ends import Materialize, View, Write
from merganser.plan.node import TRAVELS, Columns, Node, Read, ordered, signature
from merganser.plan.rows import Deduplicate, Derive, Drop, Explode, Fetch, Filter, LookUp, MapBatches, Route, Select, takes
from merganser.plan.source import Source
from merganser.plan.steps import Aggregated, AsOf, Changes, Emits, Enriched, Final, Fold, Join, Latest, Order, Process
from merganser.plan.text import On, code
from merganser.plan.walk import by_workers, read_by_steps, reading, refusing, takes_events, worker_ends

__all__ = [
    "TRAVELS", "Aggregated", "AsOf", "Changes", "Columns", "Deduplicate", "Derive", "Drop", "Emits", "Enriched",
    "Explode", "Fetch", "Filter", "Final", "Fold", "Join", "Latest", "LookUp", "MapBatches", "Materialize", "Node", "On",
    "Order", "Process", "Read", "Route", "Select", "Source", "View", "Write", "by_workers", "code", "ordered", "read_by_steps",
    "reading", "refusing", "signature", "takes", "takes_events", "worker_ends",
]  # fmt: skip
