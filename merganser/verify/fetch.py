"""``fetch`` in batch: the rows joined with the answers that the store kept. Nobody is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa

from merganser.asking import decoded
from merganser.codecs.json import JsonCodec
from merganser.plan import Fetch
from merganser.sql import literal, quote

if TYPE_CHECKING:
    from merganser.verify.batch import Batch


def fetched(batch: Batch, node: Fetch) -> str:
    """The rows that have an answer, or ask nothing; those whose question was not answered are dead letters."""
    assert node.input is not None
    asked = f"FROM answers WHERE question = {literal(node.question)}"
    told = batch.con.sql(f"SELECT key, slot, answer {asked} AND answer IS NOT NULL").to_arrow_table()
    table, bad = decoded(JsonCodec(node.schema), told["answer"].to_pylist())
    assert not bad, "answers were kept since they are what was declared"
    rows = told.select(["key", "slot"])
    for name, column in node.taken:
        rows = rows.append_column(name, table[column])
    batch.con.register("_answers", rows)
    answers = batch.keep("SELECT * FROM _answers")
    asking = batch.keep(f"SELECT *, {node.key_sql()} AS _asks, {node.slot_sql()} AS _slot FROM {batch.rows(node.input)}")
    if node.events:
        asking = f"(FROM {asking} ANTI JOIN (FROM unanswered WHERE source = {literal(node.source.name)}) USING (_part, _seq))"
    else:
        asking = _without_letters(batch, asking, list(node.input.columns))
    columns = "".join(f", a.{quote(name)}" for name, _ in node.taken)
    return (
        f"SELECT r.* EXCLUDE (_asks, _slot){columns} FROM {asking} r LEFT JOIN {answers} a ON a.key = r._asks AND a.slot = r._slot"
        f" WHERE r._asks IS NULL OR (r._asks, r._slot) IN (SELECT (key, slot) {asked})"
    )


def _without_letters(batch: Batch, table: str, columns: list[str]) -> str:
    """Rows that are no events have no position to leave them out by: their dead letters are the rows themselves, as JSON."""
    gone = {row for (row,) in batch.con.execute("FROM unanswered_rows").fetchall()}
    if not gone:
        return table
    rows = batch.con.sql(f"FROM {table}").to_arrow_table()
    left = [json.dumps(row, default=str) not in gone for row in rows.select(columns).to_pylist()]
    batch.con.register("_left", rows.filter(pa.array(left)))
    return batch.keep("FROM _left")
