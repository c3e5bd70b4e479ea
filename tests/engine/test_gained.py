"""A source that gains a nullable column: views go on, and are NULL there in what they had before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import merganser as mg
from merganser import engine
from merganser.errors import PlanChangedError
from merganser.verify import verify
from tests.flows import SCHEMA, at, balanced, event, rows

WIDER = {"id": "VARCHAR", "at": "TIMESTAMP", "note": "VARCHAR", "key": "VARCHAR", "n": "BIGINT", "more": "INTEGER[]"}
"""One column in the middle, one at the end."""

BEFORE = [event("a", 0, "x", 1, note="unseen"), event("b", 1, "y", 2), event("a", 2, "x", 1), event("c", 90, "x", 3)]
AFTER = [event("d", 95, "x", 4, note="seen", more=[1, 2]), event("b", 96, "y", 2), event("e", 200, "y", 5, note="new")]


def every(flow: mg.Flow, source: mg.Source, others: mg.Source) -> None:
    """Views of each kind of step."""
    s = flow.read(source)
    unique = s.deduplicate()
    unique.materialize("kept")
    unique.select("id", "n").materialize("some")
    s.latest(by="key").materialize("last")
    unique.window(mg.tumbling("1 minute"), by="key").aggregate(n="sum(n)", d="count(DISTINCT id)").materialize("sums")
    s.group_by("key").aggregate(n="sum(n)", m="median(n)").materialize("totals")
    s.order(by="key").materialize("ordered")
    s.window(mg.session("30 seconds"), by="key").aggregate(n="count(*)").materialize("sessions")
    s.fold(by="key", initial={"n": 0}, apply=fold).materialize("folded")
    s.join(flow.read(others), on="key", within="1 minute").materialize("pairs")
    unique.write(mg.files(OUT[0] / "out-*.jsonl"), name="out")


OUT: list[Path] = []


def fold(state: dict[str, int], event: dict[str, Any]) -> dict[str, int]:
    return {"n": state["n"] + event["n"]}


def declared(connector: Any, schema: dict[str, str] = SCHEMA, name: str = "events") -> mg.Source:
    return mg.source(name, connector, schema=schema, time="at", lateness="10 seconds", id="id", key="key")


def test_views_of_every_kind_go_on(tmp_path: Path) -> None:
    OUT[:] = [tmp_path]
    store, memory = tmp_path / "s.duckdb", mg.memory(list(BEFORE))
    others = declared(mg.memory([{"id": "o", "at": at(s), "key": "x", "w": s} for s in (1, 91)]), {
        "id": "VARCHAR", "at": "TIMESTAMP", "key": "VARCHAR", "w": "BIGINT"
    }, "others")  # fmt: skip
    flow, wider = mg.Flow("f"), mg.Flow("f")
    every(flow, declared(memory), others)
    every(wider, declared(memory, WIDER), others)
    mg.run([flow], store)
    for record in AFTER:
        memory.feed(record)
    report = mg.run([wider], store)
    assert report.notes[0].startswith("new: more, note; NULL in what kept, some, last, sums, ")
    assert rows(store, "SELECT id, note, more FROM kept ORDER BY id") == [
        ("a", None, None), ("b", None, None), ("c", None, None), ("d", "seen", [1, 2]), ("e", "new", None)
    ]  # fmt: skip
    assert rows(store, "SELECT key, id, note FROM last ORDER BY key") == [("x", "d", "seen"), ("y", "e", "new")]
    assert rows(store, "SELECT key, n::BIGINT FROM totals ORDER BY key") == [("x", 9), ("y", 9)]
    assert rows(store, "SELECT id, note FROM pairs ORDER BY ALL")[-1] == ("d", "seen")
    sent = [json.loads(line) for path in sorted(tmp_path.glob("out-*")) for line in path.read_text().splitlines()]
    assert [(r["id"], "note" in r) for r in sent] == [("a", False), ("b", False), ("c", False), ("d", True), ("e", True)]
    balanced(store)
    failed = [check for check in verify([wider], store) if not check.ok]
    assert not failed, failed
    assert not mg.run([wider], store).notes
    engine.rebuild([wider], ["kept"], store)
    assert rows(store, "SELECT note FROM kept WHERE id = 'a'") == [("unseen",)]  # from the log
    failed = [check for check in verify([wider], store) if not check.ok]
    assert not failed, failed


@pytest.mark.parametrize(("schema", "build", "why"), [
    (SCHEMA | {"note": "VARCHAR NOT NULL"}, None, r"\+source events .*note VARCHAR NOT NULL"),
    (SCHEMA | {"n": "INTEGER"}, None, "n INTEGER"),
    ({k: v for k, v in SCHEMA.items() if k != "n"}, None, "key VARCHAR"),
    (SCHEMA | {"note": "VARCHAR"}, lambda s: s.filter("note IS NULL"), r"\+Filter"),
])  # fmt: skip
def test_any_other_difference_is_a_changed_plan(
    tmp_path: Path, schema: dict[str, str], build: Callable[[Any], Any] | None, why: str
) -> None:
    memory, store = mg.memory(list(BEFORE)), tmp_path / "s.duckdb"
    flow, other = mg.Flow("f"), mg.Flow("f")
    flow.read(declared(memory)).materialize("kept")
    stream = other.read(declared(memory, schema))
    (build(stream) if build else stream).materialize("kept")
    mg.run([flow], store)
    with pytest.raises(PlanChangedError, match=why):
        mg.run([other], store)
    assert not mg.run([flow], store).notes


def test_a_column_that_gets_in_the_way_of_a_joined_one_needs_a_rebuild(tmp_path: Path) -> None:
    memory, store = mg.memory(list(BEFORE)), tmp_path / "s.duckdb"
    right = declared(mg.memory([event("r", 1, "x", w=1)]), SCHEMA | {"w": "BIGINT"}, "others")
    flow, other = mg.Flow("f"), mg.Flow("f")
    for made, schema in ((flow, SCHEMA), (other, SCHEMA | {"w": "BIGINT"})):
        made.read(declared(memory, schema)).join(made.read(right), on="key", within="1 minute").materialize("pairs")
    mg.run([flow], store)
    with pytest.raises(PlanChangedError, match="w BIGINT"):
        mg.run([other], store)
