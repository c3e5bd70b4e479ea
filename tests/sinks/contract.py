"""What every sink promises (merganser/sinks/__init__.py), checked over whatever ``Case`` describes."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from merganser.sinks import Sent, Writer


@dataclass(frozen=True)
class Case:
    """A sink: ``open`` makes a writer as another process would, ``content`` is what a reader finds there, in order."""

    open: Callable[[str], Writer]
    """Given the sender."""
    content: Callable[[], list[bytes | None]]


def rows(first: int, last: int) -> list[Sent]:
    """Rows by number; every fifth deletes its key."""
    return [
        Sent(n, n // 3, b"key-%d" % (n % 4), None if n % 5 == 0 else b'{"n": %d, "text": "line\xc3\xa4"}' % n)
        for n in range(first, last + 1)
    ]


def values(count: int) -> list[bytes | None]:
    return [row.value for row in rows(1, count)]


def check(case: Case, seed: int) -> None:
    """Rows come in their order, each once, with writers that end at any time, and another sender in between."""
    chance = random.Random(seed)
    mine, others = uuid.uuid4().hex[:8], uuid.uuid4().hex[:8]
    writer = case.open(mine)
    assert writer.last() == 0
    at = 0
    while at < 40:
        end = min(40, at + chance.randrange(1, 12))
        writer.send(rows(at + 1, end))
        at = end
        if chance.random() < 0.5:
            if chance.random() < 0.5:
                writer.close()  # else it is as if its process had been killed
            writer = case.open(mine)
            assert writer.last() == at
    writer.close()
    assert case.content() == values(40)
    other = case.open(others)
    assert other.last() == 0
    other.send(rows(1, 3))
    other.close()
    again = case.open(mine)
    assert again.last() == 40
    again.close()
    assert sorted(case.content(), key=repr) == sorted(values(40) + values(3), key=repr)
