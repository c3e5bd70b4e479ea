"""Transcripts: events in, rows out. One line a case; every case is played at once and with an epoch for each event.

Events are read from left to right: ``a5`` is an event of key a at second 5; ``q.a5`` comes in partition q; ``>a5`` is one of
the other stream. Lateness is 10 s in both streams, so after ``a30`` its partition's watermark is at 20. Rows out:

- windows and sessions ``a[0,10)=2!``: key, window, events in it, ``!`` if it is final;
- order ``1:a5``: the number in its key, key and time; what is held back is not there;
- joins ``a5-a7``: the left row and the right one, ``a5-`` one without a partner;
- as of ``a5<a3``: the row, and the other side's row that was valid then.

``late``: events that went to merganser.late instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import merganser as mg
from merganser.verify import verify
from tests.flows import SCHEMA, at, balanced, rows

Case = tuple[str, str, str, str]
"""(what it shows, events, rows, late)"""

TUMBLING: list[Case] = [
    ("one window, open", "a0 a9", "a[0,10)=2", ""),
    ("the end belongs to the next window", "a0 a10", "a[0,10)=1 a[10,20)=1", ""),
    ("final when the watermark is at the end", "a0 a20", "a[0,10)=1! a[20,30)=1", ""),
    ("not final a second earlier", "a0 a19", "a[0,10)=1 a[10,20)=1", ""),
    ("keys have windows of their own", "a0 b1 a2", "a[0,10)=2 b[0,10)=1", ""),
    ("one watermark for all keys", "a0 b20", "a[0,10)=1! b[20,30)=1", ""),
    ("out of order within the lateness", "a0 a19 a9", "a[0,10)=2 a[10,20)=1", ""),
    ("late when its window is closed", "a0 a20 a9", "a[0,10)=1! a[20,30)=1", "a9"),
    ("behind the watermark, but its window is open", "a25 a11", "a[10,20)=1 a[20,30)=1", ""),
    ("another partition is late by its own watermark only", "a0 a40 q.a9", "a[0,10)=2! a[40,50)=1", ""),
    ("a partition read to its end holds no other back", "a0 a40 q.a12", "a[0,10)=1! a[10,20)=1! a[40,50)=1", ""),
    ("late rows do not move the watermark", "a30 a1 a9 a21", "a[20,30)=1 a[30,40)=1", "a1 a9"),
]

CORRECTED: list[Case] = [
    ("a closed window takes a late row", "a0 a20 a9", "a[0,10)=2! a[20,30)=1", ""),
    ("again and again", "a0 a20 a9 a40 a1 a2", "a[0,10)=4! a[20,30)=1! a[40,50)=1", ""),
    ("a late row alone makes a window", "a40 a1", "a[0,10)=1! a[40,50)=1", ""),
    ("other windows and keys stay", "a0 b0 a12 a40 b3 b4", "a[0,10)=1! a[10,20)=1! a[40,50)=1 b[0,10)=3!", ""),
]

HOPPING: list[Case] = [
    ("in both of its windows", "a7", "a[0,10)=1 a[5,15)=1", ""),
    ("late for the first, on time for the second", "a22 a7", "a[15,25)=1 a[20,30)=1 a[5,15)=1", ""),
    ("late for both", "a25 a7", "a[20,30)=1 a[25,35)=1", "a7"),
    ("they close one by one", "a7 a20", "a[0,10)=1! a[15,25)=1 a[20,30)=1 a[5,15)=1", ""),
]

SESSIONS: list[Case] = [
    ("one event is a session", "a0", "a[0,5)=1", ""),
    ("closer than the gap", "a0 a4 a8", "a[0,13)=3", ""),
    ("the gap itself parts", "a0 a5", "a[0,5)=1 a[5,10)=1", ""),
    ("a row in between merges two", "a0 a8 a4", "a[0,13)=3", ""),
    ("a row in between that touches only one", "a0 a8 a3", "a[0,8)=2 a[8,13)=1", ""),
    ("a row before extends to the front", "a8 a4", "a[4,13)=2", ""),
    ("three become one", "a0 a6 a12 a3 a9", "a[0,17)=5", ""),
    ("equal times are one session", "a3 a3 a3", "a[3,8)=3", ""),
    ("keys do not touch", "a0 b1 a2", "a[0,7)=2 b[1,6)=1", ""),
    ("final when the watermark is at the end", "a0 a15", "a[0,5)=1! a[15,20)=1", ""),
    ("not a second earlier", "a0 a14", "a[0,5)=1 a[14,19)=1", ""),
    ("a row at the end of a closed one begins another", "a0 a15 a5", "a[0,5)=1! a[15,20)=1 a[5,10)=1", ""),
    ("late by the row's own time, not the session's end", "a0 a3 a13 a2", "a[0,8)=2 a[13,18)=1", "a2"),
    ("at the watermark is not late", "a0 a3 a13 a3", "a[0,8)=3 a[13,18)=1", ""),
    ("late rows bring nothing back", "a0 a30 a1 a19", "a[0,5)=1! a[30,35)=1", "a1 a19"),
    ("partitions merge by time", "a0 a8 q.a4", "a[0,13)=3", ""),
    ("a slower partition may still merge", "a0 a8 a40 q.a4", "a[0,13)=3! a[40,45)=1", ""),
]

ORDER: list[Case] = [
    ("held back until the watermark is past", "a0 a10", "", ""),
    ("past, not at", "a0 a11", "1:a0", ""),
    ("out of order comes in order", "a5 a3 a4 a30", "1:a3 2:a4 3:a5", ""),
    ("each key is numbered from 1", "a1 b2 a3 b4 a30", "1:a1 1:b2 2:a3 2:b4", ""),
    ("numbers go on", "a1 a30 a31 a60", "1:a1 2:a30 3:a31", ""),
    ("equal times go by position", "a1 a1 a1 a30", "1:a1 2:a1 3:a1", ""),
    ("late when its place is past", "a0 a30 a19", "1:a0", "a19"),
    ("at the watermark is not late", "a0 a30 a20 a40", "1:a0 2:a20", ""),
    ("the slowest partition decides", "a1 a50 q.a15", "1:a1", ""),
    ("partitions come in one order", "a1 a5 a50 q.a3 q.a40", "1:a1 2:a3 3:a5", ""),
    ("a partition's row is on time by its own watermark", "a1 a50 q.a2 q.a30", "1:a1 2:a2", ""),
    ("late by its own partition though its place is free", "a1 a50 a5 q.a2", "", "a5"),
]

INNER: list[Case] = [
    ("a pair", "a5 >a7", "a5-a7", ""),
    ("as far apart as within", "a5 >a10", "a5-a10", ""),
    ("farther apart", "a5 >a11", "", ""),
    ("the right one first", ">a7 a5", "a5-a7", ""),
    ("the right one earlier in time", "a5 >a0", "a5-a0", ""),
    ("other keys do not meet", "a5 >b5", "", ""),
    ("each with each", "a5 a6 >a7 >a8", "a5-a7 a5-a8 a6-a7 a6-a8", ""),
    ("a partner that comes long after, but on time", "a5 a6 a7 a40 >a8", "a5-a8 a6-a8 a7-a8", ""),
    ("a late right row", "a5 >a40 >a5", "", ">a5"),
    ("a late left row", "a40 a5 >a5", "", "a5"),
    ("a right row that is still kept", ">a5 >a40 a8", "a8-a5", ""),
]

LEFT: list[Case] = [
    ("a pair only", "a5 >a7 >a60 a60", "a5-a7 a60-a60", ""),
    ("without a partner when none can come", "a5 >b21", "a5-", ""),
    ("not a second earlier", "a5 >b20", "", ""),
    ("without a partner, the row comes long after", ">b40 a35 >b70", "a35-", ""),
    ("a partner at the last moment", "a5 >b20 >a10", "a5-a10", ""),
    ("once, however many partners", "a5 >a5 >a6 >b60", "a5-a5 a5-a6", ""),
    ("a right row without a partner is nothing", ">a5 >a60 a60", "a60-a60", ""),
]

AS_OF: list[Case] = [
    ("waits for the other side", ">a0 a5 >a15", "", ""),
    ("the newest before it", ">a0 >a3 a5 >a6 >b30", "a5<a3", ""),
    ("at the same time is valid", ">a5 a5 >b30", "a5<a5", ""),
    ("none before it", ">a6 a5 >b30", "a5<", ""),
    ("another key's is none", ">b0 a5 >b30", "a5<", ""),
    ("a version that comes later, but on time", "a5 >a8 >a3 >b30", "a5<a3", ""),
    ("a late version is not seen", "a5 >a0 >b16 >a3 >b30", "a5<a0", ">a3"),
    ("a row within the lateness finds its old version", ">a0 >a20 a25 a16 >b40", "a16<a0 a25<a20", ""),
    ("a late row", ">a0 a30 a5 >b60", "a30<a0", "a5"),
    ("no more than is known is handed on", ">a0 a5 a50 >b30", "a5<a0", ""),
]


def _streams(left: mg.sources.memory.Memory, right: mg.sources.memory.Memory) -> tuple[mg.Flow, mg.Stream, mg.Stream]:
    flow = mg.Flow("t")
    made = [
        flow.read(mg.source(name, connector, schema=SCHEMA, time="at", lateness="10 seconds"))
        for name, connector in (("events", left), ("others", right))
    ]
    return flow, made[0], made[1]


def _windowed(window: mg.Window | mg.Session, late: str = "keep") -> Callable[[mg.Stream, mg.Stream], mg.Stream]:
    return lambda left, right: left.window(window, by="key", late=late).aggregate(n="count(*)")


WINDOWS = (
    "key || '[' || (epoch(window_start) - {zero})::BIGINT || ',' || (epoch(window_end) - {zero})::BIGINT || ')=' || n"
    " || if(final, '!', '')"
)
MET = "key || (epoch(\"at\") - {zero})::BIGINT || '{sign}' || coalesce(key || (epoch(at_right) - {zero})::BIGINT, '')"
VERBS: dict[str, tuple[list[Case], Callable[[mg.Stream, mg.Stream], mg.Stream], str]] = {
    "tumbling 10 s": (TUMBLING, _windowed(mg.tumbling("10 seconds")), WINDOWS),
    "corrected": (CORRECTED, _windowed(mg.tumbling("10 seconds"), "update"), WINDOWS),
    "hopping 10 s every 5 s": (HOPPING, _windowed(mg.hopping("10 seconds", every="5 seconds")), WINDOWS),
    "session 5 s": (SESSIONS, _windowed(mg.session("5 seconds")), WINDOWS),
    "order": (ORDER, lambda left, right: left.order(by="key"), "seq || ':' || key || (epoch(\"at\") - {zero})::BIGINT"),
    "join within 5 s": (INNER, lambda left, right: left.join(right, on="key", within="5 seconds"), MET.replace("{sign}", "-")),
    "left join within 5 s": (
        LEFT,
        lambda left, right: left.join(right, on="key", within="5 seconds", how="left"),
        MET.replace("{sign}", "-"),
    ),
    "as of": (AS_OF, lambda left, right: left.enrich(right, on="key", as_of=True), MET.replace("{sign}", "<")),
}
PLAYED = [(verb, case) for verb, (cases, _, _) in VERBS.items() for case in cases]


@pytest.mark.parametrize(("verb", "case"), PLAYED, ids=[f"{verb}: {case[0]}" for verb, case in PLAYED])
def test_transcript(verb: str, case: Case, tmp_path: Path) -> None:
    _, events, expected, late = case
    _, build, shown = VERBS[verb]
    zero = rows(":memory:", f"SELECT epoch(TIMESTAMP '{at(0)}')::BIGINT")[0][0]
    for name, options in (("at once", {}), ("one by one", {"chunk_bytes": 1, "epoch": 0, "workers": 1})):
        store = tmp_path / f"{name}.duckdb"
        left, right = mg.memory({"0": []}), mg.memory({"0": []})
        for number, event in enumerate(events.split()):
            connector, text = (right, event[1:]) if event[0] == ">" else (left, event)
            partition, _, text = text.rpartition(".")
            connector.feed({"id": str(number), "at": at(int(text[1:])), "key": text[0], "n": number}, partition or "0")
        flow, one, other = _streams(left, right)
        build(one, other).materialize("v")
        mg.run([flow], store, **options)
        found = sorted(text for (text,) in rows(store, f"SELECT {shown.replace('{zero}', str(zero))} FROM v"))
        assert (name, " ".join(found)) == (name, " ".join(sorted(expected.split())))
        said = (
            "SELECT if(source = 'others', '>', '') || (row->>'key') || (epoch(event_time) - {zero})::BIGINT"
            " FROM merganser.late ORDER BY source, seq".replace("{zero}", str(zero))
        )
        assert (name, " ".join(text for (text,) in rows(store, said))) == (name, late)
        balanced(store)
        assert name == "one by one" or [check for check in verify([flow], store) if not check.ok] == []


def test_there_are_many() -> None:
    assert len(PLAYED) >= 60
