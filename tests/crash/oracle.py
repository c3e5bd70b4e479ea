"""What the views of the crash tests must hold, by plain Python and SQL over the same files, from scratch."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa

LATENESS, WITHIN = 40_000_000, 30 * 60_000_000


def expected(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    rows = _accepted(folder)
    once = _deduplicated([r for r in rows if r["amount"] is not None and r["amount"] >= 0])
    con = duckdb.connect()
    con.register("rows", pa.Table.from_pylist(rows))
    con.register("once", pa.Table.from_pylist(once))
    start = "(us - us % 60000000)"
    queries = {
        "per_minute": f"SELECT key, make_timestamp({start})::TIMESTAMPTZ, make_timestamp({start} + 60000000)::TIMESTAMPTZ,"
        f" count(*), sum(amount), count(DISTINCT amount), quantile_cont(amount, 0.5) FROM once WHERE wm < {start} + 60000000"
        " GROUP BY ALL",
        "hops": "SELECT make_timestamp(w)::TIMESTAMPTZ, make_timestamp(w + 600000000)::TIMESTAMPTZ, count(*), max(amount)"
        " FROM (SELECT *, us - us % 240000000 - k * 240000000 AS w FROM once, range(3) t(k))"
        " WHERE w + 600000000 > us AND wm < w + 600000000 GROUP BY w",
        "per_key": "SELECT key, sum(n)::BIGINT, arg_max(amount, (n, -amount)) FROM"
        " (SELECT key, amount, count(*) AS n FROM once GROUP BY ALL) GROUP BY key",
        "per_tag": "SELECT tag, count(*) FROM (SELECT unnest(tags) AS tag FROM once) GROUP BY tag",
        "last_of_key": "SELECT DISTINCT ON (key) id, make_timestamp(us)::TIMESTAMPTZ, key, amount, tags FROM rows"
        " ORDER BY key, us DESC, seq DESC",
        "kept": "SELECT id, amount FROM once",
    }
    found = {}
    for view, sql in queries.items():
        found[view] = sorted(con.execute(f"SELECT CAST(COLUMNS(*) AS VARCHAR) FROM ({sql})").fetchall(), key=repr)
    found["sent"] = found["kept"]
    return found


def _accepted(folder: Path) -> list[dict]:
    """The good records in the log's order, with time in microseconds and the watermark at each."""
    rows, newest, seq = [], None, -1
    for path in sorted(folder.glob("events-*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            seq += 1
            try:
                row = json.loads(line.decode())
            except ValueError:
                continue
            if not isinstance(row, dict) or row.get("id") is None or isinstance(row.get("amount"), str):
                continue
            if row.get("at") is None:
                continue
            row["us"] = round(datetime.fromisoformat(row["at"]).timestamp() * 1e6)
            newest = row["us"] if newest is None else max(newest, row["us"])
            rows.append(row | {"wm": newest - LATENESS, "seq": seq})
    return rows


def _deduplicated(rows: list[dict]) -> list[dict]:
    accepted: dict[str, list[int]] = {}
    kept = []
    for row in rows:
        earlier = accepted.setdefault(row["id"], [])
        if not any(abs(row["us"] - t) <= WITHIN and t >= row["wm"] - WITHIN for t in earlier):
            earlier.append(row["us"])
            kept.append(row)
    return kept
