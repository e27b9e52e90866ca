"""`tidecast run` as a user starts it: a process with embedded servers, its addresses, its roles' status, its end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis as redis_client

from streams.children import tail
from streams.runtime.checkpoint import decode_header
from streams.settings import KafkaSettings, RedisSettings, Settings
from tests.real.harness import wait_until

_START_S = 120.0
# The embedded broker saves what it holds before it ends.
_STOP_S = 300.0


class Running:
    """A running `tidecast run --data-dir FOLDER`; its logs lie in `logs`."""

    def __init__(self, data_dir: Path, logs: Path, environment: Mapping[str, str]) -> None:
        self._out, self._err = logs / "run.out", logs / "run.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "streams.cli", "run", "--data-dir", str(data_dir)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **environment},
            )
        self._await("the addresses", lambda: b"\n" in self._out.read_bytes())
        first = self._out.read_text().splitlines()[0]
        found = re.fullmatch(r"kafka=(127\.0\.0\.1:\d+) redis=(redis://127\.0\.0\.1:\d+/0)", first)
        assert found is not None, f"the first line is {first!r}"
        self.bootstrap, self.redis_url = found[1], found[2]
        pattern = re.compile(r"health and metrics on 127\.0\.0\.1: (.*)")
        self._await("the health ports", lambda: pattern.search(self.log()) is not None)
        told = pattern.search(self.log())
        assert told is not None
        self._ports = {role: int(port) for role, port in (part.split() for part in told[1].split(", "))}

    def environment(self) -> dict[str, str]:
        """Return what another command needs to reach the same servers."""
        return {"TIDECAST_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap, "TIDECAST_REDIS__URL": self.redis_url}

    def settings(self) -> Settings:
        """Return the settings that the roles have."""
        return Settings(
            kafka=KafkaSettings(bootstrap_servers=self.bootstrap, partitions=2),
            redis=RedisSettings.model_validate({"url": self.redis_url}),
        )

    def log(self) -> str:
        """Return the end of what it wrote to standard error."""
        return tail(self._err, 60)

    def tasks(self, role: str) -> dict[str, dict[str, Any]]:
        """Return what a role says of its tasks; none while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._ports[role]}/status", timeout=5) as answer:
                return dict(json.load(answer)["tasks"])
        except (urllib.error.URLError, OSError, json.JSONDecodeError):
            return {}

    def counts(self, role: str) -> Counter[str]:
        """Return a role's exact tallies over all its tasks."""
        total: Counter[str] = Counter()
        for task in self.tasks(role).values():
            total.update(task["counts"])
        return total

    def await_end(self, end: int, tasks: Mapping[str, int], deadline_s: float) -> None:
        """Wait until every task of each role says that all before `end` (event time, ms) was applied."""

        def there() -> bool:
            for role, count in tasks.items():
                marks = [task["watermark"] for task in self.tasks(role).values()]
                if len(marks) != count or any(mark is None or mark < end for mark in marks):
                    return False
            return True

        self._await(f"all roles at {end}", there, deadline_s)

    def await_checkpoints(self, roles: tuple[str, ...], deadline_s: float = 60.0) -> None:
        """Wait until the store holds a checkpoint of all that each role's tasks have applied."""
        store = self.store()

        def written() -> bool:
            for role in roles:
                for name, task in self.tasks(role).items():
                    raw: Any = store.get(f"tc:{{{name}}}:h")
                    if raw is None:
                        return False
                    held = {f"{topic}[{number}]": offset for topic, number, offset in decode_header(raw).offsets}
                    if held != task["offsets"]:
                        return False
            return True

        self._await(f"checkpoints of {', '.join(roles)}", written, deadline_s)

    def store(self) -> Any:
        """Return a client of the embedded store."""
        return redis_client.Redis.from_url(self.redis_url)

    def rows(self, role: str, keys: list[str]) -> dict[str, bytes]:
        """Return the stored rows under `keys`, whichever task they belong to; at most one task has each."""
        store, found = self.store(), {}
        for task in self.tasks(role):
            for key, row in zip(keys, store.mget([f"tc:{{{task}}}:{key}" for key in keys]), strict=True):
                if row is not None:
                    assert key not in found, f"{key} has two owners"
                    found[key] = row
        return found

    def descendants(self) -> set[int]:
        """Return the ids of all processes that came of it, itself excluded."""
        parents = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    stat = (folder / "stat").read_text(encoding="ascii", errors="replace")
                except OSError:
                    continue
                parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
        found: set[int] = set()
        frontier = {self._process.pid}
        while frontier:
            frontier = {pid for pid, parent in parents.items() if parent in frontier}
            found |= frontier
        return found

    def stop(self) -> int:
        """Ask it to end and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(_STOP_S)

    def kill(self) -> None:
        """End it if it still runs; its children end with it."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _await(self, what: str, condition: Any, deadline_s: float = _START_S) -> None:
        def holds() -> bool:
            assert self._process.poll() is None, f"the run ended with {self._process.returncode}: {self.log()}"
            return bool(condition())

        wait_until(holds, what, deadline_s=deadline_s, tell=self._told)

    def _told(self) -> str:
        roles = {role: self.tasks(role) for role in self._ports} if hasattr(self, "_ports") else {}
        return f"{roles}\n{self.log()}"


@contextmanager
def running(data_dir: Path, logs: Path, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Start one, and end it whatever happens."""
    one = Running(data_dir, logs, environment or {})
    try:
        yield one
    finally:
        one.kill()


def tidecast(arguments: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command of `tidecast`; its standard output goes to `log`, its errors beside it."""
    with log.open("wb") as out, log.with_suffix(".err").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "streams.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **environment},
        )


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
