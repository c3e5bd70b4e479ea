"""Each type and each kind of JSON value, at the top and within others: the value that plain Python has of it, or a dead letter."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import re
import struct
import uuid
from collections.abc import Callable
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merganser.codecs import Chunk, Place
from merganser.codecs.csv import CsvCodec, CsvPayload
from merganser.codecs.json import JsonCodec, Lines
from merganser.schema import Schema


class Number(str):
    """A number, as it is written."""


class RefusedError(Exception):
    """The type cannot hold what is said."""


def parsed(text: str) -> Any:
    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=Number)


# -- the reference: what a type makes of a text ---------------------------------------------------------------------------


def text_of(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return str(said(value) if isinstance(value, Number) else value)
    raise RefusedError


def said(number: Number) -> Number:
    """A number with a fraction is as good as a double, if that needs no more than 15 digits."""
    nearest = repr(float(number))
    return Number(nearest) if re.search("[.eE]", number) and len(re.sub(r"e.*|^-?0*\\.?0*|\\.", "", nearest)) <= 15 else number


def number(text: str) -> Fraction:
    text = re.sub(r"(?<=\d)_(?=\d)", "", text)  # as Python and DuckDB write long ones
    if not re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", text):
        raise RefusedError
    return Fraction(text.strip())


def small(bits: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        found = float(number(text_of(value)))
        return within(int(found), -(2 ** (bits - 1)), 2 ** (bits - 1)) if found.is_integer() else refused()

    return read


def within(found: int, low: int, high: int) -> int:
    return found if low <= found < high else refused()


def refused() -> Any:
    raise RefusedError


def large(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        found = number(text_of(value))
        return within(int(found), low, high) if re.fullmatch(r"\s*[-+]?\d+\s*", text_of(value)) else refused()

    return read


def double(value: Any) -> float:
    try:
        return float(number(text_of(value)))
    except OverflowError:
        return float(refused())


def single(value: Any) -> float:
    try:
        found: float = struct.unpack("f", struct.pack("f", double(value)))[0]
    except OverflowError:
        return float(refused())
    return found


def decimal(digits: int, scale: int) -> Callable[[Any], Decimal]:
    def read(value: Any) -> Decimal:
        scaled = number(value if isinstance(value, Number) else text_of(value)) * 10**scale
        if scaled.denominator != 1 or abs(scaled) >= 10**digits:
            raise RefusedError
        return Context(prec=50).scaleb(Decimal(int(scaled)), -scale)

    return read


def boolean(value: Any) -> bool:
    return {"true": True, "false": False}[text_of(value).lower()]


MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[-+]\d\d:\d\d)?)?")


def moment(digits: int) -> Callable[[Any], int]:
    """Since 1970, in the smallest unit of the type."""

    def read(value: Any) -> int:
        if infinite := re.fullmatch("([-+]?)inf(inity)?", text_of(value).lower()):
            return -(2**63) + 1 if infinite[1] == "-" else 2**63 - 1
        found = MOMENT.fullmatch(text_of(value))
        if found is None:
            raise RefusedError
        day, time, fraction, zone = found.groups()
        at = dt.datetime.fromisoformat(f"{day}T{time or '00:00:00'}{zone or '+00:00'}")
        seconds = Fraction(int((at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(seconds=1)))
        units = (seconds + Fraction(f"0.{fraction or 0}")) * 10**digits
        return within(int(units), -(2**63), 2**63) if units.denominator == 1 else int(refused())

    return read


def date(value: Any) -> int:
    """Days since 1970."""
    if text_of(value).lower() in ("inf", "infinity", "-inf", "-infinity"):
        return 2147483647 * (-1 if text_of(value).startswith("-") else 1)
    found = MOMENT.fullmatch(text_of(value))
    if found is None or re.search("[1-9]", "".join(filter(None, found.groups()[1:]))):
        raise RefusedError
    return (dt.date.fromisoformat(found[1]) - dt.date(1970, 1, 1)).days


def time(value: Any) -> dt.time:
    found = re.fullmatch(r"(\d\d:\d\d:\d\d)(\.\d{1,6}0*)?(Z|[-+]00:00)?", text_of(value))
    if found is None:
        raise RefusedError
    return dt.time.fromisoformat(f"{found[1]}.{(found[2] or '.')[1:7]:0<6}")


def blob(value: Any) -> bytes:
    if not isinstance(value, str) or isinstance(value, Number):
        raise RefusedError
    return base64.b64decode(value, validate=True)


def enum(value: Any) -> str:
    return text_of(value) if text_of(value) in ("a", "true", "1") else refused()


def span(value: Any) -> tuple[int, int, int]:
    found = re.fullmatch(r"(?:(-?\d+) days?)? ?(?:(\d+):(\d\d):(\d\d)(?:\.(\d{1,6})0*)?)?", text_of(value))
    if found is None or not text_of(value):
        raise RefusedError
    days, h, m, s, fraction = found.groups()
    return 0, int(days or 0), (int(h or 0) * 3600 + int(m or 0) * 60 + int(s or 0)) * 10**9 + int((fraction or "").ljust(9, "0"))


REFERENCE: dict[str, Callable[[Any], Any]] = {
    "BOOLEAN": boolean, "TINYINT": small(8), "INTEGER": small(32), "BIGINT": large(-(2**63), 2**63), "UBIGINT": large(0, 2**64),
    "HUGEINT": large(-(2**127), 2**127), "DOUBLE": double, "FLOAT": single, "DECIMAL(9,2)": decimal(9, 2),
    "DECIMAL(38,10)": decimal(38, 10), "DATE": date, "TIME": time, "TIMESTAMP": moment(6), "TIMESTAMPTZ": moment(6),
    "TIMESTAMP_S": moment(0), "TIMESTAMP_MS": moment(3), "TIMESTAMP_NS": moment(9), "TIMESTAMPTZ_NS": moment(9), "INTERVAL": span,
    "UUID": lambda value: str(uuid.UUID(text_of(value))), "BLOB": blob, "ENUM('a', 'true', '1')": enum,
}  # fmt: skip
"""By type: its value of what JSON says. VARCHAR and JSON, which take anything, are tested apart."""


def expected(kind: str, value: Any) -> Any:
    try:
        return None if value is None else REFERENCE[kind](value)
    except (ValueError, KeyError, OverflowError, InvalidOperation):
        raise RefusedError from None


WRAPS: dict[str, tuple[str, str]] = {
    "alone": ("{}", "{}"), "struct": ("STRUCT(v {})", '{{"v": {}}}'), "list": ("{}[]", "[{}]"),
    "map": ("MAP(VARCHAR, {})", '{{"k": {}}}'), "deep": ("STRUCT(v MAP(VARCHAR, {})[])[]", '[{{"v": [{{"k": {}}}]}}]'),
    "array": ("{}[1]", "[{}]"),
}  # fmt: skip
"""How a value stands within others: the type around its type, the text around its text."""


def innermost(column: pa.Array) -> list[Any]:
    """The values within values; those of time as numbers."""
    while pa.types.is_nested(column.type):
        if pa.types.is_map(column.type):
            column = column.items
        elif pa.types.is_struct(column.type):
            column = column.field(0)
        else:
            column = column.flatten()
    if pa.types.is_dictionary(column.type):
        column = column.cast(pa.utf8())
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return list((column.cast(pa.int32()) if pa.types.is_date(column.type) else column).to_pylist())


def decode(codec: JsonCodec, lines: list[str]) -> dict[int, Any]:
    """The values by line; the other lines are rejects."""
    chunk = Chunk("s", "0", 0, len(lines), Place("f", 0, 1), Lines.of("".join(line + "\n" for line in lines).encode()), {}, 1)
    decoded = codec.decode(chunk)
    assert len(decoded.table) + len(decoded.rejects) == len(lines)
    rows = decoded.table["_seq"].to_pylist()
    found = {}
    for i, row in enumerate(rows):
        (found[row],) = innermost(decoded.table["v"].slice(i, 1).combine_chunks())
    return found


def same(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def check(kind: str, wrap: str, texts: list[str]) -> None:
    """Among others, with those that are right, and without the key that others have."""
    outer, around = WRAPS[wrap]
    schema = Schema.declare({"v": outer.format(kind), "n": "INTEGER"})
    lines = [f'{{"v": {around.format(text)}, "n": {i}}}' for i, text in enumerate(texts)]
    right: dict[int, Any] = {}
    for i, text in enumerate(texts):
        with contextlib.suppress(RefusedError):
            right[i] = expected(kind, parsed(text))
    found = decode(JsonCodec(schema), lines)
    for i, value in found.items():
        assert i in right, f"{kind} {wrap}: {texts[i]} was taken as {value!r}"
        assert same(value, right[i]), f"{kind} {wrap}: {texts[i]} became {value!r}, not {right[i]!r}"
    good = sorted(found)
    codec = JsonCodec(schema)
    for _ in range(2):  # at the second time the codec may go another way
        again = decode(codec, [lines[i] for i in good])
        assert [again[n] for n in range(len(good))] == [found[i] for i in good], (kind, wrap)
    without = decode(JsonCodec(schema), [f'{{"v": {around.format(texts[i])}}}' for i in good])
    assert [without[n] for n in range(len(good))] == [found[i] for i in good], (kind, wrap)
    missing = [texts[i] for i in right if i not in found and texts[i] in SURE.get(kind, ())]
    assert not missing, f"{kind} {wrap}: refused {missing}"


SURE = {
    "BOOLEAN": ["true", "false", '"true"', '"false"'], "TINYINT": ["0", "1", "-128", "127", '"5"', "5.0", "1e1"],
    "INTEGER": ["0", "1", "2147483647", "-2147483648", '"12"', "300", "1e2"], "BIGINT": ["0", "1", "9223372036854775807", '"7"'],
    "UBIGINT": ["0", "18446744073709551615"], "HUGEINT": ["170141183460469231731687303715884105727", "0", "1"],
    "DOUBLE": ["0", "1", "0.1", "1e300", '"2.5"', "123456789012345678901234567890.5", "5e-324"], "FLOAT": ["0", "0.1", "16777217"],
    "DECIMAL(9,2)": ["0", "1", "1.5", "1.50", "1.500000000000000000000", '"1234567.89"', "1e2", "15e-1"],
    "DECIMAL(38,10)": ["123456789012345678901234567.8901234567", "0.1", "1"],
    "DATE": ['"2020-01-02"', '"2020-01-02T00:00:00"'], "TIME": ['"03:04:05"', '"03:04:05.123456"', '"03:04:05Z"'],
    "TIMESTAMP": ['"2020-01-02"', '"2020-01-02T03:04:05"', '"2020-01-02T03:04:05.123456+02:00"',
                  '"2020-01-02 03:04:05.123456000Z"'],
    "TIMESTAMPTZ": ['"2020-01-02T03:04:05Z"', '"2020-01-02T03:04:05.123456-05:30"', '"2020-01-02T03:04:05.123000000Z"'],
    "TIMESTAMP_S": ['"2020-01-02T03:04:05+02:00"', '"2020-01-02T03:04:05.000Z"'], "TIMESTAMP_MS": ['"2020-01-02T03:04:05.123Z"'],
    "TIMESTAMP_NS": ['"2020-01-02T03:04:05.123456789+02:00"'], "TIMESTAMPTZ_NS": ['"2020-01-02T03:04:05.123456789+02:00"'],
    "INTERVAL": ['"1 day"', '"-3 days"', '"2 days 03:04:05.123456"'], "UUID": ['"01234567-89ab-cdef-0123-456789abcdef"'],
    "BLOB": ['"AP8="', '""'], "ENUM('a', 'true', '1')": ['"a"', '"true"', '"1"'],
}  # fmt: skip
"""What must be taken."""

OTHERS = [
    "null", "2", "-1", "1.0", "1.5", "1.005", "127.5", "128", "1e2", "0.5", "1e-3", "1e400", "NaN", "Infinity",
    "5.00000000000000000001", "4503599627370497.5", "9007199254740993", "9007199254740993.0", "999999999999999999.9", "1e18",
    "99999999999999999999999e0", "170141183460469231731687303715884105728", "1e38", "[]", "[1]", "{}", "[true]",
    "18446744073709551616", "0.30000000000000004", "0.1000000000000000055511151231257827", "16777217.5", "1e39", '{"x":1}',
    '""', '"True"', '"FALSE"', '"t"', '"yes"', '"no"', '"on"', '"1"', '"0"', '"0.0"', '"1.5"', '"15e-1"', '"1e-3"', '"0x10"',
    '"0b11"', '"1_000"', '"NaN"', '"inf"', '"-Infinity"', '"2020-02-30"', '"5"', '"00:00:00.1234567"',
    '"2020-01-02T03:04:05.1234567Z"', '"2020-01-02T03:04:05.0000001+00:00"', '"2020-01-02T03:04:05.1234567890Z"',
    '"2020-01-02T00:00:01"', '"2020-01-02T03:04:05.123456789123-02:00"', '"2020-01-02T00:00:00+02:00"',
    '"2300-01-01T00:00:00Z"', '"03:04:05+02:00"', '"03:04:05.1234567"', '"25:00:00"', '"2020-01-02T03:04:05.5Z"', '"AP8"',
    '"1234"', '"b"', '"01234567-89ab-cdef-0123-456789abcdeg"', '"1.5 days"', '" 12 "', '"true "',
]  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
def test_every_type_with_every_kind_of_value(wrap: str) -> None:
    usual = [texts[-1] for texts in SURE.values()]
    for kind in REFERENCE:
        check(kind, wrap, [*SURE[kind], *usual, *OTHERS])


NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][-+]?[0-9]{1,3})?", fullmatch=True)
MOMENTS = st.builds(
    "{:%Y-%m-%dT%H:%M:%S}{}{}".format, st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2250, 1, 1)),
    st.from_regex(r"(\.[0-9]{1,12})?", fullmatch=True), st.sampled_from(["", "Z", "+00:00", "-05:30", "+14:00"]),
)  # fmt: skip
QUOTED = (NUMBERS | MOMENTS).map(json.dumps)
TEXTS = st.sampled_from([*OTHERS, *(text for texts in SURE.values() for text in texts)])


@settings(max_examples=40)
@given(st.sampled_from([*REFERENCE]), st.sampled_from([*WRAPS]), st.lists(NUMBERS | QUOTED | TEXTS, max_size=9))
def test_any_values(kind: str, wrap: str, texts: list[str]) -> None:
    check(kind, wrap, texts)


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("kind", ["VARCHAR", "JSON"])
def test_anything_is_a_text(kind: str, wrap: str) -> None:
    """A number with a fraction has the digits of a double, as ``json.loads`` has it."""
    outer, around = WRAPS[wrap]
    texts = [text for text in (*OTHERS, *(text for texts in SURE.values() for text in texts)) if text != "null"]
    texts += ['{"x":[0.5,{"y":1e2}]}', "[1e2]", '"[0.5]"', '"10.0.0.1"', '"-"', "1e23", "1e-7"]
    codec = JsonCodec(Schema.declare({"v": outer.format(kind)}))
    for some in (texts, texts[:1], texts[-1:]):
        found = decode(codec, [f'{{"v": {around.format(text)}}}' for text in some])
        for i, text in enumerate(some):
            if text.startswith('"') and kind == "VARCHAR":
                assert found[i] == json.loads(text)
            elif text != "NaN":
                assert json.loads(found[i]) == json.loads(text), (kind, wrap, text)


@pytest.mark.parametrize("kind", [kind for kind in REFERENCE if kind != "BLOB"])
def test_csv_takes_what_json_in_quotes_takes(kind: str) -> None:
    texts = [text for text in dict.fromkeys(json.loads(t) for t in (*OTHERS, *SURE[kind]) if t.startswith('"')) if text]
    texts += [text for text in SURE[kind] if not text.startswith('"')]
    data = "".join(f"{i},{text}\n" for i, text in enumerate(texts)).encode()
    codec, chunk = CsvCodec(Schema.declare({"v": kind, "n": "INTEGER"})), CsvPayload(("n", "v"), data)
    table = codec.decode(Chunk("s", "0", 0, len(texts), Place("f", 0, 1), chunk, {}, 1)).table
    found = dict(zip(table["_seq"].to_pylist(), innermost(table["v"].combine_chunks())))
    assert found == decode(JsonCodec(Schema.declare({"v": kind})), [f'{{"v": {json.dumps(text)}}}' for text in texts])
    assert found.keys() >= {i for i, text in enumerate(texts) if text in SURE[kind] or json.dumps(text) in SURE[kind]}


def test_booleans_say_true_or_false() -> None:
    texts = ["true", "false", '"true"', '"false"', '"TRUE"', "1", "0", "5", "0.5", '"yes"', '"t"', '"1"', '"on"']
    found = decode(JsonCodec(Schema.declare({"v": "BOOLEAN"})), [f'{{"v": {text}}}' for text in texts])
    assert found == {0: True, 1: False, 2: True, 3: False, 4: True}
