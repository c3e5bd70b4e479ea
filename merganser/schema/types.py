"""DuckDB's type names taken apart: ``MAP(VARCHAR, STRUCT(a INTEGER)[])`` as a tree."""

from __future__ import annotations

import re
from dataclasses import dataclass

TOKEN = re.compile(r'"(?:[^"]|"")*"|\[\d*\]|[(),]|[^\s(),"\[\]]+')
PARTS = ("STRUCT", "UNION")
"""Types whose arguments have names."""


@dataclass(frozen=True, slots=True)
class SqlType:
    """A type: its ``name`` (``DECIMAL``, ``STRUCT``, ``LIST``, …), and what stands in its parentheses.

    ``inner``: (name, type) for STRUCT and UNION, ("", type) for MAP and LIST. ``digits``: of a DECIMAL.
    """

    name: str
    inner: tuple[tuple[str, SqlType], ...] = ()
    digits: tuple[int, ...] = ()


def parse(text: str) -> SqlType:
    """A type in DuckDB's own spelling as a tree."""
    tokens = TOKEN.findall(text)
    found, rest = _type(tokens)
    assert not rest, text
    return found


def _type(tokens: list[str]) -> tuple[SqlType, list[str]]:
    words = []
    while tokens and tokens[0] not in "(),[]" and not tokens[0].startswith("["):
        words.append(tokens.pop(0))
    found = SqlType(" ".join(words))
    if tokens and tokens[0] == "(":
        found, tokens = _arguments(found.name, tokens[1:])
    while tokens and tokens[0].startswith("["):
        tokens = tokens[1:]
        found = SqlType("LIST", (("", found),))
    return found, tokens


def _arguments(name: str, tokens: list[str]) -> tuple[SqlType, list[str]]:
    inner: list[tuple[str, SqlType]] = []
    digits: list[int] = []
    while True:
        label = ""
        if name in PARTS:
            label = tokens.pop(0)
            label = label[1:-1].replace('""', '"') if label.startswith('"') else label
        if name == "DECIMAL":
            digits.append(int(tokens.pop(0)))
        else:
            kind, tokens = _type(tokens)
            inner.append((label, kind))
        if tokens.pop(0) == ")":
            return SqlType(name, tuple(inner), tuple(digits)), tokens
