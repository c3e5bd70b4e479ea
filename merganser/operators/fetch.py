"""``fetch``: rows with what a service answers for their key.

Which rows share an answer is decided by their key and event time alone: the time is cut into stretches of the cache's length, and
each key is asked for once in each. An answer is kept in ``merganser.answers`` in the epoch's transaction, for ever: so a view is a
function of its log and of the answers, and whoever computes it again asks nobody. A question without an answer is not kept; its
rows become dead letters, and the next row asks again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import duckdb
import numpy as np
import pyarrow as pa

from merganser import faults
from merganser.asking import BAD_ANSWER, NOT_ANSWERED, Answer, Failure, decoded
from merganser.asking.asker import Asker
from merganser.codecs import SEQ
from merganser.codecs.json import JsonCodec
from merganser.operators import PART, Emitted, Epoch, Outcome, Refusal, Rows, Step, casts
from merganser.operators.rowlocal import KEEP
from merganser.plan import Fetch

Question = tuple[str, int]
"""A key as text, and the start of a stretch of event time."""

AS_BEFORE: Question = ("", -1)
"""Stands for the question of an event that is refused again and not asked for; no stretch begins there."""


class FetchStep(Step):
    """Keeps answers where all steps find them, since they outlive a view."""

    def __init__(self, node: Fetch, table: str) -> None:
        assert node.input is not None
        self.node, self.input, self.name = node, node.input, f"_{table}"
        self.asker = Asker(node.service)
        self._codec: JsonCodec | None = None
        self.unanswered: frozenset[tuple[str, int]] = frozenset()
        """Events, by partition and ordinal, that had no answer once, and have none now: for a redrive, which repeats what was."""

    @property
    def tables(self) -> list[str]:
        return []

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        pass  # merganser.answers is part of every store

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        faults.point("step.fetch")
        (rows,) = inputs
        if rows is None or not rows.count:
            return Emitted((Outcome(),))
        table = rows.table.filter(rows.table[rows.condition]) if rows.condition else rows.table
        if KEEP in table.column_names:
            table = table.drop_columns([KEEP])
        questions = self._questions(con, table, rows.casts)
        if self.unanswered:
            at = zip(table[PART].to_pylist(), table["_seq"].to_pylist())
            questions = [AS_BEFORE if place in self.unanswered else question for place, question in zip(at, questions)]
        first: dict[Question, int] = {}
        for row, question in enumerate(questions):
            if question is not None and question != AS_BEFORE:
                first.setdefault(question, row)
        answers, places, failures = self._answers(con, table, first, epoch)
        if self.unanswered:
            failures[AS_BEFORE] = Failure(NOT_ANSWERED, "as before")
        self.asker.asked.reused += sum(question is not None for question in questions) - len(first)
        refused = self._refused(table, questions, failures)
        if refused:
            keep = self._left(table, questions, failures, refused)
            table, questions = table.filter(pa.array(keep)), [q for q, kept in zip(questions, keep) if kept]
        take = pa.array([None if question is None else places[question] for question in questions], pa.int64())
        for name, column in self.node.taken:
            table = table.append_column(name, answers[column].take(take))
        count = rows.count - len(refused)
        left = None
        if len(table):
            left = Rows(con, self.name, table, None, count, casts(self.node.columns))
        return Emitted((Outcome(applied=count, dead=len(refused)),), left, refused=tuple(refused))

    def _questions(self, con: duckdb.DuckDBPyConnection, table: pa.Table, casts: str) -> list[Question | None]:
        """What each row asks; None where its key is NULL."""
        con.register("_asking", table.append_column("_row", pa.array(np.arange(len(table)))))
        found = con.sql(
            f"SELECT {self.node.key_sql()} AS key, {self.node.slot_sql()} AS slot FROM (SELECT *{casts} FROM _asking) ORDER BY _row"
        ).to_arrow_table()
        con.unregister("_asking")
        pairs = zip(found["key"].to_pylist(), found["slot"].to_pylist())
        return [None if key is None else (key, slot) for key, slot in pairs]

    def _answers(
        self, con: duckdb.DuckDBPyConnection, table: pa.Table, first: dict[Question, int], epoch: Epoch
    ) -> tuple[pa.Table, dict[Question, int | None], dict[Question, Failure]]:
        """The answers as rows, the row of each question (None: there is no such thing), and what was not answered.

        ``first``: a row of each question. Kept answers that are not what is declared now are asked for again.
        """
        kept = self._kept(con, first)
        rows, places, _ = self._placed(kept)
        self.asker.asked.reused += len(places)
        asking = [question for question in first if question not in places]
        values = table.select(list(self.node.by)).take(pa.array([first[question] for question in asking], pa.int64())).to_pylist()
        results = dict(zip(asking, self.asker.ask(values)))
        failures = {question: result for question, result in results.items() if isinstance(result, Failure)}
        answers = {question: result for question, result in results.items() if not isinstance(result, Failure)}
        more, found, wrong = self._placed(answers, len(rows))
        self.asker.asked.answered -= len(wrong)
        self.asker.asked.failed += len(wrong)
        failures |= {q: Failure(BAD_ANSWER, f"{self.node.service.name} says of {q[0]}: {why}") for q, why in wrong.items()}
        self._keep(con, {question: answers[question] for question in found}, epoch)
        return pa.concat_tables([rows, more]).combine_chunks(), places | found, failures

    def _placed(
        self, answers: Mapping[Question, Answer], before: int = 0
    ) -> tuple[pa.Table, dict[Question, int | None], dict[Question, str]]:
        """Answers as rows, the place of each (None for nothing) counted from ``before``, and what is wrong with the others."""
        if self._codec is None:
            self._codec = JsonCodec(self.node.schema)
        told = [(question, answer) for question, answer in answers.items() if answer is not None]
        table, bad = decoded(self._codec, [answer for _, answer in told])
        good = [question for place, (question, _) in enumerate(told) if place not in bad]
        places: dict[Question, int | None] = {question: None for question, answer in answers.items() if answer is None}
        places |= {question: before + row for row, question in enumerate(good)}
        return table.drop_columns([SEQ]), places, {told[place][0]: why for place, why in bad.items()}

    def _kept(self, con: duckdb.DuckDBPyConnection, first: Mapping[Question, int]) -> dict[Question, Answer]:
        """The answers that the store has to some questions."""
        keys, slots = [key for key, _ in first], [slot for _, slot in first]
        con.register("_asked", pa.table({"key": pa.array(keys, pa.string()), "slot": pa.array(slots, pa.int64())}))
        near = f"a.slot BETWEEN {min(slots, default=0)} AND {max(slots, default=0)}"  # lets DuckDB pass over other times
        found = con.execute(
            f"SELECT key, slot, answer FROM merganser.answers a SEMI JOIN _asked q USING (key, slot) WHERE question = ? AND {near}",
            [self.node.question],
        ).fetchall()
        con.unregister("_asked")
        return {(key, slot): answer for key, slot, answer in found}

    def _keep(self, con: duckdb.DuckDBPyConnection, answers: Mapping[Question, Answer], epoch: Epoch) -> None:
        """Keep answers, in place of those that are no good any more."""
        if not answers:
            return
        columns = {
            "key": pa.array([key for key, _ in answers], pa.string()),
            "slot": pa.array([slot for _, slot in answers], pa.int64()),
            "answer": pa.array(answers.values(), pa.string()),
        }
        con.register("_new", pa.table(columns))
        con.execute(
            "DELETE FROM merganser.answers WHERE question = ? AND (key, slot) IN (SELECT (key, slot) FROM _new)",
            [self.node.question],
        )
        now = datetime.now(UTC).replace(tzinfo=None)
        con.execute(
            "INSERT INTO merganser.answers SELECT ?, key, slot, answer, ?, ? FROM _new", [self.node.question, now, epoch.number]
        )
        con.unregister("_new")

    def _refused(
        self, table: pa.Table, questions: Sequence[Question | None], failures: Mapping[Question, Failure]
    ) -> list[Refusal]:
        """The rows whose question was not answered; of an event that became several rows, one."""
        refused: dict[object, Refusal] = {}
        if not failures:
            return []
        names = list(self.input.columns)
        for row, question in enumerate(questions):
            failure = failures.get(question) if question is not None else None
            if failure is None:
                continue
            partition, seq = table[PART][row].as_py(), table["_seq"][row].as_py()
            shown = json.dumps(table.select(names).slice(row, 1).to_pylist()[0], default=str)
            at = (partition, seq) if self.input.events else row
            refused.setdefault(at, Refusal(seq, partition, shown, failure.reason, f"{failure.detail} ({self.node.where})"))
        return list(refused.values())

    def _left(
        self,
        table: pa.Table,
        questions: Sequence[Question | None],
        failures: Mapping[Question, Failure],
        refused: Sequence[Refusal],
    ) -> list[bool]:
        """Which rows go on. Of an event that became several rows, all or none."""
        if not self.input.events:
            return [question not in failures for question in questions]
        gone = {(r.partition, r.seq) for r in refused}
        return [at not in gone for at in zip(table[PART].to_pylist(), table["_seq"].to_pylist())]
