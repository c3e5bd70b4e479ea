"""Enrich: with a file, with a stream's present row, with a table, and what is refused. As of: see test_transcripts."""

from __future__ import annotations

from pathlib import Path

import pytest

import merganser as mg
from merganser.verify import verify
from tests.flows import SCHEMA, balanced, event, rows, source

PLACES = {"place": "VARCHAR", "floor": "INTEGER", "n": "INTEGER"}


def _places(tmp_path: Path, text: str = "place,floor,n\na,1,10\nb,2,20\n") -> mg.Reference:
    path = tmp_path / "places.csv"
    path.write_text(text)
    return mg.reference(path, schema=PLACES)


EVENTS = [event("1", 0, "a"), event("2", 1, "b"), event("3", 2, "x"), event("4", 3, None), event("5", 100, "a")]


def test_a_file_is_looked_up_in_row_by_row(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    flow = mg.Flow("f")
    enriched = flow.read(source(mg.memory(EVENTS))).enrich(_places(tmp_path), on={"key": "place"})
    enriched.filter("floor IS NOT NULL").deduplicate().materialize("known")
    enriched.window(mg.tumbling("1 minute"), by="floor").aggregate(n="sum(n_right)").materialize("floors")
    mg.run([flow], store)
    assert list(enriched.columns) == ["id", "at", "key", "n", "place", "floor", "n_right"]
    found = rows(store, "SELECT id, place, floor, n, n_right FROM known ORDER BY id")
    assert found == [("1", "a", 1, 1, 10), ("2", "b", 2, 1, 20), ("5", "a", 1, 1, 10)]
    assert rows(store, "SELECT floor, n FROM floors WHERE final ORDER BY floor") == [(1, 10), (2, 20), (None, None)]
    assert [check for check in verify([flow], store) if not check.ok] == []
    balanced(store)


def test_a_key_of_several_columns(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"k": "a", "m": 1, "v": "a1"}\n{"k": "a", "m": 2, "v": "a2"}\n')
    flow = mg.Flow("f")
    reference = mg.reference(path, schema={"k": "VARCHAR", "m": "BIGINT", "v": "VARCHAR"})
    flow.read(source(mg.memory([event("1", 0, "a", 2), event("2", 1, "a", 3)]))).enrich(
        reference, on={"key": "k", "n": "m"}
    ).materialize("v")
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT id, v FROM v ORDER BY id") == [("1", "a2"), ("2", None)]


def test_another_content_is_another_plan(tmp_path: Path) -> None:
    def flow(text: str) -> mg.Flow:
        made = mg.Flow("f")
        made.read(source(mg.memory(EVENTS))).enrich(_places(tmp_path, text), on={"key": "place"}).materialize("v")
        return made

    mg.run([flow("place,floor,n\na,1,10\n")], tmp_path / "s.duckdb")
    with pytest.raises(mg.PlanChangedError, match=r"LookUp.*places.csv#"):
        mg.run([flow("place,floor,n\na,2,10\n")], tmp_path / "s.duckdb")


def test_the_present_row_changes_what_was_there(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    right = mg.memory([event("r1", 0, "a", 1), event("r2", 1, "b", 2)])
    flow = mg.Flow("f")
    others = flow.read(mg.source("others", right, schema=SCHEMA, time="at", lateness="10 seconds", id="id", key="key"))
    flow.read(source(mg.memory(EVENTS))).enrich(others.select("key", "n"), on="key").materialize("present")
    mg.run([flow], store)
    seen = "SELECT id, key, n, n_right FROM present ORDER BY id"
    assert rows(store, seen) == [("1", "a", 1, 1), ("2", "b", 1, 2), ("3", "x", 1, None), ("4", None, 1, None), ("5", "a", 1, 1)]
    right.feed(event("r3", 5, "a", 7))
    right.feed({"id": None, "at": event("", 6)["at"], "key": "b", "n": None})  # deletes b
    mg.run([flow], store)
    assert rows(store, seen) == [("1", "a", 1, 7), ("2", "b", 1, None), ("3", "x", 1, None), ("4", None, 1, None), ("5", "a", 1, 7)]
    assert [check for check in verify([flow], store) if not check.ok] == []
    balanced(store)


def test_with_a_table_that_is_kept_anyway(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    flow = mg.Flow("f")
    read = flow.read(source(mg.memory(EVENTS)))
    counted = read.group_by("key").aggregate(many="count(*)")
    counted.materialize("counted")
    read.select("id", "key").enrich(counted, on="key").materialize("v")
    mg.run([flow], store)
    assert rows(store, "SELECT id, many FROM v ORDER BY id") == [("1", 2), ("2", 1), ("3", 1), ("4", None), ("5", 2)]
    assert [check for check in verify([flow], store) if not check.ok] == []


def _two(flow: mg.Flow, **more: str | None) -> tuple[mg.Stream, mg.Stream]:
    declared: dict[str, object] = {"schema": SCHEMA, "time": "at", "lateness": "1 second", "key": "key"} | more
    return tuple(flow.read(mg.source(name, mg.memory([]), **declared)) for name in "ab")  # type: ignore[return-value]


REFUSED = [
    (lambda a, b: a.enrich(b, on="nope"), "the left side has no column 'nope'"),
    (lambda a, b: a.enrich(b, on={"key": "nope"}), "the right side has no column 'nope'"),
    (lambda a, b: a.enrich(b, on={"key": "n"}), "derive"),
    (lambda a, b: a.enrich("b", on="key"), "takes another stream"),
    (lambda a, b: a.enrich(b, on="key").filter("true"), "rows still change"),
    (lambda a, b: a.enrich(b.window(mg.tumbling("1 minute"), by="key").aggregate(c="count(*)"), on="key"), "as_of=True"),
    (lambda a, b: a.enrich(b.group_by("key", "n").aggregate(c="count(*)"), on="key"), "key of the other side: key, n"),
    (lambda a, b: a.join(b, on="key", within="1 second", how="full"), "'inner' and 'left'"),
    (lambda a, b: a.join(b, on=[], within="1 second"), "names no column"),
    (lambda a, b: a.join(_two(mg.Flow("g"))[0], on="key", within="1 second"), "a stream of the same flow"),
    (lambda a, b: a.order(by="nope"), "no column 'nope'"),
    (lambda a, b: a.derive(seq="1").order(by="key"), "column seq"),
    (lambda a, b: a.order(by="key", late="never"), "'keep'"),
    (lambda a, b: a.order(by="key").deduplicate(by="id"), "right behind read"),
]


@pytest.mark.parametrize(("build", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_is_refused_with_the_way_out(build, said: str) -> None:
    with pytest.raises(mg.FlowError, match=said) as refused:
        build(*_two(mg.Flow("f")))
    assert "test_enrich.py" in str(refused.value)


@pytest.mark.parametrize("verb", ["order", "left join", "as of", "fold"])
def test_what_waits_for_the_watermark_needs_one(verb: str) -> None:
    a, b = _two(mg.Flow("f"), lateness=None)
    with pytest.raises(mg.FlowError, match="without lateness="):
        if verb == "order":
            a.order(by="key")
        elif verb == "fold":
            a.fold(by="key", initial=0, apply=lambda state, e: state)
        elif verb == "as of":
            a.enrich(b, on="key", as_of=True)
        else:
            a.join(b, on="key", within="1 second", how="left")


def test_an_inner_join_without_lateness_keeps_everything(tmp_path: Path) -> None:
    flow = mg.Flow("f")
    declared = {"schema": SCHEMA, "time": "at"}
    a = flow.read(mg.source("a", mg.memory([event("1", 0), event("2", 500)]), **declared))
    b = flow.read(mg.source("b", mg.memory([event("3", 1000), event("4", 1)]), **declared))
    a.join(b, on="key", within="5 seconds").materialize("v")
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT id, id_right FROM v") == [("1", "4")]
    assert all(check.ok for check in verify([flow], tmp_path / "s.duckdb"))


@pytest.mark.parametrize(
    ("text", "said"), [("place,floor,n\na,1,1\na,2,2\n", "several rows with place 'a'"), ("place,floor,n\na,x,1\n", "line 2")]
)
def test_a_file_that_is_no_reference(text: str, said: str, tmp_path: Path) -> None:
    left, _ = _two(mg.Flow("f"))
    with pytest.raises(mg.FlowError, match=said):
        left.enrich(_places(tmp_path, text), on={"key": "place"})
