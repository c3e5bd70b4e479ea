"""What ``status`` and ``top`` show of a store's status (``query.status``)."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from merganser.clock import show_time
from merganser.display import count, simple, size
from merganser.query.status import Status

UNITS = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))


NARROW = 110
"""Below this width, times are shown to the minute, and files not at all."""


def status_tables(status: Status, width: int, asked: bool = False) -> Iterator[RenderableType]:
    """A status from top to bottom; ``asked``: its lag is up to where brokers say now that their logs end."""
    store, commit, running = status["store"], status["commit"], status["running"]
    last = f", epoch {count(commit['epoch'])} at {show_time(commit['at'])[:19]}" if commit["epoch"] else ""
    yield Text(f"{store['path']}: {size(store['bytes'])}, merganser {store['merganser']}, DuckDB {store['duckdb']}{last}")
    if running:
        state = "caught up" if running["ready"] else "reading"
        rate = running["read"] / max(1e-9, running["seconds"])
        yield Text(
            f"process {running['pid']} {state}: {count(running['read'])} events in {running['seconds']:.0f} s"
            f" ({count(round(rate))}/s), last commit {running['commit_seconds'] * 1000:.0f} ms, memory {size(running['memory'])}"
        )
        yield from (Text(text, style="red") for text in _waits(running))
    views = [
        (v["view"], v["flow"], v["state"], "-" if v["rows"] is None else v["rows"], v["cohort"] or "-") for v in status["views"]
    ]
    yield simple(["view", "flow", "state", "rows", "cohort"], views, title="\nviews", width=width)
    heads = ["source", "partition", "cohort", "position", "newest event", "final up to", "file"]
    seconds = 16 if width < NARROW else None
    positions = [
        (p["source"], p["partition"], p["cohort"], p["records"], *(show_time(p[t])[:seconds] for t in ("newest", "final")),
         _name(p["file"]))
        for p in status["positions"][:200]
    ]  # fmt: skip
    if width < NARROW:
        heads, positions = heads[:-1], [row[:-1] for row in positions]
    yield simple(heads, positions, title="\npositions", width=width)
    if status["lag"]:
        lag = [
            (x["source"], x["partition"], x["position"], x["end"], x["messages"], _behind(x["newest"]), x["committed"] or "-")
            for x in status["lag"][:200]
        ]
        heads = ["source", "partition", "position", "end", "lag", "behind the clock", "last commit"]
        when = "ends asked for now" if asked else "ends as of the last commit; --flow FLOW.py asks for them now"
        yield simple(heads, lag, title=f"\nlag in messages ({when})", width=width)
    fates = ["read", "applied", "filtered", "late", "duplicate", "dead"]
    books = [
        (b["view"], b["source"], *(b[f] for f in fates), "yes" if b["read"] == sum(b[f] for f in fates[1:]) else "NO")
        for b in status["books"]
    ]
    yield simple(["view", "source", *fates, "balance"], books, title="\nbooks (events)", width=width)
    if status["sinks"]:
        sinks = [(s["sink"], s["rows"], s["sent"], s["waiting"]) for s in status["sinks"]]
        yield simple(["sink", "rows", "sent", "waiting"], sinks, title="\nsinks")
    if status["dead_letters"]:
        dead = [(d["source"], d["reason"], d["records"]) for d in status["dead_letters"]]
        yield simple(["source", "reason", "records"], dead, title="\ndead letters")
    if status["late"]:
        late = [(x["view"], x["source"], x["rows"], x["latest_by"]) for x in status["late"]]
        yield simple(["view", "source", "rows", "latest by"], late, title="\nlate rows")


def _waits(running: Status) -> list[str]:
    """What a running flow waits for, besides news."""
    return [f"fetch {f['fetch']!r} is not answered: the flow waits, and tries again" for f in running["fetches"] if f["open"]]


def _behind(newest: int | None) -> str:
    """How far the newest event is behind the clock, in its largest unit."""
    if newest is None:
        return "-"
    seconds = max(0, time.time_ns() // 1000 - newest) // 1_000_000
    return next(f"{seconds // size:,} {unit}" for unit, size in UNITS if seconds >= size or size == 1)


def _name(file: str | None) -> str:
    return file.rsplit("/", 1)[-1] if file else "-"


# -- top ----------------------------------------------------------------------------------------------------------------

SORTS = ("name", "rows", "rate")


def top_frame(status: Status, before: Status | None, seconds: float, size_: tuple[int, int], sort: str, paused: bool) -> Group:
    """One picture of a running flow; ``before`` is the status ``seconds`` earlier, for rates."""
    width, height = size_
    wide = width >= 110
    parts: list[RenderableType] = [_headline(status, before, seconds, paused)]
    left = height - 6
    for made, rows in (
        _sources(status, before, seconds, wide, sort),
        _views(status, before, seconds, wide, sort),
        _state(status, sort),
    ):
        room = max(1, min(len(rows), (left - 3) if left > 4 else 1))
        for row in rows[:room]:
            made.add_row(*row)
        if len(rows) > room:
            made.caption, made.caption_justify = f"{count(len(rows) - room)} more", "left"
        left -= room + 3
        parts += [Text(""), made]
    sorts = ", ".join(f"[{s}]" if s == sort else s for s in SORTS)
    parts += [Text(""), Text(f"q ends · p pauses · s sorts by {sorts}", style="dim")]
    return Group(*parts)


def _headline(status: Status, before: Status | None, seconds: float, paused: bool) -> Text:
    run, store = status["running"], status["store"]
    text = Text(f"{_name(store['path'])} {size(store['bytes'])}", style="bold", no_wrap=True, overflow="ellipsis")
    text.append(f"  epoch {count(status['commit']['epoch'] or 0)}", style="not bold")
    dead = sum(d["records"] for d in status["dead_letters"])
    if run is None:
        text.append("\nno flow is running", style="not bold yellow")
    else:
        state, style = ("caught up", "green") if run["ready"] else ("reading", "yellow")
        was = before["running"] if before and before["running"] and before["running"]["pid"] == run["pid"] else None
        rate = (run["read"] - was["read"]) / max(1e-9, seconds) if was else run["read"] / max(1e-9, run["seconds"])
        epochs = run["epochs"] - (was["epochs"] if was else 0)
        spent = run["commit_seconds_total"] - (was["commit_seconds_total"] if was else 0)
        mean = f"{1000 * spent / epochs:.0f} ms" if epochs else "-"
        text.append("\n")
        text.append(state, style=style)
        text.append(
            f"  {count(round(rate))} events/s  {count(run['read'])} read  {count(run['read'] - run['committed'])} uncommitted"
            f"\ncommit {mean} (last {1000 * run['commit_seconds']:.0f} ms)  memory {size(run['memory'])}"
            f"  up {run['seconds']:.0f} s",
            style="not bold",
        )
        for waits in _waits(run):
            text.append(f"\n{waits}", style="red")
    text.append(f"  {count(dead)} dead letters", style="red" if dead else "not bold")
    if paused:
        text.append("  PAUSED", style="reverse")
    return text


def _table(*heads: str) -> Table:
    made = Table(header_style="bold", show_edge=False, pad_edge=False)
    for head in heads:
        right = head in ("records", "per s", "rows", "late", "duplicate", "dead", "behind")
        made.add_column(head, justify="right" if right else "left", overflow="ellipsis", no_wrap=True)
    return made


def _sources(status: Status, before: Status | None, seconds: float, wide: bool, sort: str) -> tuple[Table, list[list[str]]]:
    made = _table("source", "partition", "records", "per s", "newest event", "final up to", *(("file", "cohort") if wide else ()))
    was = {(p["source"], p["partition"], p["cohort"]): p["records"] for p in before["positions"]} if before else {}
    rows = []
    for p in status["positions"]:
        rate = (p["records"] - was.get((p["source"], p["partition"], p["cohort"]), p["records"])) / max(1e-9, seconds)
        times = [show_time(p["newest"])[:19], show_time(p["final"])[:19]]
        row = [p["source"], p["partition"], count(p["records"]), count(round(rate)), *times]
        rows.append(((p["records"], rate), row + ([_name(p["file"]), str(p["cohort"])] if wide else [])))
    return made, _sorted(rows, sort)


def _views(status: Status, before: Status | None, seconds: float, wide: bool, sort: str) -> tuple[Table, list[list[str]]]:
    made = _table("view", "rows", "per s", "late", "duplicate", "dead", *(("flow", "state") if wide else ()))
    books = {b["view"]: b for b in status["books"]}
    was = {v["view"]: v["rows"] for v in before["views"]} if before else {}
    rows = []
    for v in status["views"]:
        number = v["rows"] or 0
        rate = (number - (was.get(v["view"]) or number)) / max(1e-9, seconds)
        fates = [count(books[v["view"]][fate]) if v["view"] in books else "-" for fate in ("late", "duplicate", "dead")]
        row = [v["view"], "-" if v["rows"] is None else count(number), count(round(rate)), *fates]
        rows.append(((number, rate), row + ([v["flow"], v["state"]] if wide else [])))
    return made, _sorted(rows, sort)


def _state(status: Status, sort: str) -> tuple[Table, list[list[str]]]:
    rows = [((s["rows"], 0.0), [s["table"], count(s["rows"])]) for s in status["state"]]
    return _table("state", "rows"), _sorted(rows, sort)


def _sorted(rows: list[tuple[tuple[float, float], list[str]]], sort: str) -> list[list[str]]:
    """By name upwards, by numbers downwards."""
    if sort == "name":
        return [row for _, row in rows]
    return [row for _, row in sorted(rows, key=lambda each: -each[0][SORTS.index(sort) - 1])]
