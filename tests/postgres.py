"""A real PostgreSQL server on loopback, from what Debian's package ``postgresql`` installs, and databases of a test's own.

``python -m tests.postgres FILE WATCHED-PID`` runs one until the process WATCHED-PID is gone.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.services import MissingError, free_ports, listens, shared, wait_for_end


def programs() -> Path:
    """The folder of the server's programs, the newest there are."""
    found = shutil.which("postgres")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parent.parent.name))
    if found is None and not folders:
        raise MissingError("PostgreSQL is needed: apt-get install postgresql")
    return Path(found).parent if found else folders[-1].parent


def _user() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.getuid():
        return {}
    try:
        return {"user": pwd.getpwnam("postgres").pw_uid}
    except KeyError:
        return {"user": pwd.getpwnam("nobody").pw_uid}


@dataclass
class Server:
    """One server over a folder of its own."""

    folder: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        data = self.folder / "data"
        as_user = _user()
        if not data.exists():
            if as_user:
                os.chown(self.folder, as_user["user"], -1)
            command = [str(programs() / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-N", "--no-instructions"]
            made = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, **as_user)
            assert made.returncode == 0, made.stdout + made.stderr
        settings = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "max_connections": "200",
            "max_prepared_transactions": "4", "shared_buffers": "16MB", "logging_collector": "off",
        }  # fmt: skip
        more = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(programs() / "postgres"), "-D", str(data), "-p", str(self.port), *more]
        with (self.folder / "log").open("ab") as out:
            self._process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **as_user)
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline and self._process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.05)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # at once, and in order
            self._process.wait(30)
            self._process = None


@dataclass(frozen=True)
class Postgres:
    """The server of the run."""

    port: int

    def database(self) -> str:
        """The URL of a database that is new."""
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(f"postgresql://postgres@127.0.0.1:{self.port}/postgres", autocommit=True) as con:
            con.execute(f'CREATE DATABASE "{name}"'.encode())
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL server; without it the test is skipped, in CI it fails."""
    yield Postgres(int(shared("tests.postgres", programs, tmp_path_factory)["port"]))


def main() -> None:
    file, watched = Path(sys.argv[1]), int(sys.argv[2])
    folder = Path(tempfile.mkdtemp(prefix="merganser-postgres-"))
    server = Server(folder)
    try:
        try:
            server.start()
        except Exception as error:
            listens(file, {"error": f"PostgreSQL does not start: {error}"})
            raise
        listens(file, {"port": str(server.port)})
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        wait_for_end(watched)
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
