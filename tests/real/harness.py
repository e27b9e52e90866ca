"""Runs the shipped roles as processes against real servers, over a log that was written and closed beforehand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import redis as redis_client
from confluent_kafka import Producer

from streams.children import free_port, start_child
from streams.kafka import read_to_end
from streams.records import MARKER_HEADER, Record
from streams.runtime.checkpoint import decode_header
from streams.settings import Settings
from streams.topics import create
from tests.real.shop import ClosedLog, Message

DEADLINE_S = 120.0


class NotInTime(AssertionError):
    """A condition did not come true; the message shows what was there instead."""


def wait_until(condition: Callable[[], bool], what: str, *, deadline_s: float = DEADLINE_S, tell: Any = None) -> None:
    """Return as soon as `condition` holds. Raises NotInTime."""
    limit = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > limit:
            raise NotInTime(f"{what} not within {deadline_s:.0f} s: {tell() if tell else ''}")
        time.sleep(0.05)


@dataclass(slots=True)
class Role:
    """One running role."""

    name: str
    process: subprocess.Popen[bytes]
    port: int

    def status(self) -> dict[str, Any] | None:
        """Return what it says of itself, None while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=2) as answer:
                return dict(json.load(answer))
        except (urllib.error.URLError, OSError, json.JSONDecodeError):
            return None

    def ready(self) -> tuple[bool, str | None]:
        """Return readiness and the reason."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=2):
                return True, None
        except urllib.error.HTTPError as error:
            return False, json.load(error)["reason"]
        except OSError as error:
            return False, str(error)

    def watermarks(self) -> list[int | None]:
        """Return the watermark of each of its tasks."""
        status = self.status()
        return [task["watermark"] for task in status["tasks"].values()] if status else []

    def stop(self) -> int:
        """Ask it to end and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


