"""Registries as they are: a real one of the Confluent API over HTTP, TLS with an authority of our own, logins."""

from __future__ import annotations

import json
import re
import ssl
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trustme

from merganser.errors import FlowError, SourceError, UsageError
from merganser.registry import DeniedError, registry
from merganser.schema import notations
from merganser.schema.avro import declared, parse
from merganser.schema.protobuf import compiled_text
from merganser.schema.protobuf import declared as declared_message
from tests.apicurio import Apicurio
from tests.codecs.test_framing import MONEY, PROTO, READER, V1, V2, datum, decode, framed
from tests.commands import call
from tests.schema_registry import serving
from tests.test_compatibility import AVRO, INT, JSON, N, S, kinds, obj, rows
from tests.test_compatibility import PROTO as PROTO_PAIRS


def subject() -> str:
    return f"s{uuid4().hex[:8]}-value"


# -- a real registry --------------------------------------------------------------------------------------------------------


def test_messages_of_several_writers_by_a_real_registry(apicurio: Apicurio, tmp_path: Path) -> None:
    name = subject()
    first, second = apicurio.add(name, json.dumps(V1)), apicurio.add(name, json.dumps(V2))
    raws = [
        framed(first, datum(V1, {"id": "a", "n": 1})), framed(second, datum(V2, {"id": "b", "n": 2, "note": "x"})),
        framed(999_999, b"\x02d\x08"),
    ]  # fmt: skip
    reg = registry(apicurio.url, cache=tmp_path)
    decoded = decode("avro", reg, declared(parse(READER, "reader"), "reader"), list(raws))
    assert [(r["id"], r["n"], r["note"]) for r in decoded.table.to_pylist()] == [("a", 1, None), ("b", 2, "x")]
    assert [(r.reason, r.raw) for r in decoded.rejects] == [("unknown schema", raws[2])]
    with pytest.raises(DeniedError, match="999999"):
        reg.by_id(999_999)


def test_protobuf_with_references_by_a_real_registry(apicurio: Apicurio, tmp_path: Path) -> None:
    name = subject()
    apicurio.add("money.proto", MONEY, "PROTOBUF")
    number = apicurio.add(name, PROTO, "PROTOBUF", [{"name": "money.proto", "subject": "money.proto", "version": 1}])
    order = compiled_text(PROTO, {"money.proto": MONEY}, "t")
    raw = framed(number, b"\0" + order.kind(id="a", n=5).SerializeToString())
    decoded = decode("protobuf", registry(apicurio.url, cache=tmp_path), declared_message(order, "t"), [raw])
    assert decoded.table.to_pylist() == [{"id": "a", "n": 5, "_seq": 10}]


CURRENCY = {"type": "enum", "name": "Currency", "namespace": "shop", "symbols": ["EUR", "USD"]}
PRICE = {
    "type": "record", "name": "Price", "namespace": "shop",
    "fields": [{"name": "units", "type": "long"}, {"name": "in", "type": "shop.Currency"}],
}  # fmt: skip
LINES = {"type": "array", "items": "Price"}
ORDER = {
    "type": "record", "name": "Order", "namespace": "shop",
    "fields": [
        {"name": "id", "type": "string"}, {"name": "total", "type": ["null", "Price"]}, {"name": "lines", "type": LINES},
        {"name": "paid", "type": "Currency"},
    ],
}  # fmt: skip
WHOLE = json.loads(json.dumps(ORDER).replace('"Price"', json.dumps(PRICE).replace('"shop.Currency"', json.dumps(CURRENCY)), 1))
"""The same with every type where it stands first."""
BOUGHT = {"id": "a", "total": {"units": 5, "in": "USD"}, "lines": [{"units": 5, "in": "USD"}], "paid": "EUR"}


def refer(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "subject": name, "version": 1} for name in names]


def test_avro_with_references_by_a_real_registry(apicurio: Apicurio, tmp_path: Path) -> None:
    """Of two levels; read again without the registry."""
    apicurio.add("shop.Currency", json.dumps(CURRENCY))
    apicurio.add("shop.Price", json.dumps(PRICE), references=refer("shop.Currency"))
    number = apicurio.add(subject(), json.dumps(ORDER), references=refer("shop.Price", "shop.Currency"))
    reader = declared(parse(WHOLE, "reader"), "reader")
    for url in (apicurio.url, None):
        reg = registry(apicurio.url, cache=tmp_path)
        if url is None:  # nobody may be asked any more
            object.__setattr__(reg, "_get", None)
        decoded = decode("avro", reg, reader, [framed(number, datum(WHOLE, BOUGHT))])
        assert decoded.table.to_pylist() == [BOUGHT | {"_seq": 10}]


def write_avro(folder: Path) -> Path:
    for name, tree in (("shop.Currency", CURRENCY), ("shop.Price", PRICE), ("order", ORDER)):
        (folder / f"{name}.avsc").write_text(json.dumps(tree))
    return folder / "order.avsc"


