"""What a fold with history keeps: each event with the state after it, and the view as it was."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import merganser as mg
from merganser.cli import main
from merganser.errors import FlowError, UsageError
from merganser.verify import verify
from tests.flows import SCHEMA, at, event, one_by_one, source


@dataclass(frozen=True)
class Account:
    total: int = 0
    ids: list[str] | None = None


def evolve(state: Account, seen: dict[str, Any]) -> Account:
    if seen["n"] == 4:
        raise ValueError("no four")
    return replace(state, total=state.total + seen["n"], ids=[*(state.ids or []), seen["id"]][-2:])


def append(state: list[str], seen: dict[str, Any]) -> list[str]:
    state.append(seen["id"])  # in place: what was kept before must not change
    return state


EVENTS = [event(f"e{i}", 100 - i if i % 5 == 0 else i, "ab"[i * i % 3], i % 4) for i in range(60)]
"""Every fifth has a time that is not in the order of the log."""


def make(connector, initial=None, apply=evolve, order="log", **more) -> mg.Flow:
    flow = mg.Flow("f")
    read = flow.read(source(connector, lateness="10 minutes", **more))
    read.fold(by="key", initial=Account() if initial is None else initial, apply=apply, order=order, history=True).materialize("v")
    return flow


def replayed(events: list[dict[str, Any]]) -> dict[str, Account]:
    states: dict[str, Account] = {}
    for e in events:
        states[e["key"]] = evolve(states.get(e["key"], Account()), e)
    return states


def found(result: mg.query.connection.Result) -> dict[str, Account]:
    return {row["key"]: Account(row["total"], row["ids"]) for row in result.arrow().to_pylist()}


@pytest.mark.parametrize("cut", ["at once", "one by one", "in chunks"])
def test_the_past_is_a_replay_of_the_logs_beginning(cut: str, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    connector = mg.memory({"0": [] if cut == "one by one" else EVENTS})
    flow = make(connector)
    if cut == "one by one":
        one_by_one(flow, connector, EVENTS[:6], store)
        for e in EVENTS[6:]:
            connector.feed(e)
    mg.run([flow], store, chunk_bytes=400 if cut == "in chunks" else 1 << 20, epoch=0 if cut == "in chunks" else 1)
    assert all(check.ok for check in verify([flow], store))
    past = mg.connect(store)
    assert found(past.sql("FROM v")) == replayed(EVENTS)
    for n in (1, 29) if cut == "in chunks" else ():
        assert found(past.as_of("v", position=n)) == replayed(EVENTS[:n])
        assert found(past.as_of("v", position={"0": n})) == replayed(EVENTS[:n])
        first = [e for key in "ab" for e in [e for e in EVENTS if e["key"] == key][:n]]
        assert found(past.as_of("v", version=n)) == replayed(first)
    for key in "ab":
        mine = [e for e in EVENTS if e["key"] == key]
        states = [replayed(mine[: i + 1])[key] for i in range(len(mine))]
        kept = past.history("v", key).arrow().to_pylist()
        assert [(row["id"], row["seq"], row["state"]) for row in kept] == [
            (e["id"], i + 1, asdict(state)) for i, (e, state) in enumerate(zip(mine, states))
        ]
        # By time, the last event in the log's order counts whose time had come.
        for second in (31,) if cut == "in chunks" else ():
            last = max((i for i, e in enumerate(mine) if e["at"] <= at(second)), default=None)
            then = found(past.as_of("v", time=at(second)))
            assert then.get(key) == (None if last is None else states[last])
    before = past.sql("FROM v ORDER BY key").fetchall(), past.history("v", "a").fetchall()
    mg.rebuild([flow], ["v"], store)
    assert (past.sql("FROM v ORDER BY key").fetchall(), past.history("v", "a").fetchall()) == before


def test_a_json_state_that_changes_in_place_by_event_time(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    events = [event("a2", 2), event("a1", 1), event("b1", 1, "l"), event("a3", 3), event("end", 2000, "z")]
    mg.run([make(mg.memory(events), [], append, "time")], store)
    past = mg.connect(store)
    kept = [(r["id"], json.loads(r["state"])) for r in past.history("v", {"key": "k"}).arrow().to_pylist()]
    assert kept == [("a1", ["a1"]), ("a2", ["a1", "a2"]), ("a3", ["a1", "a2", "a3"])]
    assert past.as_of("v", version=2).fetchall() == [("k", '["a1","a2"]', 2), ("l", '["b1"]', 1)]
    assert past.as_of("v", time=at(1) + "Z").fetchall() == [("k", '["a1"]', 1), ("l", '["b1"]', 1)]
    with pytest.raises(UsageError, match=r"folded by event time.*order='log'"):
        past.as_of("v", position=3)


def test_a_parked_key_has_the_history_up_to_the_event_that_failed(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    mg.run([make(mg.memory([event("a", 1), event("b", 2, n=4), event("c", 3)]))], store)
    assert [row["id"] for row in mg.connect(store).history("v", "k").arrow().to_pylist()] == ["a"]


def test_a_key_in_two_partitions_has_no_order_as_logged(tmp_path: Path) -> None:
    for number, split in enumerate(({"0": EVENTS[:1], "1": EVENTS[3:4]}, {"0": EVENTS[:1], "1": []})):
        connector = mg.memory(split)
        store = tmp_path / f"{number}.duckdb"
        flow = make(connector)
        if number:
            mg.run([flow], store)
            connector.feed(EVENTS[3], "1")
        with pytest.raises(FlowError, match=r"test_history\.py.*key=a are in '[01]' and '[01]'"):
            mg.run([flow], store)
    apart = mg.memory({key: [e for e in EVENTS if e["key"] == key] for key in "ab"})
    mg.run([make(apart)], tmp_path / "apart.duckdb")
    past = mg.connect(tmp_path / "apart.duckdb")
    assert found(past.sql("FROM v")) == replayed(EVENTS)
    assert found(past.as_of("v", position={"a": 3})) == replayed([e for e in EVENTS if e["key"] == "a"][:3])
    with pytest.raises(UsageError, match="partitions a, b"):
        past.as_of("v", position=3)


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    plain = mg.source("p", mg.memory(EVENTS[:3]), schema=SCHEMA, key="key")
    flow = mg.Flow("f")
    flow.read(plain).fold(initial=[], apply=append, order="log").materialize("bare")
    flow.read(plain).fold(by=["key", "n"], initial=[], apply=append, order="log", history=True).materialize("untimed")
    mg.run([flow], store)
    past = mg.connect(store)
    with pytest.raises(UsageError, match="there is no view 'w'; there are bare, untimed"):
        past.history("w", 1)
    with pytest.raises(UsageError, match=r"keeps no history: give its fold.* history=True"):
        past.as_of("bare", version=1)
    with pytest.raises(UsageError, match="has no time="):
        past.as_of("untimed", time=at(1))
    with pytest.raises(UsageError, match="a key of view 'untimed' has key, n"):
        past.history("untimed", "a")
    with pytest.raises(UsageError, match="one of version="):
        past.as_of("untimed", version=1, position=1)
    assert [row["id"] for row in past.history("untimed", {"key": "a", "n": "0"}).arrow().to_pylist()] == ["e0"]
    with pytest.raises(FlowError, match="there are 'time' and 'log'"):
        flow.read(plain).fold(initial=[], apply=append, order="asc")
    with pytest.raises(FlowError, match="must follow events as they were read"):
        flow.read(source([])).order().fold(initial=[], apply=append, order="log")


def test_a_running_flow_is_asked(tmp_path: Path) -> None:
    connector = mg.memory(EVENTS[:30])
    with make(connector).running(tmp_path / "s.duckdb", epoch=0.05) as views:
        assert found(views.as_of("v", position=20)) == replayed(EVENTS[:20])
        for e in EVENTS[30:]:
            connector.feed(e)
        views.wait_for("now")
        assert found(views.as_of("v", position=60)) == found(views.sql("FROM v")) == replayed(EVENTS)
        assert len(views.history("v", "a")) == sum(e["key"] == "a" for e in EVENTS)


def test_from_the_command_line(tmp_path: Path) -> None:
    store = str(tmp_path / "s.duckdb")
    mg.run([make(mg.memory(EVENTS[:9]))], store)

    def asked(*command: str) -> Any:
        return CliRunner().invoke(main, [*command, "--store", store])

    past = mg.connect(store)
    lines = asked("history", "v", "a", "--format", "json").output.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [row["id"] for row in past.history("v", "a").arrow().to_pylist()]
    assert asked("history", "v", "key=a").output.count("total") == len(lines)
    for option, given in (("--version", 2), ("--position", 5), ("--time", at(3))):
        lines = asked("as-of", "v", option, str(given), "--format", "json").output.splitlines()
        expected = past.as_of("v", **{option.strip("-"): given}).arrow().to_pylist()
        assert [json.loads(line) for line in lines] == expected and expected
    for wrong, said in (
        (("history", "v", "a", "b"), "COLUMN=VALUE"),
        (("history", "v", "q"), "view 'v' has no key q"),
        (("as-of", "v", "--time", "soon"), "is no time"),
        (("as-of", "v"), "give one of --version, --time and --position"),
        (("as-of", "w", "--version", "1"), "there is no view 'w'"),
    ):
        done = asked(*wrong)
        assert done.exit_code == 2 and said in done.output
