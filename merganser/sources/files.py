"""Files as a source: JSON Lines, CSV (both also ``.gz`` and ``.zst``), Avro, Protocol Buffers, Parquet, Arrow IPC.

The files of a source are one partition, read in the order of their names, as a rotated log is; one that appears later
comes after those already begun, whatever its name. With ``partition_by="file"`` each is a partition of its own.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from merganser.codecs import SEQ, Chunk, Codec, Decoded, Place
from merganser.codecs.avro import AvroCodec
from merganser.codecs.binary import BinaryCodec
from merganser.codecs.columnar import ColumnarCodec
from merganser.codecs.csv import CsvCodec
from merganser.codecs.json import JsonCodec
from merganser.errors import FlowError, SourceError, UsageError, on_users_line
from merganser.schema import Schema
from merganser.sources import Connector, Position
from merganser.sources.columnar import ColumnarFile
from merganser.sources.containers import ContainerFile
from merganser.sources.delimited import DelimitedFile
from merganser.sources.text import TextFile
from merganser.sources.turns import Turns, Whole

HEAD = 1024
"""Bytes at the beginning of a file that tell it from another of the same name."""


def _protobuf(schema: Schema) -> Codec:
    from merganser.codecs.protobuf import MessageReader  # needs packages that not everyone installs

    return BinaryCodec(MessageReader(schema, "the file"))


FORMATS: dict[str, tuple[str, Callable[[Schema], Codec]]] = {
    ".jsonl": ("jsonl", JsonCodec),
    ".ndjson": ("jsonl", JsonCodec),
    ".json": ("jsonl", JsonCodec),
    ".csv": ("csv", CsvCodec),
    ".avro": ("avro", AvroCodec),
    ".pb": ("protobuf", _protobuf),
    ".parquet": ("parquet", ColumnarCodec),
    ".arrow": ("arrow", ColumnarCodec),
    ".ipc": ("arrow", ColumnarCodec),
    ".feather": ("arrow", ColumnarCodec),
}
"""File name ending to format; behind the text formats there may be ``.gz`` or ``.zst``."""

FOLDER = "folder.version"

SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


@on_users_line
def files(
    path: str | Path | Sequence[str | Path],
    *,
    partition_by: str | None = None,
    columns: Mapping[str, str] | None = None,
    max_record_bytes: int | str = "16 MiB",
) -> Files:
    """Events in files: a path, a glob, a folder (all files of a known format in it), or several of these.

    The format goes by the name: ``.jsonl``, ``.csv`` (with a header; both also ``.gz``, ``.zst``), ``.avro``,
    ``.pb`` (Protocol Buffers, each message with its length in front), ``.parquet``, ``.arrow``. Relative paths are
    relative to where the flow runs. ``partition_by="file"``: each file is a log of its own; else all are one, in the
    order of their names. Records longer than ``max_record_bytes`` are dead letters.

    ``columns``: those that come from where a file is: ``{"v": "folder.version"}`` is the number of the nearest folder above it
    that is called ``v1``, ``v2``, …; NULL where there is none.
    """
    paths = (path,) if isinstance(path, (str, Path)) else tuple(path)
    if not paths or not all(isinstance(p, (str, Path)) for p in paths):
        raise FlowError(f"files() takes a path, a glob, a folder or a list of these, not {path!r}")
    if partition_by not in (None, "file"):
        raise FlowError(f"partition_by={partition_by!r} must be 'file', or left out for one log of all files")
    for name, origin in (columns or {}).items():
        if origin != FOLDER:
            raise FlowError(f"columns={{{name!r}: {origin!r}}}: a file has {FOLDER!r}")
    for p in paths:
        if "." in Path(p).name and not any(c in str(p) for c in "*?[") and not Path(p).is_dir():
            format_of(str(p))
    return Files(tuple(str(p) for p in paths), partition_by, _bytes(max_record_bytes), tuple(columns or ()))


def format_of(name: str) -> tuple[str, Callable[[Schema], Codec], str | None]:
    """Format, codec and compression of a file, by its name."""
    base, compression = name, None
    for ending in (".gz", ".zst"):
        if name.endswith(ending):
            base, compression = name.removesuffix(ending), ending[1:]
    known = FORMATS.get(Path(base).suffix.lower())
    if known is None or (compression and known[0] not in ("jsonl", "csv")):
        endings = ", ".join(FORMATS)
        raise FlowError(f"{name}: the format of a file goes by its name; known are {endings}, and .jsonl and .csv with .gz or .zst")
    return *known, compression


def _bytes(size: int | str) -> int:
    if isinstance(size, int) and size > 0:
        return size
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", str(size).lower())
    if not found or found[2] not in SIZES or float(found[1]) <= 0:
        raise FlowError(f"max_record_bytes={size!r} is no size; write a number of bytes, or such as '16 MiB'")
    return int(float(found[1]) * SIZES[found[2]])


@dataclass(frozen=True, slots=True)
class Files(Whole):
    """The connector to files; see ``files``."""

    in_order: ClassVar[bool] = False

    paths: tuple[str, ...]
    partition_by: str | None
    max_record_bytes: int
    versions: tuple[str, ...] = ()
    """Columns that are the version that a folder's name says."""

    @on_users_line
    def then(self, kafka: Connector) -> Connector:
        """These files, then a Kafka topic of one partition, as one log: ``files(…).then(kafka("orders", start={0: 1000}))``.

        The files are read to their end, which is final, and then the topic from its ``start`` on.
        """
        from merganser.sources.kafka import Kafka
        from merganser.sources.then import Then

        if not isinstance(kafka, Kafka):
            raise FlowError("then() takes mg.kafka('topic', …) with one topic")
        return Then(self, kafka)

    def describe(self) -> str:
        by = ", each a partition" if self.partition_by else ""
        near = (min(path, os.path.relpath(path), key=len) for path in self.paths)
        return f"files {' '.join(near)}{by}"

    def found(self) -> list[str]:
        """The files there are now, in the order of their names."""
        names: list[str] = []
        for path in self.paths:
            if Path(path).is_dir():
                names += (str(p) for p in Path(path).iterdir() if p.is_file() and _known(p.name))
            elif Path(path).is_file():
                names.append(path)
            else:
                names += (name for name in glob.glob(path, recursive=True) if Path(name).is_file())  # noqa: PTH207 # absolute ones too
        return sorted(set(names))

    def check(self) -> None:
        names = self.found()
        if not names:
            raise UsageError(f"no file matches {' '.join(self.paths)} (looked in {Path.cwd()})")
        if len({format_of(name)[0] for name in names}) > 1:
            raise UsageError(f"{' '.join(self.paths)} has files of several formats; declare a source for each")

    def partitions(self) -> list[str]:
        return self.found() if self.partition_by else ["files"]

    def open(self, source: str, *, follow: bool, accept_gap: bool = False) -> Turns:
        return Turns(lambda partition, position: FilesReader(self, source, partition, position, follow))

    def metadata(self, schema: Schema) -> dict[str, str]:
        return dict.fromkeys(self.versions, "INTEGER")

    def codec(self, schema: Schema, time: str | None = None) -> Codec:
        names = self.found() or [p for p in self.paths if _known(Path(p).name)]
        inner = replace(schema, columns=tuple(c for c in schema.columns if c.name not in self.versions))
        codec = format_of(names[0])[1](inner) if names else JsonCodec(inner)
        return _FolderCodec(codec, schema, self.versions) if self.versions else codec

    def total_bytes(self) -> int | None:
        return sum(Path(name).stat().st_size for name in self.found())


