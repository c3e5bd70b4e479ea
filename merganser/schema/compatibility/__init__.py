"""Whether what one schema wrote can be read by another: the verdicts of Confluent's Schema Registry, with reasons.

``BACKWARD``: the new schema reads what the old one wrote. ``FORWARD``: the old one reads what the new one will write.
``FULL``: both. Without ``_TRANSITIVE`` only the last of the old schemas counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from merganser.errors import UsageError
from merganser.schema.compatibility import avro, json_schema, protobuf
from merganser.schema.compatibility.difference import Difference

MODES = ("NONE", "BACKWARD", "FORWARD", "FULL", "BACKWARD_TRANSITIVE", "FORWARD_TRANSITIVE", "FULL_TRANSITIVE")

COMPARE: dict[str, Callable[[Any, Any], list[Difference]]] = {
    "avro": avro.differences,
    "protobuf": protobuf.differences,
    "json": json_schema.differences,
}
"""By notation: what of the first schema keeps it from reading what the second one wrote."""


@dataclass(frozen=True, slots=True)
class Break:
    """Why two schemas do not go together. ``old``: which of the old ones; ``reader``: who cannot read, "new" or "old"."""

    old: int
    reader: str
    differences: tuple[Difference, ...]


def check(notation: str, new: Any, olds: Sequence[Any], mode: str) -> list[Break]:
    """The breaks between a new schema and old ones, the oldest of these first. Raises UsageError for an unknown mode."""
    wanted = mode.upper().replace("-", "_")
    if wanted not in MODES:
        raise UsageError(f"mode {mode!r} is none of {', '.join(m.lower() for m in MODES)}")
    compare = COMPARE[notation]
    breaks = []
    numbered = list(enumerate(olds))
    for number, old in numbered if wanted.endswith("_TRANSITIVE") else numbered[-1:]:
        if wanted.startswith(("BACKWARD", "FULL")) and (found := compare(new, old)):
            breaks.append(Break(number, "new", tuple(found)))
        if wanted.startswith(("FORWARD", "FULL")) and (found := compare(old, new)):
            breaks.append(Break(number, "old", tuple(found)))
    return breaks