def write_proto(folder: Path) -> Path:
    (folder / "common").mkdir()
    (folder / "common/currency.proto").write_text('syntax = "proto3"; package shop; enum Currency { EUR = 0; USD = 1; }')
    (folder / "common/price.proto").write_text(
        'syntax = "proto3"; package shop; // import "nothing.proto";\nimport public "common/currency.proto";\n'
        "message Price { int64 units = 1; Currency in = 2; }"
    )
    (folder / "order.proto").write_text(
        'syntax = "proto3"; package shop; import "common/price.proto"; import "google/protobuf/timestamp.proto";\n'
        "message Order { string id = 1; Price total = 2; google.protobuf.Timestamp at = 3; }"
    )
    return folder / "order.proto"


@pytest.mark.parametrize("make", [write_avro, write_proto])
def test_what_a_schema_refers_to_is_registered_before_it(apicurio: Apicurio, tmp_path: Path, make: Any) -> None:
    """Under its own name, as Confluent's clients do; what is known there already, and the same, once."""
    name, path = subject(), make(tmp_path)
    read = notations.read(path)
    for _ in range(2):
        done = call("schema", "register", name, str(path), "--registry", apicurio.url)
        assert done.returncode == 0, done.stderr
    number = int(done.stdout.split()[-1])
    reg = registry(apicurio.url, cache=tmp_path / "cache")
    assert reg.id_of(name, read.notation, path.read_text(), read.references) == number
    assert reg.by_id(number).declared("t").columns == read.declared("t").columns
    assert reg.version(name, 1).declared("t").columns == read.declared("t").columns
    told = apicurio.ask(f"/subjects/{name}/versions/1")["references"]
    assert [r["name"] for r in told] == [r.name for r in read.references] and all(r["subject"] == r["name"] for r in told)
    assert call("schema", "diff", f"{name}@1", str(path), "--registry", apicurio.url).stdout.startswith("the same columns")


def test_a_version_that_was_looked_up_needs_no_registry_again(tmp_path: Path) -> None:
    with serving() as served:
        served.add("orders-value", json.dumps(V1))
        reg = registry(served.url, cache=tmp_path)
        found = reg.version("orders-value", 1)
        served.down = True
        assert reg.version("orders-value", 1) == found
        with pytest.raises(UsageError, match="cannot be reached"):
            reg.version("orders-value", 2)


def test_references_that_are_not_there(tmp_path: Path) -> None:
    path = write_avro(tmp_path)
    (tmp_path / "shop.Currency.avsc").unlink()
    with pytest.raises(FlowError, match=r"refers to shop\.Currency, and there is no file shop\.Currency\.avsc beside it"):
        notations.read(path)
    (tmp_path / "shop.Currency.avsc").write_text(json.dumps(ORDER | {"name": "Currency"}))
    with pytest.raises(FlowError, match=r"refers to shop\.Price, which refers to it"):
        notations.read(path)
    folder = registry(tmp_path)
    write_avro(tmp_path)
    assert folder.register("orders", path) == 1
    for name in ("shop.Price", "shop.Currency"):
        (tmp_path / f"{name}.avsc").unlink()  # what a version is does not change with them
    assert folder.version("orders", 1).declared("t").columns == declared(parse(WHOLE, "t"), "t").columns


def test_the_commands_with_a_real_registry(apicurio: Apicurio, tmp_path: Path) -> None:
    name, asked = subject(), ("--registry", apicurio.url)
    files = {"v1": V1, "v2": V2, "bad": V1 | {"fields": [{"name": "id", "type": "long"}]}}
    for file, tree in files.items():
        (tmp_path / f"{file}.avsc").write_text(json.dumps(tree))
    done = call("schema", "list", name, *asked)
    assert done.returncode == 2 and name in done.stderr
    for file in ("v1", "v2", "v2"):
        done = call("schema", "register", name, str(tmp_path / f"{file}.avsc"), *asked)
        assert done.returncode == 0 and f"{name}: id " in done.stdout, done.stderr
    done = call("schema", "register", name, str(tmp_path / "bad.avsc"), *asked)
    assert done.returncode == 1 and "/id: string was written; the reader has long" in done.stdout
    assert call("schema", "list", name, *asked).stdout == f"{name}: 1, 2\n"
    assert "+ note VARCHAR" in call("schema", "diff", f"{name}@1", f"{name}@latest", *asked).stdout
    assert "note" in call("schema", "show", f"{name}@2", *asked).stdout
    done = call("schema", "list", "--registry", apicurio.url.removesuffix("/apis/ccompat/v7"))
    assert done.returncode == 2 and "Apicurio's is under /apis/ccompat/v7" in done.stderr


