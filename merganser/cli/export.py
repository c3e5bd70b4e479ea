"""``export``: snapshots of views for whoever reads files."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import click

from merganser.cli.load import every_option, store_option
from merganser.display import count
from merganser.errors import UsageError
from merganser.query.connection import Connection, connect
from merganser.query.snapshot import export_duckdb, export_parquet

FORMATS = {"parquet": export_parquet, "duckdb": export_duckdb}


@click.command()
@click.argument("views", metavar="VIEW...", nargs=-1, required=True)
@click.option(
    "--to", "folder", required=True, metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path), help="Where to."
)
@click.option(
    "--format", "kind", default="parquet", show_default=True, type=click.Choice(list(FORMATS)),
    help="parquet: a file a view; duckdb: one file.",
)
@every_option(default=None, what="Again and again, until stopped; only what has changed.")
@store_option
def export(views: tuple[str, ...], folder: Path, kind: str, every: float | None, store: str) -> None:
    """Write views to files, all as of one commit. Each file is replaced whole, so that nobody reads half a one."""
    connection = connect(store)
    known = {name for (name, *_) in connection.views().fetchall()}
    unknown = [view for view in views if view not in known]
    if unknown:
        raise UsageError(f"there is no view {', '.join(unknown)} in {store}; it has {', '.join(sorted(known))}")
    folder.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    if every is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    shown = -1
    while not stop.is_set():
        began = time.monotonic()
        if every is None or _epoch(connection) != shown:
            shown = FORMATS[kind](connection, views, folder)
            click.echo(f"epoch {count(shown)}: {', '.join(views)} in {folder} ({time.monotonic() - began:.1f} s)")
        if every is None:
            return
        stop.wait(max(0.0, every - (time.monotonic() - began)))


def _epoch(connection: Connection) -> int:
    return connection.sql("SELECT 1").epoch
