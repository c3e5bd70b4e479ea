"""What people see: plans as text and as Mermaid, results as tables, numbers."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from decimal import Decimal
from html import escape
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from merganser.plan import Materialize, Node, Read, Write, ordered

if TYPE_CHECKING:
    from merganser.flow import Flow


UNBOUNDED = 10_000
"""The width of what is no terminal."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # as all else that writes does


def console(file: IO[str] | None = None) -> Console:
    """A console as wide as the terminal; where there is none, without colour, and wide enough to cut nothing."""
    file = file or sys.stdout
    width = shutil.get_terminal_size((100, 24)).columns if file.isatty() else int(os.environ.get("COLUMNS", UNBOUNDED))
    return _Console(file=file, width=width, highlight=False, soft_wrap=False)


# -- plans ------------------------------------------------------------------------------------------------------------


def plan_text(flow: Flow) -> str:
    """A flow's plan, a line a node, each node once: ``r1 := Filter[orders, amount > 0]``."""
    lines = [f"Flow {flow.name}"]
    for name, node, of in named(flow):
        if isinstance(node, Materialize):
            columns = ", ".join(f"{n} {t}" for n, t in node.columns.items())
            lines.append(f"  {name} := {node.line(*of)}  ({columns})")
        else:
            lines.append(f"  {name} := {node.line(*of)}")
    lines += [f"  {view.name} := View[{' '.join(view.sql.split())}]" for view in flow.views]
    return "\n".join(lines)


def plan_mermaid(flow: Flow) -> str:
    """A flow's plan as a Mermaid flowchart."""
    lines = ["flowchart LR"]
    for name, node, of in named(flow):
        if isinstance(node, Materialize):
            left, right = ("[/", "/]") if isinstance(node, Write) else ("[(", ")]")
            lines += [f'  v_{_id(name)}{left}"{name}"{right}', f"  n_{of[0]} --> v_{_id(name)}"]
            continue
        text = re.sub(r"\[(, )+", "[", node.line(*("" for _ in of)))
        shape = ("([", "])") if isinstance(node, Read) else ("[", "]")
        lines.append(f'  n_{name}{shape[0]}"{_escaped(text)}"{shape[1]}')
        lines += [f"  n_{each} --> n_{name}" for each in of]
    for view in flow.views:
        lines.append(f'  v_{view.name}[["{view.name}"]]')
        lines += [f"  v_{m.name} --> v_{view.name}" for m in flow.materialized if m.name in view.sql]
    return "\n".join(lines)


def named(flow: Flow) -> list[tuple[str, Node, list[str]]]:
    """Name, node and the names of its inputs, inputs first, each node once."""
    names: dict[Node, str] = {}
    found: list[tuple[str, Node, list[str]]] = []
    for node in ordered(flow.ends):
        if isinstance(node, Read):
            names[node] = node.of.name
        elif isinstance(node, Materialize):
            names[node] = node.name
        else:
            names[node] = f"r{1 + sum(1 for n in names if not isinstance(n, (Read, Materialize)))}"
        found.append((names[node], node, [names[i] for i in node.inputs]))
    return found


