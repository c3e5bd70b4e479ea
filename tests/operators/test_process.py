"""Process: a fold that emits rows and has deadlines, whatever way its events came; what it emits is sent once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import merganser as mg
from merganser.operators.fold import parked, resume
from merganser.testing import CRASH, PAUSE, run
from merganser.verify import verify
from tests.flows import balanced, event, rows, source

LATENESS = 10
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Saga:
    events: int = 0
    timeouts: int = 0
    due: datetime | None = None


EMITS = {"what": "VARCHAR NOT NULL", "about": "VARCHAR", "at": "TIMESTAMPTZ"}


def step(saga: Saga, seen: dict[str, Any]) -> Any:
    saga, n, at = replace(saga, events=saga.events + 1), seen["n"], seen["at"]
    if n is None:
        return replace(saga, due=None)
    rows = [{"what": f"event {i}", "about": seen["id"], "at": at} for i in range(n % 3)]
    due = {2: at + timedelta(seconds=4), 3: at + timedelta(seconds=15), 5: at - timedelta(seconds=3)}.get(n, saga.due)
    return replace(saga, due=due), rows


def late(saga: Saga, due: datetime) -> Any:
    saga = replace(saga, timeouts=saga.timeouts + 1)
    again = {0: due + timedelta(seconds=6), 1: None}.get(saga.timeouts % 3, saga.due)
    return replace(saga, due=again), [{"what": "timeout", "at": due}]


def _flow(connector: Any, **more: Any) -> mg.Flow:
    flow = mg.Flow("p")
    given: dict[str, Any] = {"initial": Saga(), "apply": step, "timeout": late, "emits": EMITS} | more
    process = flow.read(source(connector)).process(by="key", **given)
    process.materialize("sagas")
    process.emitted.materialize("emitted")
    return flow


def _oracle(partitions: dict[str, list[dict[str, Any]]]) -> tuple[dict[Any, Saga], dict[Any, list[tuple[Any, ...]]]]:
    """All events in order, by hand: states, and rows that are emitted, by key."""
    reached, on_time = [], []
    for name, events in partitions.items():
        newest = None
        for position, e in enumerate(events):
            at = datetime.fromisoformat(e["at"]).replace(tzinfo=UTC)
            newest = max(newest or at, at)
            if at >= newest - timedelta(seconds=LATENESS):
                on_time.append((at, name, position, e))
        reached.append(newest)
    watermark = None if None in reached else min(reached) - timedelta(seconds=LATENESS)
    by_key: dict[Any, list[tuple[datetime, dict[str, Any]]]] = defaultdict(list)
    for at, _, _, e in sorted(on_time, key=lambda each: each[:3]):
        if watermark and at < watermark:
            by_key[e["key"]].append((at, e))
    sagas, emitted = {}, {}
    for key, events in by_key.items():
        said: list[tuple[Any, ...]] = []
        saga, since, met = Saga(), START, False
        for at, e in [*events, (watermark, None)]:
            while saga.due is not None and not met and max(saga.due, since) < at:
                since = max(saga.due, since)
                before = saga.due
                saga, more = late(saga, since)
                met = saga.due == before
                said += [(r["what"], r.get("about"), r["at"]) for r in more]
            if e is None:
                break
            before = saga.due
            found = step(saga, e | {"at": at})
            saga, more = found if isinstance(found, tuple) else (found, [])
            since, met = at, met and saga.due == before
            said += [(r["what"], r.get("about"), r["at"]) for r in more]
        sagas[key], emitted[key] = saga, [(number, *row) for number, row in enumerate(said, 1)]
    return sagas, {key: said for key, said in emitted.items() if said}


def _found(views: Any) -> tuple[dict[Any, Saga], dict[Any, list[tuple[Any, ...]]]]:
    sagas = {r["key"]: Saga(r["events"], r["timeouts"], r["due"]) for r in views["sagas"].to_pylist()}
    emitted: dict[Any, list[tuple[Any, ...]]] = defaultdict(list)
    for r in views["emitted"].to_pylist():
        emitted[r["key"]].append((r["seq"], r["what"], r["about"], r["at"]))
    return sagas, {key: sorted(said) for key, said in emitted.items()}


@st.composite
def _scripts(draw: st.DrawFn) -> dict[str, list[Any]]:
    """Partitions of disordered events, with pauses and crashes between them."""
    scripts: dict[str, list[Any]] = {}
    for name in "ab"[: draw(st.sampled_from([1, 1, 2]))]:
        now, script = 0, []
        for number in range(draw(st.integers(1, 30))):
            now += draw(st.sampled_from([0, 0, 1, 2, 4, 11, 30]))
            behind = draw(st.sampled_from([0, 0, 0, 3, 8, 14]))
            n = draw(st.sampled_from([None, 0, 1, 2, 3, 4, 5, 6]))
            script.append(event(f"{name}{number}", now - behind, draw(st.sampled_from(["x", "x", "y", None])), n))
            script += draw(st.sampled_from([[], [], [], [PAUSE], [CRASH]]))
        scripts[name] = script
    return scripts


@settings(max_examples=max(12, settings().max_examples // 3))
@given(_scripts(), st.sampled_from([1, 2]))
def test_it_equals_plain_python_over_all_events_in_order(scripts: dict[str, list[Any]], workers: int) -> None:
    views = run(_flow(mg.memory([])), {"events": scripts}, workers=workers)
    assert _found(views) == _oracle({name: [e for e in script if isinstance(e, dict)] for name, script in scripts.items()})


EVENTS = [event(f"e{i}", i * 3 % 100 + i // 4, "abc"[i % 3], [None, 0, 1, 2, 3, 4, 5, 6][i * 5 % 8]) for i in range(120)]


def test_what_is_emitted_is_sent_once_and_verified_and_not_sent_by_a_rebuild(tmp_path: Path) -> None:
    store, connector, out = tmp_path / "s.duckdb", mg.memory({"0": []}), mg.memory({"0": []})

    def flow() -> mg.Flow:
        made = _flow(connector)
        sagas = made.read(source(connector)).process(by="key", initial=Saga(), apply=step, timeout=late, emits=EMITS)
        sagas.emitted.write(out, name="commands")
        return made

    for count in (1, 1, 7, 30, 120):
        for e in EVENTS[len(connector.lines["0"]) : len(connector.lines["0"]) + count]:
            connector.feed(e)
        mg.run([flow()], store, epoch=0, chunk_bytes=600)
    expected = rows(store, "SELECT key, seq, what, about FROM emitted ORDER BY key, seq")
    assert len(expected) > 40 and len({what for _, _, what, _ in expected}) == 3

    def sent() -> list[tuple[Any, ...]]:
        found = [json.loads(line) for line in out.lines["0"]]
        return sorted((r["key"], r["seq"], r["what"], r["about"]) for r in found)

    assert sent() == expected
    assert [check.view for check in verify([flow()], store) if not check.ok] == []
    balanced(store)
    before = rows(store, "FROM sagas ORDER BY key"), rows(store, "FROM emitted ORDER BY key, seq")
    mg.rebuild([flow()], ["sagas", "emitted"], store)
    mg.run([flow()], store)
    assert (rows(store, "FROM sagas ORDER BY key"), rows(store, "FROM emitted ORDER BY key, seq")) == before
    assert sent() == expected


def _until(seconds: float, *keys: str) -> Iterator[dict[str, Any]]:
    """An event of another key, after which the watermark has passed so many seconds."""
    yield event("tick", seconds + LATENESS + 1, "tick", 0)


def test_an_answer_at_just_the_deadline_is_in_time_and_one_after_it_is_not(tmp_path: Path) -> None:
    ask = [event("1", 0, "in time", 2), event("2", 0, "late", 2)]  # due after 4 seconds
    answer = [event("3", 4, "in time", None), event("4", 4.000001, "late", None)]
    views = run(_flow(mg.memory([])), {"events": [*ask, *answer, *_until(20)]})
    said = views.sql("SELECT key, list(what ORDER BY seq) FROM emitted GROUP BY key ORDER BY key").fetchall()
    assert said == [("in time", ["event 0", "event 1"]), ("late", ["event 0", "event 1", "timeout"])]


def test_a_quiet_partition_holds_deadlines_back_and_nothing_is_met_by_the_clock(tmp_path: Path) -> None:
    connector = mg.memory({"0": [event("1", 0, "k", 2), *_until(50)], "1": [event("2", 0, "tick", 0)]})
    store = tmp_path / "s.duckdb"
    mg.run([_flow(connector)], store)
    assert rows(store, "SELECT count(*) FROM sagas") == [(0,)]
    connector.feed(event("3", 14.5, "tick", 0), "1")  # its watermark is past 4 seconds
    mg.run([_flow(connector)], store)
    assert rows(store, "SELECT what FROM emitted WHERE key = 'k' ORDER BY seq") == [("event 0",), ("event 1",), ("timeout",)]
    assert all(check.ok for check in verify([_flow(connector)], store))


def picky(saga: Saga, seen: dict[str, Any]) -> Any:
    if seen["n"] == 7:
        raise ValueError("no seven")
    return step(saga, seen)


def test_an_event_that_fails_parks_its_key_with_its_deadline(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    events = [event("1", 0, "a", 2), event("2", 1, "a", 7), event("3", 30, "a", 1), event("4", 2, "b", 1)]
    connector = mg.memory([*sorted(events, key=lambda e: e["at"]), *_until(60)])
    flow = _flow(connector, apply=picky)
    minutes = flow.read(source(connector)).process(by="key", initial=Saga(), apply=picky, timeout=late, emits=EMITS).emitted
    minutes.window(mg.tumbling("1 minute")).aggregate(n="count(*)").materialize("minutes")
    mg.run([flow], store)
    said = "SELECT key, list(what ORDER BY seq) FROM emitted GROUP BY key ORDER BY key"
    assert rows(store, said) == [("a", ["event 0", "event 1"]), ("b", ["event 0"])]
    [(reason, detail)] = rows(store, "SELECT DISTINCT reason, detail FROM merganser.dead_letters")
    assert reason == "not folded" and "no seven" in detail and "test_process.py" in detail
    with duckdb.connect(str(store)) as con:
        assert {(p.view, p.events) for p in parked(con)} == {("sagas", 2), ("emitted", 2), ("minutes", 2)}
        assert resume(con, "sagas", {"key": "a"}, skip=True) == 1
    mg.run([flow], store)
    # The deadline of the first event was met meanwhile, before the third.
    assert rows(store, said)[0] == ("a", ["event 0", "event 1", "timeout", "event 0"])
    for e in [*_until(200)]:
        connector.feed(e)
    mg.run([flow], store)
    assert [check.view for check in verify([flow], store) if not check.ok] == []
    # What was said late was put into the window that was open then, and no closed one was opened again.
    assert rows(store, "SELECT n FROM minutes ORDER BY window_start") == [(3,), (2,)]
    balanced(store)


def tired(saga: Saga, due: datetime) -> Any:
    if saga.events == 1:
        raise RuntimeError("nobody is there")
    return late(saga, due)


@pytest.mark.parametrize("skip", [True, False])
def test_a_timeout_that_fails_parks_its_key(skip: bool, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    connector = mg.memory([event("1", 0, "a", 2), event("2", 9, "a", 1), event("3", 9, "b", 1), *_until(30)])
    flow = _flow(connector, timeout=tired)
    mg.run([flow], store)
    assert rows(store, "SELECT key, events, seq FROM sagas ORDER BY key") == [("a", 1, 1), ("b", 1, 1)]
    [(detail,)] = rows(store, "SELECT detail FROM merganser.dead_letters WHERE view = 'sagas'")
    assert "timeout (" in detail and "nobody is there" in detail
    assert [check.view for check in verify([flow], store) if not check.ok] == []
    with duckdb.connect(str(store)) as con:
        [waiting] = [p for p in parked(con) if p.view == "sagas"]
        assert (waiting.key, waiting.events, waiting.then) == ({"key": "a"}, 2, None)
        assert resume(con, "sagas", None, skip=skip) == 1
    mg.run([flow], store)
    assert rows(store, "SELECT events FROM sagas WHERE key = 'a'") == [(2 if skip else 1,)]
    assert rows(store, "SELECT count(*) FROM merganser.dead_letters WHERE view = 'sagas'") == [(0 if skip else 1,)]
    connector.feed(event("4", 60, "a", 4))
    for e in [*_until(90)]:
        connector.feed(e)
    mg.run([flow], store)
    assert rows(store, "SELECT events FROM sagas WHERE key = 'a'") == [(3 if skip else 1,)]
    assert [check.view for check in verify([flow], store) if not check.ok] == []


def test_a_failed_call_leaves_no_trace_in_the_state(tmp_path: Path) -> None:
    def spoil(state: list[str], seen: dict[str, Any]) -> Any:
        state.append(seen["id"])
        if seen["n"] == 7:
            raise ValueError
        return state, [{"what": seen["id"]}]

    connector = mg.memory([event("1", 0, "a"), event("2", 1, "a"), event("3", 2, "a", 7), *_until(30)])
    mg.run([_flow(connector, initial=[], apply=spoil, timeout=None)], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT state::VARCHAR FROM sagas WHERE key = 'a'") == [('["1","2"]',)]
    assert rows(tmp_path / "s.duckdb", "SELECT seq, what FROM emitted WHERE key = 'a' ORDER BY ALL") == [(1, "1"), (2, "2")]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([{"what": "x", "wat": 1}], "declares no column wat; it declares what, about, at"),
        ([{"about": "x"}], "column 'what' of a row to emit is VARCHAR NOT NULL, and it has none"),
        ([{"what": 7}], "column 'what' of a row to emit is a VARCHAR, not 7"),
        ([{"what": "x", "at": datetime(2026, 1, 1)}], "has no zone"),
        (["x"], "a row to emit is a mapping"),
        ({"what": "x"}, "a state, or a state and a list of rows to emit"),
    ],
)
def test_a_row_that_cannot_be_emitted_parks_its_key(returned: Any, said: str, tmp_path: Path) -> None:
    connector = mg.memory([event("1", 0, "a"), *_until(30)])
    flow = _flow(connector, apply=lambda saga, seen: (saga, returned))
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT (SELECT count(*) FROM sagas), (SELECT count(*) FROM emitted)") == [(0, 0)]
    assert said in rows(tmp_path / "s.duckdb", "SELECT detail FROM merganser.dead_letters")[0][0]
    assert all(check.ok for check in verify([flow], tmp_path / "s.duckdb"))


def test_types_that_arrow_cannot_say_and_json(tmp_path: Path) -> None:
    emits = {"what": "JSON", "amount": "DECIMAL(18,2)", "big": "HUGEINT"}
    row = {"what": {"a": [1, None]}, "amount": 3, "big": 10**30}
    connector = mg.memory([event("1", 0, "a"), *_until(30)])
    flow = _flow(connector, apply=lambda saga, seen: (saga, [row]), emits=emits)
    mg.run([flow], tmp_path / "s.duckdb")
    found = "SELECT what->>'$.a[0]', amount::VARCHAR, big::VARCHAR FROM emitted"
    assert rows(tmp_path / "s.duckdb", found) == [("1", "3.00", str(10**30))]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"initial": [], "timeout": late}, "needs a dataclass with a field due"),
        ({"timeout": "10 minutes"}, "takes a function of a state and the time"),
        ({"emits": {"seq": "BIGINT"}}, "emitted rows have a column 'seq' already"),
        ({"emits": {"key": "VARCHAR"}}, "emitted rows have a column 'key' already"),
        ({"emits": {}}, "must map columns"),
        ({"apply": 3}, "takes a function of a state and an event"),
        ({"emit": {}}, "unexpected keyword argument 'emit'"),
    ],
)
def test_mistakes_are_told_on_the_users_line(more: dict[str, Any], said: str) -> None:
    with pytest.raises(mg.FlowError, match=said) as refused:
        _flow(mg.memory([]), **more)
    assert "test_process.py" in str(refused.value)


def test_only_a_process_emits() -> None:
    with pytest.raises(mg.FlowError, match=r"only process\(\) emits rows") as refused:
        _ = mg.Flow("p").read(source([])).emitted
    assert "test_process.py" in str(refused.value)


@pytest.mark.parametrize(
    ("apply", "timeout", "said"),
    [
        (lambda saga, seen: replace(saga, due=datetime(2026, 1, 1)), late, "a time with a zone"),
        (step, lambda saga, due: (1, 2, 3), "must be returned"),
        (step, lambda saga, due: replace(saga, due=due - timedelta(seconds=1)), "which is not after"),
    ],
)
def test_deadlines_that_make_no_sense(apply: Any, timeout: Any, said: str, tmp_path: Path) -> None:
    connector = mg.memory([event("1", 0, "a", 2), *_until(30)])
    flow = _flow(connector, apply=apply, timeout=timeout)
    try:
        mg.run([flow], tmp_path / "s.duckdb")
        [(detail,)] = rows(tmp_path / "s.duckdb", "SELECT detail FROM merganser.dead_letters WHERE view = 'sagas'")
    except mg.FlowError as error:
        detail = str(error)
    assert said in detail and "test_process.py" in detail


def test_changes_of_the_states_can_be_sent_too(tmp_path: Path) -> None:
    out = mg.memory({"0": []})
    connector = mg.memory(EVENTS[:40])
    flow = _flow(connector)
    sagas = flow.read(source(connector)).process(by="key", initial=Saga(), apply=step, timeout=late, emits=EMITS)
    sagas.write(out, name="changes", emit="updates")
    mg.run([flow], tmp_path / "s.duckdb", epoch=0, chunk_bytes=600)
    assert [check.view for check in verify([flow], tmp_path / "s.duckdb") if not check.ok] == []
    assert out.lines["0"]
