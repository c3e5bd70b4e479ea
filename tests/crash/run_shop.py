"""``make crash-shop N=200``: kill the shop's flow and its service so often, and look at the books of each shop at the end."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.crash.harness import KILLED, child
from tests.crash.shop import FLOW_POINTS, Job, check, commands, follow_events, serve

ROUND = 20
"""Kills of each shop."""


def one_round(seed: int, folder: Path, *, kills: int, orders: int) -> int:
    """One shop, killed so often and then left alone until nothing is to be done. Returns how many commands there were."""
    chance = random.Random(seed)
    job = Job(str(folder))
    assert child(serve, replace(job, orders=orders // 4)) == 0
    left, placed = kills, orders // 4
    while left:
        placed = min(orders, placed + chance.randrange(orders // 3))
        works = chance.random() < 0.4
        each = replace(job, orders=placed, tick=chance.random() < 0.3) if works else job
        if not works and chance.random() < 0.6:
            each = replace(each, fault=(chance.choice(FLOW_POINTS), chance.randrange(1, 4)))
        code = child(serve if works else follow_events, each, chance.uniform(0.1, 1.5))
        assert code in (0, KILLED), f"it ended with {code}"
        left -= code == KILLED
    known = -1
    while (count := len(commands(folder))) > known:
        known = count
        for tick in (False, True):
            assert child(serve, replace(job, orders=orders, tick=tick)) == 0
            assert child(follow_events, job) == 0
    return check(folder, orders)


def main() -> None:
    wanted, began = int(sys.argv[1]), time.monotonic()
    for seed in range(-(-wanted // ROUND)):
        with tempfile.TemporaryDirectory() as name:
            count = one_round(1000 + seed, Path(name), kills=ROUND, orders=60)
        print(f"{(seed + 1) * ROUND} kills, {count} commands, each once, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