def _id(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _escaped(text: str) -> str:
    return "".join(f"#{ord(c)};" if c in '"#<>&' else c for c in text)


# -- tables and numbers -------------------------------------------------------------------------------------------------


SHOWN = 40
"""Rows of a result that are shown."""


def count(number: int) -> str:
    """``1234567`` as ``1,234,567``."""
    return f"{number:,}"


def size(nbytes: float) -> str:
    """Bytes for people: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    raise AssertionError


CELL = 40
"""Characters of a value that are shown in a terminal."""


def table(
    rows: pa.Table, *, width: int = UNBOUNDED, max_rows: int = SHOWN, title: str | None = None, of: int | None = None
) -> Table:
    """A result as a table no wider than ``width``: where columns do not fit, some in the middle are left out.

    ``of``: how many rows there are, if not all here. The caption says what is not shown.
    """
    head = rows.slice(0, max_rows)
    values = [column.to_pylist() for column in head.columns]
    widest = [max(len(t) for t in (name, *map(shown, column))) for name, column in zip(head.column_names, values)]
    limit = CELL if width < UNBOUNDED else max(widest, default=0)
    left = fitting([min(w, max(limit, len(name))) for w, name in zip(widest, head.column_names)], width)
    made = Table(title=title, title_justify="left", header_style="bold", show_edge=False, pad_edge=False)
    for i in left:
        name = "…" if i is None else head.column_names[i]
        right = i is not None and numeric(head.schema.field(i).type)
        made.add_column(
            name, justify="right" if right else "left", overflow="ellipsis", no_wrap=True, max_width=max(limit, len(name))
        )
    for row in zip(*(["…"] * len(head) if i is None else values[i] for i in left)):
        made.add_row(*(cell(value) for value in row))
    total, hidden = len(rows) if of is None else of, head.num_columns - sum(i is not None for i in left)
    cut = f"{hidden} of {head.num_columns} columns are not shown: name some, or --format csv" if hidden else None
    made.caption, made.caption_justify = _caption(min(max_rows, total), total, cut) or None, "left"
    return made


def fitting(widths: Sequence[int], width: int) -> list[int | None]:
    """The columns that fit beside each other, from both ends; None stands for those in the middle that do not."""
    every: list[int | None] = list(range(len(widths)))
    for hidden in range(max(1, len(widths) - 1)):
        kept = len(widths) - hidden
        left = [*every[: (kept + 1) // 2], *([None] if hidden else []), *every[len(widths) - kept // 2 :]]
        if sum(1 if i is None else widths[i] for i in left) + 3 * (len(left) - 1) <= width:
            break
    return left


def cell(value: Any) -> Text:
    """A value in a table."""
    return Text("NULL", style="dim") if value is None else Text(shown(value))


def shown(value: Any) -> str:
    """A value for people."""
    if hasattr(value, "isoformat"):
        return str(value.isoformat(sep=" ").removesuffix("+00:00") if hasattr(value, "year") and hasattr(value, "hour") else value)
    if isinstance(value, bytes):
        return repr(value)[2:-1]
    if isinstance(value, Decimal):
        return f"{value:f}"  # 0.000000000, and not 0E-9
    if isinstance(value, pa.MonthDayNano):
        months = f"{value.months} months " if value.months else ""
        return f"{months}{timedelta(days=value.days, microseconds=value.nanoseconds // 1000)}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r}: {_within(each)}' for name, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_within, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_within, value))})"
    return visible(str(value))


def _within(value: Any) -> str:
    """A value within another."""
    return "NULL" if value is None else repr(value) if isinstance(value, str) else shown(value)


def visible(text: str) -> str:
    """A text with its control characters as escapes: what is in events must not command a terminal, or take several lines."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)


def _caption(shown: int, rows: int, cut: str | None) -> str:
    parts = [f"{count(shown)} of {count(rows)} rows" if shown < rows else "", cut or ""]
    return "; ".join(part for part in parts if part)


def table_text(head: pa.Table, rows: int, cut: str | None) -> str:
    """The first rows of a result as text, and how many there are."""
    out = console()
    out.no_color = True
    with out.capture() as captured:
        out.print(table(head, max_rows=len(head), width=out.width))
    return captured.get().rstrip() + f"\n({_caption(len(head), rows, cut) or f'{count(rows)} rows'})"


_STYLE = (
    "<style scoped>.mg td, .mg th {padding: 2px 10px; text-align: left; white-space: nowrap; max-width: 40em; overflow: hidden;"
    " text-overflow: ellipsis} .mg .n {text-align: right; font-variant-numeric: tabular-nums} .mg .null {opacity: .5}"
    " .mg small {opacity: .7}</style>"
)


def table_html(head: pa.Table, rows: int, cut: str | None) -> str:
    """The first rows of a result for Jupyter, with the types of the columns."""
    kinds = [' class="n"' if numeric(f.type) else "" for f in head.schema]
    heads = "".join(
        f"<th{kind}>{escape(f.name)}<br><small>{escape(str(f.type))}</small></th>" for kind, f in zip(kinds, head.schema)
    )
    lines = []
    for row in zip(*(column.to_pylist() for column in head.columns)):
        cells = (
            f"<td{kind}>{'<span class=null>NULL</span>' if value is None else escape(shown(value))}</td>"
            for kind, value in zip(kinds, row)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    caption = _caption(len(head), rows, cut) or f"{count(rows)} rows"
    return (
        f'<div class="mg" style="overflow-x: auto">{_STYLE}<table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table><small>{escape(caption)}</small></div>"
    )


def numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


FIRM = 19
"""Values up to this many characters, as a time has, are not cut to make room for longer ones."""


def simple(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None, width: int = UNBOUNDED
) -> Table:
    """A table of texts and numbers; numbers stand right, and are not cut.

    Where it is wider than ``width``, columns of nothing but zeros are named below it instead.
    """
    rows = [list(row) for row in rows]
    widest = [max((len(_plain(row[i])) for row in rows), default=0) for i in range(len(headers))]
    numbers = [bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(headers))]
    wide = sum(max(len(h), w) for h, w in zip(headers, widest)) + 3 * (len(headers) - 1) > width
    idle = [i for i in range(len(headers)) if wide and numbers[i] and not any(row[i] for row in rows)]
    made = Table(title=title, title_justify="left", header_style="bold", show_edge=False, pad_edge=False)
    if idle:
        made.caption, made.caption_justify = f"{', '.join(headers[i] for i in idle)}: 0 everywhere", "left"
    for i, header in enumerate(headers):
        if i not in idle:
            made.add_column(
                Text(header, overflow="fold", no_wrap=False), justify="right" if numbers[i] else "left",
                overflow="ellipsis", no_wrap=True, min_width=widest[i] if numbers[i] or widest[i] <= FIRM else None,
            )  # fmt: skip
    for row in rows:
        made.add_row(*(Text(_plain(v)) if isinstance(v, int) else cell(v) for i, v in enumerate(row) if i not in idle))
    return made


def _plain(value: Any) -> str:
    return count(value) if isinstance(value, int) and not isinstance(value, bool) else shown(value)
