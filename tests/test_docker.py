"""What docker/ names is there. No engine is needed for that."""

from __future__ import annotations

import re
from pathlib import Path

from tests.kafka.broker import IMAGE

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
COMPOSE = (ROOT / "docker/compose.yaml").read_text()


def test_what_the_image_copies_and_runs_is_there() -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        for name in line.removeprefix("--chown=merganser ").split()[:-1]:
            assert (ROOT / name).exists(), name
    for name in re.findall(r'"((?:flows|connectors)/[^"]*\.py)"', DOCKERFILE + COMPOSE):
        assert (ROOT / name).is_file(), name


def test_compose_builds_stages_that_there_are() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE))
    assert set(re.findall(r"target: (\w+)", COMPOSE)) <= stages
    services = set(re.findall(r"^  (\w+):", COMPOSE.split("\nvolumes:")[0], re.MULTILINE))
    assert services == {"kafka", "registry", "publish", "flow", "jupyter"}
    assert set(re.findall(r"^      (\w+): \{condition", COMPOSE, re.MULTILINE)) <= services


def test_nothing_listens_beyond_this_machine() -> None:
    published = re.findall(r'ports: \["([^"]*)"\]', COMPOSE)
    assert published and all(port.startswith("127.0.0.1:") for port in published)


def test_the_flow_reads_the_topic_that_is_published() -> None:
    assert "FLIGHTS_KAFKA: kafka:9092" in COMPOSE and '"kafka:9092", "flights"' in COMPOSE
    assert "FLIGHTS_KAFKA" in (ROOT / "connectors/nyc.py").read_text()


def test_the_broker_is_the_one_that_tests_run() -> None:
    assert f"image: {IMAGE}" in COMPOSE
