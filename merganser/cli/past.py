"""What happened to a key, and what a view was: folds with ``history=True``."""

from __future__ import annotations

import sys

import click

from merganser.cli.load import no_color_option, store_option
from merganser.display import SHOWN, console, table
from merganser.errors import UsageError
from merganser.query.connection import Result, connect
from merganser.query.formats import TEXTS

format_option = click.option(
    "--format", "kind", default="table", show_default=True, type=click.Choice(["table", *TEXTS]), help="json: an object a line."
)


@click.command()
@click.argument("view")
@click.argument("key", nargs=-1, metavar="KEY|COLUMN=VALUE...", required=True)
@store_option
@no_color_option
@format_option
def history(view: str, key: tuple[str, ...], store: str, kind: str) -> None:
    """What happened to a KEY of a fold with history=True: its events, each with the state after it."""
    if len(key) == 1 and "=" not in key[0]:
        _show(connect(store).history(view, key[0]), kind)
        return
    if not all("=" in part for part in key):
        raise UsageError(f"a key is a value, or COLUMN=VALUE for each of its columns, not {' '.join(key)}")
    _show(connect(store).history(view, dict(part.partition("=")[::2] for part in key)), kind)


@click.command("as-of")
@click.argument("view")
@click.option("--version", type=int, help="After so many events of each key.")
@click.option("--time", metavar="TIME", help="After the events up to a time, such as 2026-01-31T12:00:00 (UTC).")
@click.option(
    "--position", type=int, help="After so many records of its log (of an event store: the notification with this id)."
)
@store_option
@no_color_option
@format_option
def as_of(view: str, version: int | None, time: str | None, position: int | None, store: str, kind: str) -> None:
    """A fold with history=True as it was: one of --version, --time and --position."""
    _show(connect(store).as_of(view, version=version, time=time, position=position), kind)


def _show(rows: Result, kind: str) -> None:
    if kind != "table":
        _, write = TEXTS[kind]
        write(rows.schema, rows, sys.stdout.buffer)
        return
    out = console()
    out.print(table(rows.head(SHOWN), width=out.width, of=len(rows)))
