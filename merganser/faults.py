"""Named points at which a test may kill the process, so that crashes are inputs of tests and not mocks.

``MERGANSER_FAULT=commit.before:3`` ends the process by SIGKILL the third time it comes to the point ``commit.before``.
Without the variable a point costs one comparison.
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

_name, _, _count = os.environ.get("MERGANSER_FAULT", "").partition(":")
_left = int(_count or 1)


def point(name: str) -> None:
    """Die here, if a test asked for it."""
    if not _name:
        return
    global _left
    if name == _name:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
