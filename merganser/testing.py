"""Testing flows of one's own: rows in, views out, in memory and in milliseconds.

    from merganser.testing import CRASH, PAUSE, assert_view, assert_written, run
    from flows.revenue import flow

    def test_a_repeated_order_counts_once():
        order = {"event_id": "1", "placed_at": "2026-01-01 12:00:00Z", "customer_id": 7, "amount": 10}
        views = run(flow, {"orders": [order, PAUSE, order]})
        assert_view(views["revenue_per_minute"], [{"customer_id": 7, "orders": 1, "revenue": 10}])
        assert_written(views.written["large-orders"], [{"customer_id": 7, "amount": 10}])

The flow itself runs, with its plan, its engine and a store in memory; only its connectors are replaced, those that it writes to
too, and the services that ``fetch`` asks: a test sends nothing anywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

import pyarrow as pa

from merganser import engine, faults
from merganser.asking import Service
from merganser.display import shown
from merganser.errors import UsageError
from merganser.flow import Flow
from merganser.plan import Fetch, Source, ordered
from merganser.query.caps import Limits
from merganser.query.connection import Result, answered
from merganser.sources.memory import Memory, memory
from merganser.sql import quote
from merganser.store import Store


class Mark(Enum):
    """What may stand between the rows of a scripted source. They part the script of a whole run: the rows of all sources
    before their first mark come first, then those before the second one."""

    PAUSE = "pause"
    """Nothing comes for a while: what came is committed."""
    CRASH = "crash"
    """The process dies just before what came since the last mark is committed; a new one goes on from the store."""


PAUSE, CRASH = Mark.PAUSE, Mark.CRASH

Row = Mapping[str, Any] | bytes
"""A record: column to value, or its bytes (a JSON object, or what is none)."""
Script = Sequence[Row | Mark]


class Message(NamedTuple):
    """What a ``write`` sent. ``value``: its JSON object; None for a tombstone, which deletes the row of ``key``."""

    key: str | None
    value: dict[str, Any] | None


class Views:
    """What a run gave: ``views["name"]`` is a view as an Arrow table; ``sql`` asks the store, its books included.

    ``written["name"]``: the messages that each ``write`` sent, in their order, by the name of the sink (its ``name=``, or its
    topic, or its files).
    """

    def __init__(self, store: Store, written: Mapping[str, Sequence[Message]]) -> None:
        self._store = store
        self.written = dict(written)

    def __getitem__(self, view: str) -> pa.Table:
        return self.sql(f"FROM {quote(view)}").arrow()

    def sql(self, query: str) -> Result:
        """The rows of a SELECT over the views, and over ``merganser.dead_letters``, ``merganser.late`` and so on."""
        return answered(self._store, [query], Limits())[0]


Answers = Callable[..., Any] | Mapping[Any, Mapping[str, Any]]
"""What a service says: a function of the key's values, or a mapping of key (a tuple, if it has several columns) to answer."""


def run(
    flow: Flow,
    scripts: Mapping[str, Script | Mapping[str, Script]],
    *,
    answers: Mapping[str, Answers] | None = None,
    workers: int = 1,
) -> Views:
    """Run a flow over scripted sources, by name; a mapping is of partition to script. Raises UsageError and FlowError.

    Sources that the script does not name have no events. ``answers``: what services say that ``fetch`` asks, by their ``name=``.
    """
    sources = {source.name: source for source in flow.sources}
    unknown = [name for name in scripts if name not in sources]
    if unknown:
        raise UsageError(f"the flow reads no source {', '.join(unknown)}; it reads {', '.join(sources)}")
    partitions = {
        name: script if isinstance(script, Mapping) else {"0": script}
        for name, script in (dict.fromkeys(sources, ()) | dict(scripts)).items()
    }
    phases = {name: {p: _phases(script, sources[name]) for p, script in parts.items()} for name, parts in partitions.items()}
    connectors = {name: memory({p: [] for p in parts}) for name, parts in phases.items()}
    store = Store(":memory:")
    sinks = {write.name: memory([]) for write in flow.written}
    tested = flow.reading(connectors, sinks, _services(flow, answers or {}))
    last = max(len(phase) for parts in phases.values() for phase in parts.values())
    for number in range(last):
        marks = {_feed(connectors[name], p, script, number) for name, parts in phases.items() for p, script in parts.items()}
        if CRASH in marks:
            try:
                faults.simulate("commit.before")
                engine.run([tested], store, workers=workers)
            except faults.Crash:
                continue
            finally:
                faults.simulate(None)
        engine.run([tested], store, workers=workers)
    return Views(store, {name: _messages(sink) for name, sink in sinks.items()})


def _services(flow: Flow, answers: Mapping[str, Answers]) -> dict[str, Service]:
    """The services that a test answers for. Those at a URL are, all of them."""
    asked = {node.service.name: node.service for node in ordered(flow.ends) if isinstance(node, Fetch)}
    if unknown := [name for name in answers if name not in asked]:
        raise UsageError(f"the flow asks no service {', '.join(unknown)}; it asks {', '.join(asked) or 'nobody'}")
    if silent := [name for name, service in asked.items() if isinstance(service.ask, str) and name not in answers]:
        raise UsageError(f"a test asks nobody: say what fetch is answered by run(…, answers={{{silent[0]!r}: {{key: {{…}}}}}})")
    return {name: replace(asked[name], ask=said if callable(said) else _looking_up(said)) for name, said in answers.items()}


def _looking_up(said: Mapping[Any, Mapping[str, Any]]) -> Callable[..., Any]:
    return lambda *key: said.get(key[0] if len(key) == 1 else key)


