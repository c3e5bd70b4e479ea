"""Schema registries: of the Confluent API over HTTP (also Karapace, Apicurio, Redpanda), or a folder of versions.

An id of a registry means one schema for ever, so what was fetched once is kept on disk and needs no registry again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from merganser.aside import aside
from merganser.errors import FlowError, SourceError, UsageError, on_users_line
from merganser.schema import notations
from merganser.schema.notations import ENDINGS, Notated
from merganser.schema.references import Reference, texts

log = logging.getLogger("merganser.registry")

TYPES = {"AVRO": "avro", "PROTOBUF": "protobuf", "JSON": "json"}
"""The API's names of notations."""

TIMEOUT = 10.0
PATIENCE = 300.0
"""Seconds to wait for a registry that cannot be reached, when a message has an id that is not known yet."""

UNKNOWN = (40401, 40402, 40403)
"""Codes of the API: no such subject, version, schema."""


class Secret(Protocol):
    """A password that is read when it is needed."""

    def read(self) -> str: ...


class DeniedError(Exception):
    """A registry answered that it has no such schema."""


class UnreachableError(Exception):
    """A registry did not answer, or not so that it could be understood."""


class StoppedError(Exception):
    """The run was asked to end while it waited for a registry."""


_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


@contextmanager
def until(stop: threading.Event) -> Iterator[None]:
    """Whoever waits for a registry in here waits until ``stop`` at most: a StoppedError then."""
    before = _stop.set(stop)
    try:
        yield
    finally:
        _stop.reset(before)


def _until_stopped(fetch: Callable[[], Any]) -> Any:
    """What ``fetch`` returns or raises. It may hang, so it is left alone when the run is asked to end: a StoppedError."""
    stop = _stop.get()
    if stop is None:
        return fetch()
    found = aside(fetch, "merganser-registry")
    while not wait([found], 0.05).done:
        if stop.is_set():
            raise StoppedError
    return found.result()


class RefusedError(UnreachableError):
    """A registry that is there does not let us ask, which waiting will not change: a wrong login, a certificate not trusted."""


@on_users_line
def registry(
    where: str | Path,
    *,
    user: str | None = None,
    password: str | Secret | None = None,
    token: str | Secret | None = None,
    ca: str | Path | None = None,
    cache: str | Path | None = None,
) -> Registry:
    """A schema registry: ``"http://localhost:8081"``, or a folder with versions (``schemas/order/v1.avsc``, ``v2.avsc``).

    - ``user``, ``password``: of HTTP's basic authentication; ``token``: a bearer token instead. Secrets by ``mg.secret(env=…)``.
    - ``ca``: a file of certificates to trust besides the system's.
    - ``cache``: the folder in which fetched schemas are kept, ``~/.cache/merganser/registry`` unless named.

    Apicurio's is under ``/apis/ccompat/v7``.
    """
    text = str(where)
    if text.startswith(("http://", "https://")):
        kept = Path(cache) if cache is not None else Path.home() / ".cache/merganser/registry"
        if token is not None and (user or password):
            raise FlowError("registry() takes user= and password=, or token=, not both")
        return Registry(text.rstrip("/"), user, password, token, None if ca is None else str(ca), str(kept))
    if not Path(text).is_dir():
        raise FlowError(f"registry({text!r}) must be an http address, or a folder (there is none of that name in {Path.cwd()})")
    if user or password or token or ca:
        raise FlowError("registry(): user, password, token and ca are for an http address, not for a folder")
    return Registry(text)


