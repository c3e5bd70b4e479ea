"""Running, following and stopping."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import merganser as mg
from tests.flows import at, balanced, event, rows, source

DEADLINE = 30.0


def _flow(connector, **more) -> mg.Flow:
    flow = mg.Flow("f")
    flow.read(source(connector, **more)).group_by("key").aggregate(n="count(*)").materialize("v")
    return flow


def _until(condition) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)  # polling, with a deadline


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers(workers: int, tmp_path: Path) -> None:
    connector = mg.memory({f"p{p}": [event(f"{p}-{i}", i, "abc"[i % 3]) for i in range(300)] for p in range(3)})
    mg.run([_flow(connector)], tmp_path / "s.duckdb", workers=workers, chunk_bytes=500, epoch=0)
    assert rows(tmp_path / "s.duckdb", "FROM v ORDER BY key") == [("a", 300), ("b", 300), ("c", 300)]
    balanced(tmp_path / "s.duckdb")


def test_following_sees_what_is_appended_and_stops_with_all_of_it(tmp_path: Path) -> None:
    connector = mg.memory({"0": [event("a", 0)]})
    stop, seen = threading.Event(), []
    worker = threading.Thread(
        target=mg.run, args=([_flow(connector)], tmp_path / "s.duckdb"),
        kwargs={"follow": True, "epoch": 0.05, "stop": stop, "progress": seen.append},
    )  # fmt: skip
    worker.start()
    try:
        _until(lambda: seen and seen[0].committed == 1)
        connector.feed(event("b", 1))
        connector.feed(event("c", 2), "new partition")
        _until(lambda: seen[0].committed == 3)
        connector.feed(event("d", 3))
    finally:
        stop.set()
        worker.join(DEADLINE)
    assert not worker.is_alive()
    mg.run([_flow(connector)], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT n FROM v") == [(4,)]
    balanced(tmp_path / "s.duckdb")


CHILD = """
import sys
from pathlib import Path
import merganser as mg
folder = Path(sys.argv[1])
flow = mg.Flow("f")
schema = {"id": "VARCHAR", "at": "TIMESTAMP", "key": "VARCHAR", "n": "BIGINT"}
events = mg.source("events", mg.files(folder / "events"), schema=schema, time="at")
flow.read(events).group_by("key").aggregate(n="count(*)").materialize("v")
report = mg.run([flow], folder / "s.duckdb", follow=True, epoch=0.05, progress=lambda p: print("began", flush=True))
print("stopped" if report.stopped else "ended", report.progressed.committed, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_everything_committed(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    log = tmp_path / "events" / "a.jsonl"
    log.write_text(json.dumps(event("a", 0)) + "\n" + '{"id": "half')
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "began\n"
        child.send_signal(number)
        out, err = child.communicate(timeout=DEADLINE)
    assert (child.returncode, err) == (0, "")
    assert out.startswith("stopped")
    log.write_text(json.dumps(event("a", 0)) + "\n" + json.dumps(event("half", 1)) + "\n")
    flow = mg.Flow("f")
    schema = {"id": "VARCHAR", "at": "TIMESTAMP", "key": "VARCHAR", "n": "BIGINT"}
    events = mg.source("events", mg.files(tmp_path / "events"), schema=schema, time="at")
    flow.read(events).group_by("key").aggregate(n="count(*)").materialize("v")
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "FROM v") == [("k", 2)]


def test_event_times_that_cannot_be(tmp_path: Path) -> None:
    events = [event("a", 0)]
    events += [event(id, 1) | {"at": when} for id, when in (("b", "2999-01-01"), ("c", None), ("d", "-infinity"))]
    flow = mg.Flow("f")
    flow.read(source(events)).window(mg.tumbling("1 hour")).aggregate(n="count(*)").materialize("v")
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT window_start::VARCHAR, n FROM v") == [(at(0), 1)]
    found = rows(tmp_path / "s.duckdb", "SELECT reason, raw FROM merganser.dead_letters ORDER BY seq")
    assert [r for r, _ in found] == ["event time ahead", "no event time", "impossible event time"]
    assert [json.loads(raw)["id"] for _, raw in found] == ["b", "c", "d"]
    balanced(tmp_path / "s.duckdb")


def test_on_error_stop_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(mg.RecordError, match=r"memory:0:2, byte \d+: source 'events' has a bad record \(not json\)"):
        mg.run([_flow([event("a", 0), b"{", event("b", 1)], on_error="stop")], tmp_path / "s.duckdb")
