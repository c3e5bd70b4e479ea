"""``make crash-event-store N=300``: kill a bank over SQLite and over PostgreSQL, and its projections, so often."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import psycopg

from merganser.verify import verify
from tests.crash.event_store import PROJECTIONS, Job, check, make_flow, storm
from tests.event_stores import sqlite
from tests.postgres import Server

TURNS = 10
"""Times that each of the three is killed over one event store."""


def main() -> None:
    wanted, began = int(sys.argv[1]), time.monotonic()
    killed = 0
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # PostgreSQL runs as a user of its own
        server = Server(Path(name) / "postgres")
        server.folder.mkdir()
        server.start()
        try:
            for seed in range(1, 1 << 30):
                folder = Path(name) / str(seed)
                folder.mkdir()
                where = sqlite(folder) if seed % 2 else _database(server, f"round{seed}")
                storm(where, folder, seed, TURNS)
                events = check(where, folder)
                for projection in PROJECTIONS:
                    job = Job(where, flow=projection, folder=str(folder))
                    assert all(found.ok for found in verify([make_flow(job)], job.store))
                killed += TURNS * (1 + len(PROJECTIONS))
                print(f"{killed} kills, {events} events of this store each once, {time.monotonic() - began:.0f} s", flush=True)
                if killed >= wanted:
                    return
        finally:
            server.stop()


def _database(server: Server, name: str) -> str:
    with psycopg.connect(server.url("postgres"), autocommit=True) as con:
        con.execute(f"CREATE DATABASE {name}".encode())
    return server.url(name)


if __name__ == "__main__":
    main()
