"""``new``: a project that runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from merganser.errors import UsageError

FILES: dict[str, str] = {
    "README.md": """# {name}

    merganser run flows/revenue.py --store {name}.duckdb
    merganser query --store {name}.duckdb "from revenue_per_minute order by revenue desc limit 10"
    merganser verify flows/revenue.py --store {name}.duckdb

`connectors/` says where events come from, `flows/` what is wanted from them, `schemas/` what they look like.
""",
    "connectors/__init__.py": "",
    "connectors/shop.py": '''"""Orders of a shop: where the events are, and what their owner knows about them."""

from pathlib import Path

import merganser as mg

ROOT = Path(__file__).parent.parent

orders = mg.source(
    "orders",
    mg.files(ROOT / "data/orders"),
    schema=ROOT / "schemas/order.avsc",
    time="placed_at",
    lateness="10 seconds",
    id="event_id",
    key="customer_id",
)
''',
    "flows/revenue.py": '''"""Revenue per customer and minute, live in DuckDB."""

import merganser as mg
from connectors.shop import orders

flow = mg.Flow("revenue")

(
    flow.read(orders)
    .filter("amount > 0")
    .deduplicate(within="10 minutes")
    .window(mg.tumbling("1 minute"), by="customer_id")
    .aggregate(orders="count(*)", revenue="sum(amount)", p95="approx_quantile(amount, 0.95)")
    .materialize("revenue_per_minute")
)
''',
    "schemas/order.avsc": """{{
  "type": "record",
  "name": "Order",
  "fields": [
    {{"name": "event_id", "type": "string"}},
    {{"name": "placed_at", "type": {{"type": "long", "logicalType": "timestamp-micros"}}}},
    {{"name": "customer_id", "type": "int"}},
    {{"name": "amount", "type": {{"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2}}}}
  ]
}}
""",
    ".gitignore": "*.duckdb\n*.duckdb.wal\n__pycache__/\n",
}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def new(folder: Path) -> None:
    """Make a project in FOLDER: a source, a flow and some events, ready to run."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and not empty; name a new folder")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(name=folder.resolve().name) if text.count("{{") or "{name}" in text else text)
    data = folder / "data/orders"
    data.mkdir(parents=True)
    (data / "orders-1.jsonl").write_text("".join(json.dumps(event) + "\n" for event in _orders()))
    click.echo(f"made {folder}; next:\n  cd {folder}\n  merganser run flows/revenue.py")


def _orders() -> list[dict[str, object]]:
    """300 orders of five customers over ten minutes: some out of order, some sent twice."""
    start = datetime(2026, 1, 1, 12, tzinfo=UTC)
    events: list[dict[str, object]] = []
    for i in range(300):
        placed = start + timedelta(seconds=2 * i - 7 * (i % 5 == 3))
        events.append({
            "event_id": f"order-{i:04d}",
            "placed_at": placed.isoformat().replace("+00:00", "Z"),
            "customer_id": 1 + (i * 7) % 5,
            "amount": f"{(i * 37) % 200 + 0.99:.2f}",
        })  # fmt: skip
        if i % 50 == 49:
            events.append(events[-20])
    return events
