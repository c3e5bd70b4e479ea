"""Walks over plans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from merganser.asking import Service
from merganser.plan.ends import Write
from merganser.plan.node import Node, ordered
from merganser.plan.rows import Deduplicate
from merganser.plan.source import Source

N = TypeVar("N", bound="Node")


def reading(node: N, sources: Mapping[str, Source], services: Mapping[str, Service]) -> N:
    """The same node over other sources, and asking other services, by name."""
    changes: dict[str, Any] = {}
    for each in fields(node):
        value = getattr(node, each.name)
        if isinstance(value, Node):
            changes[each.name] = reading(value, sources, services)
        elif isinstance(value, Source):
            changes[each.name] = sources.get(value.name, value)
        elif isinstance(value, Service):
            changes[each.name] = services.get(value.name, value)
    return replace(node, **changes) if changes else node


def by_workers(node: Node) -> bool:
    """Whether everything up to a node is row-local, so that workers compute it."""
    return all(step.row_local for step in node.chain())


def takes_events(node: Node) -> bool:
    """Whether what a node may refuse are events: also where they end, as they do where they are sent."""
    return node.input is not None and node.input.events if isinstance(node, Write) else node.events


def refusing(ends: Iterable[Node]) -> frozenset[str]:
    """The sources of which verbs behind a stateful one may refuse records, long after they were decoded."""
    late = (n for n in ordered(ends) if takes_events(n) and not by_workers(n) and not isinstance(n, Deduplicate))
    return frozenset(n.source.name for n in late)


def worker_ends(ends: Iterable[Node]) -> list[Node]:
    """The last nodes that workers compute, each once: those that a step or a view reads."""
    return [node for node in read_by_steps(ends) if by_workers(node)]


def read_by_steps(ends: Iterable[Node]) -> list[Node]:
    """The nodes whose rows a step or a view reads, each once; the others are fused with what follows them."""
    return list(dict.fromkeys(i for node in ordered(ends) if not node.row_local for i in node.inputs))
