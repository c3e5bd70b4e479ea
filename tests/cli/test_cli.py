"""The commands, as a user calls them."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.ipc
import pytest

BIN = Path(sys.executable).parent / "merganser"
ROOT = Path(__file__).parent.parent.parent


def call(*args: str, cwd: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN, *args], cwd=cwd, input=stdin, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "shop"
    made = call("new", str(folder), cwd=folder.parent)
    assert made.returncode == 0 and "merganser run flows/revenue.py" in made.stdout
    done = call("run", "flows/revenue.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "306 events" in done.stdout and "6 duplicates" in done.stdout and "revenue_per_minute" in done.stdout
    return folder


def test_run_again_has_nothing_new(shop: Path) -> None:
    assert "nothing new" in call("run", "flows/revenue.py", cwd=shop).stdout


def test_query_in_every_format(shop: Path) -> None:
    sql = "SELECT count(*) AS n, sum(orders)::BIGINT AS orders FROM revenue_per_minute"
    assert "300" in call("query", sql, cwd=shop).stdout
    assert call("query", "--format", "csv", "-", cwd=shop, stdin=sql).stdout.splitlines()[0] == '"n","orders"'
    assert json.loads(call("query", "--format", "json", sql, cwd=shop).stdout)["orders"] == 300
    raw = subprocess.run([BIN, "query", "--format", "arrow", sql], cwd=shop, capture_output=True, check=True).stdout
    assert pyarrow.ipc.open_stream(io.BytesIO(raw)).read_all()["orders"].to_pylist() == [300]


@pytest.mark.parametrize("sql", ["FROM nowhere", "SELEC 1", "DELETE FROM merganser.commits", "SELECT 1; SELECT 2 +"])
def test_query_with_a_mistake(sql: str, shop: Path) -> None:
    done = call("query", sql, cwd=shop)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_plan_status_and_verify(shop: Path) -> None:
    plan = call("plan", "flows/revenue.py", cwd=shop).stdout
    assert "r2 := Deduplicate[r1, by event_id, within 10 minutes]" in plan and "revenue_per_minute := Materialize[r3]" in plan
    assert call("plan", "--mermaid", "flows/revenue.py", cwd=shop).stdout.startswith("flowchart LR")
    status = call("status", cwd=shop).stdout
    assert "revenue_per_minute" in status and "yes" in status
    verify = call("verify", "flows/revenue.py", cwd=shop)
    assert verify.returncode == 0 and "revenue_per_minute: equal, 51 rows" in verify.stdout
    assert call("dead-letters", "list", cwd=shop).stdout == "no dead letters\n"


def test_verify_finds_a_difference(shop: Path, tmp_path: Path) -> None:
    import duckdb

    store = tmp_path / "wrong.duckdb"
    store.write_bytes((shop / "merganser.duckdb").read_bytes())
    with duckdb.connect(str(store)) as con:
        ((closed,),) = con.execute("SELECT name FROM merganser_state.tables WHERE name LIKE '%_closed\"'").fetchall()
        con.execute(f"UPDATE {closed} SET orders = 99 WHERE customer_id = 1")
    done = call("verify", "flows/revenue.py", "--store", str(store), cwd=shop)
    assert done.returncode == 1 and "DIFFERENT" in done.stdout and "99" in done.stdout


def test_a_changed_flow_is_refused_and_rebuilt(shop: Path, tmp_path: Path) -> None:
    store = tmp_path / "changed.duckdb"
    store.write_bytes((shop / "merganser.duckdb").read_bytes())
    flow = shop / "flows" / "changed.py"
    flow.write_text((shop / "flows/revenue.py").read_text().replace("1 minute", "2 minutes"))
    done = call("run", "flows/changed.py", "--store", str(store), cwd=shop)
    assert done.returncode == 2 and "flows/changed.py:" in done.stderr and "tumbling 2 minutes" in done.stderr
    assert call("rebuild", "revenue_per_minute", "--flow", "flows/changed.py", "--store", str(store), cwd=shop).returncode == 0
    assert "nothing new" in call("run", "flows/changed.py", "--store", str(store), cwd=shop).stdout


MISTAKES = {
    'flow.read(orders).filter("amuont > 0")': "there is no column 'amuont', did you mean 'amount'?",
    'flow.read(orders).window(mg.tumbling("1 month"))': "unknown unit",
    'flow.read(orders).group_by("nothing")': "there is no column 'nothing'",
    'flow.read(orders).group_by("customer_id").materialize("v")': "aggregate(name='sql') must",
    'flow.read(orders).group_by().aggregate(x="reservoir_quantile(amount, 0.5)").materialize("v")': "reservoir_quantile",
    'flow.read(orders).derive(x="now()")': "now()",
    "1 / 0": "ZeroDivisionError",
    "from nowhere import x": "ModuleNotFoundError",
    "def": "invalid syntax",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_in_a_flow_is_shown_on_its_line(line: str, shop: Path) -> None:
    flow = shop / "flows" / "mistake.py"
    flow.write_text(f"import merganser as mg\nfrom connectors.shop import orders\nflow = mg.Flow('m')\n{line}\n")
    done = call("plan", "flows/mistake.py", cwd=shop)
    assert done.returncode == 2, done.stdout
    assert MISTAKES[line] in done.stderr
    assert "mistake.py:4" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_use(shop: Path) -> None:
    for args in (["run"], ["run", "nowhere.py"], ["query", "--store", "no.duckdb", "SELECT 1"], ["new", str(shop)], ["nosuch"]):
        done = call(*args, cwd=shop)
        assert done.returncode == 2 and "Traceback" not in done.stderr, args
    assert call("run", "flows/revenue.py", "--epoch", "soon", cwd=shop).returncode == 2
    assert call("--version", cwd=shop).stdout.startswith("merganser ")


def test_parked_keys_are_shown_and_go_on(tmp_path: Path) -> None:
    events = [{"id": str(i), "at": at, "key": key, "n": n} for i, (at, key, n) in enumerate([
        ("2026-01-01T00:00:00", 1, 1), ("2026-01-01T00:00:01", 1, 0), ("2026-01-01T00:00:02", 1, 2), ("2026-01-01T01:00:00", 2, 1),
    ])]  # fmt: skip
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    (tmp_path / "flow.py").write_text(
        "import merganser as mg\n"
        'schema = {"id": "VARCHAR", "at": "TIMESTAMP", "key": "INTEGER", "n": "INTEGER"}\n'
        'events = mg.source("events", mg.files("events.jsonl"), schema=schema, time="at", lateness="1 minute")\n'
        'flow = mg.Flow("f")\n'
        "def shares(state, event):\n    return state + 12 // event['n']\n"
        'flow.read(events).fold(by="key", initial=0, apply=shares).materialize("shares")\n'
    )
    assert call("run", "flow.py", cwd=tmp_path).returncode == 0
    shown = call("dead-letters", "list", cwd=tmp_path).stdout
    assert "key=1: 2 events wait\n" in shown
    [letter] = re.findall(r"events:files:\d+:shares", shown)
    assert call("dead-letters", "redrive", "events:files:9:shares", cwd=tmp_path).returncode == 2
    assert "1 of the keys that wait" in call("dead-letters", "redrive", letter, cwd=tmp_path).stdout
    assert "key=1: 2 events wait; tried again by the next run\n" in call("dead-letters", "list", cwd=tmp_path).stdout
    assert call("run", "flow.py", cwd=tmp_path).returncode == 0
    assert "key=1: 2 events wait\n" in call("dead-letters", "list", cwd=tmp_path).stdout
    assert "discarded 1" in call("dead-letters", "discard", letter, cwd=tmp_path).stdout
    assert call("run", "flow.py", cwd=tmp_path).returncode == 0
    shown = call("query", "--format", "csv", "SELECT key, state, seq FROM shares", cwd=tmp_path).stdout
    assert shown.replace('"', "").split() == ["key,state,seq", "1,18,3"]
    assert "no dead letters" in call("dead-letters", "list", cwd=tmp_path).stdout
    assert call("verify", "flow.py", cwd=tmp_path).returncode == 0


def test_every_command_and_option_is_documented() -> None:
    import click

    from merganser.cli import main

    text = (ROOT / "docs" / "cli.md").read_text()
    context = click.Context(main)

    def missing(command: click.Command, name: str) -> list[str]:
        lacking = [] if f"merganser {name}" in text else [name]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not any(o in text for o in parameter.opts):
                lacking.append(f"{name} {parameter.opts[0]}")
        if isinstance(command, click.Group):
            for sub in command.list_commands(context):
                found = command.get_command(context, sub)
                assert found is not None
                lacking += missing(found, f"{name} {sub}".strip())
        return lacking

    assert [m for m in missing(main, "") if m.strip()] == []
