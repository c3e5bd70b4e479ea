"""What a plan looks like, as text and as Mermaid."""

from __future__ import annotations

import merganser as mg
from merganser.display import plan_mermaid
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
