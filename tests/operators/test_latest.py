"""latest: the last row of each key by event time; ties to the later partition, then position; tombstones."""

from __future__ import annotations

from pathlib import Path

import pytest

import merganser as mg
from tests.flows import balanced, event, one_by_one, rows, source

CASES = [
    ("the newest event time", [("a", 0, 1), ("a", 2, 2), ("a", 1, 3)], {"a": 2}),
    ("the later of two at one time", [("a", 1, 1), ("a", 1, 2)], {"a": 2}),
    ("a row that is NULL besides its key deletes", [("a", 0, 1), ("b", 0, 2), ("a", 1, None)], {"b": 2}),
    ("an older row does not bring a deleted key back", [("a", 5, None), ("a", 1, 1)], {}),
    ("a newer one does", [("a", 5, None), ("a", 6, 1)], {"a": 1}),
    ("a NULL key is a key", [(None, 0, 1), (None, 1, 2)], {None: 2}),
]


@pytest.mark.parametrize(("given", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.parametrize("cut", ["at once", "one by one"])
def test_latest(given, expected, cut, tmp_path: Path) -> None:
    events = [event(f"e{i}", t, key, n) for i, (key, t, n) in enumerate(given)]
    connector = mg.memory({"0": events if cut == "at once" else []})
    flow = mg.Flow("l")
    flow.read(source(connector)).latest().materialize("v")
    store = tmp_path / "s.duckdb"
    if cut == "at once":
        mg.run([flow], store)
    else:
        one_by_one(flow, connector, events, store)
    assert dict(rows(store, "SELECT key, n FROM v")) == expected
    balanced(store)


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_ties_between_partitions_do_not_depend_on_arrival(order: list[str], tmp_path: Path) -> None:
    connector = mg.memory({"a": [], "b": []})
    flow = mg.Flow("l")
    flow.read(source(connector)).latest().materialize("v")
    for name in order:
        connector.feed(event(name, 0, "k", 1 if name == "a" else 2), name)
        mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT n FROM v") == [(2,)]
