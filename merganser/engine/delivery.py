"""Delivery: a thread for each sink brings what epochs committed to the outbox to where it belongs.

Only committed rows are sent, so nothing is sent that could be taken back. What was sent is taken out of the outbox in the
transaction of the next epoch; a crash before that is no matter, since the sink itself says how far it came.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from merganser import faults, sinks
from merganser.engine.forward import Forward
from merganser.errors import StoreError
from merganser.plan import Write
from merganser.sinks import Sent, SinkAwayError, Writer
from merganser.store import Store

log = logging.getLogger("merganser.sinks")

BATCH, PIECES = 20_000, 8
"""Rows that are sent together at most; of what is written in columns pieces, which have the rows of an epoch each."""

PATIENCE = 10.0
"""Seconds that the end of a run waits for a sink that is away."""

BACKOFF = (0.1, 5.0)
"""Seconds before a sink that is away is tried again, the first time and at most."""


def _sent(seq: int, epoch: int, key: bytes | None, value: bytes | None, headers: list[dict[str, Any]] | None) -> Sent:
    return Sent(seq, epoch, key, value, tuple((h["name"], h["value"]) for h in headers or ()))


@dataclass
class Delivery:
    """Sends the outbox. ``start``, ``committed`` after each commit, ``finish``."""

    store: Store
    writes: Sequence[Write | Forward]
    fail: Callable[[BaseException], None]
    sent: dict[str, int] = field(default_factory=dict)
    """By sink the number of the last row that is known to be there."""
    _forgotten: dict[str, int] = field(default_factory=dict)
    _news: dict[str, threading.Event] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _finishing: threading.Event = field(default_factory=threading.Event)
    _failure: BaseException | None = None

    def start(self) -> None:
        sender = self.store.identity()
        for write in self.writes:
            self._news[write.name] = threading.Event()
            con = self.store.con.cursor()
            con.execute("USE store")
            name = f"merganser-sink-{write.name}"
            thread = threading.Thread(target=self._work, args=(write, sender, con), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def committed(self) -> None:
        """There may be new rows in the outbox."""
        for event in self._news.values():
            event.set()

    def forget(self) -> None:
        """Take what was sent out of the outbox, in the open transaction."""
        for name, seq in dict(self.sent).items():
            if seq > self._forgotten.get(name, 0):
                self.store.con.execute("DELETE FROM merganser.outbox WHERE sink = ? AND seq <= ?", [name, seq])
                self.store.con.execute("UPDATE merganser.sinks SET sent = ? WHERE sink = ?", [seq, name])
                self._forgotten[name] = seq

    def finish(self) -> None:
        """Wait until all is sent, and raise what kept it from that: the next run sends the rest."""
        self._finishing.set()
        self.committed()
        for thread in self._threads:
            thread.join()
        if self.sent != self._forgotten:
            with self.store.transaction():
                self.forget()
        if self._failure is not None:
            raise self._failure

    # -- one sink -------------------------------------------------------------------------------------------------

    def _work(self, write: Write | Forward, sender: str, con: duckdb.DuckDBPyConnection) -> None:
        out: Writer | None = None
        try:
            out = sinks.writer(write.sink, write.name, sender, write.encoding)
            self._deliver(write.name, out, con, PIECES if write.encoding.columnar else BATCH)
        except BaseException as error:
            self._failure = self._failure or error
            self.fail(error)
        finally:
            if out is not None:
                out.close()
            con.close()

    def _deliver(self, name: str, out: Writer, con: duckdb.DuckDBPyConnection, batch: int) -> None:
        at: int | None = None
        pause, away_since, since = BACKOFF[0], None, None
        while True:
            self._news[name].clear()
            try:
                if at is None:
                    at = self._reached(name, out, con)
                    self.sent[name] = at
                since = self._waits(name, at, out, con, batch, since)
                if since is not None:
                    self._news[name].wait(max(0.0, since + out.linger - time.monotonic()))
                    continue
                rows = [_sent(*row) for row in con.execute(
                    "SELECT seq, epoch, key, value, headers FROM merganser.outbox WHERE sink = ? AND seq > ? ORDER BY seq LIMIT ?",
                    [name, at, batch],
                ).fetchall()]  # fmt: skip
                if not rows:
                    if self._finishing.is_set():
                        return
                    self._news[name].wait(1.0)
                    continue
                faults.point("sink.before")
                out.send(rows)
                faults.point("sink.after")
                self.sent[name] = at = rows[-1].seq
                pause, away_since = BACKOFF[0], None
            except SinkAwayError as error:
                if away_since is None:
                    away_since = time.monotonic()
                    log.warning("%s; its rows wait in the outbox, trying again", error.message)
                if self._finishing.is_set() and time.monotonic() - away_since > PATIENCE:
                    raise SinkAwayError(
                        f"{error.message}. All is committed; its rows wait in the outbox for the next run"
                    ) from None
                at = None  # whether the last call counted is for the sink to say
                self._news[name].wait(pause)
                pause = min(2 * pause, BACKOFF[1])

    def _waits(
        self, name: str, at: int, out: Writer, con: duckdb.DuckDBPyConnection, batch: int, since: float | None
    ) -> float | None:
        """Since when the rows in the outbox wait for more to go with them; None where they are to go now, or there are none."""
        if not out.linger or self._finishing.is_set():
            return None
        [(count,)] = con.execute("SELECT count(*) FROM merganser.outbox WHERE sink = ? AND seq > ?", [name, at]).fetchall()
        since = time.monotonic() if since is None else since
        return since if 0 < count < batch and time.monotonic() - since < out.linger else None

    def _reached(self, name: str, out: Writer, con: duckdb.DuckDBPyConnection) -> int:
        """How far the sink came, which must be something that this store knows of."""
        at = out.last()
        [(seq, sent)] = con.execute("SELECT seq, sent FROM merganser.sinks WHERE sink = ?", [name]).fetchall()
        if at > seq:
            raise StoreError(
                f"sink {name!r} has row {at} of this store, which itself has only come to {seq}: it is an older copy than the one"
                " that sent them. Go on with the newer one, or begin a new store, which sends as another"
            )
        if at < sent:
            log.warning("sink %r says that it has row %d, but it was sent %d: its marker was lost; rows from %d on go there"
                        " (again)", name, at, sent, sent + 1)  # fmt: skip
        return max(at, int(sent))
