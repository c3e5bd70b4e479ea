"""A flow that asks is killed between answer and commit: it asks again, and each answer that is kept is one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import merganser as mg
from tests.crash.harness import KILLED, child
from tests.flows import event, rows, source
from tests.service import Service, said, serving

pytestmark = pytest.mark.crash
KEYS = 30


def _flow(url: str) -> mg.Flow:
    flow = mg.Flow("f")
    events = [event(f"e{i}", i, f"k{i % KEYS}", i) for i in range(4 * KEYS)]
    flow.read(source(events)).fetch(url + "/{key}", name="s", schema={"size": "INTEGER"}).materialize("v")
    return flow


def _work(job: tuple[str, str, tuple[str, int] | None]) -> None:
    from merganser import faults

    url, store, fault = job
    if fault:
        faults.arm(*fault)
    mg.run([_flow(url)], store, chunk_bytes=2000, epoch=0)


FAULTS = [(("books.before", 1), True), (("commit.before", 3), True), (("commit.after", 3), False)]


@pytest.mark.parametrize(("fault", "again"), FAULTS)
def test_killed_between_answer_and_commit(fault: tuple[str, int], again: bool, tmp_path: Path) -> None:
    def reply(path: str, number: int) -> Any:
        return said({"size": int(path[2:]) * 10 + number})  # another answer each time that it is asked

    store = str(tmp_path / "s.duckdb")
    with serving(Service(reply)) as service:
        assert child(_work, (service.url, store, fault)) == KILLED
        first = len(service.calls)
        assert first > 0, "transactions before the first epoch's ask nobody"
        assert child(_work, (service.url, store, None)) == 0
        asked = Counter(service.paths)
        assert len(asked) == KEYS and sum(n == 2 for n in asked.values()) == (first if again else 0), asked
        kept = rows(store, "SELECT key, count(*), max(answer) FROM merganser.answers GROUP BY key")
        assert len(kept) == KEYS and {number for _, number, _ in kept} == {1}
        assert set(rows(store, "SELECT count(*), count(DISTINCT size) FROM v GROUP BY key")) == {(4, 1)}
        calls, before = len(service.calls), rows(store, "FROM v ORDER BY n")
        mg.rebuild([_flow(service.url)], ["v"], store)
        assert len(service.calls) == calls and rows(store, "FROM v ORDER BY n") == before
