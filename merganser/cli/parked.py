"""Keys of folds whose events wait."""

from __future__ import annotations

import click

from merganser.cli.load import store_option
from merganser.dead_letters import LETTERS
from merganser.display import console, simple
from merganser.operators.fold import REASON
from merganser.operators.fold import parked as parked_keys
from merganser.query.snapshot import books


@click.command()
@store_option
@click.argument("view", required=False)
def parked(store: str, view: str | None) -> None:
    """Keys of folds and processes that wait since one of their events failed: all, or a view's.

    `dead-letters redrive LETTER` lets the next run try that event again, `dead-letters discard LETTER` leave it out for ever.
    """
    with books(store) as opened:
        found = [p for p in parked_keys(opened.con) if view in (None, p.view)]
        letters = {
            (name, partition, seq): letter
            for letter, name, partition, seq in opened.rows(
                f"SELECT id, view, partition, seq FROM {LETTERS} WHERE reason = ?", [REASON]
            )
        }
    keys = [", ".join(f"{name}={value}" for name, value in p.key.items()) for p in found]
    rows = [
        (p.view, shown, p.events, letters.get((p.view, p.partition, p.seq), ""), p.then or "waits")
        for p, shown in zip(found, keys)
    ]
    console().print(simple(["view", "key", "events", "letter", "next run"], rows) if rows else "no key is parked")
