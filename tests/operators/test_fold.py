"""Fold: a pure function over the ordered events of a key, what it keeps, and what happens when it raises."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

import merganser as mg
from merganser.operators.fold import parked, resume
from merganser.verify import verify
from tests.flows import at, balanced, event, one_by_one, rows, source

EVENTS = [event(f"e{i}", (i * 7) % 41 + 5 * (i // 8), "abc"[i % 3], i % 5) for i in range(90)]


def trail(state: list, seen: dict[str, Any]) -> list:
    state.append([seen["id"], seen["n"]])
    return state[-5:]


@dataclass(frozen=True)
class Leg:
    id: str
    at: datetime | None = None


@dataclass(frozen=True)
class Account:
    total: int = 0
    share: Decimal = Decimal("0")
    newest: Leg | None = None
    seen: dict[str, int] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    ok: bool = True
    mean: float = 0.5


def evolve(state: Account, seen: dict[str, Any]) -> Account:
    return replace(
        state,
        total=state.total + (seen["n"] or 0),
        share=state.share + Decimal("0.25"),
        newest=Leg(seen["id"], seen["at"]),
        seen=state.seen | {seen["id"][-1]: seen["seq"]},
        ids=[*state.ids, seen["id"]][-3:],
        mean=(state.mean + seen["seq"]) / 2,
    )


def _flow(connector, initial=None, apply=trail, **more) -> mg.Flow:
    flow = mg.Flow("f")
    read = flow.read(source(connector, lateness="60 seconds", **more))
    read.fold(by="key", initial=[] if initial is None else initial, apply=apply).materialize("v")
    return flow


def _in_order() -> dict[str, list[dict[str, Any]]]:
    """Each key's events that the watermark has passed, in order."""
    watermark = max(e["at"] for e in EVENTS)
    passed = rows(":memory:", f"SELECT (TIMESTAMP '{watermark}' - INTERVAL 60 seconds)::VARCHAR")[0][0]
    by_key = defaultdict(list)
    for e in sorted(EVENTS, key=lambda e: e["at"]):  # a stable sort: ties stay in the order of the log
        if e["at"] < passed:
            by_key[e["key"]].append(e | {"seq": len(by_key[e["key"]]) + 1})
    return by_key


