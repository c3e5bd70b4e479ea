"""``fetch``: who is asked, how often, what becomes of answers and of failures; against a real service on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import httpx2
import pytest
import stamina
from hypothesis import given, settings
from hypothesis import strategies as st

import merganser as mg
from merganser import engine
from merganser.asking import asker, breaker, http
from merganser.dead_letters import Selection
from merganser.errors import FetchError, FlowError, RecordError
from merganser.query import sidecar
from merganser.store import CATALOG, FORMAT, Store
from merganser.verify import verify
from tests.flows import SCHEMA, balanced, event, rows, source
from tests.query.running import running
from tests.service import Service, said, serving

ANSWER = {"name": "VARCHAR", "size": "INTEGER"}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(breaker, "PAUSE", (0.01, 0.05))
    with stamina.set_testing(True, attempts=10_000):  # retries without backoff
        yield


def person(path: str, _: int) -> Any:
    key = path.rpartition("/")[2]
    return said({"name": key.upper(), "size": len(key), "more": [1]}) if key != "nobody" else said("no such thing", 404)


def events(*keys: str | None, every: float = 60) -> list[dict[str, Any]]:
    return [event(f"e{i}", i * every, key, i) for i, key in enumerate(keys)]


def fetching(of: Any, ask: Any, schema: Any = ANSWER, on_error: str = "dead_letter", **more: Any) -> mg.Flow:
    flow = mg.Flow("f")
    flow.read(source(of, on_error=on_error)).fetch(ask, schema=schema, **more).materialize("v")
    return flow


def checked(flow: mg.Flow, store: Path) -> None:
    balanced(store)
    assert [check for check in verify([flow], store) if not check.ok] == []


def letters(store: Path) -> list[tuple[Any, ...]]:
    return rows(store, "SELECT seq, reason, detail FROM merganser.dead_letters ORDER BY seq")


# -- who is asked, and how often ----------------------------------------------------------------------------------------


def test_each_key_is_asked_for_once_and_rows_keep_their_order(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    with serving(Service(person)) as service:
        flow = fetching(events("ann", "bo", "nobody", "ann", None, "nobody", "bo"), service.url + "/people/{key}")
        report = mg.run([flow], store)
        assert sorted(service.paths) == ["/people/ann", "/people/bo", "/people/nobody"]
    assert rows(store, "SELECT n, key, name, size FROM v") == [
        (0, "ann", "ANN", 3), (1, "bo", "BO", 2), (2, "nobody", None, None), (3, "ann", "ANN", 3), (4, None, None, None),
        (5, "nobody", None, None), (6, "bo", "BO", 2),
    ]  # fmt: skip
    asked = report.progressed.asked[f"127.0.0.1:{service.port}/people/{{key}}"]
    assert (asked.attempts, asked.answered, asked.nothing, asked.failed, asked.reused) == (3, 2, 1, 0, 3)
    checked(flow, store)


@pytest.mark.parametrize(("cache", "asked"), [(None, [0]), ("10 minutes", [0, 10, 20]), ("0 seconds", [0, 9, 10, 12, 19, 25])])
def test_the_cache_is_measured_in_event_time(cache: str | None, asked: list[int], tmp_path: Path) -> None:
    calls: list[str] = []

    def ask(key: str) -> dict[str, Any]:
        calls.append(key)
        return {"size": len(calls)}

    minutes = [9, 0, 10, 12, 9, 19, 25]  # 0 comes after 9, and shares its answer
    of = [event(f"e{i}", m * 60, "k", m) for i, m in enumerate(minutes)]
    flow = fetching(of, ask, key="key", cache=cache)
    mg.run([flow], tmp_path / "s.duckdb")
    assert len(calls) == len(asked)
    found = rows(tmp_path / "s.duckdb", "SELECT n, count(DISTINCT size) FROM v GROUP BY n ORDER BY n")
    assert found == [(m, 1) for m in sorted(set(minutes))]
    slots = rows(tmp_path / "s.duckdb", "SELECT (slot - epoch_us('2026-01-01'::TIMESTAMP)) // 60_000_000 FROM merganser.answers")
    assert cache is None or sorted(slot for (slot,) in slots) == asked
    checked(flow, tmp_path / "s.duckdb")


@settings(max_examples=8)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60)), min_size=1, max_size=25),
    st.sampled_from([None, "0 seconds", "7 seconds", "20 seconds"]),
    st.booleans(),
)
def test_the_view_is_plain_python_over_log_and_answers(log: list[tuple[str, int]], cache: str | None, cut: bool) -> None:
    """However the log is cut into runs: each key and stretch of time is asked once, and all its rows have that answer."""
    width = {None: None, "0 seconds": 0, "7 seconds": 7, "20 seconds": 20}[cache]
    answers: dict[str, list[int]] = {}

    def ask(key: str) -> dict[str, int] | None:
        answers.setdefault(key, []).append(len(answers) * 100 + len(answers.get(key, [])))
        return {"size": answers[key][-1]} if key != "c" else None

    of = [event(f"e{i}", second, key, i) for i, (key, second) in enumerate(log)]
    memory = mg.memory(of[: len(of) // 2] if cut else of)
    flow = fetching(memory, ask, key="key", cache=cache)
    with Store(":memory:") as store:
        mg.run([flow], store)
        for record in of[len(memory.lines["0"]) :]:
            memory.feed(record, "0")
        mg.run([flow], store)
        found = dict(store.rows("SELECT n, size FROM v"))
    groups: dict[tuple[str, int], set[int | None]] = {}
    for i, (key, second) in enumerate(log):
        # 2026-01-01 is no multiple of 7 seconds after 1970.
        slot = 0 if width is None else second if width == 0 else (1_767_225_600 + second) // width
        groups.setdefault((key, slot), set()).add(found[i])
    assert all(len(shared) == 1 for shared in groups.values())
    assert sum(map(len, answers.values())) == len(groups)
    assert all((shared == {None}) == (key == "c") for (key, _), shared in groups.items())


def test_a_replay_asks_nobody(tmp_path: Path) -> None:
    """Not a restart, not a rebuild, not one with more of the answers' columns, not verify, not a view that is added."""
    store = tmp_path / "s.duckdb"
    memory = mg.memory(events("ann", "nobody"))
    with serving(Service(person)) as service:
        url = service.url + "/people/{key}"
        mg.run([fetching(memory, url)], store)
        assert len(service.calls) == 2
    # From here on nobody answers.
    memory.feed(event("e9", 500, "ann", 9))
    mg.run([fetching(memory, url)], store)
    assert rows(store, "SELECT n, name FROM v ORDER BY n") == [(0, "ANN"), (1, None), (9, "ANN")]
    mg.rebuild([fetching(memory, url)], ["v"], store)
    wider = fetching(memory, url, schema={"more": "INTEGER[]", "name": "VARCHAR NOT NULL"})
    mg.rebuild([wider], ["v"], store)
    assert rows(store, "SELECT n, more, name FROM v ORDER BY n") == [(0, [1], "ANN"), (1, None, None), (9, [1], "ANN")]
    checked(wider, store)
    added = mg.Flow("added")
    added.read(source(memory)).fetch(url, schema=ANSWER).materialize("w")
    mg.run([wider, added], store)
    assert rows(store, "SELECT count(name) FROM w") == [(2,)]


