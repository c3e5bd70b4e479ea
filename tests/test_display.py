"""What plans and results look like."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
from rich.console import Console

import merganser as mg
from merganser.display import plan_mermaid, shown, simple, table
from tests.flows import source


def _flow() -> mg.Flow:
    flow = mg.Flow("shown")
    stream = flow.read(source([])).filter("n > 1")
    stream.deduplicate(within="1 hour").window(mg.tumbling("1 minute"), by="key").aggregate(n="sum(n)").materialize("sums")
    stream.latest("key").materialize("newest")
    return flow.view("top", "SELECT * FROM sums ORDER BY n DESC LIMIT 3")


def test_a_plan_as_text_has_each_node_once() -> None:
    lines = str(_flow()).splitlines()
    assert lines[0] == "Flow shown"
    assert [line.split(" := ")[0].strip() for line in lines[1:]] == ["events", "r1", "r2", "r3", "sums", "r4", "newest", "top"]
    assert lines[2].strip() == "r1 := Filter[events, n > 1]"
    assert lines[5].strip().startswith("sums := Materialize[r3]  (key ")
    assert lines[-1].strip() == "top := View[SELECT * FROM sums ORDER BY n DESC LIMIT 3]"


def test_a_plan_as_mermaid() -> None:
    lines = plan_mermaid(_flow()).splitlines()
    assert lines[0] == "flowchart LR"
    assert '  n_r1["Filter[n #62; 1]"]' in lines
    assert "  n_r1 --> n_r2" in lines and "  n_r1 --> n_r4" in lines  # one stream, two views
    assert "  v_sums --> v_top" in lines


def test_a_table_that_does_not_fit_leaves_out_columns_in_the_middle_and_says_so() -> None:
    rows = pa.table({f"column_{i}": ["x" * 15, "y"] for i in range(9)})
    for width in (40, 80, 120, 300):
        out = Console(width=width, file=io.StringIO())
        out.print(table(rows, width=width))
        lines = out.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        heads = re.findall(r"column_(\d)", lines[0])
        assert heads[0] == "0" and heads[-1] == "8" and heads == sorted(heads)
        assert (len(heads) == 9) == (width == 300) == ("columns are not shown" not in " ".join(lines))
        assert all("x" * 15 in line for line in lines[2:3])


def test_a_narrow_table_names_columns_of_zeros_below_and_cuts_no_number() -> None:
    heads = ["view", "read", "late", "duplicate", "balance"]
    rows = [("a_view_with_quite_a_long_name", 1234567, 0, 0, "yes"), ("b", 1, 0, 7, "yes")]
    wide, narrow = (Console(width=width, file=io.StringIO(), no_color=True) for width in (100, 60))
    for out in (wide, narrow):
        out.print(simple(heads, rows, width=out.width))
    texts = [out.file.getvalue() for out in (wide, narrow)]
    assert "late" in texts[0].splitlines()[0] and "everywhere" not in texts[0]
    assert "late: 0 everywhere" in texts[1] and "1,234,567" in texts[1] and "yes" in texts[1]
    assert all(len(line) <= 60 for line in texts[1].splitlines())


def test_where_there_is_no_terminal_nothing_is_cut() -> None:
    rows = pa.table({f"column_{i}": ["x" * 100] for i in range(20)})
    out = Console(width=10_000, file=io.StringIO())
    out.print(table(rows))
    assert out.file.getvalue().count("x" * 100) == 20


def test_a_value_within_another_is_shown_as_by_itself() -> None:
    state = {"name": "o'1", "paid": Decimal("0E-9"), "at": datetime(2026, 1, 1, 12, tzinfo=UTC), "of": [None, Decimal("1.50")]}
    assert shown(state) == """{'name': "o'1", 'paid': 0.000000000, 'at': 2026-01-01 12:00:00, 'of': [NULL, 1.50]}"""
    assert shown([("a", 1)]) == "[('a', 1)]"
