"""The event store that flows/patterns/ read: what make_order_events.py makes, once for a test run."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.patterns.test_shop_events import DATA


@functools.cache
def _made() -> tuple[Any, Path]:
    folder = tempfile.TemporaryDirectory()
    subprocess.run([sys.executable, DATA / "make_order_events.py"], cwd=folder.name, check=True, capture_output=True)
    return folder, Path(folder.name) / "shop-events.db"  # the folder is there as long as it is known


@contextmanager
def shop_events(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An event store in a folder, and the application over it."""
    shutil.copy(_made()[1], folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(DATA)
    from orders_application import shop  # type: ignore[import-not-found] # a script's neighbour

    with shop() as application:
        yield application
