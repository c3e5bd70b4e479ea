"""The committed events of the shop: what the script writes, byte for byte, and a consistent story."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "flows/patterns/data"
ONCE = f"(SELECT DISTINCT ON (event_id) * FROM read_json('{DATA}/orders/*.jsonl'))"


def test_the_script_writes_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("make_shop", DATA / "make_shop.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_shop", script)  # dataclasses look there
    spec.loader.exec_module(script)
    made = [path.relative_to(tmp_path) for path in script.write(tmp_path)]
    assert sorted(made) == sorted(path.relative_to(DATA) for path in DATA.rglob("*.jsonl"))
    assert all((tmp_path / path).read_bytes() == (DATA / path).read_bytes() for path in made)


def test_money_comes_with_orders_and_goes_back_with_those_that_are_cancelled() -> None:
    paid = (
        "sum(CASE type WHEN 'PaymentCaptured' THEN amount WHEN 'PaymentRefunded' THEN -amount END::DECIMAL(10,2)) AS paid,"
        " bool_or(type = 'OrderCancelled') AS cancelled, bool_or(type = 'ShipmentSent') AS sent, count(*) AS events"
    )
    orders = f"(SELECT order_id, {paid} FROM {ONCE} GROUP BY order_id)"
    cancelled = f"SELECT sent, coalesce(paid, 0)::DOUBLE, count(*) FROM {orders} WHERE cancelled GROUP BY ALL"
    assert duckdb.sql(cancelled).fetchall() == [(False, 0.0, 49)]
    assert duckdb.sql(f"SELECT count(*), min(paid) > 0 FROM {orders} WHERE NOT cancelled").fetchall() == [(191, True)]
    causes = f"SELECT count(*) FROM {ONCE} e ANTI JOIN {ONCE} c ON e.causation_id = c.event_id WHERE e.type <> 'OrderPlaced'"
    assert duckdb.sql(causes).fetchall() == [(0,)]
