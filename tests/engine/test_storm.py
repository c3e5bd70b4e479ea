"""A storm of bad records pauses the source with one message, before anything is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

import merganser as mg
from merganser.errors import FlowError, SourceError
from tests.flows import event, rows, source


def make_flow(path: Path, **more: float | None) -> mg.Flow:
    flow = mg.Flow("f")
    flow.read(source(mg.files(path), **more)).materialize("kept")
    return flow


def write(path: Path, good: int, bad: int) -> None:
    import json

    lines = [json.dumps(event(f"e{i}", i)) for i in range(good)] + [f"<event nr={i}/>" for i in range(bad)]
    path.write_text("".join(line + "\n" for line in lines))


def test_a_storm_stops_the_run_and_keeps_nothing_of_its_epoch(tmp_path: Path) -> None:
    path, store = tmp_path / "e.jsonl", tmp_path / "s.duckdb"
    write(path, 900, 0)
    mg.run([make_flow(path)], store)
    write(path, 900, 1500)
    with pytest.raises(SourceError, match=r"source 'events' pauses: 1,500 of its last 1,500 records are bad, mostly 'not json'"):
        mg.run([make_flow(path)], store)
    assert rows(store, "SELECT count(*) FROM kept") == [(900,)]
    assert rows(store, "SELECT count(*) FROM merganser.dead_letters") == [(0,)]
    mg.run([make_flow(path, storm=None)], store)
    assert rows(store, "SELECT count(*) FROM merganser.dead_letters") == [(1500,)]


def test_bad_records_among_good_ones_are_no_storm(tmp_path: Path) -> None:
    path, store = tmp_path / "e.jsonl", tmp_path / "s.duckdb"
    write(path, 3000, 2000)
    mg.run([make_flow(path)], store)
    assert rows(store, "SELECT count(*) FROM merganser.dead_letters") == [(2000,)]
    with pytest.raises(FlowError, match="must be a share"):
        make_flow(path, storm=5.0)
