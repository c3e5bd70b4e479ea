"""Clients that ask all the time while a flow reads as fast as it can: every answer is the state of some commit."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import merganser as mg
from merganser.query.server import Address
from tests.query.running import counting, events

INVARIANT = (
    "SELECT sum(n)::BIGINT FROM per_key",
    "SELECT sum(n)::BIGINT FROM total",
    "SELECT sum(applied)::BIGINT, max(epoch) FROM merganser.commits WHERE view = 'total'",
)


def test_every_answer_is_the_state_of_a_commit(tmp_path: Path) -> None:
    store, lines = tmp_path / "s.duckdb", tmp_path / "events.jsonl"
    rows = [json.dumps(row) for row in events(5000)]
    with lines.open("w") as file:
        for i in range(60):
            file.writelines(row.replace('"id": "', f'"id": "{i}-', 1) + "\n" for row in rows)
    ended, failures, seen = threading.Event(), [], set()

    def ask() -> None:
        try:
            connection = mg.connect(store)
            last = -1
            while not ended.is_set():
                keys, total, books = connection.read(INVARIANT)
                ((n,),), ((m,),), ((applied, epoch),) = keys.fetchall(), total.fetchall(), books.fetchall()
                assert n == m == applied and (epoch or 0) == keys.epoch >= last
                last = keys.epoch
                seen.add(last)
        except BaseException as error:
            failures.append(error)

    mg.run([counting(mg.files(lines.with_name("nothing*.jsonl")))], store, follow=True, stop=_set())  # makes the store
    clients = [threading.Thread(target=ask) for _ in range(8)]
    for client in clients:
        client.start()
    mg.run([counting(mg.files(lines))], store, epoch=0.1, serve=Address(), chunk_bytes=1 << 18, epoch_bytes=1 << 20)
    ended.set()
    for client in clients:
        client.join()
    assert not failures and len(seen) > 3
    assert mg.connect(store).sql("FROM total").fetchall() == [(300_000,)]


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event