@dataclass(slots=True)
class Shop:
    """Topics, a store namespace and the processes that work on them."""

    bootstrap: str
    redis_url: str
    prefix: str
    logs: Path
    partitions: int = 2
    overrides: Mapping[str, str] = field(default_factory=dict)
    roles: list[Role] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables every role gets."""
        return {
            "TIDECAST_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            "TIDECAST_KAFKA__PREFIX": self.prefix,
            "TIDECAST_KAFKA__PARTITIONS": str(self.partitions),
            "TIDECAST_REDIS__URL": self.redis_url,
            "TIDECAST_REDIS__PREFIX": self.prefix,
            "TIDECAST_RUNTIME__BATCH_MAX_EVENTS": "200",
            "TIDECAST_RUNTIME__CHECKPOINT_INTERVAL_MS": "100",
            "TIDECAST_TIME__IDLE_MS": "300",
            "TIDECAST_KAFKA__SESSION_TIMEOUT_MS": "6000",
            "TIDECAST_LEARN__PUBLISH_EVERY": "500",
            **self.overrides,
        }

    def settings(self) -> Settings:
        """Return the settings as the roles have them."""
        values: dict[str, dict[str, Any]] = {}
        for name, value in self.environment.items():
            section, _, key = name.removeprefix("TIDECAST_").lower().partition("__")
            values.setdefault(section, {})[key] = value
        return Settings(**values)  # type: ignore[arg-type]

    def producer(self) -> Producer:
        """Return a producer that keeps the order: else a batch that is sent again comes behind its successors."""
        order = {"enable.idempotence": True, "partitioner": "murmur2_random", "linger.ms": 20}
        return Producer({"bootstrap.servers": self.bootstrap, **order})

    def preload(self, log: ClosedLog) -> None:
        """Create the topics, write the log and close it."""
        create(self.settings())
        self.write(log.messages)
        self.close_log(log.end)

    def write(self, messages: Sequence[Message]) -> None:
        """Write messages of a log."""
        producer = self.producer()
        for message in messages:
            producer.produce(self.prefix + message.topic, message.value, key=message.key)
            producer.poll(0)
        assert producer.flush(30) == 0

    def close_log(self, end: int) -> None:
        """End the inputs as a replay does, at event time `end` (ms)."""
        producer = self.producer()
        marker = json.dumps({"time": end, "source": "test"}).encode()
        for topic in ("clickstream", "orders"):
            for partition in range(self.partitions):
                headers: list[tuple[str, str | bytes | None]] = [(MARKER_HEADER, b"end")]
                producer.produce(self.prefix + topic, marker, partition=partition, headers=headers)
        assert producer.flush(30) == 0

    def start(self, role: str, *, hook: str = "", worker: str = "worker-0", module: str = "streams.cli") -> Role:
        """Start a role as a process."""
        port = free_port()
        environment = {
            **self.environment,
            "TIDECAST_RUNTIME__METRICS_PORT": str(port),
            "TIDECAST_RUNTIME__WORKER_ID": worker,
            "TIDECAST_HOOK": hook,
            "TIDECAST_HOOK_LOG": str(self.logs / "hooks.log"),
        }
        arguments = ["run", "--role", role] if module == "streams.cli" else []
        command = [sys.executable, "-m", module, *arguments]
        process = start_child(command, env=environment, log=self.logs / f"{role}.log")
        running = Role(role, process, port)
        self.roles.append(running)
        return running

    def finish(self, running: Sequence[Role], end: int, tasks: Mapping[str, int]) -> None:
        """Wait until every role's tasks reached the end of the log, then stop them all gracefully."""
        by_name: dict[str, list[Role]] = {}
        for role in running:
            by_name.setdefault(role.name, []).append(role)
        for name, group in by_name.items():
            wanted = [end] * tasks[name]
            wait_until(
                lambda group=group, wanted=wanted: self._at(group, wanted),  # type: ignore[misc]
                f"{name} at the end of the log",
                tell=lambda group=group, name=name: (  # type: ignore[misc]
                    f"{[(role.process.poll(), role.ready(), role.watermarks()) for role in group]}\n{self.log(name)}"
                ),
            )
        for role in running:
            assert role.stop() == 0, self.log(role.name)

    def _at(self, group: Sequence[Role], wanted: Sequence[int]) -> bool:
        for role in group:
            assert role.process.poll() is None, f"{role.name} ended: {self.log(role.name)}"
        return [mark for role in group for mark in role.watermarks()] == wanted

    def log(self, role: str) -> str:
        """Return the end of a role's log."""
        path = self.logs / f"{role}.log"
        return path.read_text(errors="replace")[-4_000:] if path.exists() else ""

    def hooks_hit(self) -> list[str]:
        """Return the hooks that killed a process, in order."""
        path = self.logs / "hooks.log"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def read(self, topic: str) -> list[Record]:
        """Return what a read_committed consumer sees of a topic."""
        found: list[Record] = []
        read_to_end(self.settings(), [topic], found.append)
        return found

    def store(self) -> Any:
        """Return a client of the store, which may be a cluster."""
        kind: Any = redis_client.RedisCluster if self.settings().redis.cluster else redis_client.Redis
        return kind.from_url(self.redis_url, socket_timeout=5)

    def rows(self, stage: str) -> dict[str, bytes]:
        """Return the store's rows of a stage's tasks, without header, dedup chunks and expiry lists."""
        client = self.store()
        found: dict[str, bytes] = {}
        for name in client.scan_iter(match=f"{self.prefix}:{{{stage}.*", count=5_000):
            key = name.decode().split("}:", 1)[1]
            if key != "h" and not key.startswith(("d:", "x:")):
                task = name.decode().split("}", 1)[0].rpartition("-")[2]
                found[f"{task}/{key}"] = client.get(name)
        return found

    def headers(self, stage: str) -> dict[str, bytes]:
        """Return the stored checkpoint headers of a stage's tasks, by partition."""
        client = self.store()
        found: dict[str, bytes] = {}
        for name in client.scan_iter(match=f"{self.prefix}:{{{stage}.*}}:h", count=5_000):
            found[name.decode().split("}", 1)[0].rpartition("-")[2]] = client.get(name)
        return found

    def counts(self, stage: str) -> Counter[str]:
        """Return a stage's exact tallies over all its tasks, as its checkpoints hold them."""
        found: Counter[str] = Counter()
        for header in self.headers(stage).values():
            found.update(msgspec.msgpack.decode(decode_header(header).extra)["counts"])
        return found

    def kill_all(self) -> None:
        """End whatever still runs."""
        for role in self.roles:
            if role.process.poll() is None:
                os.kill(role.process.pid, signal.SIGKILL)
                role.process.wait()
