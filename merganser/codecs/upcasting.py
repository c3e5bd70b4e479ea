"""Upcasters: events of older versions as the current one, when they are read. What is stored stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from merganser.codecs import SEQ, Chunk, Codec, Decoded, Place, Reject
from merganser.codecs.columnar import nulls
from merganser.errors import FlowError
from merganser.schema import Column, Schema
from merganser.scratch import REFUSED, Query
from merganser.sql import quote


@dataclass(frozen=True)
class Upcaster:
    """What makes events of ``from_version`` events of the next one: SQL by column, or a function over an Arrow table.

    ``columns``: those that only older versions have.
    """

    from_version: int
    columns: tuple[Column, ...]
    items: tuple[tuple[str, str], ...]
    fn: Callable[[Any], Any] | None = None

    def describe(self) -> str:
        what = ", ".join(f"{name} = {' '.join(sql.split())}" for name, sql in self.items)
        return f"upcast {self.from_version}: {what or getattr(self.fn, '__qualname__', 'fn')}"


def widened(schema: Schema, upcasters: Sequence[Upcaster]) -> Schema:
    """The columns that events of any version may have; whether one is required is asked when all are of the current version."""
    made = {name for upcaster in upcasters for name, _ in upcaster.items}
    functions = any(upcaster.fn is not None for upcaster in upcasters)
    columns = {c.name: replace(c, required=False, optional=c.optional or functions or c.name in made) for c in schema.columns}
    for upcaster in upcasters:
        for column in upcaster.columns:
            columns.setdefault(column.name, replace(column, required=False, optional=True))
    return replace(schema, columns=tuple(columns.values()))


class UpcastingCodec:
    """Decodes events of all versions into the columns of the current one. ``version``: the column that says which one it is.

    An event without a version is of the first that has an upcaster. One that an upcaster cannot take is a reject.
    """

    def __init__(self, codec: Codec, schema: Schema, version: str, upcasters: Sequence[Upcaster]) -> None:
        """``codec``: of the widened schema."""
        self._codec, self._schema, self._version = codec, schema, version
        self._steps = sorted(upcasters, key=lambda u: u.from_version)
        wide = widened(schema, upcasters)
        self._columns, self._wide = wide.columns, wide.arrow_schema()
        self._queries: dict[int, Query] = {}
        """By version that they begin at."""

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        return self._codec.locate(chunk, seqs)

    def decode(self, chunk: Chunk) -> Decoded:
        decoded = self._codec.decode(chunk)
        first, last = self._steps[0].from_version, self._steps[-1].from_version + 1
        version = decoded.table[self._version].cast(pa.int64()).fill_null(first).to_numpy()
        done = [decoded.table.filter(pa.array(version >= last))]
        refused: dict[int, tuple[str, str]] = {}
        waiting = decoded.table.slice(0, 0)
        for number in range(min(first, int(version.min(initial=last))), last):
            waiting = pa.concat_tables([waiting, decoded.table.filter(pa.array(version == number))])
            for step in self._steps:
                if step.from_version == number:
                    waiting = self._applied(step, waiting, refused)
        table = pa.concat_tables([*done, waiting])
        table = table.take(pa.array(np.argsort(table[SEQ].to_numpy(), kind="stable"))).select([*self._schema.names(), SEQ])
        missing = nulls(table, self._schema)
        if missing:
            refused |= {table[SEQ][i].as_py(): why for i, why in missing.items()}
            good = np.ones(len(table), np.bool_)
            good[list(missing)] = False
            table = table.filter(pa.array(good))
        seqs = sorted(refused)
        rejects = [Reject(seq, at, raw, *refused[seq]) for seq, (at, raw) in zip(seqs, self._codec.locate(chunk, seqs))]
        return Decoded(table, sorted([*decoded.rejects, *rejects], key=lambda r: r.seq), decoded.passed)

    def _applied(self, step: Upcaster, table: pa.Table, refused: dict[int, tuple[str, str]]) -> pa.Table:
        """Rows of one version as those of the next; a batch that fails is halved down to the rows that do."""
        if not len(table):
            return table
        try:
            return self._call(step, table) if step.fn is not None else self._query(step, table)
        except (*REFUSED, ArithmeticError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
            if len(table) == 1:
                said = str(error).splitlines()[0] if str(error) else type(error).__name__
                refused[table[SEQ][0].as_py()] = "not upcast", f"from version {step.from_version}: {said}"
                return table.slice(0, 0)
        middle = len(table) // 2
        return pa.concat_tables([self._applied(step, part, refused) for part in (table.slice(0, middle), table.slice(middle))])

    def _query(self, step: Upcaster, table: pa.Table) -> pa.Table:
        query = self._queries.get(step.from_version)
        if query is None:
            new = dict(step.items)
            kinds = {c.name: c.type for c in self._columns}
            items = [f"CAST((\n{new[n]}\n) AS {kinds[n]}) AS {quote(n)}" if n in new else quote(n) for n in kinds]
            query = self._queries[step.from_version] = Query(f"SELECT {', '.join(items)} FROM _events", "_events")
        made = query.run(table)
        return self._whole(made, table)

    def _call(self, step: Upcaster, table: pa.Table) -> pa.Table:
        assert step.fn is not None
        made = step.fn(table.select(self._wide.names))
        if not isinstance(made, pa.Table) or len(made) != len(table):
            raise FlowError(f"the upcaster from version {step.from_version} must return a pyarrow.Table of as many rows as it got")
        columns = {n: made[n] if n in made.column_names else table[n] for n in self._wide.names}
        return self._whole(pa.table(columns), table)

    def _whole(self, made: pa.Table, table: pa.Table) -> pa.Table:
        columns = [made[f.name].cast(f.type) for f in self._wide]
        return pa.table(columns, schema=self._wide).append_column(table.schema.field(SEQ), table[SEQ])
