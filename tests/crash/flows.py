"""The events and the flow that crash tests run: every kind of step over disordered, repeated and bad records."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import merganser as mg

SCHEMA = {
    "id": "VARCHAR NOT NULL",
    "at": "TIMESTAMPTZ",
    "key": "VARCHAR",
    "amount": "BIGINT",
    "tags": "VARCHAR[]",
}
START = datetime(2026, 1, 1, tzinfo=UTC)


def write_events(folder: Path, *, files: int = 3, count: int = 1800, seed: int = 7) -> None:
    """JSON Lines files, read as one log: up to 30 s out of order, 4 % duplicates, 1 % late, 1 % bad."""
    chance = random.Random(seed)
    lines: list[bytes] = []
    for i in range(count):
        draw = chance.random()
        if draw < 0.01:
            lines.append(chance.choice([b"{broken", b"", b'{"id": null}', b'{"id": "x", "amount": "much"}', b"\xff\xfe"]))
            continue
        if draw < 0.05 and len(lines) > 50:
            lines.append(lines[-chance.randrange(1, 50)])
            continue
        behind = chance.uniform(0, 30) if draw < 0.99 else chance.uniform(600, 900)
        event = {
            "id": f"e{i}",
            "at": (START + timedelta(seconds=i) - timedelta(seconds=behind)).isoformat(),
            "key": chance.choice("abcdefgh"),
            "amount": chance.randrange(-5, 100),
            "tags": [chance.choice("xyz") for _ in range(chance.randrange(3))],
        }
        lines.append(json.dumps(event).encode())
    size = -(-count // files)
    for number in range(files):
        part = lines[number * size : (number + 1) * size]
        (folder / f"events-{number}.jsonl").write_bytes(b"".join(line + b"\n" for line in part))


def make_flow(folder: Path, out: Path, *, partition_by: str | None = None) -> mg.Flow:
    events = mg.source(
        "events",
        mg.files(str(folder / "events-*.jsonl"), partition_by=partition_by),
        schema=SCHEMA,
        time="at",
        lateness="40 seconds",
        id="id",
        key="key",
    )
    flow = mg.Flow("crash")
    once = flow.read(events).filter("amount >= 0").deduplicate(within="30 minutes")
    once.window(mg.tumbling("1 minute"), by="key").aggregate(
        n="count(*)", total="sum(amount)", values="count(DISTINCT amount)", median="quantile_cont(amount, 0.5)"
    ).materialize("per_minute")
    once.window(mg.hopping("10 minutes", every="4 minutes")).aggregate(n="count(*)", top="max(amount)").materialize("hops")
    once.group_by("key").aggregate(n="count(*)", modes="mode(amount)").materialize("per_key")
    once.explode("tags").group_by("tags").aggregate(n="count(*)").materialize("per_tag")
    flow.read(events).latest(by="key").materialize("last_of_key")
    once.window(mg.session("3 seconds"), by="key").aggregate(n="count(*)", values="count(DISTINCT amount)").materialize("sessions")
    ordered = once.select("id", "key", "amount").order(by="key")
    ordered.filter("seq % 5 = 0").materialize("each_fifth")
    ordered.fold(by="key", initial=[], apply=_last_three).materialize("folded")
    awaited = once.process(by="key", initial=Awaited(), apply=_await_next, timeout=_give_up, emits={"what": "VARCHAR"})
    awaited.materialize("awaited")
    awaited.emitted.materialize("emitted").write(mg.files(out / "emitted-*.jsonl"), name="commands")
    small = once.filter("amount < 30").select("key", "amount")
    once.select("id", "key").join(small, on="key", within="1 second", how="left").materialize("pairs")
    once.select("id", "key").enrich(small, on="key", as_of=True).materialize("as_of")
    asked = once.filter("amount < 90").fetch(_size, key="key", schema={"size": "INTEGER"}, cache="5 minutes")
    asked.deduplicate(by="amount", within="1 minute").select("id", "key", "size").materialize("fetched")
    kept = once.select("id", "amount").materialize("kept")
    kept.write(mg.files(out / "kept-*.jsonl"), name="sent")
    return flow


@dataclass(frozen=True)
class Awaited:
    n: int = 0
    due: datetime | None = None


def _await_next(state: Awaited, seen: dict[str, Any]) -> Any:
    awaited = replace(state, n=state.n + 1, due=seen["at"] + timedelta(seconds=12))
    return awaited, [{"what": f"{seen['id']} after {state.n}"}] if seen["amount"] % 4 == 0 else []


def _give_up(state: Awaited, due: datetime) -> Any:
    return replace(state, due=due + timedelta(seconds=20) if state.n % 2 else None), [{"what": f"nothing after {state.n}"}]


def _size(key: str) -> dict[str, int] | None:
    return {"size": ord(key)} if key != "h" else None


def _last_three(state: list[int], seen: dict[str, Any]) -> list[int]:
    return [*state, seen["amount"]][-3:]
