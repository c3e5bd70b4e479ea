"""The committed events: what the script writes, byte for byte, and as disordered as their source declares."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from datetime import datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "flows/data/flights"


def test_the_script_writes_what_is_committed(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_events", ROOT / "flows/data/make_events.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = script.write(tmp_path, 1, 1, 1)
    committed = sorted(FOLDER.glob("*.jsonl"))
    assert [p.name for p in made] == [p.name for p in committed]
    assert [_digest(p) for p in made] == [_digest(p) for p in committed]


def test_so_it_is_with_weather_and_aircraft(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_surroundings", ROOT / "flows/data/make_surroundings.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for path in script.write(tmp_path, 1):
        assert _digest(path) == _digest(ROOT / "flows/data" / path.relative_to(tmp_path)), path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_ids_are_unique_and_disorder_is_real_and_bounded() -> None:
    from connectors.nyc import flights

    events = [json.loads(line) for path in sorted(FOLDER.glob("*.jsonl")) for line in path.read_text().splitlines()]
    assert len({e["event_id"] for e in events}) == len(events) == 27_004
    known = [e["known_at"] for e in events]
    assert known == sorted(known)
    newest, behind, late = datetime.min, timedelta(0), 0
    for event in events:
        departed = datetime.fromisoformat(event["departed_at"].removesuffix("Z"))
        newest = max(newest, departed)
        behind = max(behind, newest - departed)
        late += departed < newest
    assert late > 10_000
    assert flights.lateness is not None
    assert timedelta(hours=6) < behind < timedelta(microseconds=flights.lateness)
