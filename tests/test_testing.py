"""The toolkit for users' own tests: ``merganser.testing`` and its pytest plugin."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import merganser as mg
from merganser.testing import CRASH, PAUSE, Message, Views, assert_view, assert_written, run
from tests.flows import event

ORDERS = mg.source(
    "orders", mg.files("nowhere/*.jsonl"), time="at", lateness="10 seconds", id="id",
    schema={"id": "VARCHAR", "at": "TIMESTAMPTZ", "key": "VARCHAR", "n": "BIGINT"},
)  # fmt: skip


def flow() -> mg.Flow:
    made = mg.Flow("shop")
    once = made.read(ORDERS).deduplicate(within="1 hour")
    once.window(mg.tumbling("1 minute"), by="key").aggregate(n="sum(n)", mean="avg(n)").materialize("per_minute")
    once.filter("n > 1").materialize("large")
    made.view("top", "SELECT key, max(n) AS n FROM large GROUP BY key")
    return made


def order(id: str, seconds: float, n: int = 1) -> dict[str, Any]:
    return event(id, seconds, "k", n)


def test_rows_in_views_out() -> None:
    views = run(flow(), {"orders": [order("a", 0), order("b", 1, 5), order("a", 2), order("c", 70)]})
    assert_view(
        views["per_minute"],
        [
            {"key": "k", "window_start": "2026-01-01 00:00:00", "n": 6, "mean": 3.0},
            {"key": "k", "window_start": datetime(2026, 1, 1, 0, 1, tzinfo=UTC), "n": Decimal(1), "mean": 1},
        ],
    )
    assert_view(views["top"], [{"key": "k", "n": 5}])
    assert views.sql("SELECT sum(duplicate)::BIGINT FROM merganser.commits WHERE view = 'large'").fetchall() == [(1,)]


def test_it_takes_milliseconds() -> None:
    script = {"orders": [order(str(i), i) for i in range(10)]}
    run(flow(), script)
    began = time.process_time()
    for _ in range(5):
        run(flow(), script)
    assert (time.process_time() - began) / 5 < 0.5  # about 0.06 s: a bound that only an accident passes


@pytest.mark.parametrize("mark", [PAUSE, CRASH])
def test_pauses_and_crashes_change_no_view(mark: Any) -> None:
    rows = [order(str(i % 7), i * 9, i) for i in range(30)]
    script: list[Any] = [each for i, row in enumerate(rows) for each in ([row, mark] if i % 4 == 3 else [row])]
    whole, parted = run(flow(), {"orders": rows}), run(flow(), {"orders": script})
    for view in ("per_minute", "large"):
        assert_view(parted[view], whole[view].to_pylist())
    # What is before a mark was a commit of its own; after a crash it is committed with what follows.
    commits = parted.sql("SELECT count(DISTINCT epoch) FROM merganser.commits").fetchall()[0][0]
    assert commits == (8 if mark is PAUSE else 1)


def test_partitions_and_bad_records() -> None:
    views = run(flow(), {"orders": {"0": [order("a", 0), b"{bad"], "1": [order("b", 100), PAUSE, order("c", 0)]}})
    assert views.sql("SELECT count(*) FROM merganser.dead_letters").fetchall() == [(1,)]
    assert views.sql("SELECT count(*) FROM merganser.late").fetchall() == [(1,)]


def test_a_mistake_in_a_test_is_said() -> None:
    with pytest.raises(mg.UsageError, match="no source payments; it reads orders"):
        run(flow(), {"payments": []})
    with pytest.raises(mg.UsageError, match="no column amuont"):
        run(flow(), {"orders": [{"amuont": 1}]})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"k": 1, "n": 10}, {"k": 2, "n": 20}], None),
        ([{"n": 20}, {"n": 10}], None),
        ([{"k": 1, "n": 10}, {"k": 2, "n": 21}], "different:     k=2: n is 20.0, not 21"),
        ([{"k": 1, "n": 10}], "not expected:  k=2 n=20"),
        ([{"k": 1, "n": 10}, {"k": 2, "n": 20}, {"k": 3, "n": 30}], "missing:       k=3 n=30"),
        ([{"k": 1, "x": 10}], "no column x; it has k, n"),
        ([{"k": 1, "n": 10}, {"k": 1, "n": 10}], "1 rows are equal, 1 missing, 1 not expected"),
    ],
)
def test_assert_view_says_what_differs(rows: list[dict[str, Any]], message: str | None) -> None:
    view = pa.table({"k": [1, 2], "n": [10.0, 20.0]})
    if message is None:
        assert_view(view, rows)
        return
    with pytest.raises(AssertionError) as failed:
        assert_view(view, rows)
    assert message in str(failed.value)


def test_the_documented_tests_and_the_fixture_run_in_a_project(tmp_path: Path) -> None:
    subprocess.run([Path(sys.executable).parent / "merganser", "new", str(tmp_path / "shop")], check=True, capture_output=True)
    (documented,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "docs/testing.md").read_text(), re.DOTALL)
    (tmp_path / "shop/test_documented.py").write_text(documented)
    (tmp_path / "shop/test_revenue.py").write_text(
        "def test_revenue(run_flow):\n"
        "    order = {'event_id': '1', 'placed_at': '2026-01-01T12:00:00Z', 'customer_id': 7, 'amount': 10}\n"
        "    views = run_flow('flows/revenue.py', {'orders': [order, order]})\n"
        "    assert views['revenue_per_minute']['orders'].to_pylist() == [1]\n"
    )
    made = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."]
    done = subprocess.run(made, cwd=tmp_path / "shop", capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "5 passed" in done.stdout, done.stdout + done.stderr


def writing(tmp_path: Path) -> mg.Flow:
    made = mg.Flow("writing")
    orders = made.read(ORDERS)
    orders.filter("n > 1").select("id", "at", "n").write(mg.files(str(tmp_path / "large-*.jsonl")), name="large")
    orders.window(mg.tumbling("1 minute"), by="key").aggregate(n="sum(n)").write(mg.files(str(tmp_path / "minutes-*.jsonl")))
    orders.latest(by="key").write(mg.kafka("newest", brokers="127.0.0.1:9", key="key"), emit="updates")
    return made


@pytest.mark.parametrize("mark", [PAUSE, CRASH])
def test_what_a_flow_writes_is_given_and_sent_nowhere(mark: Any, tmp_path: Path) -> None:
    rows = [order("a", 0), order("b", 1, 5), mark, order("c", 90), order("d", 200, 7)]
    result = run(writing(tmp_path), {"orders": rows})
    assert sorted(result.written) == ["large", "minutes", "newest"] and list(tmp_path.iterdir()) == []
    assert result.written["large"] == [
        Message(None, {"id": "b", "at": "2026-01-01T00:00:01Z", "n": 5}),
        Message(None, {"id": "d", "at": "2026-01-01T00:03:20Z", "n": 7}),
    ]
    assert_written(result.written["large"], [{"n": 7, "id": "d"}, {"n": 5.0, "id": "b"}])
    assert_written(result.written["minutes"], [{"key": "k", "n": 6}, {"key": "k", "n": 1}])
    assert {m.key for m in result.written["newest"]} == {"k"} and result.written["newest"][-1].value["n"] == 7
    with pytest.raises(AssertionError, match=r"what was written is not as expected: 1 rows are equal, 1 missing"):
        assert_written(result.written["large"], [{"n": 5}, {"n": 8}])
    with pytest.raises(AssertionError, match="what was written has no column m; it has id, at, n"):
        assert_written(result.written["large"], [{"m": 5}])


def test_what_was_not_written_is_missed(tmp_path: Path) -> None:
    result = run(writing(tmp_path), {})
    assert_written(result.written["large"], [])
    with pytest.raises(AssertionError, match="missing:       n=5"):
        assert_written(result.written["large"], [{"n": 5}])


def test_what_a_flow_asks_is_answered_by_the_test() -> None:
    made = mg.Flow("asking")
    fetched = made.read(ORDERS).fetch("http://prod/of/{key}", name="keys", schema={"size": "INTEGER"})
    fetched.select("id", "size").materialize("sizes")
    events = [{"id": "1", "key": "a", "at": "2026-01-01"}, CRASH, {"id": "2", "key": "b", "at": "2026-01-01"}]
    assert_view(run(made, {"orders": events}, answers={"keys": {"a": {"size": 1}}})["sizes"], [{"size": 1}, {"size": None}])
    by_function = run(made, {"orders": events}, answers={"keys": lambda key: {"size": ord(key)}})
    assert_view(by_function["sizes"], [{"id": "1", "size": 97}, {"id": "2", "size": 98}])
    with pytest.raises(mg.UsageError, match=r"answers=\{'keys': \{key: "):
        run(made, {"orders": events})
    with pytest.raises(mg.UsageError, match="asks no service other; it asks keys"):
        run(made, {"orders": events}, answers={"keys": {}, "other": {}})


def test_views_can_be_typed() -> None:
    assert isinstance(run(flow(), {}), Views)
