"""What flows do in notebooks: pictures, previews, running in the background, ``%%sql``."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import merganser as mg
from merganser.notebook import load_ipython_extension
from tests.flows import SCHEMA, event
from tests.query.running import counting, events


def test_a_flow_shows_its_plan_as_a_picture() -> None:
    flow = counting(mg.memory(events(1)))
    flow.view("top", "SELECT * FROM per_key WHERE key <> '<&>'")
    flow.read(flow.sources[0]).write(mg.files("out/all-*.jsonl"), name="all")
    picture = ET.fromstring(flow._repr_html_())
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"events", "per_key", "total", "top", "all", "to files out/all-*.jsonl"} <= set(texts)
    boxes = [(float(b.attrib["x"]), float(b.attrib["y"])) for b in picture.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(boxes) == len(set(boxes)) == 7  # a source, two groupings, two views, one SQL view, a sink
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    assert all(0 <= x < width and 0 <= y < height for x, y in boxes)


def test_preview_of_events_in_envelopes_and_of_older_versions() -> None:
    """Their rows are as in a run; dead letters do not go to their topic."""
    letters = mg.kafka("nowhere", brokers="127.0.0.1:9")
    envelope = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"n": 3}}
    schema = mg.cloudevents({"n": "BIGINT"})
    events = mg.source("events", mg.memory([envelope, b"{"]), schema=schema, time="n", time_unit="s", dead_letters=letters)
    old = mg.source("old", mg.memory([{"v": 1, "n": 2}]), schema={"m": "BIGINT", "v": "INTEGER"}, version="v")
    old = old.upcast(1, sql={"m": "n * 2"}, columns={"n": "BIGINT"})
    assert [rows.to_pylist() for _, rows, _ in mg.Flow("f").read(old).preview().steps] == [[{"m": 4, "v": 1}]]
    assert mg.Flow("f").read(events).select("ce_id", "n").preview().steps[-1][1].to_pylist() == [{"ce_id": "1", "n": 3}]


def test_preview_shows_the_rows_after_each_verb_and_keeps_nothing() -> None:
    memory = mg.memory([event("a", 0, n=1), event("b", 1, n=5), b"{bad", event("a", 2, n=7), event("c", 3, n=9)])
    source = mg.source("events", memory, schema=SCHEMA, time="at", lateness="1 second", id="id")
    flow = mg.Flow("f")
    stream = flow.read(source).filter("n > 1").deduplicate().group_by().aggregate(n="sum(n)")
    shown = stream.preview(events=3)
    assert [count for _, _, count in shown.steps] == [3, 2, 2, 1]
    assert [line.split("[")[0] for line, _, _ in shown.steps] == ["Read", "Filter", "Deduplicate", "Group"]
    assert shown.steps[-1][1]["n"].to_pylist() == [12]
    assert "Filter" in repr(shown) and "<table>" in shown._repr_html_() and "1 records" in shown.note
    assert flow.materialized == []


def test_a_flow_runs_in_the_background(tmp_path: Path) -> None:
    memory = mg.memory(events(100))
    with counting(memory).running(epoch=0.05) as views:
        assert views.sql("FROM total").fetchall() == [(100,)]
        memory.feed(events(1, 100)[0])
        views.wait_for("now")
        assert views.sql("FROM total").fetchall() == [(101,)]
        folder = views.path.parent
    assert not folder.exists()
    views = counting(memory).running(tmp_path / "s.duckdb")
    views.stop()
    assert views.sql("FROM total").fetchall() == [(101,)]  # the store stays, and can be asked


def test_what_stops_a_flow_in_the_background_is_raised(tmp_path: Path) -> None:
    source = mg.source("events", mg.memory([b"{bad"]), schema=SCHEMA, on_error="stop")
    flow = mg.Flow("f")
    flow.read(source).materialize("v")
    with pytest.raises(mg.RecordError):
        flow.running(tmp_path / "s.duckdb")


def test_sql_cells_ask_a_connection(tmp_path: Path) -> None:
    class Shell:
        user_ns: dict[str, Any] = {}  # noqa: RUF012 # as IPython's is
        magics: dict[str, Any] = {}  # noqa: RUF012

        def register_magic_function(self, function: Any, magic_kind: str, magic_name: str) -> None:
            self.magics[magic_name] = function

    shell = Shell()
    load_ipython_extension(shell)
    mg.run([counting(mg.memory(events(10)))], tmp_path / "s.duckdb")
    shell.user_ns["views"] = mg.connect(tmp_path / "s.duckdb")
    assert shell.magics["sql"]("views", "FROM total").fetchall() == [(10,)]
    assert shell.magics["sql"]("views >> rows", "FROM total") is None and len(shell.user_ns["rows"]) == 1
    for line in ("", "nothing", "views rows", "views > rows"):
        with pytest.raises(mg.UsageError):
            shell.magics["sql"](line, "FROM total")


def test_a_chart_is_drawn_again_in_its_place() -> None:
    draw = "from merganser.notebook import refresh\nn = iter('abcd')\nrefresh(lambda: next(n), every=0.01, times=3)"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(draw)])
    drawn: list[str] = []

    class Seen(NotebookClient):
        def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
            if msg["msg_type"] in ("display_data", "update_display_data"):
                drawn.append(msg["content"]["data"]["text/plain"])
            return super().process_message(msg, cell, cell_index)

    Seen(book, timeout=60, kernel_name="python3").execute()
    assert drawn == ["'a'", "'b'", "'c'"]
    (output,) = book.cells[0].outputs
    assert output.data["text/plain"] == "'c'"
