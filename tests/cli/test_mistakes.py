"""What people do wrong, and what goes wrong around them: one message that says what to do, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.progress import Progress

import merganser as mg
from merganser.cli.running import _Share
from merganser.display import shown
from tests.cli.test_live import Terminal
from tests.commands import call
from tests.flows import event, source

BIN = Path(sys.executable).parent / "merganser"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mistakes") / "s.duckdb"
    bad = b'{"id": "\x1b[2Jx", "at": 1}'
    flow = mg.Flow("f")
    flow.read(source([event("e", 1), bad])).select("id", "n").materialize("numbers")
    mg.run([flow], path)
    return path


def error(*args: object) -> str:
    done = call(*map(str, args))
    assert done.returncode in (1, 2) and done.stderr.startswith("error: "), done
    return done.stderr


def test_what_is_no_flow_file(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    assert f"{tmp_path} is a folder; name the flow files in it, such as {tmp_path}/*.py" in error("run", tmp_path)
    assert "notes.md is no flow file; these are Python, and end in .py" in error("run", tmp_path / "notes.md")


def test_a_flow_file_that_fails_is_named_as_it_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flow.py").write_text("x = ")
    assert error("run", "flow.py") == "error: flow.py:1: invalid syntax: x =\n"
    Path("flow.py").write_text("\nimport nothing_there")
    assert error("run", "flow.py") == "error: flow.py:2: ModuleNotFoundError: No module named 'nothing_there'\n"


def test_as_of_what(store: Path) -> None:
    for given in ((), ("--version", "1", "--position", "2")):
        assert error("as-of", "numbers", *given, "--store", store) == "error: give one of --version, --time and --position\n"


def test_what_is_no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert error("schema", "list", "--registry", "none").startswith("error: registry('none') must be an http address, or a folder")


def test_what_cannot_be_written(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert f"{file}/project: Not a directory" in error("new", file / "project")
    assert f"{file}/out: Not a directory" in error("export", "numbers", "--to", file / "out", "--store", store)


def test_what_is_no_store(store: Path, tmp_path: Path) -> None:
    assert f"{tmp_path} is a folder; --store names a file" in error("query", "FROM x", "--store", tmp_path)
    torn = tmp_path / "torn.duckdb"
    whole = store.read_bytes()
    torn.write_bytes(whole[:20_000] + bytes(len(whole) - 20_000))
    found = error("query", "FROM numbers", "--store", torn)
    assert f"cannot open the store {torn}" in found and "in use" not in found  # its error speaks of a block, not of a lock


def test_what_mends_dead_letters_makes_no_store(tmp_path: Path) -> None:
    for command in (("fix", "--sql", "text"), ("discard", "--where", "true")):
        assert "there is no store" in error("dead-letters", *command, "--store", tmp_path / "new.duckdb")
    assert list(tmp_path.iterdir()) == []


def test_a_view_that_is_not_there(store: Path) -> None:
    assert error("query", "FROM number", "--store", store) == "error: there is no view 'number'; there are: numbers\n"


def test_a_time_that_is_none(store: Path) -> None:
    found = error("dead-letters", "list", "--since", "never", "--store", store)
    assert found == "error: --since 'never' is no time such as '2026-01-31T12:00:00'\n"
    assert "no dead letters" in call("dead-letters", "list", "--since", "2100-01-01T00:00:00+01:00", "--store", str(store)).stdout


def test_what_is_in_events_commands_no_terminal(store: Path) -> None:
    assert shown("\x1b[2Ja\tb\nc\x9b") == "\\x1b[2Ja\\tb\\nc\\x9b" and shown("ä 漢 🦆") == "ä 漢 🦆"
    listed = call("dead-letters", "list", "--store", str(store)).stdout
    assert '"\\x1b[2Jx"' in listed and "\x1b" not in listed


def test_a_reader_that_goes_is_no_mistake_and_nor_is_a_closed_output(store: Path) -> None:
    def status(to: str) -> tuple[int, str]:
        command = ["bash", "-o", "pipefail", "-c", f"{BIN} status --store {store} {to}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert status("| true") == status(">&-") == status(">&- 2>&-") == (0, "")
    assert status("> /dev/full") == (1, "error: No space left on device\n")


def test_ctrl_c_ends_top(store: Path) -> None:
    terminal = Terminal([BIN, "top", "--store", str(store)], 80)
    terminal.until("no flow is running")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.close() == 0


def test_ctrl_c_ends_a_query(store: Path) -> None:
    command = [BIN, "query", "-", "--store", store]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None

    def seconds() -> float:
        return sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().split()[13:15])) / os.sysconf("SC_CLK_TCK")

    sql = b"SELECT count(*) FROM range(100_000) a, range(100_000) b, range(1_000) c"
    process.stdin.write(sql.ljust(90_000))  # more than a pipe takes, so it is read when this is written
    process.stdin.close()
    began = seconds()
    while seconds() < began + 0.5:  # it is counting
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == -signal.SIGINT
    assert process.stdout is not None and process.stderr is not None
    assert (process.stdout.read(), process.stderr.read()) == (b"", b"")
    process.stdout.close(), process.stderr.close()


def test_a_share_is_shown_only_of_what_is_known() -> None:
    for total, shown_as in ((None, ""), (8, "50%")):
        progress = Progress()
        task = progress.add_task("", total=total, completed=4)
        assert str(_Share().render(progress.tasks[task])) == shown_as


def test_an_event_counts_once_however_many_views_read_it(tmp_path: Path) -> None:
    flow = mg.Flow("f")
    once = flow.read(source([event(f"e{i % 4}", i) for i in range(10)])).deduplicate()
    for name in ("a", "b", "c"):
        once.select("id").materialize(name)
    assert mg.run([flow], tmp_path / "s.duckdb").progressed.duplicate == 6
