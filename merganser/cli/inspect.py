"""``plan``, ``query``, ``status`` and ``verify``: commands that only look."""

from __future__ import annotations

import json
import signal
import sys
import warnings

import click
import pyarrow as pa
import pyarrow.ipc
from rich.text import Text

from merganser.cli.load import load, no_color_option, store_option
from merganser.cli.show import status_tables
from merganser.display import SHOWN, console, plan_mermaid, plan_text, table
from merganser.lag import lags
from merganser.query.connection import Result, connect
from merganser.query.formats import TEXTS
from merganser.query.status import shown_lag


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
@no_color_option
@click.option(
    "--format", "kind", default="table", show_default=True, type=click.Choice(["table", "csv", "json", "arrow"]),
    help="json: an object a line; arrow: an IPC stream.",
)  # fmt: skip
def query(sql: str, store: str, kind: str) -> None:
    """Run SQL over the views, read only. A lone - reads the SQL from standard input."""
    text = sys.stdin.read() if sql == "-" else sql
    rows = _found(store, text)
    if rows.cut:
        click.echo(f"note: the result was {rows.cut}", err=True)
    if kind == "table":
        out = console()
        out.print(table(rows.head(SHOWN), width=out.width, of=len(rows)))
    elif kind == "arrow":
        with pa.ipc.new_stream(sys.stdout.buffer, rows.schema) as writer:
            for batch in rows:
                writer.write_batch(batch)
    else:
        _, write = TEXTS[kind]
        write(rows.schema, rows, sys.stdout.buffer)


def _found(store: str, sql: str) -> Result:
    was = signal.signal(signal.SIGINT, signal.SIG_DFL)  # DuckDB does not look up from its work; and there is nothing to undo
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said on standard error instead
            return connect(store).sql(sql)
    finally:
        signal.signal(signal.SIGINT, was)


@click.command()
@store_option
@no_color_option
@click.option("--flow", "files", multiple=True, metavar="FLOW.py", help="Ask the brokers of this flow where its topics end now.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def status(store: str, files: tuple[str, ...], as_json: bool) -> None:
    """What the store holds: views, positions, watermarks, lag, the books, sinks, dead letters, late rows; and the running flow."""
    flows = load(files)
    connection = connect(store)
    found = connection.status()
    if flows:
        found["lag"] = [shown_lag(each) for each in lags(lambda sql: connection.sql(sql).fetchall(), flows)]
    if as_json:
        click.echo(json.dumps(found))
        return
    out = console()
    for part in status_tables(found, out.width, asked=bool(flows)):
        out.print(part)


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
                    out.print(table(rows, width=out.width, max_rows=10, title=title))
    sys.exit(1 if wrong else 0)
