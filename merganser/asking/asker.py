"""Asks the questions of an epoch, several at once, and returns their answers in the order of the questions.

An attempt that fails is made again with longer and longer pauses. One that fails because of the question itself is made
``ATTEMPTS`` times, and then there is no answer. One that found the service away does not count: the question waits, with all
others, until the service is back (``Breaker``); for how long is up to the run.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from datetime import time as clock_time
from decimal import Decimal
from typing import Any
from uuid import UUID

import stamina

from merganser.asking import BAD_ANSWER, NOT_ANSWERED, NOTHING, Answer, Failure, Service, http
from merganser.asking.attempts import AwayError, NoUseError
from merganser.asking.breaker import Breaker
from merganser.errors import FetchError

logging.getLogger("stamina").setLevel(logging.ERROR)  # it warns of each retry; what people need to know the breaker says

ATTEMPTS = 5

BACKOFF = {"wait_initial": 0.1, "wait_max": 5.0, "wait_jitter": 0.2}
"""Seconds between attempts: twice as long each time."""

PATIENCE = 60.0
"""Seconds that a run with an end waits for a service that is away."""

GRACE = 10.0
"""Seconds that a run that is to stop waits for answers."""

LOOK = 0.1

Ask = Callable[[dict[str, Any]], Awaitable[Answer]]


@dataclass(slots=True)
class Asked:
    """What came of the questions since the run began."""

    attempts: int = 0
    answered: int = 0
    nothing: int = 0
    """Answers that there is no such thing."""
    failed: int = 0
    reused: int = 0
    """Rows that needed no question: their answer was kept, or asked for by another row."""
    seconds: float = 0.0
    """Time that epochs waited for answers."""
    open: bool = False
    """Whether the circuit is open: the service does not answer."""


class Asker:
    """Asks one service. For one thread; what a run shows of it, others may read."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.asked = Asked()
        self.patient = False
        """Whether to wait for a service that is away for ever: in a run without an end."""
        self.stopping: Callable[[], bool] = lambda: False
        self.failing: Callable[[], bool] = lambda: False
        self._breaker = Breaker(f"fetch {service.name!r}")

    def ask(self, keys: Sequence[dict[str, Any]]) -> list[Answer | Failure]:
        """The answers to some questions, each the values of a key by column. Raises FetchError if it was in vain to wait."""
        if not keys:
            return []
        began = time.monotonic()
        try:
            return asyncio.run(self._all(keys))
        finally:
            self.asked.seconds += time.monotonic() - began
            self.asked.open = self._breaker.opened is not None

    async def _all(self, keys: Sequence[dict[str, Any]]) -> list[Answer | Failure]:
        answers: list[Answer | Failure] = [NOTHING] * len(keys)
        left = iter(range(len(keys)))
        alone = asyncio.Lock()

        async def work(ask: Ask) -> None:
            for place in left:
                answers[place] = await self._question(ask, keys[place], alone)
                self._count(answers[place])

        async with self._attempt() as ask:
            workers = asyncio.gather(*(work(ask) for _ in range(min(self.service.concurrency, len(keys)))))
            stop_asked: float | None = None
            while not workers.done():
                await asyncio.wait([workers], timeout=LOOK)
                if stop_asked is None and self.stopping():
                    stop_asked = time.monotonic()
                if (why := self._in_vain(stop_asked)) and not workers.done():
                    workers.cancel()
                    await asyncio.gather(workers, return_exceptions=True)
                    raise FetchError(
                        f"{why} Nothing of this epoch was kept, all before it is safe: run again, and it asks again"
                    )
            await workers
        return answers

    def _count(self, answer: Answer | Failure) -> None:
        if isinstance(answer, Failure):
            self.asked.failed += 1
        elif answer is NOTHING:
            self.asked.nothing += 1
        else:
            self.asked.answered += 1

    def _in_vain(self, stop_asked: float | None) -> str | None:
        """Why there is no use in waiting on."""
        breaker, now = self._breaker, time.monotonic()
        self.asked.open = breaker.opened is not None
        away = f"{breaker.name} does not answer ({breaker.last})"
        if self.failing():
            return "The run failed elsewhere."
        if stop_asked is not None and now - stop_asked > GRACE:
            return f"{away if self.asked.open else f'{breaker.name} is slow'}, and the run is to stop."
        if breaker.opened is not None and not self.patient and now - breaker.opened > PATIENCE:
            return f"{away} for {PATIENCE:.0f} s."
        return None

    async def _question(self, ask: Ask, key: dict[str, Any], alone: asyncio.Lock) -> Answer | Failure:
        """An answer, after as many attempts as it takes."""
        breaker, mine, probe, identity = self._breaker, 0, False, tuple(key.items())

        def again(error: BaseException) -> bool:
            nonlocal mine
            if not isinstance(error, Exception):
                return False  # cancelled: the retries see that too
            if isinstance(error, NoUseError):
                if error.reached:
                    breaker.succeeded()  # an answer, if not a good one
                return False
            away = isinstance(error, (AwayError, ConnectionError))
            breaker.failed(identity, _said(error), away=away, probe=probe, retry_after=getattr(error, "retry_after", None))
            mine += not away and breaker.opened is None
            return mine < ATTEMPTS

        try:
            async for attempt in stamina.retry_context(on=again, attempts=None, timeout=None, **BACKOFF):
                with attempt:
                    probe = await breaker.turn(alone)
                    self.asked.attempts += 1
                    answer = await ask(key)
                    breaker.succeeded()
                    return answer
        except NoUseError as error:
            return error.failure
        except Exception as error:
            return Failure(NOT_ANSWERED, f"{_said(error)}; asked {mine} times")
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[Ask]:
        """How to ask once."""
        service = self.service
        fn = service.ask
        if isinstance(fn, str):
            url = fn
            async with http.client(service) as client:
                yield lambda key: http.ask(client, url, key)
        elif inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__):
            async def asked(key: dict[str, Any]) -> Answer:
                try:
                    async with asyncio.timeout(service.timeout):
                        return told(await fn(*key.values()))
                except TimeoutError:
                    raise RuntimeError(f"no answer within {service.timeout:g} s") from None

            yield asked
        else:
            with ThreadPoolExecutor(service.concurrency, "merganser-fetch") as threads:
                loop = asyncio.get_running_loop()

                async def in_thread(key: dict[str, Any]) -> Answer:
                    return told(await loop.run_in_executor(threads, lambda: fn(*key.values())))

                yield in_thread


def told(answer: object) -> Answer:
    """What a function returned, as JSON text. Raises NoUseError for what is no answer."""
    if answer is None:
        return NOTHING
    if not isinstance(answer, Mapping):
        raise NoUseError(Failure(BAD_ANSWER, f"the function returned a {type(answer).__name__}; it must be a mapping, or None"))
    try:
        return json.dumps(dict(answer), default=_plain, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise NoUseError(Failure(BAD_ANSWER, f"what the function returned cannot be kept as JSON: {error}")) from None


def _plain(value: object) -> object:
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, (datetime, date, clock_time)):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} is no JSON value")


def _said(error: Exception) -> str:
    text = str(error)
    if isinstance(error, (AwayError, RuntimeError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
