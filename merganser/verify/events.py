"""The accepted events of a view's sources, read again from the start, and how far event time has come in them."""

from __future__ import annotations

import json
import time
from typing import Any

import duckdb

from merganser.asking import REASONS
from merganser.clock import MIN_TIME, TIME_UNITS
from merganser.codecs.mending import MendingCodec
from merganser.errors import UsageError
from merganser.plan import Fetch, Materialize, Source, ordered
from merganser.sql import literal, quote
from merganser.store import Store

CHUNK_BYTES = 8 << 20

MADE = "a row of %"
"""What the file of a dead letter begins with that is no record: a row that a verb made."""


def load(
    con: duckdb.DuckDBPyConnection, store: Store, view: Materialize, cohort: int
) -> tuple[dict[str, str], dict[str, int]]:
    """By source: the name of a table of its events, and the lowest watermark of its partitions (MIN_TIME: none).

    The tables have the source's columns, ``_part``, ``_seq``, ``_time`` and ``_wm``, up to the view's position, without the records
    that are no rows. What a verb refused is in them, since it came as far as that verb: the table ``refused`` names it, and
    ``unanswered`` what a ``fetch`` had no answer for.
    """
    mine = f"view = {literal(view.name)}"
    unanswered = f"reason IN ({', '.join(map(literal, REASONS))})"
    for table, whose in (
        ("rejected", "view IS NULL"), ("refused", f"{mine} AND NOT {unanswered}"), ("unanswered", f"{mine} AND {unanswered}")
    ):  # fmt: skip
        found = store.table(
            "SELECT DISTINCT source, partition AS _part, seq AS _seq FROM merganser.dead_letters"
            f" WHERE {whose} AND file NOT LIKE '{MADE}'"
        )
        con.register("_found", found)
        con.execute(f"CREATE TABLE {table} AS FROM _found")
        con.unregister("_found")
    _load_answers(con, store, view)
    relations = {}
    closing = {}
    for number, source in enumerate(view.sources):
        relations[source.name] = f"events_{number}"
        _load(con, store, source, cohort, relations[source.name])
        closing[source.name] = _closing(store, source, cohort)
    return relations, closing


def _load_answers(con: duckdb.DuckDBPyConnection, store: Store, view: Materialize) -> None:
    """The tables ``answers``, of what the view's fetches asked, and ``unanswered_rows``, as JSON, that were no events any more."""
    con.execute("CREATE TABLE answers (question VARCHAR, key VARCHAR, slot BIGINT, answer VARCHAR)")
    con.execute("CREATE TABLE unanswered_rows (row VARCHAR)")
    questions = [node.question for node in ordered([view]) if isinstance(node, Fetch)]
    if not questions:
        return
    listed = ", ".join(map(literal, questions))
    letters = f"view = {literal(view.name)} AND file = '{MADE.removesuffix('%')}Fetch'"
    for table, sql in (
        ("answers", f"SELECT question, key, slot, answer FROM merganser.answers WHERE question IN ({listed})"),
        ("unanswered_rows", f"SELECT decode(raw) FROM merganser.dead_letters WHERE {letters}"),
    ):
        con.register("_found", store.table(sql))
        con.execute(f"INSERT INTO {table} FROM _found")
        con.unregister("_found")


def skipped(store: Store, view: Materialize, cohort: int) -> set[tuple[tuple[Any, ...], int]]:
    """Key and number of the events that the view's fold was told to leave out."""
    return {(tuple(key), seq) for *key, seq in _noted(store, view, cohort, "skipped")}


def resumed(store: Store, view: Materialize, cohort: int) -> dict[tuple[tuple[Any, ...], int], int]:
    """By key and number of the event that went on after it was parked: no row that is emitted from there on has an earlier time."""
    return {(tuple(key), seq): moment for *key, seq, moment in _noted(store, view, cohort, "resumed")}


