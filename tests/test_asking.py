"""The circuit breaker, apart from what it protects."""

from __future__ import annotations

import asyncio

import pytest

from merganser.asking import breaker
from merganser.asking.breaker import AWAY, FAILING, Breaker


def _fail(circuit: Breaker, question: str = "q", *, away: bool = False, probe: bool = False) -> None:
    circuit.failed(question, "no", away=away, probe=probe, retry_after=None)


def test_it_opens_when_the_service_is_away_a_few_times_in_a_row() -> None:
    circuit = Breaker("s")
    for _ in range(3):
        for _ in range(AWAY - 1):
            _fail(circuit, away=True)
        circuit.succeeded()
    assert circuit.opened is None
    for _ in range(AWAY):
        _fail(circuit, away=True)
    assert circuit.opened is not None and circuit.last == "no"


def test_one_question_that_fails_does_not_open_it_and_several_do() -> None:
    circuit = Breaker("s")
    for _ in range(5 * FAILING):
        _fail(circuit)
    assert circuit.opened is None
    for question in "ab":
        _fail(circuit, question)
    assert circuit.opened is not None


def test_pauses_grow_with_attempts_to_find_out_and_not_with_those_that_were_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(breaker.asyncio, "sleep", sleep)
    circuit = Breaker("s")

    async def attempts() -> None:
        alone = asyncio.Lock()
        assert not await circuit.turn(alone)
        for _ in range(20):
            _fail(circuit, away=True)
        for _ in range(8):
            assert await circuit.turn(alone)
            _fail(circuit, away=True, probe=True)
        circuit.succeeded()
        assert not await circuit.turn(alone)

    asyncio.run(attempts())
    assert slept == [0.5, 1, 2, 4, 8, 16, 30, 30]
