"""Event notification and event-carried state transfer say the same; what the one asks for, the other one has."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

import merganser as mg
from merganser.cli.load import load
from tests.patterns.test_shop_events import DATA, ONCE, ROOT


def _orders(name: str, view: str, store: Path) -> tuple[list[tuple[object, ...]], int]:
    """Orders with their customers, and how often somebody was asked for one."""
    report = mg.run(load([str(ROOT / f"flows/patterns/{name}.py")]), store)
    with duckdb.connect(str(store), read_only=True) as con:
        columns = "order_id, customer_id, amount, name, city, country, tier"
        found = con.execute(f"SELECT {columns} FROM {view} ORDER BY order_id").fetchall()
    return found, sum(asked.attempts for asked in report.progressed.asked.values())


@pytest.mark.usefixtures("customer_service")
def test_the_same_orders_with_218_calls_and_with_none(tmp_path: Path) -> None:
    notified, calls = _orders("notification", "orders_with_customers", tmp_path / "n.duckdb")
    carried, none = _orders("state_transfer", "orders_of_customers", tmp_path / "s.duckdb")
    assert notified == carried and len(carried) == 240
    placed = f"FROM {ONCE} WHERE type = 'OrderPlaced'"
    hours = f"SELECT count(DISTINCT (customer_id, date_trunc('hour', happened_at))) {placed}"
    assert (calls, none) == (duckdb.sql(hours).fetchall()[0][0], 0) == (218, 0)
    assert sum(row[3] is None for row in carried) > 0, "some customers are gone"


def test_the_copy_is_the_last_full_state_of_each_key_deletions_included(tmp_path: Path) -> None:
    _orders("state_transfer", "orders_of_customers", tmp_path / "s.duckdb")
    columns = "customer_id, name, city, country, tier"
    last = f"SELECT DISTINCT ON (customer_id) * FROM read_json('{DATA}/customers/*.jsonl') ORDER BY customer_id, changed_at DESC"
    with duckdb.connect(str(tmp_path / "s.duckdb"), read_only=True) as con:
        copy = con.execute(f"SELECT {columns} FROM customers ORDER BY ALL").fetchall()
    assert copy == duckdb.sql(f"SELECT {columns} FROM ({last}) WHERE name IS NOT NULL ORDER BY ALL").fetchall()
    assert len(copy) == 53
