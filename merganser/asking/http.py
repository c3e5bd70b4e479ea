"""Asking by HTTP: GET a URL, and take the JSON object that comes back."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any
from urllib.parse import quote

import httpx2

from merganser.asking import BAD_ANSWER, NOTHING, REFUSED, Answer, Failure, Service
from merganser.asking.attempts import AwayError, NoUseError
from merganser.secrets import Secret

GONE = (404, 410)
"""There is no such thing."""

BUSY = (429, 502, 503, 504)
"""The service, or what stands before it, cannot answer anybody now."""

AGAIN = (401, 403, 407, 408, 425)
"""Answers of the 400s that may be another one next time, or are about who asks and not about what."""

LONGEST = 300.0
"""Seconds of a Retry-After that are obeyed at most."""


@cache
def _trusted() -> ssl.SSLContext:
    return httpx2.create_ssl_context()  # takes as long as some requests: made once


@asynccontextmanager
async def client(service: Service) -> AsyncIterator[httpx2.AsyncClient]:
    """A client for the questions of one epoch."""
    assert isinstance(service.ask, str)
    headers = {name: value.read() if isinstance(value, Secret) else value for name, value in service.headers}
    limits = httpx2.Limits(max_connections=service.concurrency, max_keepalive_connections=service.concurrency)
    async with httpx2.AsyncClient(
        headers={"Accept": "application/json", "User-Agent": "merganser"} | headers,
        timeout=service.timeout, limits=limits, verify=_trusted(),
    ) as made:  # fmt: skip
        yield made


def url(template: str, key: dict[str, Any]) -> str:
    """The URL for a key; a value never says more than one part of it. Raises NoUseError."""
    values = {name: str(value) for name, value in key.items()}
    for name, value in values.items():
        if value in ("", ".", ".."):
            failure = Failure(REFUSED, f"{name} is {value!r}, which would make another URL of {template}")
            raise NoUseError(failure, reached=False)
    return template.format_map({name: quote(value, safe="") for name, value in values.items()})


async def ask(client: httpx2.AsyncClient, template: str, key: dict[str, Any]) -> Answer:
    """One attempt. Raises AwayError, NoUseError, or anything else for a failure that may pass."""
    where = url(template, key)
    try:
        response = await client.get(where)
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
        raise AwayError(f"{where}: {_named(error)}") from None
    except httpx2.TimeoutException:
        raise RuntimeError(f"{where}: no answer within {client.timeout.read:g} s") from None
    except httpx2.HTTPError as error:
        raise RuntimeError(f"{where}: {_named(error)}") from None
    status = response.status_code
    if status in GONE or status == 204:
        return NOTHING
    if response.is_success:
        return _object(response, where)
    said = f"{where}: HTTP {status} {response.reason_phrase}"
    if status in BUSY:
        raise AwayError(said, retry_after(response.headers.get("Retry-After")))
    if response.is_redirect:  # not followed: the headers' secrets are for this host
        raise NoUseError(Failure(REFUSED, f"{said}, to {response.headers.get('Location')}: write that URL in the flow"))
    if 400 <= status < 500 and status not in AGAIN:
        raise NoUseError(Failure(REFUSED, said))
    raise RuntimeError(said)


def _object(response: httpx2.Response, where: str) -> Answer:
    """The answer's text, if it is a JSON object; null is nothing."""
    try:
        text = response.content.decode("utf-8-sig")
        value = json.loads(text)
    except ValueError as error:
        raise NoUseError(Failure(BAD_ANSWER, f"{where}: the answer is no JSON ({error})")) from None
    if value is None:
        return NOTHING
    if not isinstance(value, dict):
        raise NoUseError(Failure(BAD_ANSWER, f"{where}: the answer is no JSON object but a {type(value).__name__}"))
    return text  # as it came: numbers keep all their digits


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or a date. None for what is neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}{f' ({error})' if str(error) else ''}"
