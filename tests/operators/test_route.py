"""Route: each row goes to exactly one branch, the first whose condition is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import merganser as mg
from merganser.testing import run
from merganser.verify import verify
from tests.flows import balanced, event, rows, source

CONDITIONS = ("n > 2", "n < 4", "n IS NULL", "key = 'a'", "n % 2 = 0", "key > 'a' AND n > 0", "false", "NULL::BOOLEAN")


def _python(condition: str, row: dict[str, Any]) -> bool | None:
    """What SQL makes of a condition, by Python."""
    n, key = row["n"], row["key"]
    known = {"n IS NULL": n is None, "false": False, "NULL::BOOLEAN": None, "key = 'a'": None if key is None else key == "a"}
    if condition in known:
        return known[condition]
    if condition.startswith("key > 'a'"):
        parts = (None if key is None else key > "a", None if n is None else n > 0)
        return False if False in parts else None if None in parts else True
    if n is None:
        return None
    return {"n > 2": n > 2, "n < 4": n < 4, "n % 2 = 0": n % 2 == 0}[condition]


@given(
    st.lists(st.tuples(st.sampled_from([None, "a", "b"]), st.sampled_from([None, 0, 1, 2, 3, 4, 5])), max_size=12),
    st.lists(st.sampled_from(CONDITIONS), min_size=1, max_size=4),
    st.sampled_from([None, "rest"]),
    st.booleans(),
)
@settings(max_examples=max(10, settings().max_examples // 3))
def test_branches_part_the_rows(found, conditions: list[str], default: str | None, behind: bool) -> None:
    events = [event(str(i), i, key, n) for i, (key, n) in enumerate(found)]
    branches = {f"b{i}": condition for i, condition in enumerate(conditions)}
    flow = mg.Flow("r")
    read = flow.read(source([]))
    routes = (read.deduplicate() if behind else read).route(branches, default=default)
    for name, stream in routes.items():
        stream.materialize(name)
    views = run(flow, {"events": events})
    expected: dict[str | None, list[str]] = {name: [] for name in (*branches, default)}
    for row in events:
        first = next((name for name, condition in branches.items() if _python(condition, row)), default)
        expected[first].append(row["id"])
    unmatched = expected.pop(None, [])
    assert {name: sorted(views[name]["id"].to_pylist(), key=int) for name in routes} == expected
    letters = views.sql("SELECT decode(raw)->>'id', view FROM merganser.dead_letters ORDER BY ALL").fetchall()
    assert letters == sorted((id, name) for id in unmatched for name in routes)


def test_a_row_that_no_branch_takes_is_kept_and_told(tmp_path: Path) -> None:
    connector = mg.memory([event("1", 0, "a", 1), event("2", 1, "b", 5)])
    flow = mg.Flow("r")
    routes = flow.read(source(connector)).route({"large": "n > 2", "negative": "n < 0"})
    routes.large.materialize("large")
    routes["negative"].materialize("negative")
    mg.run([flow], tmp_path / "s.duckdb")
    balanced(tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT id FROM large") == [("2",)]
    letter = "SELECT view, reason, detail, decode(raw)->>'id' FROM merganser.dead_letters ORDER BY view"
    letters = rows(tmp_path / "s.duckdb", letter)
    assert [(view, reason, id) for view, reason, _, id in letters] == [(v, "not computed", "1") for v in ("large", "negative")]
    assert "test_route.py" in letters[0][2] and "no branch takes this row (large, negative)" in letters[0][2]
    assert all(check.ok for check in verify([flow], tmp_path / "s.duckdb"))
    assert "Route[events, to large of large = n > 2, negative = n < 0]" in str(flow)


def test_later_conditions_are_not_asked_about_rows_that_are_taken(tmp_path: Path) -> None:
    connector = mg.memory([event("1", 0, "no number", 1), event("2", 1, "7", 5)])
    flow = mg.Flow("r")
    routes = flow.read(source(connector)).route({"texts": "key = 'no number'", "numbers": "key::INTEGER > 0"})
    routes.numbers.materialize("numbers")
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT id FROM numbers") == [("2",)]
    assert rows(tmp_path / "s.duckdb", "SELECT count(*) FROM merganser.dead_letters") == [(0,)]


def test_behind_windows_the_rows_of_closed_ones_are_routed(tmp_path: Path) -> None:
    connector = mg.memory([event(str(i), i * 20, "ab"[i % 2], i) for i in range(12)])
    flow = mg.Flow("r")
    minutes = flow.read(source(connector)).window(mg.tumbling("1 minute"), by="key").aggregate(total="sum(n)")
    routes = minutes.route({"odd": "total % 2 = 1"}, default="even")
    for name, stream in routes.items():
        stream.materialize(name)
    mg.run([flow], tmp_path / "s.duckdb")
    odd, even = (rows(tmp_path / "s.duckdb", f"SELECT total FROM {name}") for name in ("odd", "even"))
    assert odd and even and all(n % 2 for (n,) in odd) and not any(n % 2 for (n,) in even)
    assert all(check.ok for check in verify([flow], tmp_path / "s.duckdb"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda s: s.route({}), "takes a mapping"),
        (lambda s: s.route("n > 2"), "takes a mapping"),
        (lambda s: s.route({"a": "m > 2"}), "route 'a': 'm > 2'.*there is no column 'm'"),
        (lambda s: s.route({"a": "n"}), "must be true or false, this is a BIGINT"),
        (lambda s: s.route({"a": "n > 2"}, default="a"), "branch of that name already"),
        (lambda s: s.route({"items": "n > 2"}), "'items' cannot name a branch"),
        (lambda s: s.route({"a": "n > 2"}).b, "has no branch 'b'; it has a"),
        (lambda s: s.route({"a": "n > 2"})["b"], "has no branch 'b'; it has a"),
        (lambda s: s.route({"a": "n > 2"}, els="b"), "unexpected keyword argument 'els'"),
    ],
)
def test_mistakes_are_told_on_the_users_line(make, said: str) -> None:
    with pytest.raises(mg.FlowError, match=said) as refused:
        make(mg.Flow("r").read(source([])))
    assert "test_route.py" in str(refused.value)
