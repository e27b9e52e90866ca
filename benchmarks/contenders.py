"""The contenders: each runs in a process of its own over preloaded topics and comes back with its rates."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from benchmarks.peers.environments import python_of
from benchmarks.peers.task import Task
from benchmarks.servers import Servers, cpu_s
from benchmarks.workload import Workload
from streams.children import free_port, start_child
from streams.kafka import read_to_end
from streams.records import PREDICTIONS
from streams.settings import Settings

ROOT = Path(__file__).parents[1]
_PATIENCE_S = 180
# Each look costs the worker a third of a millisecond.
_LOOK_S = 0.1
SCORE = (sys.executable, "-m", "streams.cli", "run", "--role", "score")
"""The shipped score role."""

Rates = dict[str, float]
"""What was measured, by the name of the measurement."""


def tidecast(servers: Servers, prefix: str, work: Workload) -> Rates:
    """Run the shipped score role: its events per CPU-second and per second, and what an event costs the store.

    And how many predictions there are, as a consumer sees them, for each click.
    """
    rate, wall, store = _score(servers, prefix, work, workers=1)
    said = _predicted(servers, prefix) / work.events
    return {"score/tidecast": rate, "score/wall": wall, "score/redis": store, "score/answers": said}


def variant(name: str, servers: Servers, prefix: str, work: Workload, workers: int = 1) -> Rates:
    """Run the same over other work, or with more workers; return events per CPU-second of all of them together."""
    return {name: _score(servers, prefix, work, workers)[0]}


def latency(servers: Servers, prefix: str, rate: int, seconds: int) -> Rates:
    """Send live clicks and orders to a score role at `rate` a second; return ms from append to committed prediction."""
    with _workers(servers, prefix, 1, 1):
        command = [sys.executable, "-m", "benchmarks.latency", servers.bootstrap, prefix, str(rate), str(seconds)]
        told = _figures("benchmarks.latency", command)
    if told["missing"]:
        raise RuntimeError(f"{told['missing']} clicks had no prediction 10 s after the last one was sent")
    return {"latency/rate": rate, "latency/p50": told["p50"], "latency/p99": told["p99"]}


def _score(servers: Servers, prefix: str, work: Workload, workers: int) -> tuple[float, float, float]:
    """Return events per CPU-second, events per second and CPU-microseconds of the store per event."""
    with _workers(servers, prefix, work.partitions, workers) as running:
        # Counted from where all have begun, to where the last click is taken.
        begun = _at(running, lambda each: all(each) and sum(map(len, each)) == work.partitions)
        if any(task["recovering"] for tasks in begun for task in tasks):
            raise RuntimeError(f"{prefix}: was scored before; what only rebuilds state says nothing, and costs half")
        cpu, store, wall = _cpu_s(running), cpu_s(servers.store_pid), time.monotonic()
        _at(running, lambda each: _taken(each) >= work.events)
        used, took = _cpu_s(running) - cpu, time.monotonic() - wall
        done = work.events - _taken(begun)
        if not done or not used:
            raise RuntimeError(f"{prefix}: {work.events} clicks were taken before they could be timed; give more")
        return done / used, done / took, (cpu_s(servers.store_pid) - store) / done * 1e6


def _predicted(servers: Servers, prefix: str) -> int:
    """Count the committed predictions. Raises RuntimeError where two have the same id."""
    settings = Settings(kafka={"bootstrap_servers": servers.bootstrap, "prefix": prefix})  # type: ignore[arg-type]
    ids: list[str] = []
    read_to_end(settings, [PREDICTIONS], lambda record: ids.append(orjson.loads(record.value or b"")["id"]))
    if len(set(ids)) < len(ids):
        raise RuntimeError(f"{prefix}: {len(ids) - len(set(ids))} predictions were committed twice")
    return len(ids)


_Running = list[tuple["subprocess.Popen[bytes]", int]]
_Tasks = list[list[dict[str, Any]]]


@contextmanager
def _workers(servers: Servers, prefix: str, partitions: int, count: int) -> Iterator[_Running]:
    """Run score workers; give process and port of each."""
    # A namespace of its own; the group is the prefix's, so that topics serve one run only.
    namespace, running = f"bench{time.time_ns()}", []
    for number in range(count):
        port = free_port()
        variables = environment(servers, prefix, partitions, namespace, port, worker=number)
        running.append((start_child(SCORE, env=variables), port))
    try:
        _at(running, all)
        yield running
    finally:
        for process, _ in running:
            process.terminate()
        for process, _ in running:
            process.wait(30)


def environment(
    servers: Servers, prefix: str, partitions: int, namespace: str, port: int, worker: int = 0
) -> dict[str, str]:
    """Return the variables of a worker; all else is as shipped."""
    return {
        "TIDECAST_KAFKA__BOOTSTRAP_SERVERS": servers.bootstrap,
        "TIDECAST_REDIS__URL": servers.redis_url,
        "TIDECAST_KAFKA__PREFIX": prefix,
        "TIDECAST_KAFKA__PARTITIONS": str(partitions),
        "TIDECAST_REDIS__PREFIX": namespace,
        "TIDECAST_RUNTIME__WORKER_ID": f"worker-{worker}",
        "TIDECAST_RUNTIME__METRICS_PORT": str(port),
    }


def _cpu_s(running: _Running) -> float:
    return sum(cpu_s(process.pid) for process, _ in running)


def _taken(each: _Tasks) -> int:
    """Return how many clicks all tasks together have taken; an end marker stands behind the last one."""
    offsets = [offset for tasks in each for task in tasks for offset in task["offsets"].items()]
    return sum(offset for input_, offset in offsets if input_.startswith("clickstream["))


def bare(servers: Servers, prefix: str, work: Workload) -> Rates:
    """Run the bare loop."""
    command = [sys.executable, "-m", "benchmarks.bare", servers.bootstrap, prefix, str(work.events)]
    return {"score/bare": _rate("benchmarks.bare", command)}


def peer(name: str, job: str, servers: Servers, prefix: str, events: int) -> Rates:
    """Run a job of a peer in its own environment."""
    module = f"benchmarks.peers.{name}_job"
    with tempfile.TemporaryDirectory() as folder:
        task = Task(
            job=job,
            name=f"{prefix}{name}-{job}-{time.time_ns()}",
            bootstrap=servers.bootstrap,
            source=f"{prefix}clicks",
            sink=f"{prefix}{name}",
            events=events,
            folder=Path(folder),
        )
        return {f"{job}/{name}": _rate(module, [str(python_of(name)), "-m", module, *task.arguments()])}


def _rate(what: str, command: list[str]) -> float:
    """Run a contender that prints its events and CPU seconds; return events per CPU-second."""
    cost = _figures(what, command)
    return float(cost["events"] / cost["cpu_s"])


def _figures(what: str, command: list[str]) -> dict[str, Any]:
    """Run a process that prints its figures as its last line of JSON."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S, cwd=ROOT)
    except subprocess.TimeoutExpired as late:
        raise RuntimeError(f"{what} did not finish in {_PATIENCE_S} s\n{_end(late.stderr)}") from None
    lines = [line for line in found.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"{what} printed no figures (exit code {found.returncode})\n{_end(found.stderr)}")
    return dict(json.loads(lines[-1]))


def _end(said: str | bytes | None) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said or ""
    return text[-2_000:].strip()


def _at(running: _Running, done: Callable[[_Tasks], bool]) -> _Tasks:
    """Wait until the tasks of all workers satisfy `done`, and return them."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        if (ended := [process.returncode for process, _ in running if process.poll() is not None]) != []:
            raise RuntimeError(f"the score role ended with exit code {ended[0]}; its lines above say why")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the score role did not get there in {_PATIENCE_S} s; its lines above say why")
        each = [tasks_of(port) for _, port in running]
        if done(each):
            return each
        time.sleep(_LOOK_S)


def tasks_of(port: int) -> list[dict[str, Any]]:
    """Return what a worker says of its tasks, nothing where it does not answer yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5) as answer:
            return list(json.load(answer).get("tasks", {}).values())
    except OSError:
        return []
