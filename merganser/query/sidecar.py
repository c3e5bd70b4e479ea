"""The file beside a store that says who serves it: ``shop.duckdb.serve``, readable by its owner alone.

It is there while a flow runs. A flow that was killed leaves it behind; the next one replaces it, and a client finds
nobody at its address, or someone whose ``run`` is another.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Holder:
    """A running flow: where it answers, and the bearer token (256 bits) that it asks for. ``run`` names this run of it."""

    url: str
    token: str
    pid: int
    run: str


def path_of(store: Path) -> Path:
    return store.with_name(store.name + ".serve")


def write(store: Path, holder: Holder) -> None:
    """Put it there whole, never readable by others."""
    path = path_of(store)
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as out:
        json.dump(asdict(holder), out)
    new.replace(path)


def read(store: Path) -> Holder | None:
    """Who serves the store; None where nobody says so."""
    try:
        found = json.loads(path_of(store).read_text())
        return Holder(**found)
    except (OSError, ValueError, TypeError):
        return None


def remove(store: Path, holder: Holder) -> None:
    """Take it away, if it is still this run's."""
    if read(store) == holder:
        path_of(store).unlink(missing_ok=True)