def test_kept_answers_that_are_not_what_is_declared_now_are_asked_for_again(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"

    def reply(path: str, number: int) -> Any:
        return said({"size": "three" if number == 1 else 3})

    with serving(Service(reply)) as service:
        of = mg.memory(events("ann"))
        mg.run([fetching(of, service.url + "/{key}", {"size": "VARCHAR"})], store)
        flow = fetching(of, service.url + "/{key}", {"size": "INTEGER"})
        mg.rebuild([flow], ["v"], store)
        assert len(service.calls) == 2
    assert rows(store, "SELECT size FROM v") == [(3,)]
    assert rows(store, "SELECT count(*) FROM merganser.answers") == [(1,)]
    checked(flow, store)


def test_several_questions_are_open_at_once_but_not_more_than_declared(tmp_path: Path) -> None:
    with serving(Service(person, latency=0.02)) as service:
        flow = fetching(events(*(f"k{i}" for i in range(40))), service.url + "/{key}", concurrency=8)
        mg.run([flow], tmp_path / "s.duckdb")
        assert 1 < service.most_open <= 8
    assert rows(tmp_path / "s.duckdb", "SELECT name FROM v") == [(f"K{i}",) for i in range(40)]


def test_keys_of_several_columns_and_of_other_types(tmp_path: Path) -> None:
    with serving(Service(lambda path, _: said({"name": path}))) as service:
        flow = mg.Flow("f")
        read = flow.read(source(events("a/b c", "ü?&=%"))).derive(day='"at"::DATE')
        read.fetch(service.url + "/of/{key}/{n}?on={day}", schema={"name": "VARCHAR"}).materialize("v")
        mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT name FROM v") == [
        ("/of/a%2Fb%20c/0?on=2026-01-01",), ("/of/%C3%BC%3F%26%3D%25/1?on=2026-01-01",)
    ]  # fmt: skip
    checked(flow, tmp_path / "s.duckdb")


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_function_is_called_with_the_keys_values(asynchronous: bool, tmp_path: Path) -> None:
    def ask(key: str, n: int) -> dict[str, Any] | None:
        if key == "none":
            return None
        when = datetime(2026, 1, 2) + timedelta(days=n)
        return {"name": f"{key}{n}", "price": Decimal("12345678901234.10"), "at": when, "ok": True}

    async def later(key: str, n: int) -> dict[str, Any] | None:
        return ask(key, n)

    schema = {"name": "VARCHAR", "price": "DECIMAL(20,2)", "at": "TIMESTAMP", "ok": "BOOLEAN"}
    flow = fetching(events("a", "none"), later if asynchronous else ask, schema, key=["key", "n"])
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT name, price, at_right, ok FROM v") == [
        ("a0", Decimal("12345678901234.10"), datetime(2026, 1, 2), True), (None, None, None, None),
    ]  # fmt: skip
    checked(flow, tmp_path / "s.duckdb")


