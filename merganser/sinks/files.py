"""Files as a sink: each delivery is a file, that appears whole or not at all.

``mg.files("out/orders-*.jsonl")``: the star becomes ``SENDER-FIRST-LAST``, the store that sent it and the numbers of its first
and last row. So the names say what is there, and nothing else has to be kept. The format goes by the name, as it is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from merganser import faults
from merganser.codecs.encoding import Encoding
from merganser.errors import FlowError, StoreError
from merganser.sinks import Content, Sent
from merganser.sinks.layouts import layout, pieces
from merganser.sources import files as sources
from merganser.sources.files import Files

DIGITS = 12
"""Of the numbers in names, so that the order of names is that of rows."""


def pattern(files: Files) -> Path:
    """Folder and name with one star. Raises FlowError with what is expected."""
    path = Path(files.paths[0])
    if len(files.paths) != 1 or path.name.count("*") != 1 or "*" in str(path.parent):
        raise FlowError(
            f"write(mg.files({', '.join(map(repr, files.paths))})): rows are written to files whose name has one star and says"
            " the format, such as 'out/orders-*.jsonl' or 'out/orders-*.parquet'"
        )
    sources.format_of(path.name)
    return path


def open(connector: Files, name: str, sender: str, encoding: Encoding) -> FilesWriter:
    return FilesWriter(connector, name, sender, encoding)


def content(connector: Files, name: str, sender: str, encoding: Encoding) -> dict[int, Content]:
    found: dict[int, Content] = {}
    for path, first, last in FilesWriter(connector, name, sender, encoding).written():
        for number, piece in enumerate(pieces(path, encoding), last if encoding.columnar else first):
            found[number] = None, piece
    return found


def check(connector: Files) -> None:
    pattern(connector)


def format_of(connector: Files) -> str:
    kind = sources.format_of(pattern(connector).name)[0]
    return "json" if kind == "jsonl" else kind


def default_name(connector: Files) -> str:
    return pattern(connector).name.split("*")[0].strip("-_.") or "files"


class FilesWriter:
    """Writes files beside their final names and renames them."""

    linger = 10.0
    """A file for every commit would be a file a second."""

    def __init__(self, files: Files, name: str, sender: str, encoding: Encoding) -> None:
        path = pattern(files)
        sender = sender if name == default_name(files) else f"{sender}-{name}"
        self._folder, self._sender, self._encoding = path.parent, sender, encoding
        self._before, self._after = path.name.split("*")
        numbers = rf"(\d{{{DIGITS},}})-(\d{{{DIGITS},}})"
        self._mine = re.compile(f"{re.escape(self._before)}{re.escape(sender)}-{numbers}{re.escape(self._after)}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write to {self._folder}: {error.strerror}") from None

    def last(self) -> int:
        return max((last for _, _, last in self.written()), default=0)

    def written(self) -> list[tuple[Path, int, int]]:
        """The files of this sender, with the numbers of the first and last row of each."""
        found = ((path, self._mine.fullmatch(path.name)) for path in self._folder.iterdir())
        return sorted((path, int(match[1]), int(match[2])) for path, match in found if match)

    def send(self, rows: Sequence[Sent]) -> None:
        made, count = layout(self._after, [row.value for row in rows], self._encoding)
        first, last = rows[-1].seq - count + 1, rows[-1].seq
        name = f"{self._before}{self._sender}-{first:0{DIGITS}}-{last:0{DIGITS}}{self._after}"
        part = self._folder / f".{self._before}{self._sender}.part"  # a dot: no source takes it for events
        try:
            with part.open("wb") as file:
                file.write(made)
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
