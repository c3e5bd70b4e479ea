"""A real schema registry that speaks the Confluent API: Apicurio Registry, in memory, on loopback, from Maven Central.

``python -m tests.apicurio URL-FILE WATCHED-PID`` runs one until the process WATCHED-PID is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.services import fetched, free_ports, listens, shared, wait_for_end

VERSION = "2.6.13.Final"
"""The last of those that need no more than Java 17 and can be unpacked by Maven alone."""

UNPACK = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack"


@dataclass
class Apicurio:
    """A registry; ``url`` is that of its Confluent API."""

    url: str

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """What it answers, as JSON. Raises HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def add(self, subject: str, schema: str, kind: str = "AVRO", references: list[dict[str, Any]] | None = None) -> int:
        """Register a schema; returns its id."""
        body = {"schema": schema, "schemaType": kind, "references": references or []}
        return int(self.ask(f"/subjects/{subject}/versions", body)["id"])


def home() -> Path:
    artifact = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
    return fetched(f"apicurio-{VERSION}", "Apicurio Registry", UNPACK, f"-Dartifact={artifact}")


def serve(file: Path, watched: int) -> None:
    """Run a registry until a process is gone; write where it listens to ``file``."""
    [port] = free_ports(1)
    java = ["java", "-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    options = [f"-Dquarkus.http.port={port}", "-Dquarkus.http.host=127.0.0.1"]
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="merganser-apicurio-") as folder, (Path(folder) / "log").open("wb") as log:
        jar = str(home() / f"apicurio-registry-app-{VERSION}-runner.jar")
        process = subprocess.Popen([*java, *options, "-jar", jar], cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    Apicurio(url).ask("/subjects")
                    break
                time.sleep(0.1)
            if process.poll() is not None:
                listens(file, {"error": (Path(folder) / "log").read_text()[-3000:]})
                return
            listens(file, {"url": url})
            wait_for_end(watched)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def apicurio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    """A registry: the one at MERGANSER_TEST_REGISTRY, else our own."""
    named = os.environ.get("MERGANSER_TEST_REGISTRY")
    yield Apicurio(named) if named else Apicurio(**shared("tests.apicurio", home, tmp_path_factory))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
