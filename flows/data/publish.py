"""Publish the flights to a Kafka topic of one partition, in the order of the files; does nothing if the topic is there.

    python flows/data/publish.py localhost:9092 flights
"""

from __future__ import annotations

import sys
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic


def publish(brokers: str, topic: str) -> int:
    """Publish each line of the files as a message. Returns how many there are."""
    admin = AdminClient({"bootstrap.servers": brokers})
    if topic in admin.list_topics(timeout=30).topics:
        return 0
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 20, "enable.idempotence": True})
    count = 0
    for path in sorted((Path(__file__).parent / "flights").glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            producer.produce(topic, line)
            count += 1
        producer.flush()
    return count


if __name__ == "__main__":
    print(f"published {publish(sys.argv[1], sys.argv[2]):,} flights")