def test_numbers_keep_all_the_digits_that_they_came_with(tmp_path: Path) -> None:
    reply = lambda *_: (200, {}, b'\xef\xbb\xbf {"price":\n 12345678901234567.89}')  # noqa: E731
    with serving(Service(reply)) as service:
        mg.run([fetching(events("a"), service.url + "/{key}", {"price": "DECIMAL(20,2)"})], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT price FROM v") == [(Decimal("12345678901234567.89"),)]


def test_what_a_notification_says_is_gone_is_gone_from_latest(tmp_path: Path) -> None:
    """An event that says only that something changed, and then the whole of it, or nothing."""
    state = {"a": 1}
    memory = mg.memory([{"key": "a", "at": "2026-01-01 00:00:00"}])
    flow = mg.Flow("f")
    changed = mg.source("changed", memory, schema={"key": "VARCHAR", "at": "TIMESTAMP"}, time="at", lateness="1 second", key="key")
    ask = lambda key: {"size": state[key]} if key in state else None  # noqa: E731
    flow.read(changed).fetch(ask, key="key", schema={"size": "INTEGER"}, cache="0 seconds").latest().materialize("v")
    store = tmp_path / "s.duckdb"
    mg.run([flow], store)
    assert rows(store, "SELECT key, size FROM v") == [("a", 1)]
    state["a"] = 2
    memory.feed({"key": "a", "at": "2026-01-01 00:00:01"})
    mg.run([flow], store)
    assert rows(store, "SELECT key, size FROM v") == [("a", 2)]
    del state["a"]
    memory.feed({"key": "a", "at": "2026-01-01 00:00:02"})
    mg.run([flow], store)
    assert rows(store, "SELECT key, size FROM v") == []
    checked(flow, store)


# -- failures -----------------------------------------------------------------------------------------------------------


def test_a_failure_that_passes_costs_attempts_only(tmp_path: Path) -> None:
    def reply(path: str, number: int) -> Any:
        return person(path, number) if number > 3 else (500, {}, b"oops")

    with serving(Service(reply)) as service:
        report = mg.run([fetching(events("ann"), service.url + "/{key}")], tmp_path / "s.duckdb")
        assert len(service.calls) == 4
    assert rows(tmp_path / "s.duckdb", "SELECT name FROM v") == [("ANN",)]
    [asked] = report.progressed.asked.values()
    assert (asked.attempts, asked.answered, asked.failed) == (4, 1, 0)


REPLIES = {
    "always500": ((500, {}, b""), "not answered", asker.ATTEMPTS, "HTTP 500 Internal Server Error; asked 5 times"),
    "forbidden": ((403, {}, b""), "not answered", asker.ATTEMPTS, "HTTP 403 Forbidden; asked 5 times"),
    "wrong": ((400, {}, b""), "question refused", 1, "HTTP 400 Bad Request"),
    "moved": ((301, {"Location": "/elsewhere"}, b""), "question refused", 1, "to /elsewhere: write that URL in the flow"),
    "text": ((200, {}, b"hello"), "bad answer", 1, "the answer is no JSON"),
    "latin": ((200, {}, b'"\xff"'), "bad answer", 1, "the answer is no JSON"),
    "list": (said([1]), "bad answer", 1, "no JSON object but a list"),
    "mistyped": (said({"size": "big"}), "bad answer", 1, "column 'size': expected INTEGER, found a string \"big\""),
    "..": (said({}), "question refused", 0, "key is '..', which would make another URL"),
    "": (said({}), "question refused", 0, "key is '', which would make another URL"),
}


def test_what_is_not_answered_is_a_dead_letter_with_a_reason_and_others_go_on(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"

    def reply(path: str, number: int) -> Any:
        name = path.rpartition("/")[2]
        return REPLIES[name][0] if name in REPLIES else person(path, number)

    keys = [key for name in REPLIES for key in (name, f"fine-{name}")]
    with serving(Service(reply)) as service:
        flow = fetching(events(*keys), service.url + "/p/{key}", concurrency=1)
        mg.run([flow], store)
        for number, (name, (_, reason, calls, detail)) in enumerate(REPLIES.items()):
            [found] = [letter for letter in letters(store) if letter[0] == 2 * number]
            assert found[1] == reason and detail in found[2] and "test_fetch.py" in found[2], name
            assert service.paths.count(f"/p/{name}") == calls, name
    assert rows(store, "SELECT key FROM v") == [(f"fine-{name}",) for name in REPLIES]
    assert rows(store, "SELECT count(*) FROM merganser.answers") == [(len(REPLIES),)]
    [(read, applied, dead)] = rows(store, "SELECT sum(read), sum(applied), sum(dead) FROM merganser.commits")
    assert (read, applied, dead) == (20, 10, 10)
    checked(flow, store)


def test_dead_letters_come_back_when_there_is_an_answer(tmp_path: Path) -> None:
    store, broken = tmp_path / "s.duckdb", threading.Event()
    broken.set()

    def reply(path: str, number: int) -> Any:
        return (500, {}, b"") if broken.is_set() and path == "/bo" else person(path, number)

    with serving(Service(reply)) as service:
        flow = mg.Flow("f")
        # A duplicate of what was not answered is a duplicate all the same.
        of = [*events("ann", "bo"), event("e1", 60, "bo", 1), event("e5", 70, "ann", 5)]
        flow.read(source(of)).deduplicate().fetch(service.url + "/{key}", schema=ANSWER).materialize("v")
        mg.run([flow], store)
        assert [(seq, reason) for seq, reason, _ in letters(store)] == [(1, "not answered")]
        assert rows(store, "SELECT key FROM v") == [("ann",), ("ann",)]
        checked(flow, store)
        broken.clear()
        done = engine.redrive([flow], Selection(reason="not answered"), store)
        assert done is not None and done.applied == 1
        assert service.paths.count("/ann") == 1
    assert letters(store) == []
    assert rows(store, "SELECT n, name FROM v") == [(0, "ANN"), (1, "BO"), (5, "ANN")]
    checked(flow, store)


def test_a_later_row_asks_again_for_what_was_not_answered(tmp_path: Path) -> None:
    memory, store = mg.memory(events("bo")), tmp_path / "s.duckdb"
    with serving(Service(lambda path, n: person(path, n) if n > asker.ATTEMPTS else (500, {}, b""))) as service:
        flow = fetching(memory, service.url + "/{key}")
        mg.run([flow], store)
        memory.feed(event("e1", 1, "bo", 1))
        mg.run([flow], store)
    assert rows(store, "SELECT n, name FROM v") == [(1, "BO")]
    assert [seq for seq, _, _ in letters(store)] == [0]
    checked(flow, store)


def test_of_an_event_that_became_several_rows_all_go_on_or_none(tmp_path: Path) -> None:
    schema = SCHEMA | {"tags": "VARCHAR[]"}
    of = [event("e0", 0, tags=["a", "bad"]), event("e1", 1, tags=["a", "b"]), event("e2", 2, tags=["bad", "bad"])]
    flow = mg.Flow("f")
    ask = lambda tag: {"size": 1} if tag != "bad" else "bad"  # noqa: E731
    flow.read(source(of, schema=schema)).explode("tags").fetch(ask, key="tags", schema={"size": "INTEGER"}).materialize("v")
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT id, tags, size FROM v") == [("e1", "a", 1), ("e1", "b", 1)]
    assert rows(tmp_path / "s.duckdb", "SELECT read, applied, dead FROM merganser.commits") == [(3, 1, 2)]
    checked(flow, tmp_path / "s.duckdb")


def test_rows_of_windows_can_be_asked_about_too(tmp_path: Path) -> None:
    flow = mg.Flow("f")
    windows = flow.read(source(events("a", "b", "a", "bad", "a", "z", every=30))).window(mg.tumbling("1 minute"), by="key")
    ask = lambda key: {"size": len(key)} if key != "bad" else []  # noqa: E731
    fetched = windows.aggregate(c="count(*)").fetch(ask, key="key", schema={"size": "INTEGER"}, cache="1 minute")
    fetched.derive(twice="size * 2").materialize("v")
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT key, c, twice FROM v ORDER BY window_start, key") == [
        ("a", 1, 2), ("b", 1, 2), ("a", 1, 2),
    ]  # fmt: skip
    [(file, raw)] = rows(tmp_path / "s.duckdb", "SELECT file, raw FROM merganser.dead_letters")
    assert file == "a row of Fetch" and json.loads(raw)["key"] == "bad"
    checked(flow, tmp_path / "s.duckdb")


def test_a_source_that_is_to_stop_stops(tmp_path: Path) -> None:
    flow = fetching(events("a"), lambda key: 1, key="key", on_error="stop")
    with pytest.raises(RecordError, match=r"bad answer.*must be a mapping"):
        mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT count(*) FROM v") == [(0,)]


def test_an_async_function_that_takes_too_long_is_asked_again(tmp_path: Path) -> None:
    import asyncio

    calls: list[str] = []

    async def ask(key: str) -> dict[str, Any]:
        calls.append(key)
        await asyncio.sleep(60 if len(calls) == 1 else 0)
        return {"size": 1}

    mg.run([fetching(events("a"), ask, key="key", timeout="50ms")], tmp_path / "s.duckdb")
    assert calls == ["a", "a"] and rows(tmp_path / "s.duckdb", "SELECT size FROM v") == [(1,)]


def test_a_service_that_asks_for_time_gets_it(tmp_path: Path) -> None:
    def reply(path: str, number: int) -> Any:
        return person(path, number) if number > 1 else (429, {"Retry-After": "0.3"}, b"")

    with serving(Service(reply)) as service:
        mg.run([fetching(events("ann"), service.url + "/{key}")], tmp_path / "s.duckdb")
        (_, _, first), (_, _, second) = service.calls
    assert second - first >= 0.3
    assert rows(tmp_path / "s.duckdb", "SELECT name FROM v") == [("ANN",)]


def test_retry_after_is_a_number_or_a_date() -> None:
    assert http.retry_after("3") == 3 and http.retry_after("-1") == 0 and http.retry_after("1e9") == http.LONGEST
    assert http.retry_after(None) is None and http.retry_after("soon") is None
    assert http.retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


# -- a service that is away ---------------------------------------------------------------------------------------------


def test_while_the_service_is_away_nothing_is_lost_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asker, "PATIENCE", 0.1)
    store, memory = tmp_path / "s.duckdb", mg.memory(events("ann"))
    with serving(Service(person)) as service:
        flow = fetching(memory, service.url + "/{key}")
        mg.run([flow], store)
    memory.feed(event("e1", 60, "bo", 1))
    with pytest.raises(FetchError, match=r"does not answer \(.*ConnectError.*run again"):
        mg.run([flow], store)
    assert rows(store, "SELECT name FROM v") == [("ANN",)] and letters(store) == []
    with serving(service):
        mg.run([flow], store)
    assert rows(store, "SELECT name FROM v") == [("ANN",), ("BO",)]
    checked(flow, store)


