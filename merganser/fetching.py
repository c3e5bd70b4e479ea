"""The verb ``fetch``: what events leave out is asked for. Mixed into ``Stream``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from merganser import plan
from merganser.asking import Service, headers_of, placeholders
from merganser.clock import duration
from merganser.codecs.cloudevents import CloudEvents
from merganser.codecs.json import JsonCodec
from merganser.errors import FlowError, on_users_line, users_line
from merganser.plan import Node
from merganser.schema import Schema
from merganser.secrets import Secret
from merganser.temporal import both, key_of, timed


class Fetching:
    """What ``Stream`` can do to ask others."""

    if TYPE_CHECKING:

        def _open(self, verb: str) -> Node: ...

        def _then(self, node: Node) -> Self: ...

    @on_users_line
    def fetch(
        self,
        ask: Callable[..., Any] | str,
        *,
        schema: Mapping[str, str] | str | Path,
        key: str | Sequence[str] | None = None,
        cache: str | timedelta | None = None,
        concurrency: int = 20,
        timeout: str | timedelta = "10 seconds",
        headers: Mapping[str, str | Secret] | None = None,
        name: str | None = None,
    ) -> Self:
        """Rows with what somebody else says of their key, asked for once for each key and stretch of event time, then kept.

        - ``ask``: a URL with columns in braces (``"http://host/customers/{customer_id}"``), which is fetched as a JSON object (404:
          there is no such thing), or a function, async or not, of the key's values that returns a mapping or None.
        - ``schema``: the columns of the answer that are wanted, as in ``mg.source``; all NULL if there is no such thing. One whose
          name is taken gets ``_right``.
        - ``key``: the column(s) that a function is called with; a URL names its own. Rows with a NULL in them ask nobody.
        - ``cache``: how much event time shares an answer. None: all of it; ``"0 seconds"``: none, each event time asks.
        - ``concurrency``: questions that are open at once. ``timeout``: of an attempt; a function that is not async has its own.
        - ``headers``: of the request; ``mg.secret(env=…)`` for what nobody is to see.
        - ``name``: what the service is called, else its host and path, or the function's name. Answers are kept under it.

        A question that fails is asked again some times, then its rows are dead letters. While the service is away, the flow waits.
        """
        node = self._open("fetch")
        if cache is not None:
            timed(node, "fetch(cache=…)", bounded=False)
        service, keys = service_of(node, ask, key, headers, name, concurrency, duration(timeout, "timeout"))
        declared = Schema.declare(schema)
        if isinstance(declared.written, CloudEvents):
            raise FlowError("fetch(schema=…): an answer is a JSON object, not a CloudEvent")
        JsonCodec(declared)  # refuses what JSON cannot be read into
        columns, taken = both(node.columns, {c.name: c.type for c in declared.columns}, ())
        within = None if cache is None else duration(cache, "cache")
        return self._then(plan.Fetch(users_line(), columns, node, service, keys, within, declared, taken))


def service_of(
    node: Node,
    ask: Callable[..., Any] | str,
    key: str | Sequence[str] | None,
    headers: Mapping[str, str | Secret] | None,
    name: str | None,
    concurrency: int,
    timeout: int,
) -> tuple[Service, tuple[str, ...]]:
    """Whom ``fetch`` asks, and the columns of the key."""
    if timeout <= 0 or concurrency < 1:
        raise FlowError("fetch() needs a timeout above zero, and a concurrency of 1 at least")
    if isinstance(ask, str):
        keys = key_of(node, placeholders(ask), "fetch")
        if key is not None and set(key_of(node, key, "fetch")) != set(keys):
            raise FlowError(f"fetch(key=…): the URL asks for {', '.join(keys)}; leave key= out, or put its columns in braces")
        called, digest = name or ask.partition("://")[2], ""
    elif callable(ask):
        if headers:
            raise FlowError("fetch(headers=…) is for URLs; a function sends what it likes")
        keys = key_of(node, key, "fetch")
        called, digest = name or str(getattr(ask, "__qualname__", type(ask).__name__)), plan.code(ask)
    else:
        raise FlowError(f"fetch() takes a function, or a URL with a column in braces, not a {type(ask).__name__}")
    return Service(called, ask, digest, headers_of(headers), timeout / 1e6, concurrency), keys
