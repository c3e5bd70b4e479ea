"""Schemas that others refer to: the ``.proto`` files that one imports, the ``.avsc`` files of named types that one has by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merganser.errors import FlowError

IMPORT = re.compile(r"""(?:^|;|\})\s*import\s+(?:public\s+|weak\s+)?["']([^"']+)["'](?=\s*;)""")
GOOGLES = "google/protobuf/"
NAMED = ("record", "error", "enum", "fixed")
PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")


@dataclass(frozen=True)
class Reference:
    """What a schema refers to: a file as it is imported, or a type by its full name; its text, and what that refers to."""

    name: str
    text: str
    references: tuple[Reference, ...] = ()


def texts(references: Sequence[Reference]) -> dict[str, str]:
    """All that is referred to, however far away, by name: what is referred to before what refers to it."""
    found: dict[str, str] = {}
    for reference in references:
        found |= texts(reference.references)
        found[reference.name] = reference.text
    return found


def of_file(path: Path, notation: str) -> tuple[Reference, ...]:
    """What a schema file refers to. Raises FlowError for what is not there.

    Imports are looked for beside a ``.proto`` file and in the folders above it, named types beside an ``.avsc`` file, in a file
    of their full name: ``shop.Money.avsc``.
    """
    folders = [path.resolve().parent, *path.resolve().parent.parents][:4] if notation == "protobuf" else [path.resolve().parent]
    return _of(path.read_text(), notation, folders, (), str(path))


def _of(text: str, notation: str, folders: Sequence[Path], within: tuple[str, ...], at: str) -> tuple[Reference, ...]:
    found = []
    for name in direct(text, notation):
        file = name if notation == "protobuf" else f"{name}.avsc"
        path = next((folder / file for folder in folders if (folder / file).is_file()), None)
        if path is None:
            where = "beside it or in the folders above" if notation == "protobuf" else "beside it"
            raise FlowError(f"{at} refers to {name}, and there is no file {file} {where}")
        if name in within:
            raise FlowError(f"{at} refers to {name}, which refers to it")
        inner = path.read_text()
        found.append(Reference(name, inner, _of(inner, notation, folders, (*within, name), str(path))))
    return tuple(found)


def direct(text: str, notation: str) -> list[str]:
    """The names that a schema refers to itself, each once."""
    if notation == "protobuf":
        return [name for name in dict.fromkeys(IMPORT.findall(_without_comments(text))) if not name.startswith(GOOGLES)]
    if notation != "avro":
        return []
    defined: set[str] = set()
    used: list[str] = []
    try:
        for kind, name in _names(json.loads(text), ""):
            used += [name] if kind == "used" and name not in defined else []
            defined |= {name} if kind == "defined" else set()
    except (ValueError, TypeError, KeyError, AttributeError):
        return []  # it is no schema; whoever reads it says what is wrong
    return list(dict.fromkeys(used))


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


def _names(tree: Any, space: str) -> Iterator[tuple[str, str]]:
    """The full names of types in an Avro schema, ``defined`` or ``used``, in their order."""
    if isinstance(tree, list):
        for branch in tree:
            yield from _names(branch, space)
    elif isinstance(tree, str):
        if tree not in PRIMITIVES:
            yield "used", tree if "." in tree or not space else f"{space}.{tree}"
    elif tree["type"] in NAMED:
        own = tree["name"] if "." in tree["name"] else ".".join(filter(None, (tree.get("namespace", space), tree["name"])))
        yield "defined", own
        for field in tree.get("fields", ()):
            yield from _names(field["type"], own.rpartition(".")[0])
    elif tree["type"] in ("array", "map"):
        yield from _names(tree["items" if tree["type"] == "array" else "values"], space)
    else:
        yield from _names(tree["type"], space)


def whole(tree: Any, known: Mapping[str, Any]) -> Any:
    """An Avro schema in which each named type is written out where it stands first. ``known``: by full name, in normal form."""
    seen: set[str] = set()

    def written(tree: Any) -> Any:
        if isinstance(tree, str):
            return written(known[tree]) if tree in known and tree not in seen else tree
        if isinstance(tree, list):
            return [written(branch) for branch in tree]
        if tree["type"] in NAMED:
            if tree["name"] in seen:
                return tree["name"]
            seen.add(tree["name"])
        made = {key: value for key, value in tree.items() if not key.startswith("__")}
        inner = {"array": "items", "map": "values"}.get(str(tree["type"]), "type")
        made[inner] = written(tree[inner])
        if "fields" in made:
            made["fields"] = [field | {"type": written(field["type"])} for field in made["fields"]]
        return made

    return written(tree)