@dataclass(frozen=True)
class Registry:
    """See ``registry``. Equal if the address is: credentials and cache say nothing of what a schema is."""

    where: str
    user: str | None = field(default=None, compare=False)
    password: str | Secret | None = field(default=None, compare=False, repr=False)
    token: str | Secret | None = field(default=None, compare=False, repr=False)
    ca: str | None = field(default=None, compare=False)
    cache: str = field(default="", compare=False)

    @property
    def folder(self) -> Path | None:
        return None if self.where.startswith(("http://", "https://")) else Path(self.where)

    # -- by id ------------------------------------------------------------------------------------------------------

    def by_id(self, number: int, *, patience: float = PATIENCE) -> Notated:
        """The schema of an id. Waits for a registry that is away (see ``until``), then a SourceError. Raises DeniedError."""
        if self.folder is not None:
            raise DeniedError(f"a folder has no ids (the message has {number})")
        found = self._kept(number) or self._keep(number, self._patiently(
            lambda: self._whole(f"/schemas/ids/{number}"), f"schema {number}", patience
        ))  # fmt: skip
        return self._notated(found, f"schema {number}")

    def version_of(self, number: int, subject: str, *, patience: float = PATIENCE) -> int:
        """Which version a schema is: of ``subject``, or of the only subject that has it. Waits and raises as ``by_id``."""
        found = self._kept(f"{number}.versions") or []
        mine = [v["version"] for v in found if v["subject"] == subject]
        if not mine:  # it may have become one since
            ask, what = (lambda: self._get(f"/schemas/ids/{number}/versions")), f"the versions of schema {number}"
            try:
                found = self._keep(f"{number}.versions", self._patiently(ask, what, 0 if found else patience))
            except SourceError:
                if not found:
                    raise
            mine = [v["version"] for v in found if v["subject"] == subject] or [v["version"] for v in found]
        if len(mine) != 1:
            names = ", ".join(sorted({v["subject"] for v in found})) or "none"
            raise DeniedError(f"it is a version of these subjects: {names}; {subject} or a single one was expected")
        return int(mine[0])

    def _kept(self, name: object) -> Any:
        """What is on disk of what was fetched before; None where it is not."""
        path = self._folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _keep(self, name: object, found: Any) -> Any:
        path = self._folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        partial.write_text(json.dumps(found))
        partial.rename(path)
        return found

    @property
    def _folder(self) -> Path:
        return Path(self.cache) / hashlib.sha256(self.where.encode()).hexdigest()[:16]

    def _patiently(self, fetch: Callable[[], Any], what: str, patience: float) -> Any:
        began, said = time.monotonic(), False
        while True:
            try:
                return _until_stopped(fetch)
            except UnreachableError as error:
                if isinstance(error, RefusedError) or time.monotonic() - began > patience:
                    raise SourceError(
                        f"the schema registry {self.where} cannot be asked for {what}: {error}. Nothing is lost: the messages stay"
                        " where they are. Start it, or mend its address, and run again"
                    ) from None
                if not said:
                    log.warning("waiting for the schema registry %s, which is asked for %s: %s", self.where, what, error)
                    said = True
            if (_stop.get() or threading.Event()).wait(min(1.0, patience / 10 + 0.01)):
                raise StoppedError

    def _whole(self, path: str) -> dict[str, Any]:
        """A schema, and the texts of all that it refers to: before each, those that it refers to itself."""
        found = self._get(path)
        texts: dict[str, str] = {}

        def add(references: Sequence[Any]) -> None:
            for reference in references:
                if reference["name"] not in texts:
                    inner = self._get(f"{_path(reference['subject'])}/versions/{reference['version']}")
                    add(inner.get("references") or ())
                    texts[reference["name"]] = inner["schema"]

        add(found.get("references") or ())
        return {"schema": found["schema"], "schemaType": found.get("schemaType", "AVRO"), "texts": texts}

    def _notated(self, found: dict[str, Any], what: str) -> Notated:
        kind = TYPES.get(found["schemaType"])
        if kind is None:
            raise DeniedError(f"{what} is of type {found['schemaType']}; known are {', '.join(TYPES)}")
        try:
            return notations.parse(kind, found["schema"], f"{what} of {self.where}", found.get("texts"))
        except FlowError as error:
            raise DeniedError(error.message) from None

    # -- by subject -------------------------------------------------------------------------------------------------

    def subjects(self) -> list[str]:
        """The names of all subjects."""
        if self.folder is not None:
            return sorted(p.name for p in self.folder.iterdir() if p.is_dir() and _versions(p))
        return sorted(self._asked(lambda: self._get("/subjects")))

    def versions(self, subject: str) -> list[int]:
        """The numbers of a subject's versions, ascending."""
        if self.folder is not None:
            found = sorted(_versions(self.folder / subject))
            if not found:
                raise UsageError(f"{self.folder / subject} has no versions (v1.avsc, v2.avsc, …)")
            return found
        return sorted(self._asked(lambda: self._get(f"{_path(subject)}/versions")))

    def version(self, subject: str, number: int) -> Notated:
        """One version of a subject."""
        if self.folder is not None:
            path = _versions(self.folder / subject).get(number)
            if path is None:
                raise UsageError(f"{self.folder / subject} has no version {number}; it has {self.versions(subject)}")
            return notations.read(path)
        kept = f"{urllib.parse.quote(subject, safe='')}@{number}"
        try:
            found = self._keep(kept, self._asked(lambda: self._whole(f"{_path(subject)}/versions/{number}")))
        except UsageError:
            found = self._kept(kept)
            if found is None:
                raise
        return self._notated(found, f"version {number} of {subject}")

    def register(self, subject: str, path: Path) -> int:
        """Add a schema file as the next version; returns the version's number (a folder) or the schema's id."""
        read = notations.read(path)
        if self.folder is not None:
            known = _versions(self.folder / subject)
            ending = next(e for e in ENDINGS if path.name.endswith(e))
            number = max(known, default=0) + 1
            target = self.folder / subject / f"v{number}{ending}"
            target.parent.mkdir(parents=True, exist_ok=True)
            whole = read.written.text if read.notation == "avro" and read.references else path.read_text()
            target.write_text(whole)  # what it refers to may change later, a version may not
            return number
        ask = lambda: self._register(subject, self._body(read.notation, path.read_text(), read.references))  # noqa: E731 # asked later
        return int(self._asked(ask))

    def id_of(self, subject: str, notation: str, schema: str, references: Sequence[Reference] = ()) -> int:
        """The id of a schema under a subject, which is registered if it is not yet. Kept on disk as ``by_id`` is.

        Raises UsageError: the registry is away, or will not have the schema.
        """
        told = "\0".join((notation, subject, schema, *texts(references).values()))
        told = hashlib.sha256(told.encode()).hexdigest()[:32]
        kept = self._kept(f"{told}.id")
        if kept is not None:
            return int(kept)
        try:
            body = self._body(notation, schema, references)
            try:
                number = int(self._get(_path(subject), body)["id"])
            except DeniedError:  # not known there yet
                number = self._register(subject, body)
        except DeniedError as error:
            raise UsageError(f"the schema registry {self.where} says: {error}") from None
        except UnreachableError as error:
            raise UsageError(
                f"the schema registry {self.where} cannot be asked for the id of {subject!r}: {error}. Nothing was written; start"
                " it, or mend its address, and run again"
            ) from None
        return int(self._keep(f"{told}.id", number))

    def _register(self, subject: str, body: dict[str, Any]) -> int:
        """The id of a schema, now a version of the subject."""
        return int(self._get(f"{_path(subject)}/versions", body)["id"])

    def _body(self, notation: str, schema: str, references: Sequence[Reference]) -> dict[str, Any]:
        """How a schema is sent. What it refers to is registered before, each under its own name, as Confluent's clients do."""
        kind = next(k for k, v in TYPES.items() if v == notation)
        body: dict[str, Any] = {"schema": schema} | ({} if kind == "AVRO" else {"schemaType": kind})
        for reference in references:
            inner = self._body(notation, reference.text, reference.references)
            try:
                found = self._get(_path(reference.name), inner)
            except DeniedError:
                self._register(reference.name, inner)
                found = self._get(_path(reference.name), inner)
            told = {"name": reference.name, "subject": reference.name, "version": found["version"]}
            body.setdefault("references", []).append(told)
        return body

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """What people are told if the registry does not answer as they hoped."""
        try:
            return ask()
        except UnreachableError as error:
            raise UsageError(f"the schema registry {self.where} cannot be reached: {error}") from None
        except DeniedError as error:
            raise UsageError(f"the schema registry {self.where} says: {error}") from None

    # -- HTTP -------------------------------------------------------------------------------------------------------

    def _get(self, path: str, body: Any = None) -> Any:
        headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if body is not None:
            headers["Content-Type"] = "application/vnd.schemaregistry.v1+json"
        if self.token is not None:
            headers["Authorization"] = f"Bearer {_plain(self.token)}"
        elif self.user is not None:
            login = f"{self.user}:{_plain(self.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.where + path, data=data, headers=headers)  # http or https, see registry()
        context = None
        if self.where.startswith("https"):
            context = ssl.create_default_context()
            if self.ca is not None:
                try:
                    context.load_verify_locations(self.ca)
                except OSError as error:
                    why = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
                    raise RefusedError(f"the certificates in ca={self.ca!r} cannot be read: {why}") from None
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT, context=context) as answer:  # the same
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from None
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise RefusedError(f"its certificate is not trusted ({reason.verify_message}); name who signed it by ca=") from None
            raise UnreachableError(str(reason)) from None


def _path(subject: str) -> str:
    return f"/subjects/{urllib.parse.quote(subject, safe='')}"


def _plain(secret: str | Secret) -> str:
    return secret if isinstance(secret, str) else secret.read()


def _refusal(error: urllib.error.HTTPError) -> Exception:
    try:
        said = json.loads(error.read())
        code, message = said.get("error_code"), str(said.get("message"))
    except (ValueError, AttributeError):
        code, message = None, str(error)
    if code in UNKNOWN or error.code in (400, 409, 422):
        return DeniedError(message)
    if error.code in (401, 403):
        return RefusedError(f"it refuses the credentials ({error.code}); check user= and password=, or token=")
    if error.code == 404:
        return RefusedError(f"it answers 404 to {error.url}; is that its Confluent API? Apicurio's is under /apis/ccompat/v7")
    return UnreachableError(f"it answers {error.code}: {message}")


def _versions(folder: Path) -> dict[int, Path]:
    """Number to file of the versions in a folder: ``v1.avsc``, ``v2.proto``, …"""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        named = re.fullmatch(r"v(\d+)(\.avsc|\.proto|\.schema\.json)", path.name)
        if named:
            found[int(named[1])] = path
    return found
