"""Named points at which a test may end the process by SIGKILL, so that crashes are inputs of tests and not mocks.

A test's child process calls ``arm``; nobody else does, and then a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POINTS = (
    "read.after",
    "decode.after",
    "epoch.begin",
    "step.deduplicate",
    "step.aggregate",
    "step.latest",
    "step.append",
    "step.session",
    "step.order",
    "step.fold",
    "step.process",
    "step.join",
    "step.enrich",
    "step.fetch",
    "step.write",
    "sink.before",
    "sink.within",
    "sink.after",
    "books.before",
    "commit.before",
    "commit.in",
    "commit.after",
    "checkpoint.before",
    "checkpoint.after",
    "rebuild.before",
    "rebuild.after",
    "redrive.before",
    "redrive.after",
)

_armed: str | None = None
_left = 0
_raise = False


class Crash(BaseException):
    """What a simulated crash raises: nothing catches it but who asked for it."""


def arm(name: str, count: int) -> None:
    """End this process the ``count``-th time that it comes to a point."""
    global _armed, _left
    assert name in POINTS
    _armed, _left = name, count


def simulate(name: str | None) -> None:
    """Raise ``Crash`` the next time that this process comes to a point, instead of ending it; None: no longer."""
    global _armed, _left, _raise
    _armed, _left, _raise = name, 1, name is not None


def point(name: str) -> None:
    """Die here, if a test asked for it."""
    global _left
    if name == _armed:
        _left -= 1
        if _left <= 0 and _raise:
            simulate(None)
            raise Crash
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def during(name: str, grows: Path) -> Iterator[None]:
    """Die while what is inside goes on, as soon as it has begun to write to a file; behind it, if it never does."""
    global _left
    if name != _armed or (_left := _left - 1) > 0:
        yield
        return
    before = _size(grows)

    def watch() -> None:
        while _size(grows) == before:
            pass  # not a sleep: the whole write may take a millisecond
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    yield
    os.kill(os.getpid(), signal.SIGKILL)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
