"""``watch``: a view or a query, shown again and again; what changed is seen to change."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import click
import pyarrow as pa
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from merganser.cli.load import every_option, no_color_option, store_option
from merganser.display import CELL, cell, console, count, fitting, numeric, shown
from merganser.query.connection import connect
from merganser.sql import quote

MOST = 1000
"""Rows that are looked at."""

NEW, CHANGED = "black on green", "black on yellow"


@dataclass(frozen=True)
class Frame:
    """A result at some moment; ``keys`` tells its rows apart from one moment to the next."""

    columns: Sequence[str]
    numbers: frozenset[str]
    rows: list[tuple[Any, ...]]
    total: int
    epoch: int

    def keyed(self) -> dict[Any, tuple[Any, ...]]:
        """Rows by the values that are no numbers, where those are enough; else by their place."""
        names = [i for i, c in enumerate(self.columns) if c not in self.numbers]
        keys = [tuple(shown(row[i]) for i in names) for row in self.rows]
        return dict(zip(keys if names and len(set(keys)) == len(keys) else range(len(keys)), self.rows))


@click.command()
@click.argument("what", metavar="VIEW|SQL")
@every_option(default="1s", what="How often.")
@click.option("--times", type=click.IntRange(1), help="End after so many looks; without, at Ctrl-C.")
@store_option
@no_color_option
def watch(what: str, every: float, times: int | None, store: str) -> None:
    """Show a view, or what a query gives, as it changes: new rows green, changed values yellow.

    Where there is no terminal it writes a line for each change.
    """
    sql = what if re.search(r"\s", what.strip()) else f"FROM {quote(what.strip())} ORDER BY ALL LIMIT {MOST}"
    frames = _frames(store, sql, every, times)
    out = console()
    try:
        if out.is_terminal:
            _live(frames, what)
        else:
            _lines(frames)
    except KeyboardInterrupt:
        pass


def _frames(store: str, sql: str, every: float, times: int | None) -> Iterator[Frame]:
    connection = connect(store)
    looks = 0
    while True:
        began = time.monotonic()
        result = connection.sql(sql)
        head = result.head(MOST)
        numbers = frozenset(f.name for f in head.schema if numeric(f.type) and not pa.types.is_boolean(f.type))
        rows = list(zip(*(column.to_pylist() for column in head.columns)))
        yield Frame(head.column_names, numbers, rows, len(result), result.epoch)
        looks += 1
        if times is not None and looks >= times:
            return
        time.sleep(max(0.0, every - (time.monotonic() - began)))


def _live(frames: Iterator[Frame], title: str) -> None:
    out = Console(highlight=False)  # which follows the terminal when its size changes
    last: Frame | None = None
    with Live(console=out, auto_refresh=False, screen=True) as live:
        for frame in frames:
            live.update(picture(frame, last, title, out.size.width, out.size.height), refresh=True)
            last = frame


def picture(frame: Frame, last: Frame | None, title: str, width: int, height: int) -> Group:
    """A frame as a table, with what is new since the last one marked; where columns do not fit, without some in the middle."""
    before = last.keyed() if last else None
    fits = max(1, height - 5)
    rows = list(frame.keyed().items())[:fits]
    widest = [max([len(name), *(min(CELL, len(shown(row[i]))) for _, row in rows)]) for i, name in enumerate(frame.columns)]
    left = fitting(widest, width)
    made = Table(header_style="bold", show_edge=False, pad_edge=False)
    for i in left:
        name = "…" if i is None else frame.columns[i]
        justify: Literal["left", "right"] = "right" if name in frame.numbers else "left"
        made.add_column(name, justify=justify, overflow="ellipsis", no_wrap=True, max_width=max(CELL, len(name)))
    for key, row in rows:
        old = before.get(key) if before is not None else row
        cells = []
        for i in left:
            if i is None:
                cells.append(Text("…"))
                continue
            value, text = row[i], cell(row[i])
            if old is None:
                text.stylize(NEW)
            elif old[i] != value:
                text.stylize(CHANGED)
            cells.append(text)
        made.add_row(*cells)
    hidden = f", {count(frame.total - fits)} more" if frame.total > fits else ""
    missing = len(frame.columns) - sum(i is not None for i in left)
    columns = f", {missing} of {len(frame.columns)} columns not shown" if missing else ""
    foot = f"{count(frame.total)} rows{hidden}{columns} · epoch {count(frame.epoch)} · {datetime.now():%H:%M:%S} · Ctrl-C ends"
    return Group(Text(title, style="bold", overflow="ellipsis", no_wrap=True), made, Text(""), Text(foot, style="dim"))


def _lines(frames: Iterator[Frame]) -> None:
    last: Frame | None = None
    for frame in frames:
        for line in changes(frame, last):
            click.echo(line)
        sys.stdout.flush()
        last = frame


def changes(frame: Frame, last: Frame | None) -> Iterator[str]:
    """What changed, a line each: ``+`` new, ``~`` changed, ``-`` gone."""
    old, new = last.keyed() if last else {}, frame.keyed()
    for key, row in new.items():
        if key not in old:
            yield "+ " + " ".join(f"{name}={shown(value)}" for name, value in zip(frame.columns, row))
        elif row != old[key]:
            parts = [
                f"{name}={shown(value)}" if value == was else f"{name}={shown(was)}→{shown(value)}"
                for name, value, was in zip(frame.columns, row, old[key])
            ]
            yield "~ " + " ".join(parts)
    for key, row in old.items():
        if key not in new:
            yield "- " + " ".join(f"{name}={shown(value)}" for name, value in zip(frame.columns, row))
