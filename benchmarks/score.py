"""`make bench`: the complete score stage beside the bare loop and the same job in Faust, in one run.

Events per CPU-second (user + system, all threads) of each process from its first event to its last, on the same
preloaded topics; the Redis server's own CPU is shown beside it. Contenders take turns; medians and ratios count.
Runs on real Kafka and Redis natively (Java and redis-server), else on the embedded servers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from benchmarks.workload import Workload, create_outputs, preload
from streams.children import free_port, start_child
from streams.settings import Settings
from streams.topics import create

_PATIENCE_S = 180
_TICK = os.sysconf("SC_CLK_TCK")


@contextmanager
def servers(folder: Path) -> Iterator[tuple[str, str, str, int]]:
    """Give bootstrap servers, Redis URL, what they are, and the pid of the store."""
    if shutil.which("java") and shutil.which("redis-server"):
        from tests.real.servers import KafkaServer, RedisServer

        kafka, store = KafkaServer(folder / "kafka").start(), RedisServer(folder / "redis").start()
        try:
            yield kafka.bootstrap, store.url, "Apache Kafka and Redis", store.pid
        finally:
            kafka.stop()
            store.stop()
    else:
        from streams.embedded import EmbeddedServers

        with EmbeddedServers(folder) as embedded:
            yield embedded.bootstrap, embedded.redis_url, "embedded broker and store", embedded.pids["redis"]


def cpu_s(pid: int) -> float:
    """Return user + system seconds of a process and the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICK


def tidecast(bootstrap: str, redis_url: str, prefix: str, work: Workload) -> tuple[float, float]:
    """Run the shipped score role over the topics; return events per CPU-second and per second of wall clock."""
    port = free_port()
    environment = {
        "TIDECAST_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "TIDECAST_REDIS__URL": redis_url,
        "TIDECAST_KAFKA__PREFIX": prefix,
        "TIDECAST_KAFKA__PARTITIONS": str(work.partitions),
        # A namespace and a group of its own for every run over the same topics.
        "TIDECAST_REDIS__PREFIX": f"bench{time.time_ns()}",
        "TIDECAST_RUNTIME__METRICS_PORT": str(port),
    }
    process = start_child([sys.executable, "-m", "streams.cli", "run", "--role", "score"], env=environment)
    try:
        started = _await_status(process, port, lambda tasks: bool(tasks))
        cpu, wall = cpu_s(process.pid), time.monotonic()
        # The end marker stands behind the last click, at the offset that counts them.
        _await_status(process, port, lambda tasks: all(t["offsets"]["clickstream[0]"] >= work.events for t in tasks))
        used, took = cpu_s(process.pid) - cpu, time.monotonic() - wall
        done = work.events - sum(task["offsets"]["clickstream[0]"] for task in started)
        return done / used, done / took
    finally:
        process.terminate()
        process.wait(30)


def _await_status(process: subprocess.Popen[bytes], port: int, done: Callable[[list[dict]], bool]) -> list[dict]:  # type: ignore[type-arg]
    deadline = time.monotonic() + _PATIENCE_S
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the score role did not get there in {_PATIENCE_S} s; its lines above say why")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5) as answer:
                tasks = list(json.load(answer).get("tasks", {}).values())
            if tasks and done(tasks):
                return tasks
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the score role ended with exit code {process.returncode}; its lines above say why")


def other(module: str, bootstrap: str, prefix: str, events: int) -> float:
    """Run a contender as a process; return its events per CPU-second."""
    command = [sys.executable, "-m", module, bootstrap, prefix, str(events)]
    try:
        found = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{module} did not finish in {_PATIENCE_S} s; run it by hand to see why") from None
    lines = [line for line in found.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"{module} printed no figures (exit code {found.returncode}); run it by hand to see why")
    cost = json.loads(lines[-1])
    return float(cost["events"] / cost["cpu_s"])


def main() -> None:
    """Measure, print a table, write benchmarks/results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--faust-events", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results.json"))
    arguments = parser.parse_args()
    work = Workload(events=arguments.events)
    rates: dict[str, list[float]] = {"score/tidecast": [], "score/bare": [], "score/faust": []}
    walls: list[float] = []
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as (bootstrap, redis_url, where, store_pid):
        sys.stderr.write(f"on {where}\n")
        store_cpu = 0.0
        for repeat in range(arguments.repeats):
            prefix = f"bench{repeat}-"
            settings = Settings(kafka={"bootstrap_servers": bootstrap, "prefix": prefix, "partitions": 1})  # type: ignore[arg-type]
            create(settings)
            create_outputs(bootstrap, prefix)
            preload(bootstrap, prefix, work)
            before = cpu_s(store_pid)
            rate, wall = tidecast(bootstrap, redis_url, prefix, work)
            store_cpu += cpu_s(store_pid) - before
            rates["score/tidecast"].append(rate)
            walls.append(wall)
            rates["score/bare"].append(other("benchmarks.bare", bootstrap, prefix, work.events))
            rates["score/faust"].append(other("benchmarks.faust_job", bootstrap, prefix, arguments.faust_events))
            told = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items())
            sys.stderr.write(f"pass {repeat + 1} of {arguments.repeats}: {told}\n")
    _report(arguments.out, rates, walls, store_cpu / (work.events * arguments.repeats), where, work)


def _report(
    out: Path, rates: dict[str, list[float]], walls: list[float], store_s: float, where: str, work: Workload
) -> None:
    measurements = [
        {"name": name, "unit": "events per CPU-second", "repeats": values, "median": statistics.median(values)}
        for name, values in rates.items()
    ]
    measurements.append(
        {"name": "score/wall", "unit": "events per second", "repeats": walls, "median": statistics.median(walls)}
    )
    measurements.append(
        {
            "name": "score/redis",
            "unit": "CPU-microseconds per event",
            "repeats": [store_s * 1e6],
            "median": store_s * 1e6,
        }
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    packages = ("confluent-kafka", "faust-streaming", "numba", "numpy", "msgspec", "redis")
    result = {
        "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "servers": where},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "commit": commit.stdout.strip(),
        "workload": {"events": work.events, "users": work.users, "products": work.products},
        "measurements": measurements,
    }
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    medians = {one["name"]: float(one["median"]) for one in measurements}  # type: ignore[arg-type]
    for one in measurements:
        sys.stdout.write(f"{one['name']:<16} {one['median']:>12,.1f}  {one['unit']}\n")
    sys.stdout.write(f"ratio to the bare loop: {medians['score/tidecast'] / medians['score/bare']:.3f}\n")
    sys.stdout.write(f"ratio to Faust: {medians['score/tidecast'] / medians['score/faust']:.1f}\n")


if __name__ == "__main__":
    main()
