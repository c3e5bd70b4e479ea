"""Asking others for what events leave out: what is asked is declared here; ``asker`` asks.

An answer is kept as the JSON text that it came as, so that a view with other columns can be built from it later. ``NOTHING`` is an
answer too: there is no such thing.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from merganser.codecs import Chunk, Place
from merganser.codecs.json import JsonCodec
from merganser.codecs.messages import Messages
from merganser.errors import FlowError
from merganser.secrets import Secret

NOTHING = None
"""The answer that there is no such thing."""

Answer = str | None
"""A JSON object as text, or ``NOTHING``."""

NOT_ANSWERED, REFUSED, BAD_ANSWER = "not answered", "question refused", "bad answer"
REASONS = (NOT_ANSWERED, REFUSED, BAD_ANSWER)
"""Of dead letters whose question had no answer: tried in vain several times; no use in trying again; not what was declared."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a question has no answer: one of ``REASONS``, and a sentence."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Service:
    """Whom to ask, and how: a function of the key's values, or a URL with their columns in braces.

    ``timeout`` is in seconds, of one attempt; ``concurrency``: how many questions may be open at once.
    """

    name: str
    ask: Callable[..., Any] | str = field(compare=False, repr=False)
    digest: str
    """Of a function's code, so that another function is another question; empty for a URL."""
    headers: tuple[tuple[str, str | Secret], ...] = field(compare=False, repr=False)
    timeout: float = field(compare=False)
    concurrency: int = field(compare=False)

    def describe(self) -> str:
        return f"{self.name}#{self.digest}" if self.digest else self.name


def placeholders(url: str) -> tuple[str, ...]:
    """The columns in braces of a URL, in order. Raises FlowError for one that cannot be asked."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise FlowError(f"fetch() takes a function, or a URL such as 'http://host/customers/{{customer_id}}', not {url!r}")
    if "@" in parts.netloc:
        raise FlowError("fetch(): a URL with a password would be shown in plans; headers={'Authorization': mg.secret(env=…)}")
    if "{" in parts.netloc:
        raise FlowError("fetch(): an event does not decide which host is asked; write its name in the URL")
    try:
        pieces = list(string.Formatter().parse(url))
    except ValueError as error:
        raise FlowError(f"fetch({url!r}): {error}") from None
    names = [name for _, name, _, _ in pieces if name is not None]
    odd = [name for _, name, spec, conversion in pieces if name is not None and (spec or conversion or not name.isidentifier())]
    if odd:
        raise FlowError(f"fetch({url!r}): braces hold the name of a column and nothing else, not {odd[0]!r}")
    if not names:
        raise FlowError(f"fetch({url!r}) asks the same for every event; put the key's column in braces, such as {{customer_id}}")
    return tuple(dict.fromkeys(names))


def headers_of(given: Mapping[str, str | Secret] | None) -> tuple[tuple[str, str | Secret], ...]:
    for name, value in (given or {}).items():
        if not isinstance(name, str) or not isinstance(value, (str, Secret)):
            raise FlowError(f"fetch(headers=…): {name!r} takes a text or mg.secret(env='NAME'), not a {type(value).__name__}")
    return tuple((given or {}).items())


def decoded(codec: JsonCodec, answers: Sequence[str]) -> tuple[pa.Table, dict[int, str]]:
    """Answers as rows of the codec's schema, and what is wrong with the others, by place.

    The table has a column ``_seq``: the answer's place.
    """
    places = np.arange(len(answers))
    values = pa.array([answer.encode() for answer in answers], pa.binary())
    messages = Messages(values, places, np.zeros(len(answers), np.int64))
    found = codec.decode(Chunk("answers", "", 0, len(answers), Place("answers", None, None), messages, {}, 0))
    return found.table, {reject.seq: f"{reject.reason}: {reject.detail}" for reject in found.rejects}
