"""A flow that runs in a thread of the test, and answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import merganser as mg
from merganser.query.server import Address
from tests.flows import SCHEMA


def counting(memory: Any) -> mg.Flow:
    """Two views of the same events: ``per_key`` and ``total`` (one row), which agree in every commit."""
    events = mg.source("events", memory, schema=SCHEMA, time="at", lateness="10 seconds", id="id", key="key")
    flow = mg.Flow("counting")
    read = flow.read(events)
    read.group_by("key").aggregate(n="count(*)").materialize("per_key")
    read.group_by().aggregate(n="count(*)").materialize("total")
    return flow


def events(count: int, start: int = 0) -> list[Mapping[str, Any]]:
    return [
        {"id": str(i), "at": f"2026-01-01 00:{i // 60 % 60:02}:{i % 60:02}", "key": f"k{i % 7}", "n": i}
        for i in range(start, start + count)
    ]


@contextmanager
def running(flows: Sequence[mg.Flow], store: Path, serve: Address | None = None, epoch: float = 0.05) -> Iterator[mg.Connection]:
    """Runs flows with ``follow`` until the end of the block; gives a connection that has waited for what there is."""
    stop, failure = threading.Event(), []

    def run() -> None:
        try:
            mg.run(flows, store, follow=True, epoch=epoch, stop=stop, serve=serve or Address())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        while not store.exists() and not failure:
            stop.wait(0.01)
        if failure:
            raise failure[0]
        connection = mg.connect(store)
        connection.wait_for("now")
        yield connection
    finally:
        stop.set()
        thread.join()
    if failure:
        raise failure[0]
