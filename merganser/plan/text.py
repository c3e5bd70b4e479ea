"""How parts of a node are printed on its line."""

from __future__ import annotations

import hashlib
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

On = tuple[tuple[str, str], ...]
"""Pairs of a column of the left side and one of the right side that must be equal."""


def named(items: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(name if name == sql else f"{name} = {' '.join(sql.split())}" for name, sql in items)


def late_text(policy: str) -> str:
    """What a line says of late rows: nothing where they are kept."""
    return f", late {policy}" if policy != "keep" else ""


def equal(on: On) -> str:
    return ", ".join(a if a == b else f"{a} = {b}" for a, b in on)


def code(fn: Callable[..., Any]) -> str:
    """A short hash of a function's source text, so that a changed function is a changed plan."""
    try:
        text = textwrap.dedent(inspect.getsource(fn))
    except (OSError, TypeError):
        text = repr(getattr(getattr(fn, "__code__", None), "co_code", fn))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
