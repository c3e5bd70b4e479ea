"""A circuit breaker: while a service does not answer, it is asked once in a while only, and everybody waits."""

from __future__ import annotations

import asyncio
import logging
import time

log = logging.getLogger("merganser.fetch")

AWAY = 3
"""Attempts in a row that found the service away, after which the circuit opens."""

FAILING = 10
"""Attempts in a row that failed in any way, of ``SEVERAL`` questions at least, after which it opens too."""

SEVERAL = 3
"""One question that fails each time says nothing of the service."""

PAUSE = (0.5, 30.0)
"""Seconds between attempts while the circuit is open, the first time and at most."""


class Breaker:
    """Closed: everybody asks. Open: one attempt, then a longer pause, until one succeeds. Used within one event loop at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.opened: float | None = None
        """Since when it is open, by the monotonic clock."""
        self.last = ""
        """What the last attempt failed with."""
        self._away = self._failed = 0
        self._questions: set[object] = set()
        self._pause = PAUSE[0]
        self._not_before = 0.0

    async def turn(self, one_at_a_time: asyncio.Lock) -> bool:
        """Wait until an attempt may be made. True if it is the one that finds out whether the service is back."""
        while self.opened is not None:
            async with one_at_a_time:
                if self.opened is None:
                    break
                await asyncio.sleep(self._pause)
                await self._obey()
                return True
        await self._obey()
        return False

    async def _obey(self) -> None:
        """Wait as long as the service asked for."""
        while (left := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def succeeded(self) -> None:
        if self.opened is not None:
            log.warning("%s answers again after %.0f s", self.name, time.monotonic() - self.opened)
        self.opened, self._away, self._failed, self._pause = None, 0, 0, PAUSE[0]
        self._questions.clear()

    def failed(self, question: object, error: str, *, away: bool, probe: bool, retry_after: float | None) -> None:
        """Note an attempt that failed; ``away``: because of the service, whatever was asked. ``probe``: as ``turn`` said."""
        self.last = error
        self._away = self._away + 1 if away else 0
        self._failed += 1
        self._questions.add(question)
        if retry_after is not None:
            self._not_before = max(self._not_before, time.monotonic() + retry_after)
        if self.opened is not None:
            if probe:  # and not the others that were under way when it opened
                self._pause = min(2 * self._pause, PAUSE[1])
        elif self._away >= AWAY or (self._failed >= FAILING and len(self._questions) >= SEVERAL):
            self.opened = time.monotonic()
            log.warning("%s does not answer (%s); the flow waits and tries again", self.name, error)
