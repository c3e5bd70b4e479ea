"""Rows as JSON objects and as lines of CSV: SQL that makes the text of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs.encoding.pieces import Trouble
from merganser.codecs.shapes import Leaves, remade
from merganser.errors import FlowError
from merganser.schema import Column
from merganser.schema.types import SqlType, parse
from merganser.sql import literal, quote

VALUE = "_value"
"""The column of the text of a row."""

NOT_FINITE = r"[:,\[]-?(NaN|Infinity)[,\]}]"


def json_item(target: Sequence[Column], casts: Mapping[str, str]) -> str:
    """SQL for the JSON object of a row; ``casts``: SQL for the columns by name."""
    parts = ", ".join(f"{quote(c.name)} := {remade(casts[c.name], parse(c.type), SAID)}" for c in target)
    return f"encode(to_json(struct_pack({parts}))::VARCHAR) AS {VALUE}"


def _instant(value: str, _: SqlType) -> str:
    """An instant as RFC 3339 has it."""
    usual = f"isfinite({value}) AND year({value}) BETWEEN 1 AND 9999"
    text = f"({value})::VARCHAR"
    return f"CASE WHEN {usual} THEN replace(replace({text}, ' ', 'T'), '+00', 'Z') ELSE {text} END"


SAID: Leaves = {"BLOB": lambda value, _: f"to_base64({value})", "TIMESTAMP WITH TIME ZONE": _instant}
"""What JSON has no type for, as texts."""


def json_trouble(values: pa.BinaryArray, trouble: Trouble) -> None:
    """Note the rows with a NaN or an infinity, which JSON does not have."""
    texts = values.cast(pa.utf8())
    for row in np.flatnonzero(pc.match_substring_regex(texts, NOT_FINITE).fill_null(False).to_numpy(zero_copy_only=False)).tolist():
        try:
            json.loads(texts[row].as_py(), parse_constant=_refused)
        except ValueError as error:
            trouble.of.setdefault(row, ("not finite", str(error)))


def _refused(name: str) -> Any:
    raise ValueError(f"found {name}, which JSON does not have; write NULL or a text instead")


def csv_check(target: Sequence[Column]) -> None:
    """Raise a FlowError for what CSV cannot say."""
    for column in target:
        if parse(column.type).name in ("LIST", "MAP", "STRUCT", "UNION"):
            raise FlowError(
                f"CSV has no {column.type}, which column {column.name!r} is; derive({column.name}=\"to_json({column.name})\") makes"
                " it a text, explode() a row for each element"
            )


def csv_item(target: Sequence[Column], casts: Mapping[str, str]) -> tuple[str, list[str]]:
    """SQL for the line of a row, as RFC 4180 has it, and for what is wrong with it. NULL is an empty field without quotes."""
    parts, wrong = [], []
    for column in target:
        text = f"to_base64({casts[column.name]})" if column.type == "BLOB" else f"({casts[column.name]})::VARCHAR"
        quoted = f"""'"' || replace({text}, '"', '""') || '"'"""
        parts.append(f"CASE WHEN {text} = '' OR regexp_matches({text}, '[\",\\r\\n]') THEN {quoted} ELSE coalesce({text}, '') END")
        if column.type in ("FLOAT", "DOUBLE"):
            found = f"{literal(f'column {column.name!r}: found ')} || {text} || ', which is no number'"
            wrong.append(f"WHEN NOT isfinite({casts[column.name]}) THEN ['not finite', {found}]")
    if len(target) == 1:
        why = literal(f"column {target[0].name!r} is null, which CSV of one column cannot say: it is an empty line")
        wrong.append(f"WHEN {casts[target[0].name]} IS NULL THEN ['missing field', {why}]")
    return f"encode(concat_ws(',', {', '.join(parts)})) AS {VALUE}", wrong


def csv_header(names: Sequence[str]) -> bytes:
    fields = (f'"{n.replace(chr(34), chr(34) * 2)}"' if any(c in n for c in '",\r\n') or not n else n for n in names)
    return ",".join(fields).encode()
