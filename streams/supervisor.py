"""All roles as children of one process, with embedded servers where no broker is set.

A role that ends by itself is started again on the same port, with a pause that grows; one that keeps failing ends the
whole run, with the role's own words, unless it is the control role, without which the others go on. Children die with
this process, whatever ends it.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from streams.children import free_port, start_child, stop_child
from streams.errors import TidecastError
from streams.roles import ROLES, log_to_stderr, on_stop
from streams.settings import Settings, load_settings
from streams.topics import create

_LOG = logging.getLogger("tidecast")
_HOPELESS_RESTARTS = 5
_STABLE_S = 60.0
# These say that starting again is no use: settings, topics, contradictions.
_FINAL_CODES = (2, 3, 4)
# No prediction waits for it.
_DISPENSABLE = "control"


@dataclass(slots=True)
class _Child:
    role: str
    process: subprocess.Popen[bytes]
    started: float
    restarts: int = 0
    again_at: float | None = None


@dataclass(slots=True)
class Supervisor:
    """Runs roles as children; `poll` looks after them, `stop` ends them gracefully, the newest started last.

    `host` is where the roles serve their health; `status_urls` are further workers that the control role shows.
    """

    roles: tuple[str, ...] = ROLES
    environment: Mapping[str, str] = field(default_factory=dict)
    log_dir: Path | None = None
    host: str = "127.0.0.1"
    status_urls: tuple[str, ...] = ()
    children: dict[str, _Child] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)

    def start(self) -> None:
        """Start every role, each with health on a port of its own, which it keeps when it is started again."""
        while len(self._ports) < len(self.roles):
            port = free_port()
            if port not in self._ports.values():
                self._ports[self.roles[len(self._ports)]] = port
        for role in self.roles:
            self.children[role] = self._spawn(role)

    def ports(self) -> dict[str, int]:
        """Return the health port of each role."""
        return dict(self._ports)

    def poll(self) -> None:
        """Start ended roles again when their pause is over. Raises TidecastError for one that keeps failing."""
        now = time.monotonic()
        for role, child in list(self.children.items()):
            code = child.process.poll()
            if code is None:
                continue
            if child.again_at is None:
                self._ended(child, code, now)
            elif now >= child.again_at:
                self.children[role] = self._spawn(role, child.restarts)

    def stop(self) -> None:
        """Ask every role to end and wait; one that does not end within 15 s is killed."""
        for child in self.children.values():
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        for child in self.children.values():
            stop_child(child.process, grace_s=15.0)
        self.children.clear()

    def _ended(self, child: _Child, code: int, now: float) -> None:
        restarts = 0 if now - child.started > _STABLE_S else child.restarts + 1
        if code in _FINAL_CODES or restarts > _HOPELESS_RESTARTS:
            if child.role != _DISPENSABLE:
                raise TidecastError(f"role {child.role} ended with exit code {code}; its own lines above say why")
            _LOG.error("role %s ended with exit code %d; its own lines say why. The others go on", child.role, code)
            del self.children[child.role]
            return
        _LOG.warning("role %s ended with exit code %d; starting it again", child.role, code)
        child.restarts, child.again_at = restarts, now + min(0.2 * 2**restarts, 5.0)

    def _spawn(self, role: str, restarts: int = 0) -> _Child:
        environment = {**self.environment, "TIDECAST_RUNTIME__METRICS_PORT": str(self._ports[role])}
        if role == _DISPENSABLE:
            own = (f"http://{self.host}:{port}" for other, port in self._ports.items() if other != role)
            environment["TIDECAST_CONTROL__STATUS_URLS"] = json.dumps([*own, *self.status_urls])
        log = self.log_dir / f"{role}.log" if self.log_dir is not None else None
        process = start_child([sys.executable, "-m", "streams.cli", "run", "--role", role], env=environment, log=log)
        return _Child(role, process, time.monotonic(), restarts)


def run_all(settings: Settings, data_dir: Path, say: Callable[[str], None] = print) -> int:
    """Run everything until SIGTERM or SIGINT; returns the exit code."""
    log_to_stderr("run")
    stopping = threading.Event()
    on_stop(stopping.set)
    with ExitStack() as stack:
        environment: dict[str, str] = {}
        poll: Callable[[], None] = lambda: None  # noqa: E731  (a named no-op would be longer than what it says)
        if settings.kafka.bootstrap_servers is None:
            from streams.embedded import EmbeddedServers

            servers = stack.enter_context(EmbeddedServers(data_dir))
            environment = embedded_environment(servers.bootstrap, servers.redis_url, data_dir)
            settings = with_environment(environment)
            poll = servers.poll
        url = settings.redis.url.get_secret_value() if settings.redis.url is not None else ""
        say(f"kafka={settings.kafka.bootstrap_servers} redis={url.rpartition('@')[2] if '@' in url else url}")
        sys.stdout.flush()
        create(settings)
        host = settings.runtime.metrics_host
        supervisor = Supervisor(
            environment=environment,
            host="127.0.0.1" if host in ("0.0.0.0", "::", "") else host,
            status_urls=settings.control.status_urls,
        )
        stack.callback(supervisor.stop)
        supervisor.start()
        ports = ", ".join(f"{role} {port}" for role, port in supervisor.ports().items())
        _LOG.info("health and metrics on 127.0.0.1: %s", ports)
        while not stopping.wait(0.2):
            poll()
            supervisor.poll()
    return 0


def embedded_environment(bootstrap: str, redis_url: str, data_dir: Path) -> dict[str, str]:
    """Return the variables that point every role at the embedded servers."""
    import os

    found = {"TIDECAST_KAFKA__BOOTSTRAP_SERVERS": bootstrap, "TIDECAST_REDIS__URL": redis_url}
    # The embedded broker keeps everything in one process: two partitions are plenty.
    if "TIDECAST_KAFKA__PARTITIONS" not in os.environ:
        found["TIDECAST_KAFKA__PARTITIONS"] = "2"
    # It answers an empty fetch at once: without a rest, every idle consumer asks thousands of times a second.
    if "TIDECAST_KAFKA__REST_AT_END_MS" not in os.environ:
        found["TIDECAST_KAFKA__REST_AT_END_MS"] = "20"
    if "TIDECAST_TRAIN__REGISTRY" not in os.environ:
        found["TIDECAST_TRAIN__REGISTRY"] = str(data_dir / "registry")
    return found


def with_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings as a child with this environment would read them."""
    import os

    os.environ.update(environment)
    return load_settings()
