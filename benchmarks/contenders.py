"""The contenders: each runs in a process of its own over preloaded topics and comes back with its rates."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import python_of
from benchmarks.peers.task import Task
from benchmarks.servers import Servers, cpu_s
from streams.children import free_port, start_child

ROOT = Path(__file__).parents[1]
_PATIENCE_S = 180

Rates = dict[str, float]
"""What was measured, by the name of the measurement."""


def tidecast(servers: Servers, prefix: str, events: int) -> Rates:
    """Run the shipped score role: its events per CPU-second and per second, and what an event costs the store."""
    port = free_port()
    environment = {
        "TIDECAST_KAFKA__BOOTSTRAP_SERVERS": servers.bootstrap,
        "TIDECAST_REDIS__URL": servers.redis_url,
        "TIDECAST_KAFKA__PREFIX": prefix,
        "TIDECAST_KAFKA__PARTITIONS": "1",
        # A namespace and a group of its own for every run over the same topics.
        "TIDECAST_REDIS__PREFIX": f"bench{time.time_ns()}",
        "TIDECAST_RUNTIME__METRICS_PORT": str(port),
    }
    process = start_child([sys.executable, "-m", "streams.cli", "run", "--role", "score"], env=environment)
    try:
        started = _await_status(process, port, lambda tasks: bool(tasks))
        cpu, store, wall = cpu_s(process.pid), cpu_s(servers.store_pid), time.monotonic()
        # The end marker stands behind the last click, at the offset that counts them.
        _await_status(process, port, lambda tasks: all(t["offsets"]["clickstream[0]"] >= events for t in tasks))
        used, took = cpu_s(process.pid) - cpu, time.monotonic() - wall
        done = events - sum(task["offsets"]["clickstream[0]"] for task in started)
        return {
            "score/tidecast": done / used,
            "score/wall": done / took,
            "score/redis": (cpu_s(servers.store_pid) - store) / done * 1e6,
        }
    finally:
        process.terminate()
        process.wait(30)


def bare(servers: Servers, prefix: str, events: int) -> Rates:
    """Run the bare loop."""
    command = [sys.executable, "-m", "benchmarks.bare", servers.bootstrap, prefix, str(events)]
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
    """Run a contender that prints its events and CPU seconds as its last line; return events per CPU-second."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S, cwd=ROOT)
    except subprocess.TimeoutExpired as late:
        raise RuntimeError(f"{what} did not finish in {_PATIENCE_S} s\n{_end(late.stderr)}") from None
    lines = [line for line in found.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"{what} printed no figures (exit code {found.returncode})\n{_end(found.stderr)}")
    cost = json.loads(lines[-1])
    return float(cost["events"] / cost["cpu_s"])


def _end(said: str | bytes | None) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said or ""
    return text[-2_000:].strip()


def _await_status(
    process: subprocess.Popen[bytes], port: int, done: Callable[[list[dict[str, Any]]], bool]
) -> list[dict[str, Any]]:
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