OWN_JSON = (
    (obj(a={"type": "string"}, b={}), obj(a={"type": "string"})),  # a property that takes anything
    (rows(S, {}), rows(S)),  # an item that does
    (rows(S, rest=False), rows(S, False, rest=False)),  # one that was never valid
    (rows(S, N, rest=N), rows(S, rest=INT)),  # one that takes what else could be there
    (obj(["b"], a={"type": "string"}, b={"type": "string", "default": "x"}), obj(a={"type": "string"}, closed=True)),
    (obj(a={"oneOf": [{"type": "string"}, {"type": "integer"}]}), obj(a={"type": "string"})),
)  # fmt: skip
"""Pairs that Confluent's registry passes, and Apicurio refuses."""

LATER = re.compile('"(dependentSchemas|prefixItems|unevaluated|maxContains)')
"""Keywords of drafts that Apicurio's library does not know."""


def own_rule(new: str, old: str) -> bool:
    """Whether Apicurio judges a pair of .proto files by rules of its own: fields keep names
    and types, also within maps, and may go into a oneof.
    """
    fields = [{f.number: (f.name, f.type, f.is_repeated, f.has_presence) for f in parsed.descriptor.fields} for parsed in (
        compiled_text(new, {}, "t"), compiled_text(old, {}, "t")
    )]  # fmt: skip
    return "oneof" in new or "map<" in new or any(fields[0].get(number) != field for number, field in fields[1].items())


def test_verdicts_are_those_of_a_real_registry(apicurio: Apicurio) -> None:
    """Avro: of every pair. JSON Schema and Protocol Buffers: of those on which Apicurio and Confluent's registry have one rule.

    Those of the others are Confluent's by its source and the pairs that it is tested with, see docs/cli.md.
    """
    for kind, pairs in (("AVRO", AVRO), ("JSON", JSON), ("PROTOBUF", PROTO_PAIRS)):
        for new, old, _ in pairs:
            own = own_rule(new, old) if kind == "PROTOBUF" else (new, old) in OWN_JSON or LATER.search(json.dumps([new, old]))
            if kind == "JSON" and not ("properties" in new and "properties" in old):
                new, old = obj(t=new), obj(t=old)  # it does not take others for JSON Schemas
            if not own:
                assert verdict(apicurio, kind, new, old) == (not kinds(kind.lower(), new, old)), (kind, new, old)


def verdict(apicurio: Apicurio, kind: str, new: Any, old: Any) -> bool:
    name = subject()
    new, old = (t if isinstance(t, str) else json.dumps(t) for t in (new, old))
    apicurio.add(name, old, kind)
    apicurio.ask(f"/config/{name}", {"compatibility": "BACKWARD"}, "PUT")
    found = apicurio.ask(f"/compatibility/subjects/{name}/versions/latest", {"schema": new, "schemaType": kind})
    return bool(found["is_compatible"])


# -- TLS and logins ---------------------------------------------------------------------------------------------------------


def test_a_certificate_of_an_authority_of_our_own(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    for name, made in (("ca.pem", authority), ("other.pem", other)):
        made.cert_pem.write_to_path(str(tmp_path / name))
    (tmp_path / "none.pem").write_text("nothing")
    with serving(context) as served:
        number = served.add("orders-value", json.dumps(V1))
        assert registry(served.url, ca=tmp_path / "ca.pem", cache=tmp_path / "c").by_id(number).notation == "avro"
        for ca in (None, tmp_path / "other.pem"):
            reg = registry(served.url, ca=ca, cache=tmp_path / f"{ca}")
            with pytest.raises(SourceError, match=r"its certificate is not trusted \(.*name who signed it by ca=.*Nothing is lost"):
                reg.by_id(number)  # at once: waiting would change nothing
        for name, why in (("none.pem", "it holds no certificate in PEM"), ("absent.pem", "No such file")):
            with pytest.raises(UsageError, match=f"{name}' cannot be read: {why}"):
                registry(served.url, ca=tmp_path / name, cache=tmp_path).subjects()
        done = call("schema", "list", "--registry", served.url, "--ca", str(tmp_path / "ca.pem"))
        assert done.stdout == "orders-value: 1\n"


def test_a_bearer_token_from_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import merganser as mg

    monkeypatch.setenv("TOKEN", "t0ken")
    with serving() as served:
        served.login = "Bearer t0ken"
        number = served.add("orders-value", json.dumps(V1))
        reg = registry(served.url, token=mg.secret(env="TOKEN"), cache=tmp_path)
        assert reg.by_id(number).notation == "avro" and "t0ken" not in repr(reg)
        assert call("schema", "list", "--registry", served.url, MERGANSER_REGISTRY_TOKEN="t0ken").stdout == "orders-value: 1\n"
        with pytest.raises(SourceError, match=r"refuses the credentials \(401\); check user= and password=, or token="):
            registry(served.url, token="wrong", cache=tmp_path / "other").by_id(number)
    with pytest.raises(FlowError, match="or token=, not both"):
        registry("http://127.0.0.1:1", user="me", token="t")
    with pytest.raises(FlowError, match="for an http address, not for a folder"):
        registry(tmp_path, token="t")
