"""Avro: whether a reader's schema can resolve all that a writer's schema can write, as Java's SchemaCompatibility has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from merganser.schema.avro import AvroSchema, branch_name
from merganser.schema.compatibility.difference import Difference

PROMOTED: dict[str, tuple[str, ...]] = {
    "long": ("int",),
    "float": ("int", "long"),
    "double": ("int", "long", "float"),
    "bytes": ("string",),
    "string": ("bytes",),
}
"""For a reader's type: what it takes besides itself."""


def differences(reader: AvroSchema, writer: AvroSchema) -> list[Difference]:
    return _Comparison(reader, writer).of(reader.tree, writer.tree, "")


@dataclass
class _Comparison:
    reader: AvroSchema
    writer: AvroSchema
    _open: set[tuple[str, str]] = field(default_factory=set)
    """Pairs of records that are being compared: where one contains itself, the pair is taken for good there."""

    def of(self, reader: Any, writer: Any, path: str) -> list[Difference]:
        r, w = self.reader.resolve(reader), self.writer.resolve(writer)
        if isinstance(w, list):
            return [d for branch in w for d in self.of(r, branch, path)]
        if isinstance(r, list):
            if any(not self.of(branch, w, path) for branch in r):
                return []
            names = ", ".join(branch_name(self.reader, b) for b in r)
            return [Difference("MISSING_UNION_BRANCH", path, f"{branch_name(self.writer, w)} was written; the reader has {names}")]
        rk, wk = self.reader.kind(r), self.writer.kind(w)
        if rk != wk:
            if wk in PROMOTED.get(rk, ()):
                return []
            return [Difference("TYPE_MISMATCH", path, f"{wk} was written; the reader has {rk}")]
        if rk in ("record", "enum", "fixed"):
            return self._named(rk, r, w, path)
        if rk == "array":
            return self.of(r["items"], w["items"], f"{path}/items")
        if rk == "map":
            return self.of(r["values"], w["values"], f"{path}/values")
        return []

    def _named(self, kind: str, r: Any, w: Any, path: str) -> list[Difference]:
        short = w["name"].rsplit(".", 1)[-1]
        aliases = {a.rsplit(".", 1)[-1] for a in r.get("aliases", ())}
        if r["name"].rsplit(".", 1)[-1] != short and short not in aliases:
            return [Difference("NAME_MISMATCH", path, f"{w['name']} was written; the reader has {r['name']}")]
        if kind == "fixed":
            if r["size"] == w["size"]:
                return []
            return [Difference("FIXED_SIZE_MISMATCH", path, f"{w['size']} bytes were written; the reader has {r['size']}")]
        if kind == "enum":
            missing = [s for s in w["symbols"] if s not in r["symbols"]]
            if not missing or r.get("default") in r["symbols"]:
                return []
            return [Difference("MISSING_ENUM_SYMBOLS", path, f"the reader does not have {', '.join(missing)}, nor a default")]
        return self._records(r, w, path)

    def _records(self, r: Any, w: Any, path: str) -> list[Difference]:
        pair = r["name"], w["name"]
        if pair in self._open:
            return []
        self._open.add(pair)
        written = {f["name"]: f for f in w["fields"]}
        found = []
        for f in r["fields"]:
            other = next((written[n] for n in (f["name"], *f.get("aliases", ())) if n in written), None)
            at = f"{path}/{f['name']}"
            if other is not None:
                found += self.of(f["type"], other["type"], at)
            elif "default" not in f:
                detail = "the writer has no such field, and it has no default"
                found.append(Difference("READER_FIELD_MISSING_DEFAULT_VALUE", at, detail))
        self._open.discard(pair)
        return found
