"""A real Kafka broker (single node, KRaft) on loopback: of the jars that pom.xml names, or without Java in Docker.

``python -m tests.kafka.broker PORT-FILE WATCHED-PID`` runs one until the process WATCHED-PID is gone: so a broker that the
workers of a test run share ends with the run, however that ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.services import MissingError, fetched, free_ports, listens, wait_for_end

POM = Path(__file__).with_name("pom.xml")
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
IMAGE = "apache/kafka:" + re.findall(r"<version>([^<]*)</version>\s*</dependency>", POM.read_text())[0]
CLUSTER = "bWVyZ2Fuc2VyLXRlc3RzLg"
USER, PASSWORD = "merganser", "a-secret-that-is-nowhere-else"
TLS_PASSWORD = "changeit"
OAUTH_LOGIN = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
PLAIN_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


@cache
def jars() -> Path | None:
    """The folder of the broker's jars; None where Docker has to do. Raises MissingError if there is neither."""
    name = f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    try:
        return fetched(name, "Kafka", "-f", str(POM), COPY, "-DincludeScope=runtime")
    except MissingError as error:
        missing = f"{error}, or Docker, or a broker named by MERGANSER_TEST_KAFKA=host:port"
        if not shutil.which("docker"):
            raise MissingError(missing) from None
        asked = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
        if asked.returncode:
            raise MissingError(f"{missing}; docker says: {asked.stderr.strip()}") from None
        return None


@dataclass
class Broker:
    """One broker over a folder of its own. ``kill`` is SIGKILL; ``start`` goes on with what the folder holds."""

    folder: Path
    heap: str = "512m"
    secure: bool = False
    """Also listen with TLS and with SASL/PLAIN; costs two seconds for making a certificate."""
    ports: list[int] = field(default_factory=lambda: free_ports(4))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def sasl_address(self) -> str:
        return f"127.0.0.1:{self.ports[2]}"

    @property
    def tls_address(self) -> str:
        return f"127.0.0.1:{self.ports[3]}"

    @property
    def certificate(self) -> Path:
        return self.folder / "broker.pem"

    def start(self, timeout: float = 150.0) -> None:
        """Start and wait until it answers."""
        properties = self.folder / "server.properties"
        log = (self.folder / "broker.log").open("ab")
        if not properties.exists():
            if self.secure:
                self._make_certificate()
            properties.write_text(self._properties())
            tool = self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(properties))
            subprocess.run(tool, check=True, stdout=log, stderr=log)
        broker = self._java("kafka.Kafka", str(properties), listens=True)
        self._process = subprocess.Popen(broker, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()
        self._wait(timeout)

    def _java(self, *words: str, listens: bool = False) -> list[str]:
        """The command for a Java program of Kafka's."""
        classes = f"{jars() or '/opt/kafka/libs'}/*"
        limits = [f"-Xmx{self.heap}", f"-Xms{self.heap}", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        return self._program("java", *limits, "-cp", classes, *words, listens=listens)

    def _program(self, name: str, *words: str, listens: bool = False) -> list[str]:
        if jars() is not None:
            return [name, *words]
        ports = [word for port in self.ports for word in ("-p", f"127.0.0.1:{port}:{port}")] if listens else []
        as_me = ["--user", f"{os.getuid()}:{os.getgid()}", "-v", f"{self.folder}:{self.folder}"]
        return ["docker", "run", "--rm", "--name", self._container, *ports, *as_me, "--entrypoint", name, IMAGE, *words]

    @property
    def _container(self) -> str:
        return f"merganser-kafka-{self.ports[0]}"

    def _wait(self, timeout: float) -> None:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        client = AdminClient({"bootstrap.servers": self.address, "log_level": 0, "reconnect.backoff.max.ms": 200})
        deadline = time.monotonic() + timeout
        while True:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"the broker ended: {(self.folder / 'broker.log').read_text()[-3000:]}")
            with contextlib.suppress(KafkaException):
                client.list_topics(timeout=1)
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"no broker after {timeout} s: {(self.folder / 'broker.log').read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL. To stop in order takes seconds, and nothing of a broker that is stopped is needed."""
        if self._process is not None and self._process.poll() is None:
            if jars() is None:
                subprocess.run(["docker", "kill", self._container], check=False, capture_output=True)
            self._process.kill()
            self._process.wait()

    def _properties(self) -> str:
        plain, controller, sasl, tls = self.ports
        here = "127.0.0.1" if jars() is not None else "0.0.0.0"  # in a container, whose ports are on loopback
        listeners = {"PLAINTEXT": plain, "CONTROLLER": controller}
        if self.secure:
            listeners |= {"SASL_PLAINTEXT": sasl, "SSL": tls}
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(f"{name}://{here}:{port}" for name, port in listeners.items()),
            "advertised.listeners": ",".join(f"{n}://127.0.0.1:{p}" for n, p in listeners.items() if n != "CONTROLLER"),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.max.timeout.ms": "900000",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "delete.topic.enable": "true",
            "message.max.bytes": str(32 << 20),
            "log.cleaner.dedupe.buffer.size": str(8 << 20),
            "log.cleaner.backoff.ms": "200",
            "log.initial.task.delay.ms": "500",
            "log.retention.ms": "-1",  # events of tests are old
        }
        if self.secure:
            lines |= {
                "sasl.enabled.mechanisms": "PLAIN,OAUTHBEARER",
                "listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config": OAUTH_LOGIN,
                "listener.name.sasl_plaintext.plain.sasl.jaas.config":
                    f'{PLAIN_LOGIN} username="admin" password="admin" user_admin="admin" user_{USER}="{PASSWORD}";',
                "ssl.keystore.location": str(self.folder / "broker.p12"),
                "ssl.keystore.password": TLS_PASSWORD,
                "ssl.keystore.type": "PKCS12",
            }  # fmt: skip
        return "".join(f"{name}={value}\n" for name, value in lines.items())

    def _make_certificate(self) -> None:
        store = ["-keystore", str(self.folder / "broker.p12"), "-storepass", TLS_PASSWORD, "-alias", "broker"]
        make = ["-genkeypair", "-keyalg", "EC", "-storetype", "PKCS12", "-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1"]
        export = ["-exportcert", "-rfc", "-file", str(self.certificate)]
        for words in (make, export):
            subprocess.run(self._program("keytool", *words, *store), check=True, capture_output=True)


def serve(port_file: Path, watched: int) -> None:
    """Run a broker until a process is gone; write where it listens to ``port_file``."""
    with tempfile.TemporaryDirectory(prefix="merganser-kafka-") as folder:
        broker = Broker(Path(folder), secure=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            broker.start()
            listens(port_file, {
                "plain": broker.address, "sasl": broker.sasl_address, "tls": broker.tls_address,
                "certificate": str(broker.certificate),
            })  # fmt: skip
            wait_for_end(watched)
        except Exception as error:
            listens(port_file, {"error": str(error)})
        finally:
            broker.kill()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
