"""What README and docs show is what happens: their commands run, their code is the project that ``new`` makes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from merganser.cli.new import FILES
from merganser.flow import Grouped, Stream

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a checkout has, after ``make demo``."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("flows", "connectors", "schemas"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").mkdir()
    (folder / ".venv/bin").symlink_to(BIN)
    (demo,) = re.findall(r"^\t\$\(BIN\)/(merganser run .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    _run(f".venv/bin/{demo}", folder)
    return folder


def _run(command: str, folder: Path) -> str:
    done = subprocess.run(shlex.split(command), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_commands_of_the_readme(checkout: Path) -> None:
    commands = re.findall(r"^    (?:\$ )?((?:\.venv|\.\./\.venv)/bin/merganser .*|cd \w+)$", README, re.MULTILINE)
    assert len(commands) >= 7
    folder = checkout
    for command in commands:
        if command.startswith("cd "):
            folder = checkout / command.removeprefix("cd ")
        else:
            assert _run(command, folder)


def test_the_code_of_the_readme() -> None:
    source, flow = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert flow in FILES["flows/revenue.py"].replace("\n\nimport", "\nimport")
    made = FILES["connectors/shop.py"]
    for line in source.splitlines():
        if re.match(r"    (time|id)=", line):
            assert all(f"{part}," in made for part in re.findall(r'\w+="[^"]*"', line))


def test_every_verb_of_the_readme_exists_and_every_verb_is_in_it() -> None:
    documented = {name for cell in re.findall(r"^\| (`.*?) \|", README, re.MULTILINE) for name in re.findall(r"(\w+)\(", cell)}
    classes = (*Stream.__mro__[:-1], Grouped)
    verbs = {name for cls in classes for name, kind in vars(cls).items() if callable(kind) and name[0] != "_"}
    assert len(verbs) > 10 and verbs == documented - {"tumbling", "hopping", "session", "view"}


@pytest.mark.parametrize("path", [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target
