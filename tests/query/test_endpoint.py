"""The endpoint as other clients see it: another HTTP library, curl, a browser's requests."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pyarrow.ipc
import pytest
from prometheus_client.parser import text_string_to_metric_families

import merganser as mg
from merganser.query import sidecar
from merganser.query.server import Address
from merganser.query.sidecar import Holder
from merganser.sources.memory import Memory
from merganser.sources.turns import Turns
from tests.query.running import counting, events, running


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holder]:
    store = tmp_path_factory.mktemp("served") / "s.duckdb"
    with running([counting(mg.memory(events(1000)))], store):
        found = sidecar.read(store)
        assert found is not None
        yield found


@pytest.fixture
def client(holder: Holder) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=holder.url, headers={"Authorization": f"Bearer {holder.token}"}, timeout=30) as made:
        yield made


def test_arrow_csv_and_json(client: httpx2.Client) -> None:
    sql = "SELECT key, n, [n, 1] AS list FROM per_key ORDER BY key LIMIT 2"
    answer = client.post("/query", content=sql)
    assert answer.status_code == 200 and answer.headers["merganser-rows"] == "2" and int(answer.headers["merganser-epoch"]) > 0
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    assert pyarrow.ipc.open_stream(io.BytesIO(answer.content)).read_all()["n"].to_pylist() == [143, 143]
    answer = client.post("/query?format=csv", content=sql)
    assert answer.text.splitlines() == ['"key","n","list"', '"k0",143,"[143, 1]"', '"k1",143,"[143, 1]"']
    answer = client.post("/query?format=json", content=sql)
    assert json.loads(answer.text.splitlines()[0]) == {"key": "k0", "n": 143, "list": [143, 1]}


def test_limits_and_cuts_are_told(client: httpx2.Client) -> None:
    answer = client.post("/query?format=csv", json={"sql": "FROM range(100)", "max_rows": 5})
    assert len(answer.text.splitlines()) == 6 and json.loads(answer.headers["merganser-cut"]) == ["cut at 5 rows"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"}, {"Authorization": "ä"}])
def test_nothing_without_the_token(headers: dict[str, str], holder: Holder) -> None:
    encoded = {name: value.encode() for name, value in headers.items()}
    for method, path in (("POST", "/query"), ("GET", "/status"), ("GET", "/wait"), ("GET", "/metrics"), ("GET", "/nothing")):
        answer = httpx2.request(method, holder.url + path, headers=encoded, content=b"FROM total" if method == "POST" else None)
        assert answer.status_code == 401 and "total" not in answer.text
    assert httpx2.get(holder.url + "/health").json() == {"ready": True}


def test_other_names_and_web_pages_are_refused(client: httpx2.Client, holder: Holder) -> None:
    assert client.post("/query", content="FROM total", headers={"Host": "evil.example"}).status_code == 421
    assert client.post("/query", content="FROM total", headers={"Origin": holder.url}).status_code == 403
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 421
    port = holder.url.rsplit(":", 1)[1]
    assert client.post("/query", content="FROM total", headers={"Host": f"localhost:{port}"}).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b'{"sql": 1}', b"[]", b"{", b'{"sql": []}', b'{"sql": "FROM total", "max_rows": "x"}', b"[" * 100_000]
)
def test_a_request_that_makes_no_sense_is_refused(body: bytes, client: httpx2.Client) -> None:
    answer = client.post("/query", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and "error" in answer.json()


def test_wrong_paths_methods_and_sizes(client: httpx2.Client) -> None:
    assert client.get("/query").status_code == 405
    assert client.get("/nothing").status_code == 404
    assert client.post("/query", content=b"x" * 2_000_000).status_code == 413
    assert client.post("/query?format=xml", content="FROM total").status_code == 400
    assert client.get("/wait?timeout=soon").status_code == 400


def test_prometheus_reads_the_metrics(client: httpx2.Client) -> None:
    answer = client.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    for name, family in families.items():
        assert family.documentation and name.startswith(("merganser", "process_"))
        assert not name.endswith("_total") or family.type == "counter"
    page = (Path(__file__).parent.parent.parent / "docs/observability.md").read_text()
    named = {re.sub("_(total|sum)$", "", name) for name in re.findall(r"\bmerganser_\w+", page)}
    assert len(named) > 10 and named <= families.keys(), "docs/observability.md names what there is"
    values = {(s.name, *sorted(s.labels.items())): s.value for f in families.values() for s in f.samples}
    assert values["merganser_events_read_total",] == 1000 and values["merganser_uncommitted_events",] == 0
    assert values["merganser_events_total", ("fate", "applied"), ("source", "events"), ("view", "total")] == 1000
    assert values["merganser_view_rows", ("view", "per_key")] == 7
    assert values["merganser_commit_duration_seconds_count",] >= 1 and values["process_resident_memory_bytes",] > 1e6
    assert values["merganser_watermark_timestamp_seconds", ("cohort", "1"), ("source", "events")] == 1_767_226_589


def test_curl(holder: Holder) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl")
    header = f"Authorization: Bearer {holder.token}"
    command = [curl, "-sS", "-H", header, "--data", "FROM total", f"{holder.url}/query?format=csv"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == '"n"\n1000\n'


def test_a_client_that_goes_away_stops_its_query(holder: Holder, client: httpx2.Client) -> None:
    endless = b"SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = -1"
    host, port = holder.url.removeprefix("http://").split(":")
    for _ in range(8):  # more than run at once
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /query HTTP/1.1\r\nHost: %b:%b\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
                % (host.encode(), port.encode(), holder.token.encode(), len(endless), endless)
            )
            connection.shutdown(socket.SHUT_WR)
    began = time.monotonic()
    assert client.post("/query", content="FROM total").status_code == 200
    assert time.monotonic() - began < 10


def test_a_client_that_does_not_read_holds_nothing(holder: Holder, client: httpx2.Client) -> None:
    """Its answer is in a file by then: others are answered, the flow commits, and no transaction is open."""
    asked = b"SELECT range, repeat('x', 100) FROM range(1000000)"
    host, port = holder.url.removeprefix("http://").split(":")
    slow = []
    for _ in range(4):
        connection = socket.create_connection((host, int(port)))
        connection.sendall(
            b"POST /query HTTP/1.1\r\nHost: %b:%b\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
            % (host.encode(), port.encode(), holder.token.encode(), len(asked), asked)
        )
        slow.append(connection)
    assert all(connection.recv(12) == b"HTTP/1.1 200" for connection in slow)  # answered, and now it reads no more
    for _ in range(5):
        assert client.post("/query", content="FROM total").status_code == 200
    for connection in slow:
        connection.close()


def test_another_address_needs_a_token_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow, store = counting(mg.memory(events(10))), tmp_path / "s.duckdb"
    monkeypatch.delenv("MERGANSER_TOKEN", raising=False)
    with pytest.raises(mg.UsageError, match="MERGANSER_TOKEN"):
        mg.run([flow], store, serve=Address("0.0.0.0", 0))
    monkeypatch.setenv("MERGANSER_TOKEN", "short")
    with pytest.raises(mg.UsageError, match="32"):
        mg.run([flow], store, serve=Address("0.0.0.0", 0))
    token = "a token that only its owner knows, long enough"
    monkeypatch.setenv("MERGANSER_TOKEN", token)
    with running([flow], store, Address("0.0.0.0", 0)):
        found = sidecar.read(store)
        assert found is not None and found.token == token
        url = found.url.replace("0.0.0.0", "127.0.0.1")
        assert mg.connect(url, token=token).sql("FROM total").fetchall() == [(10,)]
        with pytest.raises(mg.StoreError, match="401"):
            mg.connect(url, token="another").sql("FROM total")


def test_an_address_that_is_taken_is_said_before_anything_is_read(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(mg.UsageError, match="--serve"):
            mg.run([counting(mg.memory(events(10)))], tmp_path / "s.duckdb", serve=Address("127.0.0.1", taken.getsockname()[1]))


def test_a_flow_stops_at_once_though_a_query_is_running(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    with running([counting(mg.memory(events(10)))], tmp_path / "s.duckdb") as connection:

        def ask() -> None:
            try:
                connection.sql("SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = -1", timeout=4)
            except mg.MerganserError as error:
                failures.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.2)  # so that it runs; nothing depends on it
        began = time.monotonic()
    assert time.monotonic() - began < 8
    thread.join()  # it was asked of the file instead, and took too long there
    assert len(failures) == 1 and "more than 4 seconds" in str(failures[0])


class Gated(Memory):
    """Opens when it is told to, and says that it was asked."""

    asked, opened = threading.Event(), threading.Event()

    def open(self, source: str, *, follow: bool, accept_gap: bool = False) -> Turns:
        self.asked.set()
        assert self.opened.wait(30)
        return super().open(source, follow=follow, accept_gap=accept_gap)


def test_a_flow_is_not_ready_before_it_has_caught_up(tmp_path: Path) -> None:
    gated, stop, store = Gated(mg.memory(events(10)).lines), threading.Event(), tmp_path / "s.duckdb"
    options = {"follow": True, "epoch": 0.05, "stop": stop, "serve": Address()}
    thread = threading.Thread(target=mg.run, args=([counting(gated)], store), kwargs=options)
    thread.start()
    try:
        assert gated.asked.wait(30)
        holder = sidecar.read(store)
        assert holder is not None

        def health() -> tuple[int, dict[str, bool]]:
            answer = httpx2.get(holder.url + "/health")
            return answer.status_code, answer.json()

        assert health() == (503, {"ready": False})
        gated.opened.set()
        mg.connect(store).wait_for("now")
        assert health() == (200, {"ready": True})
    finally:
        gated.opened.set()
        stop.set()
        thread.join()
