"""The jobs of ``make bench`` that are about time between rows: order, sessions, joins, as of, fold; and their batch twins.

Lateness is three minutes of the events' fifty, so that repeats of events are in order too. What still waits for the watermark
at the end is in no view; ``WAITS`` says in which jobs, and the check leaves it out of the batch result.
"""

from __future__ import annotations

from typing import Any

import duckdb

import merganser as mg

JOBS = {
    "J4": "order by customer, append",
    "J5": "sessions of a customer, 10 s gap, count and sum",
    "J6": "pairs of large and small orders of a customer within 10 s",
    "J7": "each order with the customer's last large one at that time",
    "J8": "fold per customer in Python",
}
WAITS = ("J4", "J7", "J8")
PAST = "placed_at < (SELECT max(placed_at) - INTERVAL 3 minutes FROM raw)"


def tally(state: dict[str, Any], order: dict[str, Any]) -> dict[str, Any]:
    """A running count, total and largest order of a customer."""
    amount = order["amount"]
    return {
        "orders": state["orders"] + 1,
        "cents": state["cents"] + round(100 * amount),
        "largest": amount if amount > state["largest"] else state["largest"],
    }


def flow_of(job: str, orders: mg.Source) -> mg.Flow:
    flow = mg.Flow(job)
    read = flow.read(orders).filter("amount > 0").select("placed_at", "customer_id", "amount", "currency")
    large = read.filter("amount > 180").select("customer_id", large_at="placed_at", large="amount")
    if job == "J4":
        read.order(by="customer_id").materialize("v")
    elif job == "J5":
        read.window(mg.session("10 seconds"), by="customer_id").aggregate(n="count(*)", total="sum(amount)").materialize("v")
    elif job == "J6":
        read.filter("amount < 10").join(large, on="customer_id", within="10 seconds").materialize("v")
    elif job == "J7":
        read.enrich(large, on="customer_id", as_of=True).materialize("v")
    else:
        initial = {"orders": 0, "cents": 0, "largest": 0.0}
        read.fold(by="customer_id", initial=initial, apply=tally).materialize("v")
    return flow


def batch_of(job: str, rows: str, only: str = "true") -> str:
    """The same as one query over ``rows``; ``only``: of which results."""
    raw = f"WITH raw AS (SELECT placed_at, customer_id, amount, currency FROM {rows} WHERE amount > 0)"
    large = "(SELECT customer_id, placed_at AS large_at, amount AS large FROM raw WHERE amount > 180)"
    per = "PARTITION BY customer_id ORDER BY placed_at"
    if job == "J4":
        return f"{raw} SELECT *, row_number() OVER ({per}) AS seq FROM raw WHERE {only} ORDER BY placed_at"
    if job == "J5":
        return (
            f"{raw} SELECT customer_id, min(placed_at) AS window_start, count(*) AS n, sum(amount) AS total FROM"
            f" (SELECT *, sum(gap::INT) OVER ({per} RANGE UNBOUNDED PRECEDING) AS island FROM (SELECT *,"
            f" coalesce(placed_at - lag(placed_at) OVER ({per}) >= INTERVAL 10 seconds, true) AS gap FROM raw))"
            " GROUP BY customer_id, island"
        )
    if job == "J6":
        return (
            f"{raw} SELECT l.*, r.large_at, r.large FROM raw l JOIN {large} r ON l.customer_id = r.customer_id"
            " AND r.large_at BETWEEN l.placed_at - INTERVAL 10 seconds AND l.placed_at + INTERVAL 10 seconds WHERE l.amount < 10"
        )
    if job == "J7":
        return (
            f"{raw} SELECT l.*, r.large_at, r.large FROM raw l ASOF LEFT JOIN {large} r ON l.customer_id = r.customer_id"
            f" AND l.placed_at >= r.large_at WHERE {only}"
        )
    return (  # the same numbers by SQL; a query has no function that is called an event at a time
        f"{raw} SELECT customer_id, {{'orders': count(*), 'cents': sum(round(100 * amount)::BIGINT)::BIGINT,"
        f" 'largest': max(amount)}} AS state, count(*) AS seq FROM raw WHERE {only} GROUP BY customer_id"
    )


COMPARED = {
    "J4": "customer_id, seq, placed_at",  # orders of one millisecond stand in the log's order, which the query does not know
    "J5": "customer_id, window_start, n, round(total, 2)",
    "J6": "customer_id, placed_at, amount, large_at, large",
    "J7": "customer_id, placed_at, amount, large_at",
    "J8": "customer_id, (state->>'orders')::BIGINT, (state->>'cents')::BIGINT, (state->>'largest')::DOUBLE, seq",
}


def check(job: str, con: duckdb.DuckDBPyConnection, rows: str) -> None:
    """Compare the view ``s.v`` with the query."""
    expected = batch_of(job, rows, PAST if job in WAITS else "true")
    state = "* REPLACE (to_json(state) AS state)" if job == "J8" else "*"
    theirs = f"SELECT {COMPARED[job]} FROM (SELECT {state} FROM ({expected}))"
    mine = f"SELECT {COMPARED[job]} FROM s.v"
    sql = f"SELECT (SELECT count(*) FROM ({theirs} EXCEPT ALL {mine})), (SELECT count(*) FROM ({mine} EXCEPT ALL {theirs}))"
    missing, wrong = con.execute(sql).fetchall()[0]
    if missing or wrong:
        raise SystemExit(f"{job}: {missing} rows only in batch SQL, {wrong} only in the view")