def _noted(store: Store, view: Materialize, cohort: int, what: str) -> list[tuple[Any, ...]]:
    """What folds and processes that a view depends on have noted."""
    like = f"name LIKE '%\\_{what}\"' ESCAPE '\\'"
    tables = store.rows(f"SELECT name FROM merganser_state.tables WHERE cohort = ? AND view = ? AND {like}", [cohort, view.name])
    return [row for (table,) in tables for row in store.rows(f"FROM {table}")]


def _load(con: duckdb.DuckDBPyConnection, store: Store, source: Source, cohort: int, name: str) -> None:
    columns = ", ".join(f"{quote(c.name)} {c.type}" for c in source.schema.columns)
    con.execute(f"CREATE OR REPLACE TABLE read ({columns}, _seq BIGINT, _part VARCHAR)")
    codec = MendingCodec(source.codec(), source.schema, store.mends(source.name, cohort))
    positions = store.rows(
        "SELECT partition, seq, floor, position FROM merganser.positions WHERE cohort = ? AND source = ?", [cohort, source.name]
    )
    ends = {partition: end for partition, end, _, _ in positions}
    at: dict[str, int] = dict.fromkeys(ends, 0)
    reader = source.connector.open(source.name, follow=False)
    for partition, _, _, position in positions:
        known = json.loads(position)
        reader.add(partition, source.connector.origin([known] if known else [], whole=True))
    while any(at[p] < ends[p] for p in ends):
        chunk = reader.read(CHUNK_BYTES)
        if chunk is None:
            for partition, _ in reader.finished():
                if at[partition] < ends[partition]:
                    raise UsageError(
                        f"source {source.name!r} ends at record {at[partition]} in partition {partition!r}, the view has read"
                        f" {ends[partition]}; bring back what was removed, or rebuild the view"
                    )
            time.sleep(0.002)
            continue
        if chunk.records:
            con.register("_chunk", codec.decode(chunk).table)
            con.execute(
                f"INSERT INTO read SELECT *, {literal(chunk.partition)} FROM _chunk WHERE _seq < {ends[chunk.partition]}"
            )
        at[chunk.partition] = chunk.end
    reader.close()
    for column, partition, seq in store.gained(source.name, cohort):
        con.execute(f"UPDATE read SET {quote(column)} = NULL WHERE _part = $1 AND _seq < $2", [partition, seq])
    moment = "0::BIGINT" if source.time is None else f"epoch_us({quote(source.time)})"
    if source.time is not None and source.schema[source.time].type == "TIMESTAMPTZ_NS":  # of which DuckDB has no epoch_us
        moment = f"epoch_ns({quote(source.time)}) // 1000"
    if source.time is not None and source.time_unit is not None:
        moment = f"round({quote(source.time)} * {TIME_UNITS[source.time_unit]})::BIGINT"
    mark = "NULL::BIGINT"
    if source.time is not None and source.lateness is not None:
        floors = ", ".join(f"{literal(p)}: {floor}::BIGINT" for p, _, floor, _ in positions if floor is not None)
        mark = f"max(_time) OVER (PARTITION BY _part ORDER BY _seq) - {source.lateness}"
        mark = f"greatest({mark}, map_extract_value(MAP {{{floors}}}, _part))" if floors else mark
    # Records that are no rows move no watermark.
    con.execute(
        f"CREATE TABLE {name} AS SELECT *, {mark} AS _wm FROM (SELECT *, {moment} AS _time FROM read"
        f" ANTI JOIN (FROM rejected WHERE source = {literal(source.name)}) USING (_part, _seq))"
    )


def _closing(store: Store, source: Source, cohort: int) -> int:
    """No event before it can be on time any more: the lowest watermark of the partitions that may still grow."""
    if source.time is None or source.lateness is None:
        return MIN_TIME
    mark = f"coalesce(greatest(max_time - {source.lateness}, floor), {MIN_TIME})"
    return int(store.value(
        f"SELECT coalesce(min({mark}) FILTER (WHERE NOT ended), max({mark}), {MIN_TIME}) FROM merganser.positions"
        " WHERE cohort = ? AND source = ?", [cohort, source.name],
    ))  # fmt: skip
