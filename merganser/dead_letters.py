"""Dead letters: records that could not be decoded or applied. Choosing, mending and discarding them.

A letter is named ``source:partition:ordinal``, with ``:view`` behind it where only one view refused the record.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from merganser.codecs import Place
from merganser.codecs.mending import Mended
from merganser.errors import UsageError
from merganser.sql import literal
from merganser.store import Store

LETTERS = """(
    SELECT source || ':' || partition || ':' || seq || coalesce(':' || view, '') AS id, source, view, partition, seq, file, byte,
        line, reason, detail, raw, TRY(decode(raw)) AS text, fixed, attempts, status, epoch, committed_at
    FROM merganser.dead_letters
    LEFT JOIN (SELECT epoch, min(committed_at) AS committed_at FROM merganser.commits GROUP BY epoch) USING (epoch)
    WHERE cohort IS NULL OR view IS NOT NULL
)"""
"""The letters as they are chosen from: ``text`` is the record where it is UTF-8, ``committed_at`` is in UTC."""

FIELDS = ("id", "source", "view", "partition", "seq", "file", "byte", "line", "reason", "detail", "raw", "text", "fixed",
          "attempts", "status", "epoch", "committed_at")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter; the fields are columns of ``LETTERS``."""

    id: str
    source: str
    view: str | None
    partition: str
    seq: int
    file: str
    byte: int | None
    line: int | None
    reason: str
    detail: str
    raw: bytes
    text: str | None
    fixed: bytes | None
    attempts: int
    status: str
    epoch: int
    committed_at: Any

    def mended(self) -> Mended:
        return Mended(self.raw if self.fixed is None else self.fixed, Place(self.file, self.byte, self.line))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters: all conditions must hold. ``where`` is SQL over the columns of ``LETTERS``."""

    ids: tuple[str, ...] = ()
    source: str | None = None
    reason: str | None = None
    since: str | None = None
    until: str | None = None
    where: str | None = None
    discarded: bool = False

    def condition(self) -> str:
        parts = [] if self.discarded else ["status <> 'discarded'"]
        if self.ids:
            parts.append(f"id IN ({', '.join(map(literal, self.ids))})")
        for column, value in (("source", self.source), ("reason", self.reason)):
            if value is not None:
                parts.append(f"{column} = {literal(value)}")
        for sign, option, moment in ((">=", "since", self.since), ("<", "until", self.until)):
            if moment is not None:
                parts.append(f"committed_at {sign} {literal(_utc(moment, option))}::TIMESTAMP")
        if self.where is not None:
            parts.append(f"(\n{self.where}\n)")
        return " AND ".join(parts) or "true"


def _utc(text: str, option: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--{option} {text!r} is no time such as '2026-01-31T12:00:00'") from None
    return str(moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment)


def select(store: Store, selection: Selection, limit: int | None = None) -> list[Letter]:
    """The letters of a selection, by source and place in the log. Raises UsageError for a condition that is no SQL."""
    more = f" LIMIT {limit}" if limit else ""
    order = f"ORDER BY source, partition, seq, view{more}"
    found = _asked(store, f"SELECT {', '.join(FIELDS)} FROM {LETTERS} WHERE {selection.condition()} {order}")
    letters = [Letter(*row) for row in found]
    missing = [i for i in selection.ids if i not in {letter.id for letter in letters}]
    if missing and not limit:
        raise UsageError(f"there is no dead letter {', '.join(missing)}; `merganser dead-letters list` names them")
    return letters


def count(store: Store, selection: Selection) -> int:
    return int(_asked(store, f"SELECT count(*) FROM {LETTERS} WHERE {selection.condition()}")[0][0])


def fix_by_sql(store: Store, selection: Selection, expression: str) -> list[Letter]:
    """Give letters new bytes, by SQL over their columns. A letter for which it is NULL is left alone."""
    found = _asked(
        store,
        f"SELECT id, CASE WHEN typeof(v) = 'BLOB' THEN v::BLOB ELSE encode(v::VARCHAR) END FROM"
        f" (SELECT id, (\n{expression}\n) AS v FROM {LETTERS} WHERE {selection.condition()}) WHERE v IS NOT NULL",
    )
    return _fixed(store, selection, {i: bytes(raw) for i, raw in found})


def export(store: Store, selection: Selection, folder: Path) -> list[Path]:
    """Write each letter's bytes to a file of its own in a new folder, and what is known of them to ``letters.json``."""
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is there already and not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    known = {}
    for number, letter in enumerate(select(store, selection), 1):
        path = folder / f"{number:06d}{'.txt' if letter.text is not None else '.bin'}"
        path.write_bytes(letter.raw if letter.fixed is None else letter.fixed)
        what = {"reason": letter.reason, "detail": letter.detail, "file": letter.file, "line": letter.line}
        known[path.name] = {"id": letter.id, **what}
        paths.append(path)
    (folder / "letters.json").write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")
    return paths


def fix_by_files(store: Store, folder: Path) -> list[Letter]:
    """Give letters the bytes of exported files that were edited since; those that were not are left alone."""
    index = folder / "letters.json"
    if not index.is_file():
        raise UsageError(f"{folder} has no letters.json; `merganser dead-letters export {folder}` makes such a folder")
    known = {name: entry["id"] for name, entry in json.loads(index.read_text()).items()}
    letters = {letter.id: letter for letter in select(store, Selection(discarded=True))}
    edited = {}
    for name, i in known.items():
        path = folder / name
        if i in letters and path.is_file():
            before = letters[i].raw if letters[i].fixed is None else letters[i].fixed
            if (now := path.read_bytes()) != before:
                edited[i] = now
    return _fixed(store, Selection(), edited)


def discard(store: Store, selection: Selection) -> int:
    """Give letters up: they are kept, but listed and redriven no more."""
    letters = select(store, selection)
    with store.transaction():
        _update(store, letters, "status = 'discarded'")
    return len(letters)


def _fixed(store: Store, selection: Selection, new: dict[str, bytes]) -> list[Letter]:
    if not new:
        return []
    letters = [letter for letter in select(store, selection) if letter.id in new]
    with store.transaction():
        for letter in letters:
            _update(store, [letter], "fixed = ?", [new[letter.id]])
    return [letter for letter in select(store, selection) if letter.id in new]


def _update(store: Store, letters: Sequence[Letter], what: str, values: Sequence[Any] = ()) -> None:
    for letter in letters:
        store.con.execute(
            f"UPDATE merganser.dead_letters SET {what} WHERE source = ? AND partition = ? AND seq = ?"
            " AND view IS NOT DISTINCT FROM ?",
            [*values, letter.source, letter.partition, letter.seq, letter.view],
        )


def _asked(store: Store, sql: str) -> list[tuple[Any, ...]]:
    try:
        return store.rows(sql)
    except (duckdb.BinderException, duckdb.ParserException, duckdb.ConversionException, duckdb.InvalidInputException) as error:
        raise UsageError(f"{str(error).splitlines()[0]}; the columns of dead letters are {', '.join(FIELDS)}") from None
