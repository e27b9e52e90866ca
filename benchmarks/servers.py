"""The servers that a benchmark runs on: Apache Kafka and Redis where they are installed, else the embedded ones."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2
"""Of Linux' process clocks the one that the scheduler keeps."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where broker and store are, what they are, and the process of the store."""

    bootstrap: str
    redis_url: str
    kind: str
    store_pid: int


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Run broker and store, with their files in `folder`."""
    if shutil.which("java") and shutil.which("redis-server"):
        from tests.real.servers import SHIPPED, KafkaServer, RedisServer

        kafka, store = KafkaServer(folder / "kafka", jvm=SHIPPED).start(), RedisServer(folder / "redis").start()
        try:
            yield Servers(kafka.bootstrap, store.url, "Apache Kafka and Redis", store.pid)
        finally:
            kafka.stop()
            store.stop()
    else:
        from streams.embedded import EmbeddedServers

        with EmbeddedServers(folder) as embedded:
            pid = embedded.pids["redis"]
            yield Servers(embedded.bootstrap, embedded.redis_url, "embedded broker and store", pid)


def cpu_s(pid: int) -> float:
    """Return user + system seconds of a process, to the nanosecond, and the children it has waited for, in ticks.

    The first by the clock that ``clock_getcpuclockid(3)`` names: in a short run a store uses less than a tick of 10 ms.
    """
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED) + sum(map(int, fields[13:15])) / _TICK
