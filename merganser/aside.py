"""Work that may hang, done where it can be left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def aside(work: Callable[[], T], name: str) -> Future[T]:
    """What ``work`` will return or raise, from a thread of this name, which the process does not wait for at its end."""
    found: Future[T] = Future()

    def done() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=done, name=name, daemon=True).start()
    return found
