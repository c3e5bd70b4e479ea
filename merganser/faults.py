"""Named points at which a test may end the process by SIGKILL, so that crashes are inputs of tests and not mocks.

A test's child process calls ``arm``; nobody else does, and then a point costs one comparison.
"""

from __future__ import annotations

import os
import signal

POINTS = (
    "read.after",
    "decode.after",
    "epoch.begin",
    "step.deduplicate",
    "step.aggregate",
    "step.latest",
    "step.append",
    "books.before",
    "commit.before",
    "commit.after",
    "checkpoint.before",
    "checkpoint.after",
    "rebuild.before",
    "rebuild.after",
)

_armed: str | None = None
_left = 0


def arm(name: str, count: int) -> None:
    """End this process the ``count``-th time that it comes to a point."""
    global _armed, _left
    assert name in POINTS
    _armed, _left = name, count


def point(name: str) -> None:
    """Die here, if a test asked for it."""
    global _left
    if name == _armed:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
