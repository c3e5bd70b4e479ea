"""``make bench-kafka``: flows that read a topic, next to a loop over ``consume()`` that decodes nothing, beside one broker.

Each measurement is a process of its own, taken in turn, the better of two, and runs a small flow first (imports, compilation).
The broker runs on the same cores, so events a second say less than CPU seconds a million do; those are of the measured
process only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

import merganser as mg

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parent.parent))
from generate import generate  # a script beside this one
from run import SCHEMA, batch_of

from tests.kafka.broker import Broker, jars
from tests.kafka.fixture import Kafka
from tests.services import MissingError

PARTITIONS = 4
JOBS = {
    "bare": "consume(10_000) in a loop, nothing decoded",
    "K1": "J1 from Kafka: JSON, deduplicate, one-minute windows per customer, count and sum",
    "K2": "keys only: count per customer",
}


def publish(kafka: Kafka, topic: str, lines: Path, most: int | None = None) -> int:
    """The events of a file, keyed by customer; ``most`` of them."""
    producer = kafka.producer(compression_type="lz4", linger_ms=50, queue_buffering_max_messages=2_000_000)
    count = 0
    with lines.open("rb") as file:
        for count, line in enumerate(islice(file, most), 1):
            key = line[line.index(b'"customer_id":') + 14 :].split(b",", 1)[0]
            while True:
                try:
                    producer.produce(topic, line[:-1], key, partition=int(key) % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.1)
            if count % 10_000 == 0:
                producer.poll(0)
    assert producer.flush(120) == 0
    return count


def flow_of(job: str, brokers: str, topic: str) -> mg.Flow:
    flow = mg.Flow(job)
    if job == "K2":
        keys = mg.source("keys", mg.kafka(topic, brokers=brokers, key="customer_id"), schema={"customer_id": "INTEGER"})
        flow.read(keys).group_by("customer_id").aggregate(n="count(*)").materialize("v")
        return flow
    connector = mg.kafka(topic, brokers=brokers)
    orders = mg.source("orders", connector, schema=SCHEMA, time="placed_at", lateness="10 seconds", id="event_id")
    once = flow.read(orders).filter("amount > 0").deduplicate(within="10 minutes")
    once.window(mg.tumbling("1 minute"), by="customer_id").aggregate(n="count(*)", total="sum(amount)").materialize("v")
    return flow


def bare(brokers: str, topic: str, count: int) -> None:
    config = {"bootstrap.servers": brokers, "group.id": "bare", "isolation.level": "read_committed", "fetch.queue.backoff.ms": 2}
    consumer = Consumer(config)
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    read = 0
    while read < count:
        read += len(consumer.consume(10_000, timeout=1.0))
    consumer.close()


def measure(job: str, brokers: str, topic: str, count: int, lines: Path, workers: int) -> dict[str, float]:
    """One measurement, in this process: seconds and CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "s.duckdb"
        if job != "bare":
            mg.run([flow_of(job, brokers, f"{topic}-small")], Path(folder) / "small.duckdb", workers=workers)
            flow = flow_of(job, brokers, topic)
        began, cpu = time.perf_counter(), time.process_time()
        if job == "bare":
            bare(brokers, topic, count)
        else:
            mg.run([flow], store, workers=workers)
        result = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        if job == "K1":
            check(store, lines)
    return result


def check(store: Path, lines: Path) -> None:
    con = duckdb.connect()
    con.execute(f"ATTACH '{store}' AS s (READ_ONLY)")
    con.execute(f"CREATE TABLE expected AS {batch_of('J1', lines)}")
    same = "e.customer_id = v.customer_id AND e.window_start = v.window_start AND e.n = v.n AND abs(e.total - v.total) < 1e-6"
    equal_rows = f"(SELECT count(*) FROM expected e JOIN s.v v ON {same})"
    sql = f"SELECT (SELECT count(*) FROM expected), (SELECT count(*) FROM s.v), {equal_rows}"
    expected, found, equal = con.execute(sql).fetchall()[0]
    if not expected == found == equal:
        raise SystemExit(f"K1: {expected} groups in batch SQL, {found} in the view, {equal} equal")


