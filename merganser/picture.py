"""A flow's plan as a picture (SVG): sources on the left, views and sinks on the right."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from merganser.display import named
from merganser.plan import Materialize, Read, Write

if TYPE_CHECKING:
    from merganser.flow import Flow

WIDTH, GAP, LINE, PAD = 190, 40, 15, 9
"""Of a box, between columns, of a line of text, inside of a box; in pixels."""
CHARACTERS = 25
KINDS = {
    "source": ("#e8f1fb", "#3573b1"),
    "step": ("#ffffff", "#8a8f98"),
    "view": ("#e9f6ec", "#2f8f4e"),
    "sink": ("#f6ecf7", "#8f4a9e"),
    "sql": ("#fdf3e1", "#b8862b"),
}
"""Fill and stroke."""


def plan_svg(flow: Flow) -> str:
    """The picture. Boxes stand in columns by their distance from the sources; lines go from left to right."""
    boxes: dict[str, tuple[str, list[str], list[str]]] = {}
    for name, node, of in named(flow):
        if isinstance(node, Write):
            boxes[f"sink {name}"] = ("sink", [name, *_wrapped(f"to {node.sink.describe()}", 3)], of)
        elif isinstance(node, Materialize):
            boxes[f"view {name}"] = ("view", [name, f"{len(node.columns)} columns"], of)
        elif isinstance(node, Read):
            boxes[name] = ("source", [name, *_wrapped(node.of.connector.describe(), 2)], of)
        else:
            verb, _, rest = node.line(*("" for _ in of)).partition("[")
            boxes[name] = ("step", [verb, *_wrapped(rest.removesuffix("]").lstrip(",; "), 4)], of)
    for view in flow.views:
        reads = [f"view {m.name}" for m in flow.materialized if m.name in view.sql]
        boxes[f"view {view.name}"] = ("sql", [view.name, "SQL view"], reads)
    column: dict[str, int] = {}
    for key, (_, _, of) in boxes.items():
        column[key] = max((column[i] + 1 for i in of), default=0)
    place = _placed(boxes, column)
    parts = [_line(place[i], place[key]) for key, (_, _, of) in boxes.items() for i in of]
    parts += [_box(*place[key], kind, lines) for key, (kind, lines, _) in boxes.items()]
    width = (max(column.values(), default=0) + 1) * (WIDTH + GAP) - GAP + 4
    height = max((y + h for _, y, h in place.values()), default=0) + 4
    style = "max-width: 100%; height: auto; background: white; font: 12px ui-sans-serif, system-ui, sans-serif"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" style="{style}"'
        f' role="img" aria-label="plan of flow {escape(flow.name)}">{"".join(parts)}</svg>'
    )


def _wrapped(text: str, most: int) -> list[str]:
    lines = textwrap.wrap(text, CHARACTERS, break_long_words=True)
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1][: CHARACTERS - 1] + "…"]


def _placed(boxes: dict[str, tuple[str, list[str], list[str]]], column: dict[str, int]) -> dict[str, tuple[int, int, int]]:
    """By box: x, y and height. A box stands beside those it comes from, or below what is in its column already."""
    free: dict[int, int] = {}
    place: dict[str, tuple[int, int, int]] = {}
    for key, (_, lines, of) in boxes.items():
        height = 2 * PAD + LINE * len(lines)
        wanted = min((place[i][1] for i in of), default=0)
        y = max(free.get(column[key], 2), wanted)
        place[key] = (2 + column[key] * (WIDTH + GAP), y, height)
        free[column[key]] = y + height + 14
    return place


def _box(x: int, y: int, height: int, kind: str, lines: Sequence[str]) -> str:
    fill, stroke = KINDS[kind]
    radius = 12 if kind == "source" else 3
    looks = ['fill="#111" font-weight="600"', *['fill="#555"'] * len(lines)]
    texts = "".join(
        f'<text x="{x + PAD}" y="{y + PAD + LINE * i + 11}" {look}>{escape(line)}</text>'
        for i, (line, look) in enumerate(zip(lines, looks))
    )
    return f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{height}" rx="{radius}" fill="{fill}" stroke="{stroke}"/>{texts}'


def _line(start: tuple[int, int, int], end: tuple[int, int, int]) -> str:
    x1, y1, x2, y2 = start[0] + WIDTH, start[1] + 20, end[0], end[1] + 20
    middle = (x1 + x2) // 2 if x2 - x1 < 2 * GAP else x2 - GAP // 2
    return (
        f'<path d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2 - 5} {y2}" fill="none" stroke="#9aa0a8" stroke-width="1.4"/>'
        f'<path d="M{x2 - 7} {y2 - 4} L{x2} {y2} L{x2 - 7} {y2 + 4} Z" fill="#9aa0a8"/>'
    )
