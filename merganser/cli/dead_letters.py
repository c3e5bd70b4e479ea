"""``dead-letters``: records that could not be decoded or applied, and how they come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from merganser import dead_letters as letters_of
from merganser import engine
from merganser.cli.load import changing, load, store_option, workers_option
from merganser.cli.running import Watch
from merganser.dead_letters import Letter, Selection
from merganser.display import console, visible
from merganser.errors import UsageError
from merganser.operators.fold import REASON, parked
from merganser.query.snapshot import books
from merganser.store import Store

NEXT = {None: "wait", "again": "wait; tried again by the next run", "skip": "wait; the next run leaves the first out"}
"""What becomes of a key that waits for a letter, by what was said of it."""

SHOWN = 200
"""Bytes of a record that a list shows."""


def selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose letters; the command gets them as ``selection``."""

    def chosen(**given: Any) -> Any:
        selection = Selection(*(given.pop(name) for name in ("ids", "source", "reason", "since", "until", "where")))
        return command(selection=selection, **given)

    chosen.__name__, chosen.__doc__ = command.__name__, command.__doc__
    chosen.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined] # click's own
    for option in (
        click.argument("ids", metavar="[LETTER]...", nargs=-1),
        click.option("--source", help="Of this source only."),
        click.option("--reason", help="With this reason only, such as 'wrong type'."),
        click.option("--since", metavar="TIME", help="Committed at this time (UTC) or later."),
        click.option("--until", metavar="TIME", help="Committed before this time (UTC)."),
        click.option("--where", metavar="SQL", help="For which this SQL is true; over raw, text, reason, file, line, attempts, …"),
    ):
        chosen = option(chosen)
    return chosen


@click.group("dead-letters")
def dead_letters() -> None:
    """Records that could not be decoded or applied: look, mend, send through again."""


@dead_letters.command("list")
@store_option
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most so many.")
@click.option("--discarded", is_flag=True, help="Also those that were discarded.")
@selecting
def list_(selection: Selection, store: str, limit: int, discarded: bool) -> None:
    """List them: where they stand, why they were refused, their first bytes; and what waits for one that a fold could not take."""
    if discarded:
        selection = replace(selection, discarded=True)
    with books(store) as opened:
        total = letters_of.count(opened, selection)
        found = letters_of.select(opened, selection, limit)
        waiting = {(p.view, p.partition, p.seq): p for p in parked(opened.con)}
    if not found:
        click.echo("no dead letters")
        return
    out = console()
    for letter in found:
        marks = [m for m, on in (("fixed", letter.fixed is not None), ("discarded", letter.status == "discarded")) if on]
        tried = f", tried {letter.attempts} time{'s' if letter.attempts != 1 else ''} more" if letter.attempts else ""
        out.print(Text.assemble((letter.reason, "bold"), f"  {_place(letter)}  {letter.id}  {' '.join(marks)}{tried}".rstrip()))
        out.print(Text(f"    {visible(letter.detail)}"))
        if (key := waiting.get((letter.view or "", letter.partition, letter.seq))) is not None:
            named = ", ".join(f"{name}={value}" for name, value in key.key.items())
            out.print(Text(f"    {named}: {key.events:,} event{'s' if key.events != 1 else ''} {NEXT[key.then]}"))
        raw = letter.raw if letter.fixed is None else letter.fixed
        beginning = f"    {visible(_readable(raw[:SHOWN]))}{'…' if len(raw) > SHOWN else ''}"
        out.print(Text(beginning, style="dim"), no_wrap=True, overflow="ellipsis")
    if total > len(found):
        out.print(f"{len(found):,} of {total:,}; --limit shows more")


@dead_letters.command()
@click.argument("letter", metavar="LETTER")
@store_option
def show(letter: str, store: str) -> None:
    """Show one whole: all that is known of it, and its bytes."""
    with books(store) as opened:
        (found,) = letters_of.select(opened, Selection(ids=(letter,), discarded=True))
    out = console()
    for name in ("id", "source", "view", "partition", "seq", "reason", "detail", "status", "attempts", "epoch", "committed_at"):
        value = getattr(found, name)
        if value is not None:
            out.print(Text.assemble((f"{name:<13}", "dim"), visible(str(value))))
    out.print(Text.assemble((f"{'place':<13}", "dim"), _place(found)))
    for name, raw in (("raw", found.raw), ("fixed", found.fixed)):
        if raw is not None:
            out.print(Text.assemble((f"{name:<13}", "dim"), f"{len(raw):,} bytes"))
            out.print(Text(_readable(raw) if _is_text(raw) else _hexadecimal(raw)), soft_wrap=True)