@pytest.mark.parametrize("cut", ["at once", "one by one", "in chunks"])
def test_a_json_state(cut: str, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    connector = mg.memory({"0": [] if cut == "one by one" else EVENTS})
    if cut == "one by one":
        one_by_one(_flow(connector), connector, EVENTS[:30], store)
        for e in EVENTS[30:]:
            connector.feed(e)
    mg.run([_flow(connector)], store, chunk_bytes=400 if cut == "in chunks" else 1 << 20, epoch=0 if cut == "in chunks" else 1)
    expected = {key: ([[e["id"], e["n"]] for e in events][-5:], len(events)) for key, events in _in_order().items()}
    assert len(expected) == 3
    found = {key: (json.loads(state), seq) for key, state, seq in rows(store, "SELECT key, state, seq FROM v")}
    assert found == expected
    assert all(check.ok for check in verify([_flow(connector)], store))
    balanced(store)


def test_a_dataclass_is_columns(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    connector = mg.memory({"0": []})
    flow = _flow(connector, Account(), evolve)
    one_by_one(flow, connector, EVENTS[:20], store)
    for e in EVENTS[20:]:
        connector.feed(e)
    mg.run([flow], store)
    newest = "newest.id, newest.at::TIMESTAMP::VARCHAR"
    named = f"SELECT key, total, share, {newest}, map_keys(seen), ids, ok, mean, seq FROM v ORDER BY key"
    expected = []
    for key, events in sorted(_in_order().items()):
        state = Account()
        for e in events:
            state = evolve(state, e)
        last = state.newest
        assert last is not None
        expected.append(
            (key, state.total, state.share, last.id, last.at, list(state.seen), state.ids, True, state.mean, len(events))
        )
    assert rows(store, named) == expected
    assert all(check.ok for check in verify([flow], store))


def picky(state: int, seen: dict[str, Any]) -> int:
    if seen["n"] == 4:
        raise ValueError("no four")
    return state + seen["n"]


def test_a_key_whose_event_fails_waits_and_others_go_on(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    events = [event("1", 0, "a", 1), event("2", 1, "a", 4), event("3", 2, "a", 2), event("4", 3, "b", 3), event("5", 200, "c", 1)]
    connector = mg.memory(events)
    mg.run([_flow(connector, 0, picky)], store)
    assert rows(store, "SELECT key, state::INTEGER, seq FROM v ORDER BY key") == [("a", 1, 1), ("b", 3, 1)]
    letter = "SELECT view, partition, seq, reason, decode(raw)->>'id', detail FROM merganser.dead_letters"
    ((view, partition, seq, reason, id, detail),) = rows(store, letter)
    assert (view, partition, seq, reason, id) == ("v", "0", 1, "not folded", "2")
    assert "ValueError: no four" in detail and "test_fold.py" in detail
    with duckdb.connect(str(store)) as con:
        waiting = [(p.view, p.key, p.events, p.partition, p.seq, p.then) for p in parked(con)]
        assert waiting == [("v", {"key": "a"}, 2, "0", 1, None)]
    assert all(check.ok for check in verify([_flow(connector, 0, picky)], store))
    balanced(store)
    # Tried again it fails again: nothing is lost and nothing is twice.
    with duckdb.connect(str(store)) as con:
        assert resume(con, "v", {"key": "a"}, skip=False) == 1
    mg.run([_flow(connector, 0, picky)], store)
    assert rows(store, "SELECT key, state::INTEGER, seq FROM v ORDER BY key") == [("a", 1, 1), ("b", 3, 1)]
    assert len(rows(store, letter)) == 1
    # Skipped, the others of the key follow in order.
    with duckdb.connect(str(store)) as con:
        assert resume(con, "v", None, skip=True) == 1
    mg.run([_flow(connector, 0, picky)], store)
    assert rows(store, "SELECT key, state::INTEGER, seq FROM v ORDER BY key") == [("a", 3, 3), ("b", 3, 1)]
    assert rows(store, letter) == []
    assert all(check.ok for check in verify([_flow(connector, 0, picky)], store))


def test_a_parked_key_keeps_later_events_in_order_over_runs(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    connector = mg.memory([event("1", 0, "a", 4), event("2", 1, "a", 1), event("x", 100, "x", 1)])
    flow = _flow(connector, [], lambda state, e: picky(0, e) * 0 or [*state, e["id"]])
    mg.run([flow], store)
    for number in range(3, 6):
        connector.feed(event(str(number), 50 + number, "a", 1))
    connector.feed(event("y", 200, "x", 1))
    mg.run([flow], store)
    assert rows(store, "SELECT key FROM v") == [("x",)]
    with duckdb.connect(str(store)) as con:
        resume(con, "v", {"key": "a"}, skip=True)
    mg.run([flow], store)
    assert rows(store, "SELECT state::VARCHAR, seq FROM v WHERE key = 'a'") == [('["2","3","4","5"]', 5)]


def test_a_failed_call_leaves_no_trace_in_the_state(tmp_path: Path) -> None:
    def spoil(state: list, seen: dict[str, Any]) -> list:
        state.append(seen["id"])
        if seen["n"] == 4:
            raise ValueError
        return state

    store = tmp_path / "s.duckdb"
    connector = mg.memory({"0": []})
    flow = _flow(connector, [], spoil)
    one_by_one(flow, connector, [event("1", 0), event("2", 100)], store)
    for e in (event("3", 101), event("4", 102, n=4), event("x", 300)):
        connector.feed(e)
    mg.run([flow], store)
    assert rows(store, "SELECT state::VARCHAR FROM v") == [('["1","2","3"]',)]


def test_on_error_stop_stops_before_the_event(tmp_path: Path) -> None:
    connector = mg.memory([event("1", 0, n=4), event("2", 100)])
    with pytest.raises(mg.RecordError, match="no four"):
        mg.run([_flow(connector, 0, picky, on_error="stop")], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT count(*) FROM v") == [(0,)]


@pytest.mark.parametrize(
    ("initial", "apply", "said"),
    [
        ({1: "x"}, trail, "JSON does not give this back"),
        ({"x"}, trail, "JSON or an instance of a dataclass"),
        (Account, trail, "JSON or an instance of a dataclass"),
        (0, "no function", "takes a function"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(initial: Any, apply: Any, said: str) -> None:
    with pytest.raises(mg.FlowError, match=said):
        _flow(mg.memory([]), initial, apply)


@pytest.mark.parametrize(
    ("returned", "said"),
    [((1, 2), "JSON does not give back"), ({1, 2}, "no JSON"), (float("nan"), "no JSON"), ({1: 2}, "JSON does not give back")],
)
def test_a_state_that_would_come_back_as_another_one_stops_the_run(returned: Any, said: str, tmp_path: Path) -> None:
    connector = mg.memory([event("1", 0), event("2", 100)])
    with pytest.raises(mg.FlowError, match=said) as refused:
        mg.run([_flow(connector, 0, lambda state, e: returned)], tmp_path / "s.duckdb")
    assert "test_fold.py" in str(refused.value)


def test_a_changed_function_is_a_changed_view(tmp_path: Path) -> None:
    connector = mg.memory([event("1", 0), event("2", 100)])
    mg.run([_flow(connector, 0, lambda state, e: state + 1)], tmp_path / "s.duckdb")
    with pytest.raises(mg.PlanChangedError, match="Fold"):
        mg.run([_flow(connector, 0, lambda state, e: state + 2)], tmp_path / "s.duckdb")


def test_at_least_event_times_come_as_utc(tmp_path: Path) -> None:
    seen: list[Any] = []
    connector = mg.memory([event("1", 0), event("2", 100)])
    mg.run([_flow(connector, 0, lambda state, e: seen.append(e["at"]) or 1)], tmp_path / "s.duckdb")
    assert [moment.isoformat() for moment in seen] == [at(0).replace(" ", "T") + "+00:00"]
