"""Files as a sink: each delivery is a file of JSON Lines, that appears whole or not at all.

``mg.files("out/orders-*.jsonl")``: the star becomes ``SENDER-FIRST-LAST``, the store that sent it and the numbers of its first
and last row. So the names say what is there, and nothing else has to be kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from merganser import faults
from merganser.errors import FlowError, StoreError
from merganser.sinks import Content, Sent
from merganser.sources.files import Files

DIGITS = 12
"""Of the numbers in names, so that the order of names is that of rows."""


def pattern(files: Files) -> Path:
    """Folder and name with one star. Raises FlowError with what is expected."""
    path = Path(files.paths[0])
    if len(files.paths) != 1 or path.name.count("*") != 1 or "*" in str(path.parent) or path.suffix != ".jsonl":
        raise FlowError(
            f"write(mg.files({', '.join(map(repr, files.paths))})): rows are written to files of JSON Lines whose name has"
            " one star, such as 'out/orders-*.jsonl'"
        )
    return path


def open(connector: Files, name: str, sender: str) -> FilesWriter:
    return FilesWriter(connector, name, sender)


def content(connector: Files, name: str, sender: str) -> dict[int, Content]:
    found: dict[int, Content] = {}
    for path, first in FilesWriter(connector, name, sender).written():
        for number, line in enumerate(path.read_bytes().splitlines(), first):
            found[number] = None, None if line == b"null" else line
    return found


def check(connector: Files) -> None:
    pattern(connector)


def default_name(connector: Files) -> str:
    return pattern(connector).name.split("*")[0].strip("-_.") or "files"


class FilesWriter:
    """Writes files beside their final names and renames them."""

    def __init__(self, files: Files, name: str, sender: str) -> None:
        path = pattern(files)
        sender = sender if name == default_name(files) else f"{sender}-{name}"
        self._folder, self._sender = path.parent, sender
        self._before, self._after = path.name.split("*")
        numbers = rf"(\d{{{DIGITS},}})-(\d{{{DIGITS},}})"
        self._mine = re.compile(f"{re.escape(self._before)}{re.escape(sender)}-{numbers}{re.escape(self._after)}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write to {self._folder}: {error.strerror}") from None

    def last(self) -> int:
        return max((int(self._match(path)[2]) for path, _ in self.written()), default=0)

    def written(self) -> list[tuple[Path, int]]:
        """The files of this sender, with the number of the first row of each."""
        mine = (path for path in self._folder.iterdir() if self._mine.fullmatch(path.name))
        return sorted((path, int(self._match(path)[1])) for path in mine)

    def _match(self, path: Path) -> re.Match[str]:
        match = self._mine.fullmatch(path.name)
        assert match
        return match

    def send(self, rows: Sequence[Sent]) -> None:
        name = f"{self._before}{self._sender}-{rows[0].seq:0{DIGITS}}-{rows[-1].seq:0{DIGITS}}{self._after}"
        part = self._folder / f".{self._before}{self._sender}.part"  # a dot: no source takes it for events
        try:
            with part.open("wb") as file:
                file.writelines((row.value or b"null") + b"\n" for row in rows)
                file.flush()
                os.fsync(file.fileno())
            faults.point("sink.within")
            part.rename(self._folder / name)
            self._sync()
        except OSError as error:
            raise StoreError(
                f"cannot write to {self._folder}: {error.strerror}; its rows are in the outbox and are sent by the next run"
            ) from None

    def close(self) -> None:
        pass

    def _sync(self) -> None:
        """Make the new name durable, before the outbox forgets the rows."""
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
