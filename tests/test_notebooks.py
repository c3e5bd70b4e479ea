"""The notebooks run from top to bottom in a real kernel, and are committed with what they show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

RUN = """
import sys, nbformat
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], 4)
NotebookClient(book, timeout=120, kernel_name="python3", resources={"metadata": {"path": sys.argv[2]}}).execute()
nbformat.write(book, sys.argv[3])
"""


def outputs(path: Path) -> list[list[str]]:
    """By code cell, the kinds of what it shows."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return [[kind for out in cell["outputs"] for kind in sorted(out.get("data", {out["output_type"]: ""}))] for cell in cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", RUN, path, FOLDER, tmp_path / "run.ipynb"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert outputs(tmp_path / "run.ipynb") == outputs(path)


def test_they_are_committed_with_what_they_show() -> None:
    assert len(NOTEBOOKS) == 4
    for path in NOTEBOOKS:
        shown = [kind for cell in outputs(path) for kind in cell]
        assert "text/html" in shown and "error" not in shown
        assert path.stem[0] not in "23" or "image/png" in shown
        assert str(Path.home()) not in path.read_text() and "/tmp/" not in path.read_text() and str(FOLDER) not in path.read_text()
