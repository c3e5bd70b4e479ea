"""What notebooks need of flows: to see a few events go through the verbs, and to run a flow in the background."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa

from merganser import display, engine
from merganser.errors import FlowError, StoreError, UsageError, WaitTimeoutError
from merganser.flow import Flow, Stream
from merganser.plan import Materialize, Node, ordered
from merganser.query.caps import Limits
from merganser.query.connection import Connection, Result, answered
from merganser.query.server import Address
from merganser.sources.rows import first
from merganser.store import Store

LOOK = 2.0
"""Seconds of waiting between looks whether the flow still runs."""


class Running(Connection):
    """A flow that runs in the background of this process, and a connection to its store.

    It runs from the moment that this is made until ``stop``, or the end of a ``with`` block. A temporary store goes with it.
    """

    def __init__(self, flow: Flow, store: str | Path | None, epoch: float) -> None:
        self._folder = None if store is not None else tempfile.mkdtemp(prefix="merganser-")
        path = Path(store) if store is not None else Path(self._folder or "") / f"{flow.name}.duckdb"
        self._stop, self._failure = threading.Event(), None  # type: tuple[threading.Event, BaseException | None]

        def run() -> None:
            try:
                engine.run([flow], path, follow=True, epoch=epoch, stop=self._stop, serve=Address())
            except BaseException as error:
                self._failure = error

        self._thread = threading.Thread(target=run, name=f"merganser-{flow.name}", daemon=True)
        self._thread.start()
        while not path.exists() and self._thread.is_alive():
            self._stop.wait(0.01)
        if not path.exists():
            self.stop()
        super().__init__(path)

    def wait_for(self, position: object = "now", timeout: float = 60.0) -> None:
        """As of other connections; raises soon what stopped the flow."""
        until = time.monotonic() + timeout
        while True:
            if not self._thread.is_alive():
                self.stop()
                raise StoreError("the flow has been stopped")
            left = until - time.monotonic()
            try:
                super().wait_for(position, min(left, LOOK))  # type: ignore[arg-type] # as wide as the base's, which says what is wrong
                return
            except WaitTimeoutError:
                if left <= LOOK:
                    raise

    def stop(self) -> None:
        """End the flow; what it has read is committed. Raises what stopped it before."""
        self._stop.set()
        self._thread.join()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        self.stop()


def running(flow: Flow, store: str | Path | None = None, *, epoch: float = 0.5) -> Running:
    """Run a flow in the background, reading on as events come; see ``Flow.running``."""
    made = Running(flow, store, epoch)
    try:
        made.wait_for("now")
    except BaseException:
        made.stop()
        raise
    return made


@dataclass(frozen=True)
class Preview:
    """The rows after each verb, for a few events; shows itself in Jupyter and in a terminal."""

    steps: list[tuple[str, pa.Table, int]]
    """The verb, its first rows, and how many there are."""
    note: str

    def __repr__(self) -> str:
        parts = [f"{line}\n{display.table_text(rows, count, None)}" for line, rows, count in self.steps]
        return "\n\n".join([*parts, self.note] if self.note else parts)

    def _repr_html_(self) -> str:
        parts = [
            f'<p style="margin: 1em 0 .2em"><code>{escape(line)}</code></p>{display.table_html(rows, count, None)}'
            for line, rows, count in self.steps
        ]
        return "".join(parts) + (f"<p>{escape(self.note)}</p>" if self.note else "")


def preview(node: Node, events: int = 5, rows: int = 5) -> Preview:
    """Run the verbs up to a node over the first events of its sources, in memory."""
    nodes = [each for each in ordered([node]) if not isinstance(each, Materialize)]
    flow = Flow("preview")
    connectors, bad = {}, 0
    for source in node.sources:
        connectors[source.name], refused = first(source.connector, source.name, source.codec(), source.schema, events)
        bad += refused
    shown: list[tuple[str, Node]] = []
    for each in nodes:
        try:
            Stream(flow, each).materialize(f"step_{len(shown)}")
        except FlowError:
            continue  # not every step has rows of its own
        shown.append((f"step_{len(shown)}", each))
    steps = []
    with Store(":memory:") as store:
        engine.run([flow.reading(connectors)], store)
        for name, each in shown:
            (result,) = answered(store, [f"FROM {name} LIMIT 1000"], Limits())
            steps.append((each.line(), result.head(rows), len(result)))
    note = f"{bad} records before these could not be decoded: see dead letters" if bad else ""
    return Preview(steps, note)


def refresh(draw: Callable[[], Any], *, every: float = 1.0, times: int | None = None) -> None:
    """Show what ``draw()`` gives (a chart, a result), and again each ``every`` seconds in its place; ends at an interrupt.

    ``times``: end after so many.
    """
    from IPython.display import display as show

    handle = show(draw(), display_id=True)  # type: ignore[no-untyped-call] # IPython has no types here
    looks = 1
    try:
        while times is None or looks < times:
            time.sleep(every)
            handle.update(draw())
            looks += 1
    except KeyboardInterrupt:
        pass


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext merganser.notebook`` gives ``%%sql CONNECTION [>> NAME]``: the cell is a query, asked of a variable.

    Its result is shown, or put into the variable NAME.
    """

    def sql(line: str, cell: str) -> Result | None:
        words = line.split()
        if len(words) not in (1, 3) or (len(words) == 3 and words[1] != ">>"):
            raise UsageError("%%sql takes the name of a connection, and >> with that of a variable: %%sql views >> rows")
        connection = shell.user_ns.get(words[0])
        if not isinstance(connection, Connection):
            raise UsageError(f"{words[0]} is no connection; make one: {words[0]} = mg.connect('shop.duckdb')")
        result = connection.sql(cell)
        if len(words) == 1:
            return result
        shell.user_ns[words[2]] = result
        return None

    shell.register_magic_function(sql, magic_kind="cell", magic_name="sql")
