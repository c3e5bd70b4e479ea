"""Inside merganser a module imports only from those above it in this table (DESIGN.md, "Folders")."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "merganser"
ORDER = (
    "errors", "secrets", "faults", "clock", "aside", "kernel", "scratch", "schema", "registry", "sql", "aggregate_rules",
    "aggregates", "codecs", "brokers", "sources", "sinks", "windows", "states", "reference", "asking", "plan", "store",
    "dead_letters", "operators", "declaration", "temporal", "fetching", "routing", "rowlocal", "flow", "lag", "display",
    "picture", "query",
    "verify", "engine", "notebook", "cli", "testing", "pytest_plugin",
)  # fmt: skip


def _layer(module: str) -> str:
    return module.split(".")[1] if "." in module else "merganser"


def test_imports_go_one_way() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        mine = _layer(".".join(parts))
        if parts == ("merganser", "__init__"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module == "merganser":
                names = [f"merganser.{a.name}" for a in node.names if a.name in ORDER]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                if not name.startswith("merganser."):
                    continue
                theirs = _layer(name)
                if mine == "flow" and theirs in ("display", "picture", "notebook"):
                    continue  # a flow shows itself, and runs in notebooks; imported when it is called
                if theirs != mine and ORDER.index(theirs) > ORDER.index(mine):
                    wrong.append(f"{path.relative_to(PACKAGE.parent)} imports {name}; {theirs} stands below {mine}")
    assert not wrong, "\n".join(wrong)


def test_one_place_knows_bytewax() -> None:
    found = [p for p in PACKAGE.rglob("*.py") if "import bytewax" in p.read_text() or "from bytewax" in p.read_text()]
    assert {p.parent.name for p in found} == {"engine"}


def test_nothing_is_pickled() -> None:
    assert not [p for p in PACKAGE.rglob("*.py") if "pickle" in p.read_text()]
