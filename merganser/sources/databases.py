"""Readers of a log in a database, which may be away for a while."""

from __future__ import annotations

import logging
import time
from typing import Generic, Protocol, TypeVar

from merganser.codecs import Chunk
from merganser.errors import MerganserError, SourceError

AGAIN = 1.0
"""Seconds before a database that is away is tried again."""

log = logging.getLogger("merganser")


class AwayError(MerganserError):
    """The database cannot be reached now."""


class Closes(Protocol):
    def close(self) -> None: ...


L = TypeVar("L", bound=Closes)


class DatabaseReader(Generic[L]):
    """Opens a log, and reads its only partition. A database that goes away while following is waited for, and opened anew.

    One that is away from the beginning is an error, and so is one that goes away in a run that does not follow.
    """

    immutable = False

    def __init__(self, source: str, follow: bool) -> None:
        self._source, self._follow = source, follow
        self._opened: L | None = None
        self._away = False
        self._again = 0.0
        """When to look again: nothing is asked before."""

    @property
    def finished(self) -> bool:
        raise NotImplementedError

    def _open(self) -> L | None:
        """The log; None as long as there is none. Raises AwayError, as all of these may."""
        raise NotImplementedError

    def _begin(self, opened: L) -> None:
        """Look at a log that was just opened: whether it can be read on, and where to end."""
        raise NotImplementedError

    def _read(self, opened: L, max_bytes: int) -> Chunk | None:
        raise NotImplementedError

    def read(self, max_bytes: int) -> Chunk | None:
        if self.finished or time.monotonic() < self._again:
            return None
        try:
            if self._opened is None:
                self._opened = self._open()
                if self._opened is None:
                    return None
                self._begin(self._opened)
            chunk = None if self.finished else self._read(self._opened, max_bytes)
        except AwayError as error:
            if not self._follow or (self._opened is None and not self._away):
                raise SourceError(f"source {self._source!r}: {error}") from None
            if not self._away:
                log.warning("source %r: %s; trying again until it is there", self._source, error)
            self._away, self._again = True, time.monotonic() + AGAIN
            self.close()
            return None
        self._away = False
        return chunk

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