def _messages(sink: Memory) -> list[Message]:
    return [
        Message(None if row.key is None else row.key.decode(), None if row.value is None else json.loads(row.value))
        for rows in sink.sent.values()
        for row in rows
    ]


Phase = tuple[list[Row], Mark]


def _phases(script: Script, source: Source) -> list[Phase]:
    """The rows up to each mark; the end is a pause."""
    phases: list[Phase] = [([], PAUSE)]
    for each in script:
        if isinstance(each, Mark):
            phases[-1] = (phases[-1][0], each)
            phases.append(([], PAUSE))
            continue
        if isinstance(each, Mapping):
            unknown = [name for name in each if name not in source.schema]
            if unknown:
                there = ", ".join(source.schema.names())
                raise UsageError(f"source {source.name!r} has no column {', '.join(unknown)}; it has {there}")
        phases[-1][0].append(each)
    return phases


def _feed(connector: Memory, partition: str, phases: list[Phase], number: int) -> Mark:
    if number >= len(phases):
        return PAUSE
    rows, mark = phases[number]
    for row in rows:
        connector.feed(row if isinstance(row, bytes) else json.dumps(row, default=_json).encode(), partition)
    return mark


def _json(value: Any) -> Any:
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return "".join(f"\\x{byte:02X}" for byte in value)
    return str(value)


# -- comparing ----------------------------------------------------------------------------------------------------------


def assert_view(
    view: pa.Table | Result, expected: Sequence[Mapping[str, Any]], *, tolerance: float = 1e-9
) -> None:
    """Fail unless a view has just these rows, in any order; only the columns that they name are compared.

    Floating-point numbers may differ by ``tolerance``, relatively. Times may be given as text.
    """
    table = view.arrow() if isinstance(view, Result) else view
    _assert_rows("the view", table.to_pylist(), table.column_names, expected, tolerance)


def assert_written(
    messages: Sequence[Message], expected: Sequence[Mapping[str, Any]], *, tolerance: float = 1e-9
) -> None:
    """Fail unless just these rows were written, in any order; only the columns that they name are compared.

    A tombstone is no row: look for ``Message(key, None)`` in ``messages``, which has the order of sending too. Values are those of
    JSON, so a TIMESTAMP is expected as the text that is sent.
    """
    rows = [message.value for message in messages if message.value is not None]
    names = list(dict.fromkeys(name for row in rows for name in row))
    _assert_rows("what was written", rows, names, expected, tolerance)


def _assert_rows(
    what: str, rows: list[dict[str, Any]], there: Sequence[str], expected: Sequence[Mapping[str, Any]], tolerance: float
) -> None:
    names = list(dict.fromkeys(name for row in expected for name in row)) or list(there)
    unknown = [name for name in names if name not in there] if rows or there else []
    if unknown:
        raise AssertionError(f"{what} has no column {', '.join(unknown)}; it has {', '.join(there)}")
    found = [{name: row.get(name) for name in names} for row in rows]
    missing = []
    for row in expected:
        lacking = [name for name in names if name not in row]
        if lacking:
            raise AssertionError(f"an expected row has no {', '.join(lacking)}, as others have: {dict(row)}")
        match = next((f for f in found if all(_same(f[n], row[n], tolerance) for n in names)), None)
        if match is None:
            missing.append(row)
        else:
            found.remove(match)
    if missing or found:
        raise AssertionError(_difference(what, missing, found, names, len(expected) - len(missing), tolerance))


def _same(found: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(found, datetime) and isinstance(wanted, str):
        wanted = datetime.fromisoformat(wanted)
    if isinstance(found, datetime) and isinstance(wanted, datetime):
        return (found if found.tzinfo else found.replace(tzinfo=UTC)) == (wanted if wanted.tzinfo else wanted.replace(tzinfo=UTC))
    if isinstance(found, (date, time)) and isinstance(wanted, str):
        return found == type(found).fromisoformat(wanted)
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, float) and isinstance(wanted, (int, float, Decimal)):
        return math.isclose(found, wanted, rel_tol=tolerance, abs_tol=1e-12) or (math.isnan(found) and math.isnan(wanted))
    if isinstance(found, Decimal) and isinstance(wanted, (float, str)):
        return found == Decimal(str(wanted))
    if isinstance(found, list) and isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(_same(f, w, tolerance) for f, w in zip(found, wanted))
    if isinstance(found, dict) and isinstance(wanted, Mapping):
        return found.keys() == wanted.keys() and all(_same(found[k], wanted[k], tolerance) for k in found)
    return bool(found == wanted)


def _difference(
    what: str, missing: list[Mapping[str, Any]], found: list[dict[str, Any]], names: list[str], equal: int, tolerance: float
) -> str:
    """What differs: rows that share most columns are told apart by the others."""
    lines = [f"{what} is not as expected: {equal} rows are equal, {len(missing)} missing, {len(found)} not expected"]
    for row in missing:
        alike = [[n for n in names if _same(other[n], row[n], tolerance)] for other in found]
        best = max(range(len(found)), key=lambda i: len(alike[i]), default=None)
        if best is None or 2 * len(alike[best]) < len(names):
            lines.append(f"  missing:       {_row(row, names)}")
            continue
        other = found.pop(best)
        parts = [f"{n} is {shown(other[n])}, not {shown(row[n])}" for n in names if n not in alike[best]]
        lines.append(f"  different:     {_row(row, alike[best])}: {', '.join(parts)}")
    lines += [f"  not expected:  {_row(row, names)}" for row in found]
    return "\n".join(lines)


def _row(row: Mapping[str, Any], names: Sequence[str]) -> str:
    return " ".join(f"{name}={shown(row[name])}" for name in names)
