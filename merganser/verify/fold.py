"""``fold`` and ``process`` in batch: their functions over all events of each key, as tables."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import UTC
from itertools import groupby
from typing import TYPE_CHECKING, Any

from merganser.plan import Columns, Emits, Fold, Process
from merganser.sql import empty, quote
from merganser.states import arrow
from merganser.verify.process import sagas

if TYPE_CHECKING:
    from merganser.verify.batch import Batch


def folded(batch: Batch, node: Fold) -> str:
    """The function over each key's events, one key after the other; where it raises, a key's later events wait."""
    assert node.input is not None
    results = []
    for key, events in groupby(_told(batch, node, ""), key=lambda row: tuple(row[c] for c in node.by)):
        state, last = node.state.fresh(), None
        for event in events:
            if (key, event["seq"]) in batch.skipped:
                continue
            before = copy.deepcopy(state)
            try:
                state = node.apply(state, event)
            except Exception:
                state = before
                break
            last = event["seq"]
        if last is not None:
            results.append([*key, *(column[0] for column in node.state.dump([state])), last])
    return f"FROM {_filled(batch, node.columns, results)}"


def _told(batch: Batch, node: Fold, more: str) -> list[dict[str, Any]]:
    """The events of a fold, as its function is told them, by key and number."""
    assert node.input is not None
    columns = node.input.columns
    moments = {n: f"{quote(n)}::TIMESTAMPTZ AS {quote(n)}" for n, t in columns.items() if t.startswith("TIMESTAMP")}
    items = ", ".join(moments.get(n, quote(n)) for n in columns)
    order = ", ".join(quote(c) for c in (*node.by, "seq"))
    rows = batch.con.sql(f"SELECT {items}{more} FROM {batch.rows(node.input)} ORDER BY {order}").to_arrow_table().to_pylist()
    return [{n: v.astimezone(UTC) if n in moments and v else v for n, v in row.items()} for row in rows]


def _filled(batch: Batch, columns: Columns, rows: Sequence[Sequence[Any]]) -> str:
    """The name of a table of these rows."""
    table = batch.keep(empty(columns))
    if rows:
        batch.con.register("_filled", arrow(columns, zip(*rows)))
        batch.con.execute(f"INSERT INTO {table} FROM _filled")
    return table


def processed(batch: Batch, node: Process) -> str:
    return f"FROM {_sagas(batch, node)[0]}"


def emitted_rows(batch: Batch, node: Emits) -> str:
    assert isinstance(node.input, Process)
    return f"SELECT *, '' AS _part, 0::BIGINT AS _seq, NULL::BIGINT AS _wm FROM {_sagas(batch, node.input)[1]}"


def _sagas(batch: Batch, node: Process) -> tuple[str, str]:
    """The names of tables of a process's states, and of the rows that it emits."""
    if node not in batch.sagas:
        assert node.input is not None
        found = list(sagas(node, _told(batch, node, ", _time"), batch.closing(node.input), batch.skipped, batch.resumed))
        dumped = [(*key, *(c[0] for c in node.state.dump([saga.state])), saga.last) for key, saga in found if saga.last]
        emitted = [(*key, number, *row, at) for key, saga in found for number, row, at in saga.rows]
        states = _filled(batch, node.columns, dumped)
        batch.sagas[node] = states, _filled(batch, node.emitted | {"_time": "BIGINT"}, emitted)
    return batch.sagas[node]
