"""Servers that the workers of a test run share: the first one that asks starts it, and it ends when the run does."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

START = 180.0
"""Seconds that a server may take to start on a busy machine, fetching it included."""


class MissingError(Exception):
    """There is nothing here that a server could be made of; the message says what is missing."""


_started: list[subprocess.Popen[bytes]] = []
"""Kept, since a forgotten child is a warning. Each ends by itself when the test run does."""


def shared(module: str, fetch: Callable[[], Any], factory: pytest.TempPathFactory) -> dict[str, str]:
    """What ``python -m MODULE FILE WATCHED-PID`` writes to FILE, as JSON, once its server listens; ``error`` where it cannot.

    ``fetch`` gets what the server is made of. Without it the test is skipped.
    """
    folder = factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    file = folder / f"{module}.json"
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            try:
                fetch()
            except MissingError as error:
                pytest.skip(str(error))
            watched = os.getppid() if os.environ.get("PYTEST_XDIST_WORKER") else os.getpid()
            command = [sys.executable, "-m", module, str(file), str(watched)]
            with file.with_suffix(".err").open("wb") as err:
                _started.append(subprocess.Popen(
                    command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err
                ))  # fmt: skip
            deadline = time.monotonic() + START
            while not file.exists():
                assert time.monotonic() < deadline, f"no {module}: {file.with_suffix('.err').read_text()}"
                time.sleep(0.1)
    found: dict[str, str] = json.loads(file.read_text())
    assert "error" not in found, found["error"]
    return found


def listens(file: Path, found: dict[str, str]) -> None:
    """Tell those who wait where a server listens."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(file)


def wait_for_end(watched: int) -> None:
    """Until the process of this number is gone."""
    while True:
        try:
            os.kill(watched, 0)
        except ProcessLookupError:
            return
        time.sleep(0.5)


def fetched(name: str, what: str, *goal: str) -> Path:
    """A folder outside of the repository that Maven fills the first time: ``goal`` with ``-DoutputDirectory``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "merganser"
    folder = cache / name
    if folder.is_dir():
        return folder
    if not shutil.which("java") or not shutil.which("mvn"):
        raise MissingError(f"{what} needs java and mvn on the PATH")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as part:
        command = ["mvn", "-q", "-B", *goal, f"-DoutputDirectory={part}/made"]
        # It leaves its marks where it runs.
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=part)
        if done.returncode:
            raise MissingError(f"mvn could not fetch {what}:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
        with contextlib.suppress(OSError):  # another process was first
            (Path(part) / "made").rename(folder)
    return folder


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
