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
    wanted: str | dict[str, str] = key[0]
    if len(key) > 1 or "=" in key[0]:
        if not all("=" in part for part in key):
            raise UsageError(f"a key is a value, or COLUMN=VALUE for each of its columns, not {' '.join(key)}")
        wanted = dict(part.partition("=")[::2] for part in key)
    found = connect(store).history(view, wanted)
    if not len(found):
        raise UsageError(f"view {view!r} has no key {' '.join(key)}")
    _show(found, kind)


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
    if sum(given is not None for given in (version, time, position)) != 1:
        raise UsageError("give one of --version, --time and --position")
    _show(connect(store).as_of(view, version=version, time=time, position=position), kind)


def _show(rows: Result, kind: str) -> None:
    if kind != "table":
        _, write = TEXTS[kind]
        write(rows.schema, rows, sys.stdout.buffer)
        return
    out = console()
    out.print(table(rows.head(SHOWN), width=out.width, of=len(rows)))
