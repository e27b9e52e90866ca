"""Real servers for tests and benchmarks: Apache Kafka (KRaft, one node) on the Java here, and Redis.

``python -m tests.real.servers`` starts both, prints ``kafka=… redis=…`` and keeps them until Ctrl-C.

Kafka's jars come from Maven once (20 to 50 s) and stay in ``.cache/kafka``. Measured on 2 shared cores: formatting and
starting Kafka takes 4.7 s, a restart on its data 3.5 s (5.9 s after a kill), Redis 0.06 s.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams.children import free_port, start_child, stop_child, tail

_HERE = Path(__file__).parent
_CACHE = Path(__file__).parents[2] / ".cache" / "kafka"
MAX_MESSAGE_BYTES = 10 * 1024 * 1024
LEAN = ("-Xms768m", "-Xmx768m", "-XX:+UseSerialGC")
"""How a broker's JVM runs in tests: small, and one thread for its garbage."""
SHIPPED = (
    "-Xms1g",
    "-Xmx1g",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
)
"""How Kafka's own start script runs it."""
# It lives for a second: the optimising compiler would only cost it time.
_QUICK = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class ServerError(RuntimeError):
    """A server cannot be started; the message says how to repair it."""


class KafkaServer:
    """One Apache Kafka node, broker and controller in one process, on a folder and ports of its own."""

    def __init__(self, folder: Path, *, jvm: Sequence[str] = LEAN) -> None:
        self.folder = folder
        self.log = folder / "kafka.log"
        self._port = free_port()
        self._controller_port = free_port()
        self._jvm = jvm
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """The address clients start from."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process id of the running broker."""
        assert self._process is not None, "Kafka is not started"
        return self._process.pid

    def start(self) -> KafkaServer:
        """Format the folder if it is new, start the broker and wait until it answers."""
        jars = kafka_jars()
        properties = self.folder / "server.properties"
        if not properties.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            properties.write_text(self._properties(), encoding="utf-8")
            cluster_id = "dGlkZWNhc3QtdGVzdHMtMA"  # 16 bytes in base64, as Kafka wants it
            formatter = ["format", "--standalone", "-t", cluster_id, "-c", str(properties)]
            done = subprocess.run(
                self._java(jars, "kafka.tools.StorageTool", *formatter, jvm=_QUICK),
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                properties.unlink()
                raise ServerError(f"Kafka's storage could not be formatted:\n{done.stdout}{done.stderr}")
        self._process = start_child(
            self._java(jars, "kafka.Kafka", str(properties), jvm=self._jvm), log=self.folder / "stdout.log"
        )
        _wait("Kafka", self._process, self._answers, 60, [self.log, self.folder / "stdout.log"])
        return self

    def stop(self) -> None:
        """Stop the broker as an operator would (SIGTERM)."""
        if self._process is not None:
            stop_child(self._process, grace_s=20)

    def kill(self) -> None:
        """SIGKILL the broker; its data stay."""
        _kill(self._process)

    def pause(self) -> None:
        """Freeze the broker (SIGSTOP): it holds its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Wake a frozen broker."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Start again on the same data and ports, killing what still runs."""
        self.kill()
        self.start()

    def _answers(self) -> bool:
        try:
            admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            return bool(admin.list_topics(timeout=1).brokers)
        except KafkaException:
            return False

    def _java(self, jars: Path, main: str, *arguments: str, jvm: Sequence[str]) -> list[str]:
        java = program("java", "openjdk-17-jre-headless")
        return [
            java,
            *jvm,
            "-Xshare:auto",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={_HERE / 'kafka' / 'log4j2.xml'}",
            f"-Dkafka.log.file={self.log}",
            "-cp",
            f"{jars}/*",
            main,
            *arguments,
        ]

    def _properties(self) -> str:
        values = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self._controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{self._controller_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.folder / "data",
            **TEST_PROPERTIES,
        }
        return "".join(f"{name}={value}\n" for name, value in values.items())


# What differs from Kafka's defaults, and why; the container backend uses the same.
TEST_PROPERTIES: dict[str, str | int] = {
    "auto.create.topics.enable": "false",  # a mistyped topic must be an error
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1_000,  # tests of dead members need not wait 6 s
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,  # the default, 50, costs each start a second
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1_000,
    "message.max.bytes": MAX_MESSAGE_BYTES,
    "replica.fetch.max.bytes": MAX_MESSAGE_BYTES,
    "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,  # 128 MB of a small heap otherwise
    "log.cleaner.threads": 1,
    "log.retention.ms": -1,
    # A killed broker may register again only when its old registration ran out: 9 s by default.
    "broker.session.timeout.ms": 3_000,
    "broker.heartbeat.interval.ms": 500,
}


class RedisServer:
    """One Redis server without persistence that keeps its port over restarts."""

    def __init__(self, folder: Path, *, program: Path | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self._given = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "Redis is not started"
        return self._process.pid

    def start(self) -> RedisServer:
        """Start it and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # No automatic saves; `restart(empty=False)` saves by command. The default file name, so that it is found again.
        options = (
            f"--bind 127.0.0.1 --port {self.port} --maxmemory-policy noeviction --appendonly no --dir {self.folder}"
        )
        self._process = start_child(
            [self._given or program("redis-server", "redis-server"), *options.split(), "--save", ""],
            log=self.folder / "redis.log",
        )
        _wait("Redis", self._process, self._answers, 10, [self.folder / "redis.log"])
        return self

    def client(self) -> redis.Redis:
        """Return a client with a short timeout."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def stop(self) -> None:
        """Stop it (SIGTERM)."""
        if self._process is not None:
            stop_child(self._process)

    def kill(self) -> None:
        """SIGKILL it: everything in it is lost."""
        _kill(self._process)

    def restart(self, *, empty: bool = True) -> None:
        """Start it again on the same port; with `empty` false the data are kept, as by a tidy operator."""
        dump = self.folder / "dump.rdb"
        if empty:
            self.kill()
            dump.unlink(missing_ok=True)
        else:
            self.client().save()
            self.kill()
        self.start()
        dump.unlink(missing_ok=True)

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Wake a frozen server."""
        os.kill(self.pid, signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False


def kafka_jars() -> Path:
    """Return the folder of Kafka's jars, fetched by Maven the first time."""
    pom = _HERE / "kafka" / "pom.xml"
    libs = _CACHE / hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    if libs.exists():
        return libs
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs may start at once
        if libs.exists():
            return libs
        fetched = Path(tempfile.mkdtemp(dir=_CACHE))
        command = [program("mvn", "maven"), "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
        done = subprocess.run(
            [*command, "-DincludeScope=runtime", f"-DoutputDirectory={fetched}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            shutil.rmtree(fetched, ignore_errors=True)
            raise ServerError(f"Maven could not fetch Kafka's jars:\n{done.stdout}{done.stderr}")
        fetched.chmod(0o755)
        fetched.rename(libs)
    return libs


def program(name: str, package: str) -> str:
    """Return the path of a program. Raises ServerError with the package that brings it."""
    found = shutil.which(name)
    if found is None:
        raise ServerError(f"{name} is not on the PATH; repair: apt-get install {package}")
    return found


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()


def _wait(
    name: str, process: subprocess.Popen[bytes], ready: Callable[[], bool], limit_s: float, logs: list[Path]
) -> None:
    deadline = time.monotonic() + limit_s
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            ended = f"ended with {process.poll()}" if process.poll() is not None else f"did not answer in {limit_s} s"
            _kill(process)
            raise ServerError(f"{name} {ended}:\n" + "\n".join(tail(log) for log in logs))
        time.sleep(0.05)


def main() -> None:
    """Run both servers until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="tidecast-servers-") as folder:
        kafka, store = KafkaServer(Path(folder) / "kafka"), RedisServer(Path(folder) / "redis")
        try:
            kafka.start()
            store.start()
            print(f"kafka={kafka.bootstrap} redis={store.url}", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            sys.stderr.write("stopping\n")
        finally:
            store.stop()
            kafka.stop()


if __name__ == "__main__":
    main()
