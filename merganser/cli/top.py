"""``top``: what a running flow is doing."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import click
from rich.console import Console
from rich.live import Live

from merganser.cli.load import every_option, no_color_option, store_option
from merganser.cli.show import SORTS, top_frame
from merganser.display import console
from merganser.query.connection import Connection, connect
from merganser.query.status import Status


@dataclass
class _Screen:
    """What is on it, and what keys have asked for."""

    sort: str = SORTS[0]
    paused: bool = False
    ended: bool = False

    def press(self, key: str) -> None:
        if key in ("q", "Q", "\x03", "\x1b"):
            self.ended = True
        elif key in ("p", " "):
            self.paused = not self.paused
        elif key == "s":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]


@click.command()
@every_option(default="1s", what="How often.")
@store_option
@no_color_option
def top(every: float, store: str) -> None:
    """Show what a running flow is doing: rates, watermarks, commits, views, state, memory.

    Keys: q ends, p pauses, s sorts. Where there is no terminal it shows one picture and ends.
    """
    connection = connect(store)
    if not sys.stdout.isatty() or not sys.stdin.isatty():
        out = console()
        first, began = connection.status(), time.monotonic()
        if first["running"]:
            time.sleep(min(every, 1.0))
        out.print(top_frame(connection.status(), first, time.monotonic() - began, (out.width, 1000), SORTS[0], False))
        return
    with suppress(KeyboardInterrupt):
        _live(connection, every)


def _live(connection: Connection, every: float) -> None:
    out, screen = Console(highlight=False), _Screen()
    status: Status = connection.status()
    at = time.monotonic()
    before, seconds = None, 0.0
    with _keys() as key, Live(console=out, auto_refresh=False, screen=True) as live:
        while not screen.ended:
            frame = top_frame(status, before, seconds, (out.size.width, out.size.height), screen.sort, screen.paused)
            live.update(frame, refresh=True)
            until = at + every
            while (pressed := key(max(0.0, until - time.monotonic()))) is None and time.monotonic() < until:
                pass
            if pressed is not None:
                screen.press(pressed)
            elif screen.paused:
                at = time.monotonic()
            else:
                now, new = time.monotonic(), connection.status()
                before, status, seconds, at = status, new, now - at, now


@contextmanager
def _keys() -> Iterator[_Key]:
    """Keys as they are pressed, without echo; the terminal is put back as it was."""
    import termios
    import tty

    file = sys.stdin.fileno()
    was = termios.tcgetattr(file)
    tty.setcbreak(file)
    try:
        yield _Key()
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, was)


class _Key:
    def __call__(self, seconds: float) -> str | None:
        """The key that is pressed within so many seconds, if any."""
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1) if ready else None
