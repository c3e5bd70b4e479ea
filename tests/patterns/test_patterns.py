"""Every flow of flows/patterns/ runs as it is and equals batch SQL, and docs/patterns/ shows the flows that there are.

A new flow is tested by being there. One that needs something outside (a service, a database) takes where it is from the
environment; the fixture that sees to that is in ``SURROUNDINGS``.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import merganser as mg
from merganser.cli.load import load
from merganser.verify import verify
from tests.flows import rows
from tests.patterns.test_shop_events import ROOT

FLOWS = sorted((ROOT / "flows/patterns").glob("*.py"))
DOCS = ROOT / "docs/patterns"
PAGES = sorted(path for path in DOCS.glob("*.md") if path.name != "README.md")

SURROUNDINGS = {
    "chain": "placed_topic",
    "cqrs": "shop",
    "event_sourcing": "shop",
    "notification": "customer_service",
    "outbox": "outbox_table",
}
"""By name of a flow: the fixture of what has to be there while it runs."""

HEADINGS = ["When to use it", "When not", "The flow", "How it fails, and what then"]


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
def test_the_flow_runs_and_equals_batch_sql(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)  # what a flow writes goes where it is run
    if path.stem in SURROUNDINGS:
        request.getfixturevalue(SURROUNDINGS[path.stem])
    flows = load([str(path)])
    report = mg.run(flows, tmp_path / "s.duckdb")
    assert report.progressed.committed > 0
    checks = verify(flows, tmp_path / "s.duckdb")
    letters = rows(tmp_path / "s.duckdb", "SELECT reason, detail FROM merganser.dead_letters LIMIT 3")
    assert bool(letters) == (path.stem == "dead_letters"), letters
    assert checks and [check for check in checks if not check.ok] == []


def test_there_is_a_page_for_each_flow_and_a_line_for_each_page() -> None:
    pages = {page: page.read_text() for page in PAGES}
    for flow in FLOWS:
        link = f"](../../flows/patterns/{flow.name})"
        assert any(link in text for text in pages.values()), f"no page of docs/patterns/ links to {flow.name}: {link}"
        assert flow.read_text().startswith('"""'), f"{flow.name} says in its first line what it shows"
    listed = re.findall(r"^- \[[^]]+\]\((\w+\.md)\): \S", (DOCS / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [page.name for page in PAGES], "docs/patterns/README.md has one line for each page"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_has_its_parts_and_its_code_is_that_of_the_flows(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[: len(HEADINGS)] == HEADINGS
    assert "```mermaid\n" in text.partition("\n## ")[0], "the picture stands before the first heading"
    files = [*FLOWS, *sorted((ROOT / "connectors").glob("*.py"))]
    code = "\n".join(file.read_text() for file in files)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        assert textwrap.dedent(block).strip() in code, f"{page.name} shows code that is in no flow:\n{block}"