@dead_letters.command()
@click.argument("folder", type=click.Path(path_type=Path))
@store_option
@selecting
def export(selection: Selection, folder: Path, store: str) -> None:
    """Write the bytes of letters to files in a new FOLDER, to be edited and taken back by `fix --from`."""
    with books(store) as opened:
        paths = letters_of.export(opened, selection, folder)
    click.echo(f"wrote {len(paths):,} letters to {folder}; edit them, then:")
    click.echo(f"  merganser dead-letters fix --from {folder} --store {store}")


@dead_letters.command()
@store_option
@click.option("--sql", metavar="SQL", help="The new record, by SQL over the letter: replace(text, '\"amt\"', '\"amount\"').")
@click.option("--from", "folder", type=click.Path(path_type=Path), help="A folder that `export` made, with edited files.")
@selecting
def fix(selection: Selection, store: str, sql: str | None, folder: Path | None) -> None:
    """Give letters new bytes. Nothing else changes before `redrive`; the log stays as it is."""
    if (sql is None) == (folder is None):
        raise UsageError("fix takes either --sql or --from")
    with changing(), Store(store, existing=True) as opened:
        if sql is not None:
            fixed = letters_of.fix_by_sql(opened, selection, sql)
        else:
            assert folder is not None
            fixed = letters_of.fix_by_files(opened, folder)
    out = console()
    for letter in fixed[:5]:
        out.print(Text(letter.id, style="bold"))
        out.print(Text(f"  - {visible(_readable(letter.raw[:SHOWN]))}", style="dim"), no_wrap=True, overflow="ellipsis")
        out.print(Text(f"  + {visible(_readable((letter.fixed or b'')[:SHOWN]))}"), no_wrap=True, overflow="ellipsis")
    click.echo(f"fixed {len(fixed):,} letters" + ("; next: merganser dead-letters redrive --flow FLOW.py" if fixed else ""))


@dead_letters.command()
@store_option
@click.option("--flow", "files", multiple=True, metavar="FLOW.py", help="The files of the flows that read it.")
@click.option("--all", "everything", is_flag=True, help="Also those that were not fixed.")
@workers_option
@selecting
def redrive(selection: Selection, store: str, files: tuple[str, ...], everything: bool, workers: int) -> None:
    """Send fixed letters through again, at their place in the log: the views are then as if they had never been bad.

    The views are built anew beside the old ones and swapped with them in one transaction, so it may be stopped at any time.
    An event that a fold could not take (`not folded`) is tried again by the next run; for these no --flow is needed.
    """
    if not everything:
        where = f"(fixed IS NOT NULL OR reason = '{REASON}')" + (f" AND (\n{selection.where}\n)" if selection.where else "")
        selection = replace(selection, where=where)
        with books(store) as opened:
            if not letters_of.count(opened, selection):
                raise UsageError("no such letter was fixed; `dead-letters fix` does that, or --all sends them through as they are")
    watch = Watch("redriving")
    with changing(), watch.shown():
        told = partial(click.echo, err=True)
        done = engine.redrive(load(files), selection, store, workers=workers, progress=watch.begin, tell=told)
    if done is None:
        click.echo("stopped before the end: nothing has changed; call it again", err=True)
        raise SystemExit(1)
    if done.waiting:
        click.echo(f"{done.waiting:,} of the keys that wait: the event that failed is tried again by the next run")
    if done.report:
        click.echo(f"{done.applied:,} letters went through" + (f"; built anew: {', '.join(done.views)}" if done.views else ""))
    for sink in done.sinks:
        stale = f"; {sink.stale:,} sent before would now be otherwise, and stay" if sink.stale else ""
        click.echo(f"{sink.sink}: {sink.rows:,} rows sent{stale}")
    for letter in done.dead[:10]:
        click.echo(f"still dead: {letter.id}: {letter.reason}: {letter.detail}")
    if done.dead:
        raise SystemExit(1)


@dead_letters.command()
@store_option
@selecting
def discard(selection: Selection, store: str) -> None:
    """Give letters up: they are kept in the store, but listed and redriven no more. A fold goes on without its event."""
    if selection == Selection():
        raise UsageError("say which letters: by name, --source, --reason, --since, --until or --where true for all")
    with changing(), Store(store, existing=True) as opened:
        click.echo(f"discarded {engine.discard(opened, selection):,} letters")


def _place(letter: Letter) -> str:
    line = f":{letter.line}" if letter.line is not None else ""
    return f"{letter.file}{line}" + (f", byte {letter.byte:,}" if letter.byte is not None else "")


def _is_text(raw: bytes) -> bool:
    try:
        return raw.decode().isprintable() or all(c.isprintable() or c in "\r\n\t" for c in raw.decode())
    except UnicodeDecodeError:
        return False


def _readable(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _hexadecimal(raw: bytes, limit: int = 4096) -> str:
    lines = []
    for at in range(0, min(len(raw), limit), 16):
        part = raw[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
        lines.append(f"{at:08x}  {part.hex(' '):<47}  {text}")
    return "\n".join(lines) + (f"\n… {len(raw) - limit:,} bytes more" if len(raw) > limit else "")
