"""The verb ``route``: a content router. Mixed into ``Stream``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from merganser import plan
from merganser.errors import FlowError, on_users_line, users_line
from merganser.plan import Node
from merganser.sql import binder

S = TypeVar("S")


class Routes(Mapping[str, S], Generic[S]):
    """The streams of a router, by name: ``routes["large"]`` or ``routes.large``."""

    def __init__(self, streams: dict[str, S]) -> None:
        self._streams = streams

    @on_users_line
    def __getitem__(self, name: str) -> S:
        if name not in self._streams:
            raise FlowError(f"route() has no branch {name!r}; it has {', '.join(self._streams)}")
        return self._streams[name]

    def __contains__(self, name: object) -> bool:
        return name in self._streams

    @on_users_line
    def __getattr__(self, name: str) -> S:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)

    def __repr__(self) -> str:
        return f"Routes({', '.join(self._streams)})"


class Routing:
    """What ``Stream`` can do to send rows different ways."""

    if TYPE_CHECKING:

        def _open(self, verb: str) -> Node: ...

        def _then(self, node: Node) -> Self: ...

    @on_users_line
    def route(self, branches: Mapping[str, str], *, default: str | None = None) -> Routes[Self]:
        """Each row to exactly one branch: the first one whose SQL condition is true (not false, not NULL).

        ``default`` names a branch for the rows that none takes; without it such a row is a dead letter of every view behind
        the router. Returns the streams by name. In the books of a view, rows of other branches are filtered.
        """
        node = self._open("route")
        if not isinstance(branches, Mapping) or not branches:
            raise FlowError("route() takes a mapping of branch to condition, such as {'large': 'amount > 1000'}")
        for name, sql in branches.items():
            kind = binder().bind_row(sql, node.columns, f"route {name!r}:")
            if kind != "BOOLEAN":
                raise FlowError(f"route {name!r}: {sql!r} must be true or false, this is a {kind}; compare it with something")
        names = [*branches, *([default] if default is not None else [])]
        for name in names:
            if not isinstance(name, str) or not name.isidentifier() or name.startswith("_") or hasattr(Mapping, name):
                raise FlowError(f"route(): {name!r} cannot name a branch, since it could not be told from what a mapping has"
                                " (routes.name); use letters, digits and _")  # fmt: skip
        if len(set(names)) < len(names):
            raise FlowError(f"route(default={default!r}): there is a branch of that name already")
        made = tuple(branches.items())

        def stream(name: str) -> Any:
            sql = plan.takes(name, made, default)
            return self._then(plan.Route(users_line(), node.columns, node, sql, made, default, name))

        return Routes({name: stream(name) for name in names})
