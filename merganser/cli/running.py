"""``run`` and ``rebuild``, and what they show while they work."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from merganser import engine
from merganser.cli.load import changing, load, store_option, workers_option
from merganser.clock import MIN_TIME, duration, show_time
from merganser.display import console, count, simple
from merganser.engine import Report
from merganser.engine.committer import Progressed
from merganser.errors import FlowError, UsageError
from merganser.flow import Flow
from merganser.query.server import LOOPBACK, Address
from merganser.sql import quote
from merganser.store import Store

LINES_EVERY = 5.0
"""Seconds between plain lines, where the output is no terminal."""


def _epoch(ctx: click.Context, parameter: click.Parameter, value: str) -> float:
    try:
        return duration(value, "--epoch") / 1e6
    except FlowError as error:
        raise click.BadParameter(error.message) from None


serve_option = click.option(
    "--serve", metavar="[HOST:]PORT", help="Where to answer queries while it runs.  [default: 127.0.0.1, any free port]"
)
no_serve_option = click.option("--no-serve", is_flag=True, help="Answer no queries while it runs.")
gap_option = click.option("--accept-gap", is_flag=True, help="Go on, and record it, where a log has lost records that are needed.")


def _address(serve: str | None, no_serve: bool) -> Address | None:
    if serve and no_serve:
        raise UsageError("--serve and --no-serve: give one of them")
    address = Address.parse(serve) if serve else Address()
    if address.host not in LOOPBACK:
        click.echo(f"note: answers whoever has the token at {address.host}:{address.port}, unencrypted", err=True)
    return None if no_serve else address


@click.command()
@click.argument("files", metavar="FLOW.py...", nargs=-1, required=True)
@store_option
@click.option("--follow", is_flag=True, help="Go on reading what is appended, until stopped by Ctrl-C or SIGTERM.")
@click.option("--epoch", default="1s", show_default=True, callback=_epoch, help="How much time is committed together.")
@workers_option
@gap_option
@serve_option
@no_serve_option
def run(
    files: tuple[str, ...],
    store: str,
    follow: bool,
    epoch: float,
    workers: int,
    accept_gap: bool,
    serve: str | None,
    no_serve: bool,
) -> None:
    """Bring the views of flows up to date.

    Goes on where the store is, and ends at the end of the input (unless --follow). It may be stopped or killed at any
    time; run it again and it goes on.
    """
    flows = load(files)
    watch = Watch("reading")
    with watch.shown():
        report = engine.run(
            flows, store, follow=follow, epoch=epoch, workers=workers, progress=watch.begin, accept_gap=accept_gap,
            serve=_address(serve, no_serve),
        )
    _summary(flows, store, report, files)


@click.command()
@click.argument("views", metavar="VIEW...", nargs=-1, required=True)
@click.option("--flow", "files", multiple=True, required=True, metavar="FLOW.py", help="The file of the view's flow.")
@store_option
@workers_option
@gap_option
@serve_option
@no_serve_option
def rebuild(
    views: tuple[str, ...], files: tuple[str, ...], store: str, workers: int, accept_gap: bool, serve: str | None, no_serve: bool
) -> None:
    """Build views anew from the start of their sources, beside the old ones, and swap them.

    For a view whose plan was changed. The old one can be queried until the swap, which is one transaction. A rebuild
    that was interrupted goes on when it is called again.
    """
    flows = load(files)
    watch = Watch("rebuilding")
    with changing(), watch.shown():
        report = engine.rebuild(
            flows, views, store, workers=workers, progress=watch.begin, serve=_address(serve, no_serve), accept_gap=accept_gap
        )
    if report.stopped:
        click.echo("stopped before the end: the old views are as they were; call it again to go on", err=True)
        sys.exit(1)
    _summary(flows, store, report, files)


@click.command()
@click.argument("views", metavar="VIEW...", nargs=-1, required=True)
@click.option("--from", "begin", required=True, metavar="TIME|OFFSET", help="Where in the log: 2026-01-31T12:00:00, or an offset.")
@click.option("--flow", "files", multiple=True, required=True, metavar="FLOW.py", help="The file of the view's flow.")
@store_option
@workers_option
def replay(views: tuple[str, ...], begin: str, files: tuple[str, ...], store: str, workers: int) -> None:
    """Build views anew from a time or an offset of their Kafka topics on, beside the live ones, and swap them.

    What the log had before that is not in them afterwards. The live ones can be queried until the swap, which is one
    transaction. A replay that was interrupted goes on when it is called again.
    """
    flows = load(files)
    watch = Watch("replaying")
    with changing(), watch.shown():
        report = engine.rebuild(flows, views, store, workers=workers, progress=watch.begin, begin=begin)
    if report.stopped:
        click.echo("stopped before the end: the live views are as they were; call it again to go on", err=True)
        sys.exit(1)
    _summary(flows, store, report, files)


class _Share(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.percentage:.0f}%")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        p: Progressed = task.fields["progressed"]
        rate = p.read / max(1e-9, time.monotonic() - task.fields["began"])
        parts = [f"{count(p.read)} events", f"{count(round(rate))}/s"]
        if p.watermark > MIN_TIME:
            parts.append(f"watermark {show_time(p.watermark)[:19]}")
        parts.append(f"{count(p.dead)} dead")
        if p.late:
            parts.append(f"{count(p.late)} late")
        return Text(" · ".join(parts))


class Watch:
    """Shows a run's progress: live in a terminal, as plain lines elsewhere."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._progressed: Progressed | None = None
        self._began = time.monotonic()
        self._done = threading.Event()
        self._console = console(sys.stderr)

    def begin(self, progressed: Progressed) -> None:
        self._began = time.monotonic()
        self._progressed = progressed

    @contextmanager
    def shown(self) -> Iterator[None]:
        thread = threading.Thread(target=self._live if self._console.is_terminal else self._lines, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _live(self) -> None:
        columns = (TextColumn(self._verb), BarColumn(24), _Share(), _Rate(), TimeRemainingColumn(compact=True))
        with Progress(*columns, console=self._console, transient=True, refresh_per_second=8) as progress:
            task = None
            while not self._done.wait(0.1):
                p = self._progressed
                if p is None:
                    continue
                if task is None:
                    task = progress.add_task("", total=p.total_bytes, progressed=p, began=self._began)
                progress.update(task, completed=p.committed_bytes)

    def _lines(self) -> None:
        while not self._done.wait(LINES_EVERY):
            if self._progressed is not None:
                click.echo(self._line(self._progressed), err=True)

    def _line(self, p: Progressed) -> str:
        seconds = max(1e-9, time.monotonic() - self._began)
        share = f", {100 * p.committed_bytes / p.total_bytes:.0f}%" if p.total_bytes else ""
        mark = f", watermark {show_time(p.watermark)[:19]}" if p.watermark > MIN_TIME else ""
        return (
            f"{self._verb}: {count(p.read)} events{share}, {count(round(p.read / seconds))}/s{mark},"
            f" {count(p.dead)} dead letters, {count(p.late)} late"
        )


def _summary(flows: Sequence[Flow], store: str, report: Report, files: Sequence[str]) -> None:
    out = console(sys.stdout)
    p = report.progressed
    for note in report.notes:
        out.print(Text(f"note: {note}"))
    if p.committed:
        rate = count(round(p.committed / report.seconds))
        stopped = ", stopped" if report.stopped else ""
        out.print(Text(f"{count(p.committed)} events in {report.seconds:.1f} s ({rate}/s){stopped}"))
    else:
        out.print("nothing new" + (", stopped" if report.stopped else ""))
    extra = [f"{count(n)} {what}" for n, what in ((p.duplicate, "duplicates"), (p.late, "late"), (p.dead, "dead letters")) if n]
    if extra:
        out.print(Text(", ".join(extra) + (f": merganser dead-letters list --store {store}" if p.dead else "")))
    with Store(store, read_only=True) as opened:
        names = [v.name for flow in flows for v in flow.materialized]
        rows = [(name, int(opened.value(f"SELECT count(*) FROM {quote(name)}"))) for name in names]
        sent = opened.rows("SELECT sink, sent FROM merganser.sinks ORDER BY sink")
    if rows:
        out.print(simple(["view", "rows"], rows))
    if sent:
        out.print(simple(["sink", "sent"], sent))
    if names:
        out.print(Text(f"next: merganser query --store {store} \"from {names[0]} limit 10\"", style="dim"))


