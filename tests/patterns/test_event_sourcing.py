"""Event sourcing and CQRS over the shop's own application: what is, what was and why, against the library's replay."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import merganser as mg
from merganser.cli.load import load
from tests.patterns.test_shop_events import ROOT
from tests.query.running import running

FIELDS = ("order_id", "customer_id", "status", "amount", "paid")


def flows_of(name: str) -> list[mg.Flow]:
    return load([str(ROOT / f"flows/patterns/{name}.py")])


def states(rows: mg.query.connection.Result) -> dict[str, tuple[Any, ...]]:
    return {r["originator_id"]: tuple(r[f] for f in FIELDS) for r in rows.arrow().to_pylist()}


def replay(shop: Any, ids: Any, version: int | None = None) -> dict[str, tuple[Any, ...]]:
    """The library's own."""
    found = {}
    for id in ids:
        order = shop.repository.get(id, version=version)
        found[str(id)] = tuple(getattr(order, f) for f in FIELDS)
    return found


def test_the_states_are_those_of_the_librarys_replay_at_any_version(shop: Any, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    (flow,) = flows_of("event_sourcing")
    mg.run([flow], store)
    notifications = shop.recorder.select_notifications(None, 10_000)
    ids = {n.originator_id for n in notifications}
    past = mg.connect(store)
    assert states(past.sql("FROM order_states")) == replay(shop, ids) and len(ids) > 200
    for version in (1, 2, 4):
        assert states(past.as_of("order_states", version=version)) == replay(shop, ids, version)
    for position in (1, 400, 700):
        there = {n.originator_id: n.originator_version for n in notifications if n.id <= position}
        expected = {k: v for id, version in there.items() for k, v in replay(shop, [id], version).items()}
        assert states(past.as_of("order_states", position=position)) == expected
    noon = "2025-03-03T12:00:00+00:00"
    before = [shop.mapper.to_domain_event(n) for n in notifications]
    last = max(n.id for n, e in zip(notifications, before) if e.timestamp.isoformat() <= noon)
    assert states(past.as_of("order_states", time=noon)) == states(past.as_of("order_states", position=last))
    longest = max(ids, key=lambda id: shop.repository.get(id).version)
    trail = past.history("order_states", longest).arrow().to_pylist()
    assert [row["originator_version"] for row in trail] == list(range(1, shop.repository.get(longest).version + 1))
    for row in trail:
        assert tuple(row["state"][f] for f in FIELDS) == replay(shop, [longest], row["originator_version"])[str(longest)]


def test_projections_are_asked_and_rebuilt_each_for_itself(shop: Any, tmp_path: Path) -> None:
    desk, books = flows_of("cqrs")
    cancel = sys.modules["_flow_cqrs"].cancel
    waiting = ["n1", "n2"]
    for order in waiting:
        shop.place(order, "c001", Decimal(10))
    with running([books], tmp_path / "books.duckdb") as takings:
        with running([desk], tmp_path / "desk.duckdb") as status:
            assert cancel(shop, status, waiting[0], "customer") == [("Order.Cancelled",)]
            happened = shop.recorder.select_notifications(None, 10_000)
            last_events = {str(n.originator_id): n.topic.partition(":")[2] for n in happened}
            assert dict(status.sql("SELECT originator_id, last_event FROM desk_orders").fetchall()) == last_events
        # The desk's flow has stopped. Its view is built anew while commands and the other projection go on.
        before = shop.recorder.max_notification_id()
        mg.rebuild([desk], ["desk_orders"], tmp_path / "desk.duckdb")
        last = shop.pay(waiting[1], shop.order(waiting[1]).amount)
        takings.wait_for({"order_events": last}, timeout=20)
        assert last == before + 1
        ((taken,),) = takings.sql("SELECT sum(taken) FROM takings_per_hour").fetchall()
        assert taken == sum(order.paid for order in _orders(shop))
        with running([desk], tmp_path / "desk.duckdb") as status:
            status.wait_for({"order_events": last}, timeout=20)
            found = dict(status.sql("SELECT order_id, last_event FROM desk_orders").fetchall())
        assert found[waiting[0]] == "Order.Cancelled" and found[waiting[1]] == "Order.Paid"
        assert len(found) == len(_orders(shop))


def _orders(shop: Any) -> list[Any]:
    """Every order, by the library's replay."""
    return [shop.repository.get(id) for id in {n.originator_id for n in shop.recorder.select_notifications(None, 10_000)}]
