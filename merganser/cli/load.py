"""Finding the flows in users' files."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from merganser.clock import duration
from merganser.errors import FlowError, MerganserError, StoreInUseError, UsageError, place
from merganser.flow import Flow

store_option = click.option(
    "--store", default="merganser.duckdb", show_default=True, metavar="FILE", help="The DuckDB file with the views."
)
workers_option = click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Threads that decode."
)


def _seconds(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else max(0.05, duration(value, "--every") / 1e6)
    except FlowError as error:
        raise click.BadParameter(error.message) from None


def every_option(default: str | None, what: str) -> Callable[[Any], Any]:
    """``--every``, in seconds."""
    shown = default is not None
    return click.option("--every", metavar="DURATION", default=default, show_default=shown, callback=_seconds, help=what)


def _colourless(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        os.environ["NO_COLOR"] = "1"  # what the environment variable does, which all that writes here obeys


no_color_option = click.option(
    "--no-color", is_flag=True, expose_value=False, callback=_colourless, help="No colours; so does NO_COLOR=1."
)


@contextmanager
def changing() -> Iterator[None]:
    """Around what changes a store by itself, which no flow may have open meanwhile: says so, and what to do."""
    try:
        yield
    except StoreInUseError as error:
        raise StoreInUseError(
            f"{error.message.partition(';')[0]}, and this changes the store: stop that one (Ctrl-C, or kill with SIGTERM: it"
            " commits what it has read), call this again, then run the flow again"
        ) from None


def load(files: Sequence[str]) -> list[Flow]:
    """The flows that stand at the top level of some Python files."""
    flows: list[Flow] = []
    for file in files:
        path = Path(file).resolve()
        if path.is_dir():
            raise UsageError(f"{file} is a folder; name the flow files in it, such as {file.rstrip('/')}/*.py")
        if not path.is_file():
            raise UsageError(f"there is no flow file {file}")
        if path.suffix != ".py":
            raise UsageError(f"{file} is no flow file; these are Python, and end in .py")
        for folder in reversed(_roots(path)):
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
        found = [value for value in _executed(path, file).values() if isinstance(value, Flow)]
        if not found:
            raise UsageError(f"{file} has no flow; it needs one at its top level, such as: flow = mg.Flow('{path.stem}')")
        flows += [flow for flow in dict.fromkeys(found) if flow not in flows]
    names = [flow.name for flow in flows]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"there are several flows named {name!r}; give each a name of its own")
    return flows


def _roots(path: Path) -> list[Path]:
    """Where imports of a flow file are looked for: the folder that holds its project, and the working directory."""
    for folder in path.parents:
        if (folder / "connectors").is_dir() or (folder / "pyproject.toml").is_file():
            return [folder, Path.cwd()]
    return [path.parent, Path.cwd()]


def _executed(path: Path, shown: str) -> dict[str, object]:
    spec = importlib.util.spec_from_file_location(f"_flow_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the names in annotations that are texts
    try:
        spec.loader.exec_module(module)
    except MerganserError:
        raise
    except SyntaxError as error:
        raise UsageError(f"{error.msg}: {(error.text or '').strip()}", where=place(error.filename or shown, error.lineno)) from None
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
        frames = [f for f in frames if "/merganser/cli/" not in f.filename] or frames
        where = place(frames[-1].filename, frames[-1].lineno) if frames else shown
        raise UsageError(f"{type(error).__name__}: {error}", where=where) from None
    return vars(module)