@pytest.mark.parametrize("answer", [503, 500])
def test_a_running_flow_waits_says_so_and_goes_on_when_the_service_is_back(answer: int, tmp_path: Path) -> None:
    """500 says nothing of the service if one key has it, but it does if all have."""
    down = threading.Event()
    store, memory = tmp_path / "s.duckdb", mg.memory(events("ann"))

    def reply(path: str, number: int) -> Any:
        return (answer, {}, b"") if down.is_set() else person(path, number)

    with serving(Service(reply)) as service:
        flow = fetching(memory, service.url + "/{key}")
        with running([flow], store) as views:
            down.set()
            for i in range(1, 13):
                memory.feed(event(f"e{i}", i, f"k{i}", i))
            _until(lambda: _metric(store, "merganser_fetch_circuit_open") == 1)
            before = len(service.calls)
            assert views.sql("SELECT name FROM v").fetchall() == [("ANN",)]
            _until(lambda: len(service.calls) > before)  # it tries again
            down.clear()
            views.wait_for("now")
            assert views.sql("SELECT count(name) FROM v").fetchall() == [(13,)]
            assert _metric(store, "merganser_fetch_circuit_open") == 0
            assert _metric(store, "merganser_fetch_questions_total", 'outcome="answered"') == 13
            assert _metric(store, "merganser_fetch_attempts_total") == len(service.calls)
    assert letters(store) == []


