"""The smallest schema registry that speaks the Confluent API over a socket, for tests."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class Served:
    """What is served, and what was asked for."""

    url: str = ""
    login: str | None = None
    """``user:password``, or the whole of what Authorization must be where it begins with Bearer."""
    down: bool = False
    """Answer 503 to everything."""
    hung: threading.Event | None = None
    """Answer nothing before this is set."""
    subjects: dict[str, list[int]] = field(default_factory=dict)
    schemas: dict[int, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(self, subject: str, schema: str, kind: str = "AVRO", references: list[dict[str, Any]] | None = None) -> int:
        """Register a schema; one that is known already keeps its id."""
        body: dict[str, Any] = {"schema": schema}
        body |= ({"schemaType": kind} if kind != "AVRO" else {}) | ({"references": references} if references else {})
        number = next((n for n, s in self.schemas.items() if s == body), len(self.schemas) + 1)
        self.schemas[number] = body
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Served]:
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            served.asked.append(self.path)
            if served.hung is not None:
                served.hung.wait()
                return
            code, answer = _answer(served, self.path, self.headers.get("Authorization"), body)
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    served.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(served: Served, path: str, login: str | None, body: Any) -> tuple[int, Any]:
    if served.down:
        return 503, {"error_code": 50301, "message": "down for a while"}
    wanted = served.login or ""
    if not wanted.startswith("Bearer ") and wanted:
        wanted = "Basic " + base64.b64encode(wanted.encode()).decode()
    if wanted and login != wanted:
        return 401, {"error_code": 40101, "message": "Unauthorized"}
    parts = [unquote(p) for p in path.strip("/").split("/")]
    if parts == ["subjects"]:
        return 200, sorted(served.subjects)
    if parts[:2] == ["schemas", "ids"]:
        found = served.schemas.get(int(parts[2]))
        return (200, found) if found else (404, {"error_code": 40403, "message": f"Schema {parts[2]} not found"})
    versions = served.subjects.get(parts[1], [])
    if body is not None and len(parts) == 2:  # is it there?
        asked = (body["schema"], body.get("schemaType", "AVRO"))
        known = [n for n in versions if (served.schemas[n]["schema"], served.schemas[n].get("schemaType", "AVRO")) == asked]
        found = {"id": known[0], "version": versions.index(known[0]) + 1} if known else None
        return (200, found) if found else (404, {"error_code": 40403, "message": "Schema not found"})
    if body is not None:
        return 200, {"id": served.add(parts[1], body["schema"], body.get("schemaType", "AVRO"), body.get("references"))}
    if not versions:
        return 404, {"error_code": 40401, "message": f"Subject '{parts[1]}' not found."}
    if len(parts) == 3:
        return 200, list(range(1, len(versions) + 1))
    if not parts[3].isdigit() or not 0 < int(parts[3]) <= len(versions):
        return 404, {"error_code": 40402, "message": f"Version {parts[3]} not found."}
    number = versions[int(parts[3]) - 1]
    return 200, {"subject": parts[1], "version": int(parts[3]), "id": number, **served.schemas[number]}
