"""JSON Schema: whether all that was valid by one schema is valid by another, as Confluent's Schema Registry judges it.

It compares keyword by keyword, so it refuses some pairs that a proof would pass. A property may be added only where none of its
name could have been written before: where ``additionalProperties`` was false.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from merganser.schema.compatibility.difference import Difference

RANGES: dict[str, tuple[str, int]] = {
    "maxLength": ("MAX_LENGTH", 1), "minLength": ("MIN_LENGTH", -1), "maximum": ("MAXIMUM", 1), "minimum": ("MINIMUM", -1),
    "exclusiveMaximum": ("EXCLUSIVE_MAXIMUM", 1), "exclusiveMinimum": ("EXCLUSIVE_MINIMUM", -1),
    "maxItems": ("MAX_ITEMS", 1), "minItems": ("MIN_ITEMS", -1), "maxProperties": ("MAX_PROPERTIES", 1),
    "minProperties": ("MIN_PROPERTIES", -1), "maxContains": ("MAX_CONTAINS", 1), "minContains": ("MIN_CONTAINS", -1),
}  # fmt: skip
"""Keyword to the name of its differences, and the direction in which more is valid."""

KINDS = ("string", "number", "object", "array", "boolean", "null")
ANY = ("anyOf", "oneOf")
EXACT = ("const", "if", "then", "else", "contains", "propertyNames")
"""Keywords of which any change but their removal is taken for a break."""


def differences(reader: Any, writer: Any) -> list[Difference]:
    return _Comparison(writer, reader).of(writer, reader, "#")


@dataclass
class _Comparison:
    old: Any
    new: Any
    _open: set[tuple[int, int]] = field(default_factory=set)

    def of(self, old: Any, new: Any, path: str) -> list[Difference]:
        old, new = _referred(self.old, old), _referred(self.new, new)
        if old is False or new is True or not _says(new):
            return []
        if old is True:
            old = {}
        if new is False:
            return [Difference("TYPE_CHANGED", path, "nothing is valid any more")]
        pair = id(old), id(new)
        if pair in self._open:
            return []
        self._open.add(pair)
        found = self._compare(old, new, path)
        self._open.discard(pair)
        return found

    def _compare(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[Difference]:
        combined = next((k for k in (*ANY, "allOf") if k in new), None)
        before = next((k for k in (*ANY, "allOf") if k in old), None)
        if combined and not before:
            return self._into(old, new, combined, path)
        if before and not combined:
            if len(old[before]) == 1:
                return self.of(old[before][0], new, path)
            return [Difference("TYPE_CHANGED", path, f"was {before} of {len(old[before])} schemas, and is one")]
        if combined and before:
            return self._combined(old, new, before, combined, path)
        return self._plain(old, new, path)

    # -- anyOf, oneOf, allOf ------------------------------------------------------------------------------------------

    def _into(self, old: Any, new: Any, combined: str, path: str) -> list[Difference]:
        """What was one schema, and is a combination."""
        branches = new[combined]
        enough = any if combined in ANY or len(branches) == 1 else all
        if (enough(not self.of(old, b, path) for b in branches) and combined in ANY) or (len(branches) == 1 and not self.of(
            old, branches[0], path
        )):
            return []
        return [Difference("TYPE_CHANGED", path, f"was one schema, and is {combined} of {len(branches)}, none of which takes it")]

    def _combined(self, old: Any, new: Any, before: str, after: str, path: str) -> list[Difference]:
        olds, news = _distinct(old[before]), _distinct(new[after])
        single = len(olds) == 1
        if not (before == after or after == "anyOf" or (single and (after == "oneOf" or len(news) == 1))):
            return [Difference("COMBINED_TYPE_CHANGED", path, f"was {before}, and is {after}")]
        found = []
        if after == "allOf" and len(olds) < len(news):
            found.append(Difference("PRODUCT_TYPE_EXTENDED", path, f"{len(news)} schemas must hold where {len(olds)} did"))
        if after != "allOf" and len(olds) > len(news):
            found.append(Difference("SUM_TYPE_NARROWED", path, f"{len(news)} schemas may hold where {len(olds)} could"))
        fits = [[j for j, n in enumerate(news) if not self.of(o, n, f"{path}/{before}/{i}")] for i, o in enumerate(olds)]
        if _matched(fits) < min(len(olds), len(news)):
            found.append(Difference("COMBINED_TYPE_SUBSCHEMAS_CHANGED", path, f"not each schema of {before} has one that takes it"))
        return found

    # -- keywords -----------------------------------------------------------------------------------------------------

    def _plain(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[Difference]:
        found = self._types(old, new, path)
        if found:
            return found
        found += self._enums(old, new, path)
        found += [d for keyword in RANGES for d in _range(old, new, keyword, path)]
        found += self._texts(old, new, path)
        for keyword in EXACT:
            if keyword in new and old.get(keyword) != new[keyword]:
                found.append(Difference(f"{_upper(keyword)}_CHANGED", f"{path}/{keyword}", f"{keyword} changed or is new"))
        if "not" in new and ("not" not in old or _Comparison(self.new, self.old).of(new["not"], old["not"], path)):
            found.append(Difference("NOT_TYPE_EXTENDED", f"{path}/not", "what must not be valid is more than before"))
        found += self._object(old, new, path)
        return found + self._array(old, new, path)

    def _types(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[Difference]:
        before, after = _types(old), _types(new)
        if after is None:
            return []
        if before is None:
            return [Difference("TYPE_CHANGED", path, f"anything was valid, and only {_list(after)} is")]
        lost = [t for t in before if t not in after and not (t == "integer" and "number" in after)]
        if not lost:
            return []
        narrowed = lost == ["number"] and "integer" in after
        kind = "TYPE_NARROWED" if narrowed else "TYPE_CHANGED"
        return [Difference(kind, path, f"{_list(lost)} was valid, and only {_list(after)} is")]

    def _enums(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[Difference]:
        if "enum" not in new:
            return []
        if "enum" not in old:
            return [Difference("TYPE_CHANGED", path, "any value was valid, and only those of an enum are")]
        lost = [v for v in old["enum"] if v not in new["enum"]]
        if not lost:
            return []
        kind = "ENUM_ARRAY_NARROWED" if all(v in old["enum"] for v in new["enum"]) else "ENUM_ARRAY_CHANGED"
        return [Difference(kind, f"{path}/enum", f"{', '.join(map(repr, lost))} was valid")]

    def _texts(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[Difference]:
        found = []
        if "pattern" in new and new["pattern"] != old.get("pattern"):
            kind = "PATTERN_CHANGED" if "pattern" in old else "PATTERN_ADDED"
            found.append(Difference(kind, f"{path}/pattern", f"texts must match {new['pattern']!r}"))
        if "multipleOf" in new and new["multipleOf"] != old.get("multipleOf"):
            if "multipleOf" not in old:
                detail = f"only multiples of {new['multipleOf']} are valid"
                found.append(Difference("MULTIPLE_OF_ADDED", f"{path}/multipleOf", detail))
            elif old["multipleOf"] % new["multipleOf"]:
                kind = "MULTIPLE_OF_EXPANDED" if new["multipleOf"] % old["multipleOf"] == 0 else "MULTIPLE_OF_CHANGED"
                found.append(Difference(kind, f"{path}/multipleOf", f"was {old['multipleOf']}, and is {new['multipleOf']}"))
        return found

    def _object(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[Difference]:
        if not _about_objects(old) and not _about_objects(new):
            return []
        before, after = old.get("properties", {}), new.get("properties", {})
        required, was = set(new.get("required", ())), set(old.get("required", ()))
        found: list[Difference] = []
        for name in [n for n in before if n in after and n in required - was]:
            if not _has_default(_referred(self.new, after[name])):
                detail = f"{name} could be left out before, and has no default"
                found.append(Difference("REQUIRED_ATTRIBUTE_ADDED", f"{path}/required/{name}", detail))
        for name in sorted(before.keys() | after.keys()):
            at = f"{path}/properties/{name}"
            if name not in after:
                found += self._removed(before[name], new, name, at)
            elif name not in before:
                found += self._added(old, after[name], name, name in required, at)
            else:
                found += self.of(before[name], after[name], at)
        before, after = old.get("additionalProperties"), new.get("additionalProperties")
        found += self._others(before, after, "ADDITIONAL_PROPERTIES", f"{path}/additionalProperties")
        found += self._unevaluated(old, new, "unevaluatedProperties", path)
        return found + self._dependencies(old, new, path)

    def _removed(self, schema: Any, new: dict[str, Any], name: str, at: str) -> list[Difference]:
        if _open(new):
            return []
        partly = _partly(new, name)
        if partly is not None:
            found = self.of(schema, partly, at)
            if not found:
                return []
            detail = "is not covered by what else may be there"
            return [*found, Difference("PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", at, detail)]
        if _referred(self.old, schema) is False:
            return []
        return [Difference("PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL", at, "may have been written, and nothing else is allowed")]

    def _added(self, old: dict[str, Any], schema: Any, name: str, required: bool, at: str) -> list[Difference]:
        new = _referred(self.new, schema)
        if _open(old):
            if new is True or not _says(new):
                return []
            detail = "anything of that name could be written before; set additionalProperties to false, or allow any value"
            return [Difference("PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL", at, detail)]
        found: list[Difference] = []
        partly = _partly(old, name)
        if partly is not None and (inner := self.of(partly, schema, at)):
            detail = "does not take all that could be written under that name before"
            found += [*inner, Difference("PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", at, detail)]
        if required and not _has_default(new):
            detail = "is required, was not written, and has no default"
            found.append(Difference("REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL", at, detail))
        return found

    def _dependencies(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[Difference]:
        found = []
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            before, after = old.get(keyword, {}), new.get(keyword, {})
            for name, wanted in after.items():
                at, was = f"{path}/{keyword}/{name}", before.get(name)
                if not isinstance(wanted, list):
                    if was is None or isinstance(was, list):
                        found.append(Difference("DEPENDENCY_SCHEMA_ADDED", at, f"with {name}, more must hold"))
                    else:
                        found += self.of(was, wanted, at)
                elif not isinstance(was, list):
                    found.append(Difference("DEPENDENCY_ARRAY_ADDED", at, f"with {name}, {_list(wanted)} must be there"))
                elif not set(wanted) <= set(was):
                    kind = "DEPENDENCY_ARRAY_EXTENDED" if set(was) <= set(wanted) else "DEPENDENCY_ARRAY_CHANGED"
                    found.append(Difference(kind, at, f"with {name}, {_list(wanted)} must be there"))
        return found

    def _array(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[Difference]:
        found: list[Difference] = []
        if new.get("uniqueItems") and not old.get("uniqueItems"):
            found.append(Difference("UNIQUE_ITEMS_ADDED", f"{path}/uniqueItems", "items could be equal before"))
        (before, all_before, rest), (after, all_after, more) = _items(old), _items(new)
        if all_before is None and all_after not in (None, True) and _says(all_after):
            found.append(Difference("SCHEMA_ADDED", f"{path}/items", "items could be anything"))
        elif None not in (all_before, all_after):
            found += self.of(all_before, all_after, f"{path}/items")
        for i, (one, other) in enumerate(zip_longest(before, after, fillvalue=MISSING)):
            at = f"{path}/items/{i}"
            if other is MISSING:
                found += self._item_removed(one, _rest(new, more, "unevaluatedItems"), at)
            elif one is MISSING:
                found += self._item_added(_rest(old, rest, "unevaluatedItems"), other, at)
            else:
                found += self.of(one, other, at)
        found += self._others(rest, more, "ADDITIONAL_ITEMS", f"{path}/additionalItems")
        return found + self._unevaluated(old, new, "unevaluatedItems", path)

    def _item_removed(self, schema: Any, more: Any, at: str) -> list[Difference]:
        if more in (None, True) or _referred(self.old, schema) is False:
            return []
        if more is False:
            return [Difference("ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL", at, "may have been written, and nothing else is allowed")]
        found = self.of(schema, more, at)
        detail = "is not covered by what else may be there"
        return [*found, Difference("ITEM_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", at, detail)] if found else []

    def _item_added(self, rest: Any, schema: Any, at: str) -> list[Difference]:
        new = _referred(self.new, schema)
        if rest is False or (rest in (None, True) and (new is True or not _says(new))):
            return []
        if rest in (None, True):
            return [Difference("ITEM_ADDED_TO_OPEN_CONTENT_MODEL", at, "anything could be written there before")]
        found = self.of(rest, schema, at)
        detail = "does not take all that could be written there before"
        return [*found, Difference("ITEM_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", at, detail)] if found else []

    def _others(self, before: Any, after: Any, name: str, at: str) -> list[Difference]:
        """What else may be there; None and True: anything."""
        if after is False and before is not False:
            return [Difference(f"{name}_REMOVED", at, "others may have been written")]
        if isinstance(after, dict) and before in (None, True):
            return [Difference(f"{name}_NARROWED", at, "others could be anything")]
        return self.of(before, after, at) if isinstance(after, dict) and isinstance(before, dict) else []

    def _unevaluated(self, old: dict[str, Any], new: dict[str, Any], keyword: str, path: str) -> list[Difference]:
        return self._others(old.get(keyword), new.get(keyword), _upper(keyword), f"{path}/{keyword}")


# -- reading a schema ---------------------------------------------------------------------------------------------------


def _referred(root: Any, schema: Any) -> Any:
    """What a ``$ref`` within the document stands for."""
    for _ in range(32):
        if not isinstance(schema, dict) or not str(schema.get("$ref", "")).startswith("#"):
            break
        target: Any = root
        for part in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
            if part:
                target = target.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, dict) else {}
        schema = target
    return schema


IGNORED = {"$id", "$schema", "title", "description", "default", "$comment", "examples", "$defs", "definitions", "readOnly",
           "writeOnly", "deprecated", "format", "contentEncoding", "contentMediaType"}  # fmt: skip


def _says(schema: Any) -> bool:
    """Whether a schema says anything about what is valid."""
    return not isinstance(schema, dict) or bool(schema.keys() - IGNORED)


def _types(schema: dict[str, Any]) -> list[str] | None:
    found = schema.get("type")
    if found is None:
        return None
    return [found] if isinstance(found, str) else list(found)


def _about_objects(schema: dict[str, Any]) -> bool:
    return bool(schema.keys() & {"properties", "required", "additionalProperties", "patternProperties", "dependentRequired",
                                 "dependentSchemas", "dependencies", "unevaluatedProperties"})  # fmt: skip


MISSING = object()


def _items(schema: dict[str, Any]) -> tuple[list[Any], Any, Any]:
    """The schemas of the first items, that of all, and that of those behind the first; None where there is none."""
    items = schema.get("items")
    if "prefixItems" in schema:
        return schema["prefixItems"], None, items
    if isinstance(items, list):
        return items, None, schema.get("additionalItems")
    return [], items, schema.get("additionalItems")


def _rest(schema: dict[str, Any], rest: Any, unevaluated: str) -> Any:
    """What may be there besides what is named; True: anything."""
    return schema.get(unevaluated, True) if rest is None else rest


def _others_of(schema: dict[str, Any]) -> Any:
    return _rest(schema, schema.get("additionalProperties"), "unevaluatedProperties")


def _open(schema: dict[str, Any]) -> bool:
    """Whether an object may have any other property."""
    return not schema.get("patternProperties") and _others_of(schema) is True


def _partly(schema: dict[str, Any], name: str) -> Any:
    """The schema that other properties of that name must have; None where they may not be there."""
    for pattern, inner in schema.get("patternProperties", {}).items():
        if re.search(pattern, name):
            return inner
    more = _others_of(schema)
    return more if isinstance(more, dict) else None


def _has_default(schema: Any) -> bool:
    return isinstance(schema, dict) and "default" in schema


def _range(old: dict[str, Any], new: dict[str, Any], keyword: str, path: str) -> list[Difference]:
    name, wider = RANGES[keyword]
    before, after = old.get(keyword), new.get(keyword)
    if after is None or before == after or isinstance(after, bool):
        return []
    if before is None:
        return [Difference(f"{name}_ADDED", f"{path}/{keyword}", f"{keyword} is {after}, and was not set")]
    if (after - before) * wider > 0:
        return []
    kind = f"{name}_{'DECREASED' if after < before else 'INCREASED'}"
    return [Difference(kind, f"{path}/{keyword}", f"was {before}, and is {after}")]


def _matched(fits: list[list[int]]) -> int:
    """How many can be given one that fits, each to one only (augmenting paths)."""
    owner: dict[int, int] = {}

    def place(i: int, seen: set[int]) -> bool:
        for j in fits[i]:
            if j not in seen:
                seen.add(j)
                if j not in owner or place(owner[j], seen):
                    owner[j] = i
                    return True
        return False

    return sum(place(i, set()) for i in range(len(fits)))


def _distinct(schemas: list[Any]) -> list[Any]:
    found: list[Any] = []
    for schema in schemas:
        if schema not in found:
            found.append(schema)
    return found


def _list(values: list[str]) -> str:
    return " or ".join(values)


def _upper(keyword: str) -> str:
    return re.sub(r"([A-Z])", r"_\1", keyword).upper()
