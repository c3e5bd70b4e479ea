"""Keys of folds whose events wait: show them, and let them go on."""

from __future__ import annotations

import click

from merganser.cli.load import changing, store_option
from merganser.display import console, simple
from merganser.errors import UsageError
from merganser.operators.fold import parked as parked_keys
from merganser.operators.fold import resume
from merganser.query.snapshot import books
from merganser.store import Store


@click.command()
@store_option
@click.argument("view", required=False)
@click.argument("key", nargs=-1, metavar="[COLUMN=VALUE]...")
@click.option("--again", "then", flag_value="again", help="Try the event that failed again in the next run.")
@click.option("--skip", "then", flag_value="skip", help="Leave it out for ever and go on with the next one.")
def parked(store: str, view: str | None, key: tuple[str, ...], then: str | None) -> None:
    """Keys of folds and processes that wait since one of their events failed: all, or a view's.

    With --again or --skip a VIEW's key goes on in the next run; all of its parked keys, where none is given.
    """
    if then is None:
        with books(store) as opened:
            found = [p for p in parked_keys(opened.con) if view in (None, p.view)]
        keys = [", ".join(f"{name}={value}" for name, value in p.key.items()) for p in found]
        rows = [(p.view, shown, p.events, p.partition, p.seq, p.then or "waits") for p, shown in zip(found, keys)]
        heads = ["view", "key", "events", "partition", "record that failed", "next run"]
        console().print(simple(heads, rows) if rows else "no key is parked")
        return
    if view is None:
        raise UsageError(f"--{then} is for the keys of one view: merganser parked VIEW [COLUMN=VALUE]... --{then}")
    pairs = dict(part.partition("=")[::2] for part in key)
    with changing(), Store(store) as opened, opened.transaction():
        count = resume(opened.con, view, pairs or None, skip=then == "skip")
    if not count:
        raise UsageError(f"no such key of view {view!r} is parked; `merganser parked {view}` lists those that are")
    done = "is left out" if then == "skip" else "is tried again"
    console().print(f"{count} key{'s' if count > 1 else ''} of {view}: the event that failed {done} in the next run")
