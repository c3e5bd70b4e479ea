"""``watch``, ``top`` and ``export``, in a terminal of any width and without one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet
import pytest

import merganser as mg
from merganser.cli.show import top_frame
from merganser.cli.watch import Frame, changes, picture
from merganser.display import console
from tests.cli.test_cli import BIN
from tests.query.running import counting, events, running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """The store of a running flow, and a function that gives it so many more events."""
    store = tmp_path_factory.mktemp("served") / "s.duckdb"
    memory = mg.memory(events(100))
    with running([counting(memory)], store) as connection:

        def more(count: int) -> None:
            for each in events(count, 1000 + len(memory.lines["0"])):
                memory.feed(each)
            connection.wait_for("now")

        yield store, more


class Terminal:
    """A pseudo-terminal of some size with a program in it."""

    def __init__(self, command: list[Any], columns: int, **environment: str) -> None:
        self.screen, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")} | {"TERM": "xterm-256color"}
        self.process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=env | environment)
        os.close(inner)
        self.text = ""

    def until(self, found: str) -> str:
        """What was written up to here, once it matches."""
        end = time.monotonic() + 30
        while not re.search(found, self.text):
            assert time.monotonic() < end, self.text
            if select.select([self.screen], [], [], 0.1)[0]:
                self.text += os.read(self.screen, 1 << 16).decode("utf-8", "replace")
        text, self.text = self.text, ""
        return text

    def press(self, keys: bytes) -> None:
        os.write(self.screen, keys)

    def close(self) -> int:
        code = self.process.wait(30)
        os.close(self.screen)
        return code


def test_what_changes_is_seen_to_change(served: tuple[Path, Callable[[int], None]]) -> None:
    store, more = served
    terminal = Terminal([BIN, "watch", "per_key", "--every", "0.1s", "--store", store], 80)
    assert "k0" in terminal.until("7 rows")
    more(7)
    assert "\x1b[30;43m" in terminal.until(r"\x1b\[30;43m")  # black on yellow
    terminal.process.send_signal(signal.SIGINT)
    terminal.until(r"\x1b\[\?1049l")  # back from the alternate screen
    assert terminal.close() == 0


def test_no_color(served: tuple[Path, Callable[[int], None]]) -> None:
    store, more = served
    for options, environment in ((["--no-color"], {}), ([], {"NO_COLOR": "1"})):
        terminal = Terminal([BIN, "watch", "per_key", "--every", "0.1s", "--store", store, *options], 80, **environment)
        terminal.until("7 rows")
        more(7)
        text = terminal.until("7 rows") + terminal.until("7 rows") + terminal.until("7 rows")
        assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|4[0-7])", text)
        terminal.process.send_signal(signal.SIGINT)
        terminal.until(r"\x1b\[\?1049l")
        terminal.close()


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_top_and_its_keys(columns: int, served: tuple[Path, Callable[[int], None]]) -> None:
    store, _ = served
    terminal = Terminal([BIN, "top", "--every", "0.1s", "--store", store], columns)
    text = terminal.until(r"\[name\]" if columns > 40 else "q ends")
    assert "caught up" in text and ("per_key" in text or columns == 40)
    assert ("cohort" in text) == (columns >= 110)
    if columns > 40:
        terminal.press(b"s")
        terminal.until(r"\[rows\]")
        terminal.press(b"p")
        terminal.until("PAUSED")
    terminal.press(b"q")
    terminal.until(r"\x1b\[\?1049l")
    assert terminal.close() == 0


def test_without_a_terminal_top_is_one_picture_and_watch_a_line_a_change(served: tuple[Path, Callable[[int], None]]) -> None:
    store, more = served
    done = subprocess.run([BIN, "top", "--every", "0.1s", "--store", store], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout and "per_key" in done.stdout and done.stdout.count("caught up") == 1
    command = [BIN, "watch", "SELECT n, 'all' AS what FROM total", "--every", "0.3s", "--times", "20", "--store", store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        first = watch.stdout.readline()
        assert re.fullmatch(r"\+ n=\d+ what=all\n", first)
        before = int(first.split("=")[1].split()[0])
        more(1)
        assert watch.stdout.readline() == f"~ n={before}→{before + 1} what=all\n"
        watch.terminate()


def test_rows_are_told_apart_by_what_is_no_number() -> None:
    def frame(*rows: tuple[Any, ...]) -> Frame:
        return Frame(["k", "n"], frozenset({"n"}), list(rows), len(rows), 1)

    assert list(changes(frame(("a", 1), ("b", 2), ("c", 3)), frame(("a", 1), ("b", 1), ("d", 4)))) == [
        "~ k=b n=1→2", "+ k=c n=3", "- k=d n=4",
    ]  # fmt: skip
    repeated = frame(("a", 1), ("a", 2))
    assert list(changes(frame(("a", 1), ("a", 3)), repeated)) == ["~ k=a n=2→3"]
    out = console()
    with out.capture() as shown:
        out.print(picture(frame(*((f"k{i}", i) for i in range(50))), None, "title", 80, 20))
    assert "35 more" in shown.get() and shown.get().count("\n") <= 20


def test_what_is_watched_is_cut_by_columns_not_by_digits() -> None:
    names = ["customer", "window_start", *(f"measure_{i}" for i in range(9))]
    row = ("anas", "2026-01-01 12:00:00", *(1_234_567 + i for i in range(9)))
    out = console()
    with out.capture() as shown:
        out.print(picture(Frame(names, frozenset(names[2:]), [row], 1, 1), None, "title", 80, 20))
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= 80 and "1234575" in lines[3] and "2026-01-01 12:00:00" in lines[3]
    assert re.search(r"1 rows, \d of 11 columns not shown", shown.get())


def test_top_says_what_does_not_fit_and_that_nothing_runs(served: tuple[Path, Callable[[int], None]]) -> None:
    store, _ = served
    status = mg.connect(store).status()
    status["positions"] *= 30
    out = console()
    with out.capture() as shown:
        out.print(top_frame(status | {"running": None}, status, 1.0, (80, 24), "rate", False))
    assert "no flow is running" in shown.get() and " more" in shown.get()


def test_export_replaces_whole_files_of_one_commit(served: tuple[Path, Callable[[int], None]], tmp_path: Path) -> None:
    store, more = served
    command = [BIN, "export", "per_key", "total", "--to", tmp_path / "out", "--store", store]
    subprocess.run(command, check=True, capture_output=True)
    more(5)
    old = (tmp_path / "out/per_key.parquet").open("rb")
    subprocess.run(command, check=True, capture_output=True)
    with old:  # whoever was reading goes on reading the old one
        before = sum(pyarrow.parquet.read_table(old)["n"].to_pylist())
    tables = [pyarrow.parquet.read_table(tmp_path / f"out/{view}.parquet") for view in ("per_key", "total")]
    assert sum(tables[0]["n"].to_pylist()) == tables[1]["n"].to_pylist()[0] == before + 5
    assert len({t.schema.metadata[b"merganser.epoch"] for t in tables}) == 1
    subprocess.run([*command, "--format", "duckdb"], check=True, capture_output=True)
    with duckdb.connect(str(tmp_path / "out/views.duckdb"), read_only=True) as con:
        assert con.execute("SELECT (SELECT sum(n) FROM per_key) = (SELECT n FROM total)").fetchall() == [(True,)]
        ((tags,),) = con.execute("SELECT tags FROM duckdb_databases() WHERE database_name = 'views'").fetchall()
        assert tags["storage_version"].startswith("v1.0.0")  # that others' DuckDB can read
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["per_key.parquet", "total.parquet", "views.duckdb"]


@pytest.mark.crash
@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
def test_an_export_that_is_killed_leaves_whole_files(
    kind: str, served: tuple[Path, Callable[[int], None]], tmp_path: Path
) -> None:
    """The old ones or the new ones; and the next one is not disturbed by what it left."""
    store, more = served
    name = "per_key.parquet" if kind == "parquet" else "views.duckdb"
    program = (
        "import itertools, sys, pathlib, merganser as mg; from merganser.query import snapshot\n"
        "connection = mg.connect(sys.argv[1])\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        f"for _ in itertools.count(): print(snapshot.export_{kind}(connection, ['per_key', 'total'], folder), flush=True)\n"
    )
    for number in range(4):
        command = [sys.executable, "-c", program, store, tmp_path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as export:
            assert export.stdout is not None
            for _ in range(3 + number):
                assert int(export.stdout.readline()) > 0
                more(1)
            export.kill()
        if kind == "parquet":
            rows = pyarrow.parquet.read_table(tmp_path / name)["n"].to_pylist()
        else:
            with duckdb.connect(str(tmp_path / name), read_only=True) as con:
                assert con.execute("SELECT (SELECT sum(n) FROM per_key) = (SELECT n FROM total)").fetchall() == [(True,)]
                rows = [n for (n,) in con.execute("SELECT n FROM per_key").fetchall()]
        assert len(rows) == 7 and sum(rows) >= 100
        (tmp_path / ".views.duckdb.new.wal").write_bytes(b"half of a log")


def test_export_every_writes_when_something_was_committed(served: tuple[Path, Callable[[int], None]], tmp_path: Path) -> None:
    store, more = served
    command = [BIN, "export", "total", "--to", tmp_path, "--every", "0.1s", "--store", store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as export:
        assert export.stdout is not None
        first = export.stdout.readline()
        more(1)
        second = export.stdout.readline()
        export.terminate()
        assert export.wait(30) == 0 and first.startswith("epoch ") and second.startswith("epoch ") and first != second
    command[2] = "nothing"
    unknown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert unknown.returncode == 2 and "no view nothing" in unknown.stderr and "per_key" in unknown.stderr
