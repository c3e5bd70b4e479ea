"""One flow of all stateful verbs over two logs of several partitions: its views are a function of the logs alone (law 2).

Each variant reads the same partitions, but otherwise: one is far ahead of the others and then the others of it, records come
one by one or all at once, in one run or in many, over 1, 2 or 4 workers. All views are the same, and equal batch SQL. (The
crash tests do the same with runs that are killed.)
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import merganser as mg
from merganser.operators import enrich
from merganser.sql import quote
from merganser.verify import verify
from tests.flows import SCHEMA, balanced, event, rows

Partitions = dict[str, list[dict[str, Any]]]


def count(state: dict[str, int], seen: dict[str, Any]) -> dict[str, int]:
    kind = str(seen["n"])
    return {**state, kind: state.get(kind, 0) + 1, "last": seen["seq"]}


@dataclass(frozen=True)
class Awaited:
    n: int = 0
    due: datetime | None = None


def await_next(state: Awaited, seen: dict[str, Any]) -> Any:
    state = replace(state, n=state.n + 1, due=seen["at"] + timedelta(seconds=3) if seen["n"] != 2 else None)
    return state if seen["n"] == 1 else (state, [{"what": f"seen {seen['id']}"}])


def give_up(state: Awaited, due: datetime) -> Any:
    return replace(state, due=None if state.n % 2 else due + timedelta(seconds=5), n=state.n + 1), [{"what": "gave up"}]


def asked(key: str, n: int) -> dict[str, int] | None:
    """What others say: nothing of some, nonsense of others."""
    return None if n == 1 else {"known": 10 * n + len(key)} if key != "c" else {"known": "nonsense"}


def _flow(left: mg.sources.memory.Memory, right: mg.sources.memory.Memory) -> mg.Flow:
    flow = mg.Flow("all")
    declared = {"schema": SCHEMA, "time": "at", "lateness": "6 seconds", "id": "id", "key": "key"}
    a = flow.read(mg.source("a", left, **declared))
    b = flow.read(mg.source("b", right, **declared)).filter("n IS NOT NULL")
    once = a.deduplicate(within="20 seconds")
    sums = {"c": "count(*)", "s": "sum(n)", "d": "count(DISTINCT n)", "l": "list(id ORDER BY id)"}
    once.window(mg.session("7 seconds"), by="key").aggregate(**sums).materialize("sessions")
    minutes = once.window(mg.tumbling("20 seconds"), by="key").aggregate(**sums)
    minutes.materialize("windows")
    minutes.filter("c > 1").window(mg.hopping("2 minutes", every="1 minute")).aggregate(
        n="count(*)", most="max(s)"
    ).materialize("windows_of_windows")
    a.window(mg.session("3 seconds")).aggregate(c="count(*)").order(by="c").materialize("sessions_in_order")
    ordered = once.order(by="key")
    ordered.materialize("ordered")
    ordered.filter("seq % 3 = 1").group_by("key").aggregate(n="count(*)", last="max(seq)").materialize("each_third")
    once.fold(by="key", initial={}, apply=count).materialize("folded")
    process = once.process(by="key", initial=Awaited(), apply=await_next, timeout=give_up, emits={"what": "VARCHAR"})
    process.materialize("awaited")
    process.emitted.materialize("given_up")
    process.emitted.window(mg.tumbling("30 seconds"), by="what").aggregate(n="count(*)").materialize("given_up_per_minute")
    a.join(b, on="key", within="4 seconds").materialize("pairs")
    joined = a.join(b, on={"id": "id"}, within="15 seconds", how="left")
    joined.window(mg.tumbling("30 seconds"), by="key").aggregate(n="count(*)", met="count(n_right)").materialize("met")
    joined.latest(by="key").materialize("latest_pair")
    once.join(once, on="key", within="1 second").group_by("key").aggregate(n="count(*)").materialize("with_itself")
    a.enrich(b.select("key", "n", "at"), on="key", as_of=True).materialize("as_of")
    a.enrich(b, on="key").materialize("present")
    fetched = once.fetch(asked, key=["key", "n"], schema={"known": "BIGINT"}, cache="10 seconds")
    fetched.window(mg.tumbling("20 seconds"), by="known").aggregate(c="count(*)", l="list(id ORDER BY id)").materialize("fetched")
    return flow


def _events(chance: random.Random, prefix: str) -> list[dict[str, Any]]:
    made, now = [], 0
    for number in range(90):
        now += chance.choice([0, 0, 1, 1, 2, 3, 12])
        behind = chance.choice([0, 0, 0, 1, 2, 5, 20])
        key = chance.choice("abc") if chance.random() < 0.95 else None
        id = chance.randrange(number + 1) if chance.random() < 0.2 else number
        made.append(event(f"{prefix}{id}", now - behind, key, chance.choice([None, 1, 2, 3])))
    return made


def _play(chance: random.Random, parts: list[Partitions], store: Path) -> mg.Flow:
    """Read everything in some way."""
    memories = [mg.memory({name: [] for name in partitions}) for partitions in parts]
    flow = _flow(*memories)
    for number in range(chance.choice([1, 1, 2, 4]), 0, -1):
        for memory, partitions in zip(memories, parts):
            for name, events in partitions.items():
                rest = events[len(memory.lines[name]) :]
                for e in rest if number == 1 else rest[: chance.choice([0, 3, len(rest) // 2, len(rest)])]:
                    memory.feed(e, name)
        cuts = {"chunk_bytes": chance.choice([600, 1800, 1 << 20]), "epoch": chance.choice([0, 1])}
        mg.run([flow], store, workers=chance.choice([1, 2, 4]), **cuts)
    return flow


def _views(flow: mg.Flow, store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each view and of the tables that people read, as text."""
    found = {}
    for view in flow.materialized:
        found[view.name] = sorted(rows(store, f"SELECT COLUMNS(*)::VARCHAR FROM {quote(view.name)}"), key=repr)
    late = "SELECT view, source, partition, seq, event_time, watermark, row::VARCHAR FROM merganser.late"
    found["late"] = sorted(rows(store, late), key=repr)
    books = "SELECT view, source, branch, sum(read), sum(applied), sum(filtered), sum(late), sum(duplicate) FROM merganser.commits"
    found["books"] = rows(store, f"{books} GROUP BY ALL ORDER BY ALL")
    return found


@pytest.mark.parametrize("seed", range(3))
def test_views_are_a_function_of_the_logs(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrich, "PRUNE", seed)  # as soon as there is something to take out; as if there were much
    chance = random.Random(seed)
    parts: list[Partitions] = [
        {f"{log}{i}": _events(chance, str(i)) for i in range(chance.choice([1, 2, 3]))} for log in ("left", "right")
    ]
    flow = _play(chance, parts, tmp_path / "0.duckdb")
    expected = _views(flow, tmp_path / "0.duckdb")
    assert all(len(found) > 1 for name, found in expected.items() if name != "late"), expected
    assert [check for check in verify([flow], tmp_path / "0.duckdb") if not check.ok] == []
    for variant in range(1, 3):
        store = tmp_path / f"{variant}.duckdb"
        found = _views(_play(chance, parts, store), store)
        assert [name for name in expected if found[name] != expected[name]] == [], variant
        balanced(store)
