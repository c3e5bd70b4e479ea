"""``make crash-kafka N=200``: kill the flow from Kafka to Kafka so often; in each twenty times the broker twice, once with it."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from merganser.verify import verify
from tests.crash.kafka import PARTITIONS, Job, Publisher, attempt, check, killed, killed_with_broker, make_flow, store_of
from tests.kafka.broker import Broker
from tests.kafka.fixture import Kafka

ROUND = 20
"""Kills of the flow for each pair of topics."""


def main() -> None:
    wanted, began = int(sys.argv[1]), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "broker"
        folder.mkdir()
        broker = Broker(folder)
        broker.start()
        try:
            kafka = Kafka(broker.address)
            for seed in range(-(-wanted // ROUND)):
                rows = one_round(kafka, broker, seed, Path(name) / f"round-{seed}")
                seconds = time.monotonic() - began
                kills = f"{(seed + 1) * ROUND} kills, {2 * (seed + 1)} of the broker"
                print(f"{kills}, {rows} rows sent once, {seconds:.0f} s", flush=True)
        finally:
            broker.kill()


def one_round(kafka: Kafka, broker: Broker, seed: int, folder: Path) -> int:
    folder.mkdir()
    job = Job(kafka.plain, kafka.topic(PARTITIONS), kafka.topic(PARTITIONS), store_of(folder))
    chance = random.Random(seed)
    publisher = Publisher(kafka, job.topic, seed, 100_000)
    publisher.start()
    restarted, together = chance.sample(range(2, ROUND), 2)
    for number in range(ROUND):
        if number == restarted:  # a flow that runs goes on through it
            with ThreadPoolExecutor(1) as pool:
                flow = pool.submit(attempt, job, chance.uniform(8.0, 12.0))
                time.sleep(chance.uniform(1.0, 3.0))
                broker.kill()
                broker.start()
                assert flow.result() == -9
        elif number == together:
            killed_with_broker(job, broker, chance)
        else:
            killed(job, chance, 2.0)
    publisher.stop.set()
    publisher.join(120)
    assert publisher.failure is None and publisher.published > 100, publisher.failure
    assert attempt(replace(job, follow=False)) == 0
    rows = check(kafka, job)
    assert all(found.ok for found in verify([make_flow(job)], job.store))
    return rows


if __name__ == "__main__":
    main()