class _FolderCodec:
    """Rows with the version that the folder of their file says."""

    def __init__(self, codec: Codec, schema: Schema, columns: tuple[str, ...]) -> None:
        self._codec, self._schema, self._columns = codec, schema, columns
        self.locate = codec.locate

    def decode(self, chunk: Chunk) -> Decoded:
        decoded = self._codec.decode(chunk)
        found = [re.fullmatch(r"v(\d{1,9})", part.name) for part in Path(chunk.place.file).parents]
        version = next((int(match[1]) for match in found if match), None)
        table, kinds = decoded.table, self._schema.arrow_schema()
        for name in self._columns:
            table = table.append_column(name, pa.repeat(pa.scalar(version, pa.int64()).cast(kinds.field(name).type), len(table)))
        return Decoded(table.select([*self._schema.names(), SEQ]), decoded.rejects)


def _known(name: str) -> bool:
    try:
        format_of(name)
    except FlowError:
        return False
    return not name.startswith(".")


class FilesReader:
    """Goes through the files of one partition.

    Its position: ``done`` (name to size and head of the files behind it), and of the file that it is in: ``file``,
    ``head``, ``size`` reached, and ``at``, which is the format's own. ``seq``: records behind it.
    """

    def __init__(self, files: Files, source: str, partition: str, position: Position | None, follow: bool) -> None:
        self._files, self._source, self.partition, self._follow = files, source, partition, follow
        position = position or {}
        self._seq: int = position.get("seq", 0)
        self._done: dict[str, list[Any]] = dict(position.get("done", {}))
        self._name: str | None = position.get("file")
        self._head: str = position.get("head", "")
        self._at: dict[str, Any] | None = position.get("at")
        self._size: int = position.get("size", 0)
        self._open: TextFile | ContainerFile | DelimitedFile | ColumnarFile | None = None
        self._waiting: list[str] = []
        self._finished = False
        self._check_done()

    @property
    def finished(self) -> bool:
        return self._finished

    @property
    def immutable(self) -> bool:
        """A single file of a format that cannot grow, read to its end."""
        return self._files.partition_by is not None and not _grows(self.partition)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def read(self, max_bytes: int) -> Chunk | None:
        while True:
            if self._open is None and not self._next_file():
                self._finished = not self._follow
                return None
            assert self._open is not None and self._name is not None
            # What may still grow keeps an unfinished last line until it is finished, or no one is going to.
            last = not self._follow or bool(self._later())
            piece = self._open.read(max_bytes, last=last)
            if piece is not None:
                chunk = Chunk(
                    self._source, self.partition, self._seq, piece.records, Place(self._name, piece.byte, piece.line),
                    piece.payload, {}, piece.disk_bytes,
                    tuple(replace(r, seq=self._seq + r.seq) for r in piece.rejects), memory=piece.memory,
                )  # fmt: skip
                self._seq += piece.records
                return replace(chunk, position=self._position())
            self._check_replaced()
            if not self._later():  # it may grow, even if not in this run
                self._finished = not self._follow
                return None
            self._leave()

    def _position(self) -> Position:
        assert self._open is not None
        return {
            "seq": self._seq, "done": dict(self._done), "file": self._name, "head": self._head,
            "size": self._open.size(), "at": self._open.position(),
        }  # fmt: skip

    # -- from file to file ------------------------------------------------------------------------------------------

    def _later(self) -> list[str]:
        """The files that come after the one that is read."""
        if not self._waiting:
            names = [self.partition] if self._files.partition_by else self._files.found()
            self._waiting = [n for n in names if n not in self._done and n != self._name]
        return self._waiting

    def _next_file(self) -> bool:
        """Open the file that was left in the middle, or the next one. False if there is none."""
        if self._name is None:
            if not self._later():
                return False
            self._name, self._at = self._waiting.pop(0), None
            self._head = _head(self._name)
        elif not Path(self._name).exists():
            at = self._at or {}
            if not at.get("whole"):
                raise SourceError(
                    f"{self._name} is gone, but was read only in part; bring it back, or rebuild the views without it"
                )
            self._done[self._name] = [0, self._head]  # rotated away after it was read
            self._name = None
            return self._next_file()
        else:
            if Path(self._name).stat().st_size < self._size:
                raise _shorter(self._name, Path(self._name).stat().st_size, self._size)
            _same_head(self._name, self._head)
        kind, _, compression = format_of(self._name)
        if kind in ("jsonl", "csv"):
            self._open = TextFile(self._name, kind, compression, self._at, self._files.max_record_bytes)
        elif kind == "avro":
            self._open = ContainerFile(self._name, self._at)
        elif kind == "protobuf":
            self._open = DelimitedFile(self._name, self._at, self._files.max_record_bytes)
        else:
            self._open = ColumnarFile(self._name, kind, self._at)
        return True

    def _leave(self) -> None:
        assert self._open is not None and self._name is not None
        if not self._head.startswith(f"{HEAD}:"):
            self._head = _head(self._name)
        self._done[self._name] = [self._open.size(), self._head]
        self._open.close()
        self._open, self._name, self._at = None, None, None

    def _check_replaced(self) -> None:
        """At the end of a file: is it still the one that was opened?"""
        assert self._open is not None and self._name is not None
        try:
            size = Path(self._name).stat().st_size
        except FileNotFoundError:
            return  # rotated away; what it held was read
        if size < self._open.size():
            raise _shorter(self._name, size, self._open.size())
        _same_head(self._name, self._head)

    def _check_done(self) -> None:
        """The files behind the position must not have changed. One that grew is gone on with if it was the last."""
        for name, (size, head) in self._done.items():
            try:
                now = Path(name).stat().st_size
            except FileNotFoundError:
                continue  # read to its end, and rotated away
            if now < size:
                raise _shorter(name, now, size)
            _same_head(name, head)
            if now > size:
                raise SourceError(
                    f"{name} grew by {now - size} bytes after the file behind it was begun, so its order in the log is lost;"
                    " let only the last file grow, or declare files(…, partition_by='file'), and rebuild the views"
                )


def _grows(name: str) -> bool:
    kind, _, compression = format_of(name)
    return kind in ("jsonl", "csv", "avro", "protobuf") and compression is None


def _head(name: str) -> str:
    """``length:hash`` of a file's first bytes."""
    with Path(name).open("rb") as file:
        head = file.read(HEAD)
    return f"{len(head)}:{hashlib.blake2b(head, digest_size=8).hexdigest()}"


def _same_head(name: str, before: str) -> None:
    length = int(before.split(":")[0])
    with Path(name).open("rb") as file:
        head = file.read(length)
    if f"{len(head)}:{hashlib.blake2b(head, digest_size=8).hexdigest()}" != before:
        raise SourceError(
            f"{name} was replaced: its first {length} bytes are not those of the file that was read under this name."
            " Give new events new files; or rebuild the views from what is there now"
        )


def _shorter(name: str, size: int, before: int) -> SourceError:
    return SourceError(
        f"{name} got shorter: it has {size} bytes, {before} were read. Give new events new files (rename, do not"
        " truncate); or rebuild the views from what is there now"
    )