def latency(kafka: Kafka, rate: int, seconds: float, epoch: float) -> dict[str, Any]:
    """From the moment that an event is published to the moment that the epoch with it is committed, in milliseconds."""
    topic = kafka.topic(PARTITIONS)
    flow = mg.Flow("latency")
    connector = mg.kafka(topic, brokers=kafka.plain)
    events = mg.source("events", connector, schema={"id": "BIGINT", "customer_id": "INTEGER", "sent": "BIGINT"}, id="id")
    flow.read(events).group_by("customer_id").aggregate(n="count(*)", newest="max(sent)").materialize("v")
    stop = threading.Event()
    seen: list[tuple[int, int]] = []
    progress: list[Any] = []

    def watch() -> None:
        committed = 0
        while not stop.is_set():
            if progress and progress[0].committed != committed:
                committed = progress[0].committed
                seen.append((time.time_ns(), committed))
            time.sleep(0.002)

    def produce() -> None:
        command = [sys.executable, __file__, "--produce", kafka.plain, topic, str(rate), str(seconds)]
        subprocess.run(command, check=True)
        deadline = time.monotonic() + 60
        while progress[0].committed < int(rate * seconds) and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as folder:
        producer = threading.Thread(target=produce)
        producer.start()
        store = Path(folder) / "s.duckdb"
        mg.run([flow], store, follow=True, epoch=epoch, stop=stop, progress=progress.append)
        producer.join()
    watcher.join()
    sent = np.sort([int(json.loads(m.value())["sent"]) for m in kafka.read(topic)])
    count = len(sent)
    visible = np.zeros(count, np.int64)
    before = 0
    for moment, committed in seen:
        visible[before:committed] = moment
        before = committed
    late = (visible[count // 5 :] - sent[count // 5 :]) / 1e6  # the first fifth warms up
    return {"events": count, "p50": float(np.percentile(late, 50)), "p99": float(np.percentile(late, 99))}


def produce(brokers: str, topic: str, rate: int, seconds: float) -> None:
    producer = Kafka(brokers).producer(compression_type="lz4")
    began, number = time.perf_counter(), 0
    while number < rate * seconds:
        while number < (time.perf_counter() - began) * rate:
            value = b'{"id": %d, "customer_id": %d, "sent": %d}' % (number, number % 1000, time.time_ns())
            producer.produce(topic, value, partition=number % PARTITIONS)
            number += 1
        producer.poll(0)
        time.sleep(0.001)
    producer.flush(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rate", type=int, default=50_000)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--produce", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        job, brokers, topic, count, lines = options.one
        print(json.dumps(measure(job, brokers, topic, int(count), Path(lines), options.workers)))
        return
    if options.produce:
        brokers, topic, rate, seconds = options.produce
        produce(brokers, topic, int(rate), float(seconds))
        return
    try:
        jars()
    except MissingError as error:
        print(f"K1 and K2 are not measured here: {error}")
        return
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{datetime.date.today()}, {machine}, DuckDB {duckdb.__version__}, {options.workers} worker(s), the broker beside it")
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder), heap="1g")
        broker.start()
        try:
            report(Kafka(broker.address), options)
        finally:
            broker.kill()


def report(kafka: Kafka, options: argparse.Namespace) -> None:
    lines, _ = generate(options.data, options.events)
    topic = kafka.topic(PARTITIONS)
    publish(kafka, kafka.topic(PARTITIONS, f"{topic}-small"), lines, 1000)
    count = publish(kafka, topic, lines)
    best: dict[str, dict[str, float]] = {}
    for job in (*JOBS, *JOBS):
        command = [sys.executable, __file__, "--workers", str(options.workers), "--one", job, kafka.plain, topic, str(count)]
        done = subprocess.run([*command, str(lines)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr or done.stdout)
        result = json.loads(done.stdout)
        if job not in best or result["seconds"] < best[job]["seconds"]:
            best[job] = result
    print(f"| job | events/s | of the bare loop | CPU s/M |\n|{'---|' * 4}")
    for job, what in JOBS.items():
        rate, part = count / best[job]["seconds"], best["bare"]["seconds"] / best[job]["seconds"]
        print(f"| {job} {what}, {count / 1e6:g} M | {rate:,.0f} | {part:.2f} | {best[job]['cpu'] / count * 1e6:.2f} |")
    found = latency(kafka, options.rate, 15.0, 0.2)
    print(
        f"\n{options.rate:,} events/s steady, epochs of 200 ms, {found['events']:,} events: committed {found['p50']:.0f} ms (p50),"
        f" {found['p99']:.0f} ms (p99) after they were published"
    )


if __name__ == "__main__":
    main()
