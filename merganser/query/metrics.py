"""A status as Prometheus metrics, named by its conventions: base units, ``_total`` for what only grows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from merganser.query.status import Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Rows = Iterable[tuple[tuple[object, ...], float | int | None]]
"""Values of labels, and the number; rows without one are left out."""


def metrics(status: Status) -> bytes:
    """The exposition text of a running flow's status."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(list(_families(status))))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _families(status: Status) -> Iterator[Metric]:
    run, store, positions = status["running"], status["store"], status["positions"]
    yield InfoMetricFamily("merganser", "Versions.", {"version": store["merganser"], "duckdb": store["duckdb"]})
    yield _gauge("merganser_ready", "1 if nothing more was found to read in the last ten seconds.", (), [((), run["ready"])])
    yield _counter("merganser_events_read", "Events read since the flow began.", (), [((), run["read"])])
    yield _counter("merganser_read_bytes", "Bytes read since the flow began.", (), [((), run["read_bytes"])])
    yield _gauge("merganser_uncommitted_events", "Events read and not committed yet.", (), [((), run["read"] - run["committed"])])
    commits = SummaryMetricFamily("merganser_commit_duration_seconds", "Time that commits took since the flow began.")
    commits.add_metric([], run["epochs"], run["commit_seconds_total"])
    yield commits
    yield _gauge("merganser_last_commit_duration_seconds", "Time that the last commit took.", (), [((), run["commit_seconds"])])
    at = status["commit"]["at"]
    yield _gauge("merganser_last_commit_timestamp_seconds", "When it was.", (), [((), None if at is None else at / 1e6)])
    fates = ("applied", "filtered", "late", "duplicate", "dead")
    yield _counter(
        "merganser_events", "Events in the books, by what became of them; of the whole history.", ("view", "source", "fate"),
        [((b["view"], b["source"], fate), b[fate]) for b in status["books"] for fate in fates],
    )  # fmt: skip
    yield _counter(
        "merganser_records", "Records of a partition that a cohort is past.", ("source", "partition", "cohort"),
        [((p["source"], p["partition"], p["cohort"]), p["records"]) for p in positions],
    )  # fmt: skip
    yield _gauge(
        "merganser_dead_letters", "Records that could not be decoded or applied.", ("source", "reason"),
        [((d["source"], d["reason"]), d["records"]) for d in status["dead_letters"]],
    )  # fmt: skip
    yield _gauge(
        "merganser_lag_messages", "Offsets that are not read yet, as of the last commit.", ("source", "partition"),
        [((x["source"], x["partition"]), x["messages"]) for x in status["lag"]],
    )  # fmt: skip
    marks = {(p["source"], p["cohort"]): p["final"] for p in positions if p["final"] is not None}
    yield _gauge(
        "merganser_watermark_timestamp_seconds", "Event time up to which windows are final.", ("source", "cohort"),
        [(key, mark / 1e6) for key, mark in marks.items()],
    )  # fmt: skip
    yield _gauge(
        "merganser_watermark_lag_seconds", "How far that is behind the clock.", ("source", "cohort"),
        [(key, time.time() - mark / 1e6) for key, mark in marks.items()],
    )  # fmt: skip
    yield _gauge(
        "merganser_outbox_rows", "Rows that wait to be sent.", ("sink",), [((s["sink"],), s["waiting"]) for s in status["sinks"]]
    )
    fetches = run["fetches"]
    yield _counter(
        "merganser_fetch_questions", "Questions that fetch asked since the flow began, by what came of them.", ("fetch", "outcome"),
        [((f["fetch"], outcome), f[outcome]) for f in fetches for outcome in ("answered", "nothing", "failed")],
    )  # fmt: skip
    for what, about in (
        ("attempts", "Attempts that this took."),
        ("reused", "Rows that needed no question, since their answer was there."),
        ("seconds", "Time that epochs waited for answers."),
    ):
        yield _counter(f"merganser_fetch_{what}", about, ("fetch",), [((f["fetch"],), f[what]) for f in fetches])
    yield _gauge(
        "merganser_fetch_circuit_open", "1 while a service does not answer and the flow waits for it.", ("fetch",),
        [((f["fetch"],), int(f["open"])) for f in fetches],
    )  # fmt: skip
    yield _gauge("merganser_view_rows", "Rows of a view.", ("view",), [((v["view"],), v["rows"]) for v in status["views"]])
    state = [((s["table"],), s["rows"]) for s in status["state"]]
    yield _gauge("merganser_state_rows", "Rows of a step's table, about.", ("table",), state)
    yield _gauge("merganser_store_size_bytes", "Size of the store.", (), [((), store["bytes"])])
    yield _gauge("process_resident_memory_bytes", "Memory that the flow's process holds.", (), [((), run["memory"])])


def _gauge(name: str, what: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    return _filled(GaugeMetricFamily(name, what, labels=labels), rows)


def _counter(name: str, what: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    return _filled(CounterMetricFamily(name, what, labels=labels), rows)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, rows: Rows) -> Metric:
    for labels, value in rows:
        if value is not None:
            family.add_metric([str(label) for label in labels], value)
    return family
