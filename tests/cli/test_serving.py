"""The commands that look, while a flow is running."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import merganser as mg
from merganser.query import sidecar
from tests.cli.test_cli import BIN, call


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose flow is running, and has read what there is."""
    folder = tmp_path_factory.mktemp("projects") / "shop"
    assert call("new", str(folder), cwd=folder.parent).returncode == 0
    flow = subprocess.Popen(
        [BIN, "run", "flows/revenue.py", "--follow", "--epoch", "0.1s"], cwd=folder, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while "306" not in call("query", "SELECT sum(read) FROM merganser.commits", cwd=folder).stdout:
        assert time.monotonic() < until and flow.poll() is None
    yield folder
    flow.send_signal(signal.SIGTERM)
    said = [line for line in flow.communicate()[1].splitlines() if not line.startswith("reading: 306 events")]
    assert said == [] and flow.returncode == 0
    assert not sidecar.path_of(folder / "merganser.duckdb").exists()


def test_query_status_dead_letters_and_verify(shop: Path) -> None:
    sql = "SELECT count(*) AS n, sum(orders)::BIGINT AS orders FROM revenue_per_minute"
    assert json.loads(call("query", "--format", "json", sql, cwd=shop).stdout)["orders"] == 300
    status = call("status", cwd=shop)
    assert "revenue_per_minute" in status.stdout and "caught up" in status.stdout, status.stderr
    assert json.loads(call("status", "--json", cwd=shop).stdout)["running"]["committed"] == 306
    assert call("dead-letters", "list", cwd=shop).stdout == "no dead letters\n"
    verify = call("verify", "flows/revenue.py", cwd=shop)
    assert verify.returncode == 0 and "revenue_per_minute: equal, 51 rows" in verify.stdout


def test_a_second_flow_on_the_store_is_told_who_has_it(shop: Path) -> None:
    done = call("run", "flows/revenue.py", cwd=shop)
    assert done.returncode == 1 and "is in use by process" in done.stderr


@pytest.mark.parametrize("command", [
    ["dead-letters", "fix", "--sql", "text"], ["dead-letters", "redrive", "--all", "--flow", "flows/revenue.py"],
    ["dead-letters", "discard", "--where", "true"],
    ["rebuild", "revenue_per_minute", "--flow", "flows/revenue.py"],
])  # fmt: skip
def test_what_changes_the_store_says_which_flow_to_stop(command: list[str], shop: Path) -> None:
    done = call(*command, cwd=shop)
    pid = sidecar.read(shop / "merganser.duckdb")
    assert done.returncode == 1 and pid is not None and f"in use by process {pid.pid}" in done.stderr
    assert "stop that one" in done.stderr and "run the flow again" in done.stderr and "--store" not in done.stderr


def test_a_flow_that_does_not_serve_is_named(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merganser.query.connection.PATIENCE", 0.5)
    command = [BIN, "run", "flows/revenue.py", "--follow", "--no-serve", "--store", str(tmp_path / "s.duckdb")]
    with subprocess.Popen(command, cwd=shop, stderr=subprocess.PIPE) as flow:
        try:
            until = time.monotonic() + 60
            while not (tmp_path / "s.duckdb").exists():
                assert time.monotonic() < until and flow.poll() is None
                time.sleep(0.05)
            with pytest.raises(mg.StoreInUseError, match=f"process {flow.pid}.*--no-serve"):
                mg.connect(tmp_path / "s.duckdb").sql("FROM revenue_per_minute")
        finally:
            flow.send_signal(signal.SIGTERM)
            flow.communicate()
    assert flow.returncode == 0


def test_serve_takes_an_address(shop: Path) -> None:
    for wrong in ("soon", "1:2:x", "127.0.0.1:99999"):
        assert call("run", "flows/revenue.py", "--serve", wrong, cwd=shop).returncode == 2
    assert "MERGANSER_TOKEN" in call("run", "flows/revenue.py", "--serve", "0.0.0.0:0", "--store", "o.duckdb", cwd=shop).stderr
