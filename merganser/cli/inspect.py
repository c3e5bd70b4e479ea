"""``plan``, ``query``, ``status`` and ``verify``: commands that only look."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
from rich.text import Text

from merganser.cli.load import load, store_option
from merganser.clock import show_time
from merganser.display import console, plan_mermaid, plan_text, simple, size, table
from merganser.errors import UsageError
from merganser.lag import lags
from merganser.store import Store


@click.command()
@click.argument("files", metavar="FLOW.py...", nargs=-1, required=True)
@click.option("--mermaid", is_flag=True, help="As a Mermaid flowchart.")
def plan(files: tuple[str, ...], mermaid: bool) -> None:
    """Check flows and print their plans. Reads no event."""
    for flow in load(files):
        click.echo(plan_mermaid(flow) if mermaid else plan_text(flow))


@click.command()
@click.argument("sql", metavar="SQL")
@store_option
@click.option(
    "--format", "kind", default="table", show_default=True, type=click.Choice(["table", "csv", "json", "arrow"]),
    help="json: an object a line; arrow: an IPC stream.",
)  # fmt: skip
def query(sql: str, store: str, kind: str) -> None:
    """Run SQL over the views, read only. A lone - reads the SQL from standard input."""
    text = sys.stdin.read() if sql == "-" else sql
    with Store(store, read_only=True) as opened:
        try:
            found = opened.con.sql(text)
            if found is None:
                raise UsageError("query takes a SELECT; the views can only be read")
            rows = found.to_arrow_table()
        except duckdb.Error as error:
            raise UsageError(str(error).strip()) from None
    if kind == "table":
        out = console()
        out.print(table(rows))
    elif kind == "csv":
        pyarrow.csv.write_csv(rows, sys.stdout.buffer)
    elif kind == "arrow":
        with pyarrow.ipc.new_stream(sys.stdout.buffer, rows.schema) as writer:
            writer.write_table(rows)
    else:
        con = duckdb.connect()
        con.register("_rows", rows)
        for (line,) in con.execute("SELECT to_json(_rows)::VARCHAR FROM _rows").fetchall():
            click.echo(line)


UNITS = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))


@click.command()
@store_option
@click.option("--flow", "files", multiple=True, metavar="FLOW.py", help="Ask the brokers of this flow where its topics end now.")
def status(store: str, files: tuple[str, ...]) -> None:
    """What the store holds: views, positions, watermarks, lag, the books, sinks, dead letters and late rows."""
    out = console()
    flows = load(files)
    with Store(store, read_only=True) as s:
        versions = dict(s.rows("SELECT key, value FROM merganser.meta"))
        out.print(
            Text(f"{store}: {size(Path(store).stat().st_size)}, merganser {versions['merganser']}, DuckDB {versions['duckdb']}")
        )
        views = s.rows(
            "SELECT view, flow, status, coalesce(cohort, 0) FROM merganser.views ORDER BY flow, cohort NULLS LAST, view"
        )
        shown = {v for (v,) in s.rows("SELECT view_name FROM duckdb_views() WHERE schema_name = 'main'")}
        rows = [
            (v, f, state, _rows_of(s, v) if v in shown else "-", cohort or "-") for v, f, state, cohort in views
        ]
        out.print(simple(["view", "flow", "state", "rows", "cohort"], rows, title="\nviews"))
        positions = s.rows(
            "SELECT p.source, p.partition, p.cohort, p.seq, p.max_time, w.watermark,"
            " parse_filename(p.position::JSON->>'$.file') FROM merganser.positions p"
            " LEFT JOIN merganser_state.watermarks w USING (cohort, source) ORDER BY ALL LIMIT 200"
        )
        out.print(simple(
            ["source", "partition", "cohort", "position", "newest event", "final up to", "file"],
            [(a, b, c, n, show_time(t), show_time(w), f or "-") for a, b, c, n, t, w, f in positions],
            title="\npositions",
        ))  # fmt: skip
        found = lags(s, flows)
        if found:
            when = "ends asked for now" if flows else "ends as of the last commit; --flow FLOW.py asks for them now"
            heads = ["source", "partition", "position", "end", "lag", "behind the clock", "last commit"]
            behind = [
                (x.source, x.partition, x.position, x.end, x.messages, _behind(x.newest), str(x.committed or "-")[:19])
                for x in found[:200]
            ]
            out.print(simple(heads, behind, title=f"\nlag in messages ({when})"))
        books = s.rows(
            "SELECT view, source, sum(read)::BIGINT, sum(applied)::BIGINT, sum(filtered)::BIGINT, sum(late)::BIGINT,"
            " sum(duplicate)::BIGINT, sum(dead)::BIGINT FROM merganser.commits GROUP BY ALL ORDER BY ALL"
        )
        balanced = [(*b, "yes" if b[2] == sum(b[3:]) else "NO") for b in books]
        heads = ["view", "source", "read", "applied", "filtered", "late", "duplicate", "dead", "balance"]
        out.print(simple(heads, balanced, title="\nbooks (events)"))
        sinks = s.rows(
            "SELECT sink, seq, sent, (SELECT count(*) FROM merganser.outbox o WHERE o.sink = s.sink AND o.seq > s.sent)"
            " FROM merganser.sinks s ORDER BY sink"
        )
        if sinks:
            out.print(simple(["sink", "rows", "sent", "in the outbox"], sinks, title="\nsinks"))
        dead = s.rows("SELECT source, reason, count(*) FROM merganser.dead_letters GROUP BY ALL ORDER BY ALL")
        if dead:
            out.print(simple(["source", "reason", "records"], dead, title="\ndead letters"))
        late = s.rows("SELECT view, source, count(*), max(watermark - event_time)::VARCHAR FROM merganser.late GROUP BY ALL")
        if late:
            out.print(simple(["view", "source", "rows", "latest by"], late, title="\nlate rows"))


def _behind(newest: int | None) -> str:
    """How far the newest event is behind the clock, in its largest unit."""
    if newest is None:
        return "-"
    seconds = max(0, time.time_ns() // 1000 - newest) // 1_000_000
    return next(f"{seconds // size:,} {unit}" for unit, size in UNITS if seconds >= size or size == 1)


def _rows_of(store: Store, view: str) -> int:
    return int(store.value(f'SELECT count(*) FROM "{view}"'))


@click.command()
@click.argument("files", metavar="FLOW.py...", nargs=-1, required=True)
@store_option
def verify(files: tuple[str, ...], store: str) -> None:
    """Recompute every view by plain batch SQL over the same input, and compare. Exits 1 on any difference."""
    from merganser.verify import verify as recompute

    out = console()
    wrong = 0
    for check in recompute(load(files), store):
        word = "equal" if check.ok else "DIFFERENT"
        out.print(Text(f"{check.view}: {word}, {check.rows:,} rows{f' ({check.note})' if check.note else ''}"))
        if not check.ok:
            wrong += 1
            for title, rows in (("only in batch SQL", check.missing), ("only in the view", check.unexpected)):
                if isinstance(rows, pa.Table) and len(rows):
                    out.print(table(rows, max_rows=10, title=title))
    sys.exit(1 if wrong else 0)
