"""Asking a running flow: the other side of the endpoint, over loopback."""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
import urllib.parse
from collections.abc import Sequence
from typing import Any

from merganser.errors import MerganserError, QueryError, StoreError
from merganser.query.caps import Limits
from merganser.query.reading import IN_MEMORY, Answer
from merganser.query.sidecar import Holder
from merganser.query.status import Status

PATIENCE = 30.0
"""Seconds that a flow may take beyond the limit of a query, or for what is none."""


class GoneError(MerganserError):
    """Nobody answers there any more, or somebody else does."""


class Remote:
    """A flow that holds a store. ``run`` of the holder may be empty: then whoever has the token is trusted."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder

    def read(self, statements: Sequence[str], limits: Limits) -> Answer:
        asked = {"sql": list(statements), "max_rows": limits.rows, "max_bytes": limits.bytes, "timeout": limits.seconds}
        connection, response = self._ask("POST", "/query", json.dumps(asked), limits.seconds + PATIENCE)
        try:
            data = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 # closed by whoever reads the answer
            while piece := response.read(1 << 18):
                data.write(piece)
        except (OSError, http.client.HTTPException):
            raise GoneError("the flow stopped while it answered") from None
        finally:
            connection.close()
        cut = response.headers.get("Merganser-Cut")
        rows, sizes = ([int(n) for n in response.headers[name].split(", ")] for name in ("Merganser-Rows", "Merganser-Bytes"))
        if data.tell() != sum(sizes):
            raise GoneError("the flow stopped while it answered")
        cuts = json.loads(cut) if cut else [None] * len(rows)
        return Answer(data, int(response.headers["Merganser-Epoch"]), rows, sizes, cuts)

    def status(self) -> Status:
        return self._json("/status")

    def wait(self, seconds: float) -> bool:
        return bool(self._json(f"/wait?timeout={seconds}", seconds + PATIENCE)["done"])

    def _json(self, path: str, timeout: float = PATIENCE) -> dict[str, Any]:
        connection, response = self._ask("GET", path, None, timeout)
        try:
            found: dict[str, Any] = json.loads(response.read())
            return found
        except (OSError, ValueError, http.client.HTTPException):
            raise GoneError("the flow stopped while it answered") from None
        finally:
            connection.close()

    def _ask(
        self, method: str, path: str, body: str | None, timeout: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """An answer with status 200 by the run that is meant; QueryError, StoreError or GoneError otherwise."""
        url = urllib.parse.urlsplit(self._holder.url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.netloc, timeout=timeout)
        headers = {"Authorization": f"Bearer {self._holder.token}", "Content-Type": "application/json"}
        try:
            connection.request(method, url.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            if self._holder.run not in ("", response.headers.get("Merganser-Run")):
                raise GoneError(f"somebody else answers at {self._holder.url}")
            if response.status == 503:
                raise GoneError("the flow is stopping, or too many ask it")
            if response.status == 200:
                return connection, response
            text = response.read(1 << 20)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if isinstance(error, socket.timeout):
                raise StoreError(f"the flow at {self._holder.url} did not answer in {timeout:g} seconds") from None
            raise GoneError(f"nobody answers at {self._holder.url}: {error}") from None
        except GoneError:
            connection.close()
            raise
        connection.close()
        try:
            message = json.loads(text)["error"]
        except (ValueError, KeyError, TypeError):
            message = text.decode("utf-8", "replace") or f"HTTP {response.status}"
        if response.status == 400:
            raise QueryError(message)
        raise StoreError(f"the flow at {self._holder.url} refuses (HTTP {response.status}): {message}")