def test_a_flow_that_is_to_stop_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asker, "GRACE", 0.1)
    stop = threading.Event()
    with serving(Service(lambda *_: (503, {}, b""))) as service:
        flow = fetching(events("ann"), service.url + "/{key}")
        failure: list[BaseException] = []

        def run() -> None:
            try:
                mg.run([flow], tmp_path / "s.duckdb", follow=True, epoch=0.05, stop=stop)
            except FetchError as error:
                failure.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        _until(lambda: len(service.calls) > 3)
        stop.set()
        thread.join(20)
    assert not thread.is_alive() and "the run is to stop" in str(failure[0])


def _until(true: Any) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def _metric(store: Path, name: str, label: str = "") -> float:
    holder = sidecar.read(store)
    assert holder is not None
    text = httpx2.get(holder.url + "/metrics", headers={"Authorization": f"Bearer {holder.token}"}).text
    [line] = [line for line in text.splitlines() if line.startswith(name + "{") and label in line]
    return float(line.rpartition(" ")[2])


# -- what is declared ---------------------------------------------------------------------------------------------------


def test_secrets_go_out_and_stand_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEOPLE_TOKEN", "Bearer s3cret")
    with serving(Service(person)) as service:
        headers = {"Authorization": mg.secret(env="PEOPLE_TOKEN"), "X-Shop": "tea"}
        flow = fetching(events("ann"), service.url + "/{key}", headers=headers)
        mg.run([flow], tmp_path / "s.duckdb")
        [(_, sent, _)] = service.calls
    assert sent["Authorization"] == "Bearer s3cret" and sent["X-Shop"] == "tea"
    assert "s3cret" not in str(flow) and "s3cret" not in repr(flow.materialized)
    assert b"s3cret" not in (tmp_path / "s.duckdb").read_bytes()


