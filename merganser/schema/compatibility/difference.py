"""What keeps a schema from reading what another one wrote."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """A break: its kind, as Confluent's Schema Registry calls it, where it is, and what it is in a sentence."""

    kind: str
    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.path or '/'}: {self.detail} ({self.kind})"
