"""The commands of docs/patterns/dead_letters.md do what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from merganser.cli import main
from tests.flows import rows
from tests.patterns.test_shop_events import ROOT


def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    store = tmp_path / "shop.duckdb"
    page = (ROOT / "docs/patterns/dead_letters.md").read_text()
    commands = re.findall(r"^    merganser (.*)$", page, re.MULTILINE)
    before: list[tuple[object, ...]] = []
    for command in commands:
        done = CliRunner().invoke(main, shlex.split(command.replace("shop.duckdb", str(store))))
        assert done.exit_code == 0, f"{command}\n{done.output}"
        before = before or rows(store, "SELECT reason, count(*) FROM merganser.dead_letters GROUP BY ALL ORDER BY ALL")
    assert before == [("event time ahead", 8), ("not json", 3), ("wrong type", 7)]
    assert rows(store, "SELECT reason, status, count(*) FROM merganser.dead_letters GROUP BY ALL") == [("not json", "discarded", 3)]
    assert rows(store, "SELECT grams FROM parcels WHERE parcel = 'o0106'") == [(2632,)]
    assert rows(store, "SELECT sum(scans)::INTEGER FROM depot_days") == [(388 - 3,)]