def test_a_service_with_a_name_can_move(tmp_path: Path) -> None:
    memory, store = mg.memory(events("ann")), tmp_path / "s.duckdb"
    for key in ("bo", "cy"):
        with serving(Service(person)) as service:
            mg.run([fetching(memory, service.url + "/{key}", name="people")], store)
            assert len(service.calls) == 1
        memory.feed(event(key, 60, key))
    plan = str(fetching(memory, service.url + "/{key}", name="people"))
    assert "Fetch[events, people by key, (name VARCHAR, size INTEGER)]" in plan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ask": "http://h/{nokey}"}, "there is no column 'nokey'; there are id, at, key, n"),
        ({"ask": "http://h/all"}, "asks the same for every event"),
        ({"ask": "h/{key}"}, "takes a function, or a URL such as"),
        ({"ask": "http://u:p@h/{key}"}, "a URL with a password"),
        ({"ask": "http://{key}/x"}, "does not decide which host"),
        ({"ask": "http://h/{key!r}"}, "the name of a column and nothing else"),
        ({"ask": "http://h/{key"}, "expected '}'"),
        ({"ask": "http://h/{key}", "key": "n"}, "the URL asks for key"),
        ({"ask": 5}, "takes a function, or a URL"),
        ({"ask": len, "key": "nope"}, "there is no column 'nope'"),
        ({"ask": len, "headers": {"a": "b"}}, "is for URLs"),
        ({"ask": "http://h/{key}", "headers": {"a": 5}}, "takes a text or mg.secret"),
        ({"ask": len, "concurrency": 0}, "a concurrency of 1 at least"),
        ({"ask": len, "cache": "soon"}, "'soon' is not a duration"),
        ({"ask": len, "schema": {"name": "STRING TOO"}}, "is no SQL type"),
    ],
)
def test_mistakes_are_told_on_their_line(arguments: dict[str, Any], message: str) -> None:
    stream = mg.Flow("f").read(source([]))
    with pytest.raises(FlowError, match=r"test_fetch\.py") as found:
        stream.fetch(arguments.pop("ask"), **{"schema": ANSWER, **arguments})
    assert message in str(found.value)


def test_a_store_of_a_version_that_could_not_fetch_goes_on(tmp_path: Path) -> None:
    memory, store = mg.memory(events("ann")), tmp_path / "s.duckdb"
    with duckdb.connect(str(store)) as con:
        con.execute(CATALOG)
        con.execute("DROP TABLE merganser.answers")
        con.execute(f"INSERT INTO merganser.meta VALUES ('format', '{FORMAT}'), ('id', 'abc'), ('merganser', '0'), ('duckdb', '0')")
    flow = fetching(memory, lambda key: {"size": 1}, key="key")
    mg.run([flow], store)
    checked(flow, store)
