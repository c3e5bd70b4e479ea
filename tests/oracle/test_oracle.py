"""Whatever the events and however the run is cut, views equal plain batch SQL over the accepted events (law 2)."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

import merganser as mg
from merganser.clock import duration
from merganser.sql import quote
from merganser.verify import verify
from tests.flows import SCHEMA, at, balanced, rows

GOOD = st.fixed_dictionaries({
    "id": st.integers(0, 30).map(str),
    "t": st.integers(-40, 400),
    "key": st.sampled_from(["a", "b", None]),
    "n": st.one_of(st.none(), st.integers(-3, 9)),
})  # fmt: skip
BAD = st.sampled_from([b"", b"{", b"[]", b"null", b'{"id": 1, "n": "x"}', b'{"id": "1"}', b"\xff", b'{"id":"a","id":"b"}'])
CASE = st.fixed_dictionaries({
    "partitions": st.lists(st.lists(st.one_of(GOOD, GOOD, GOOD, GOOD, BAD), max_size=40), min_size=1, max_size=3),
    "lateness": st.sampled_from([None, "0 seconds", "30 seconds", "5 minutes"]),
    "within": st.sampled_from([None, "20 seconds", "2 minutes", "1 hour"]),
    "window": st.sampled_from([(60, 60), (7, 7), (60, 25), (120, 60)]),
    "minimum": st.integers(-4, 3),
    "runs": st.lists(st.tuples(st.integers(1, 900), st.sampled_from([1, 2, 4]), st.booleans()), min_size=1, max_size=3),
})  # fmt: skip


@given(CASE)
def test_views_equal_batch_sql(case: dict[str, Any]) -> None:
    parts = {f"p{i}": [_line(e) for e in part] for i, part in enumerate(case["partitions"])}
    connector = mg.memory({name: [] for name in parts})
    flow = _flow(case, connector)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "s.duckdb"
        # The log grows from run to run; chunks, epochs and workers are what the case says.
        for number, (chunk_bytes, workers, tiny) in enumerate(case["runs"], 1):
            for name, lines in parts.items():
                upto = len(lines) * number // len(case["runs"])
                for line in lines[len(connector.lines[name]) : upto]:
                    connector.feed(line, name)
            mg.run([flow], store, chunk_bytes=chunk_bytes, workers=workers, epoch=0 if tiny else 1)
        expected = _expected(case, parts)
        for view, wanted in expected.items():
            names = [n for n, *_ in rows(store, f"DESCRIBE {view}") if n != "final"]
            found = rows(store, f"SELECT {', '.join(map(quote, names))} FROM {view}")
            ours, theirs = Counter(map(repr, found)), Counter(map(repr, wanted))
            assert (view, list((ours - theirs).elements()), list((theirs - ours).elements())) == (view, [], [])
        balanced(store)
        assert all(check.ok for check in verify([flow], store))
        read = rows(store, "SELECT coalesce(sum(read), 0)::BIGINT FROM merganser.commits WHERE view = 'windows'")[0][0]
        assert read == sum(len(lines) for lines in parts.values())
        dead = {(p, s): bytes(raw) for p, s, raw in rows(store, "SELECT partition, seq, raw FROM merganser.dead_letters")}
        bad = {(p, i): line for p, lines in parts.items() for i, line in enumerate(lines) if _row(line) is None}
        assert dead == bad


def _line(event: Any) -> bytes:
    if isinstance(event, bytes):
        return event
    return json.dumps({"id": event["id"], "at": at(event["t"]), "key": event["key"], "n": event["n"]}).encode()


def _flow(case: dict[str, Any], connector: Any) -> mg.Flow:
    events = mg.source("events", connector, schema=SCHEMA, time="at", lateness=case["lateness"], id="id", key="key")
    flow = mg.Flow("oracle")
    size, every = (f"{s} seconds" for s in case["window"])
    once = flow.read(events).filter(f"n IS NULL OR n >= {case['minimum']}").deduplicate(within=case["within"])
    once.window(mg.hopping(size, every=every), by="key").aggregate(
        c="count(*)", s="sum(n)", d="count(DISTINCT n)", l="list(n ORDER BY n)", q="quantile_disc(n, 0.5)"
    ).materialize("windows")
    once.group_by("key").aggregate(c="count(*)", m="mode(n)", h="histogram(n)").materialize("groups")
    flow.read(events).latest(by="key").materialize("newest")
    return flow


def _row(line: bytes) -> dict[str, Any] | None:
    """An accepted record, by Python's own decoder."""
    try:
        pairs = json.loads(line.decode(), object_pairs_hook=list)
        row = dict(pairs)
        if not isinstance(json.loads(line), dict) or len(row) < len(pairs) or row.get("at") is None:
            return None
        return None if isinstance(row.get("n"), str) else row
    except (ValueError, TypeError):
        return None


def _expected(case: dict[str, Any], parts: dict[str, list[bytes]]) -> dict[str, list[tuple]]:
    lateness = None if case["lateness"] is None else duration(case["lateness"])
    within = None if case["within"] is None else duration(case["within"])
    size, every = (s * 1_000_000 for s in case["window"])
    everything, once = [], []
    for name, lines in parts.items():
        newest: int | None = None
        accepted: dict[str, list[int]] = {}
        for seq, row in enumerate(map(_row, lines)):
            if row is None:
                continue
            us = duckdb.execute("SELECT epoch_us($1::TIMESTAMP)", [row["at"]]).fetchall()[0][0]
            newest = us if newest is None else max(us, newest)
            full = {"part": name, "seq": seq, "us": us, "wm": None if lateness is None else newest - lateness, **row}
            everything.append(full)
            if row["n"] is not None and row["n"] < case["minimum"]:
                continue
            forgotten = -(2**62) if within is None or full["wm"] is None else full["wm"] - within
            earlier = accepted.setdefault(row["id"], [])
            if any((within is None or abs(us - t) <= within) and t >= forgotten for t in earlier):
                continue
            earlier.append(us)
            once.append(full)
    types = pa.schema({"part": "string", "seq": "int64", "us": "int64", "wm": "int64", "key": "string", "n": "int64"})
    schema = types.append(pa.field("id", pa.string())).append(pa.field("at", pa.string()))
    con = duckdb.connect()
    con.register("everything", pa.Table.from_pylist(everything, schema))
    con.register("once", pa.Table.from_pylist(once, schema))
    windows = (
        f"SELECT *, us - ((us % {every}) + {every}) % {every} - k * {every} AS w FROM once, range({-(-size // every)}) t(k)"
    )
    queries = {
        "windows": "SELECT key, make_timestamp(w), make_timestamp(w + $size), count(*), sum(n), count(DISTINCT n),"
        f" list(n ORDER BY n), quantile_disc(n, 0.5) FROM ({windows}) WHERE w + $size > us"
        " AND coalesce(wm < w + $size, true) GROUP BY key, w".replace("$size", str(size)),
        "groups": "SELECT key, count(*), (SELECT n FROM once o WHERE o.key IS NOT DISTINCT FROM p.key AND n IS NOT NULL"
        " GROUP BY n ORDER BY count(*) DESC, n LIMIT 1), histogram(n) FROM once p GROUP BY key",
        "newest": "SELECT id, \"at\"::TIMESTAMP, key, n FROM (SELECT DISTINCT ON (key) * FROM everything"
        " ORDER BY key, us DESC, part DESC, seq DESC) WHERE n IS NOT NULL",
    }
    return {view: con.execute(sql).fetchall() for view, sql in queries.items()}
