"""All roles as children of one process, with embedded servers where no broker is set.

A role that ends by itself is started again on the same port, with a pause that grows; one that keeps failing ends the
whole run, with the role's own words, unless it is the control role, without which the others go on. Children die with
this process, whatever ends it.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from streams.children import free_port, port_is_free, start_child, stop_child
from streams.errors import TidecastError
from streams.roles import ROLES, log_to_stderr, on_stop
from streams.settings import Settings, load_settings
from streams.topics import create

_LOG = logging.getLogger("tidecast")
_HOPELESS_RESTARTS = 5
_STABLE_S = 60.0
# These say that starting again is no use: settings, topics, contradictions.
_FINAL_CODES = (2, 3, 4)
# What other commands must know besides where the servers are.
_SHARED = frozenset({"shop", "time", "score", "demand", "learn", "train"})
# No prediction waits for it.
_DISPENSABLE = "control"
_EVERY_ADDRESS = ("0.0.0.0", "::", "")


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

    def ready(self) -> bool:
        """Ask every role that runs whether it is ready."""
        return all(_is_ready(self.host, self._ports[role]) for role in self.children)

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
        hint = ""
        web = settings.control.web_port or free_port()
        if settings.kafka.bootstrap_servers in (None, _told(data_dir).get("TIDECAST_KAFKA__BOOTSTRAP_SERVERS")):
            from streams.embedded import EmbeddedServers

            servers = stack.enter_context(EmbeddedServers(data_dir))
            environment = embedded_environment(servers.bootstrap, servers.redis_url, data_dir)
            hint = f"; for other commands, in another shell:\n{_tell(data_dir, environment)}"
            web = settings.control.web_port or _kept_port(data_dir / "web-port")
            settings = with_environment(environment)
            poll = servers.poll
        url = settings.redis.url.get_secret_value() if settings.redis.url is not None else ""
        say(f"kafka={settings.kafka.bootstrap_servers} redis={url.rpartition('@')[2] if '@' in url else url}")
        sys.stdout.flush()
        create(settings)
        supervisor = Supervisor(
            environment={**environment, "TIDECAST_CONTROL__WEB_PORT": str(web)},
            host=_reachable(settings.runtime.metrics_host),
            status_urls=settings.control.status_urls,
        )
        stack.callback(supervisor.stop)
        supervisor.start()
        ports = ", ".join(f"{role} {port}" for role, port in supervisor.ports().items())
        _LOG.info("health and metrics on %s: %s", supervisor.host, ports)
        view = f"; web view http://{_reachable(settings.control.web_host)}:{web}" if web > 0 else ""
        waiting = True
        while not stopping.wait(0.2):
            poll()
            supervisor.poll()
            if waiting and supervisor.ready():
                waiting = False
                sys.stderr.write(f"ready{view}{hint}\n")
                sys.stderr.flush()
    sys.stderr.write("stopped\n")
    return 0


def embedded_environment(bootstrap: str, redis_url: str, data_dir: Path) -> dict[str, str]:
    """Return the variables that point every role and command at the embedded servers; what was set stays."""
    given = load_settings()
    found = {"TIDECAST_KAFKA__BOOTSTRAP_SERVERS": bootstrap, "TIDECAST_REDIS__URL": redis_url}
    registry = given.train.registry if "registry" in given.train.model_fields_set else data_dir / "registry"
    found["TIDECAST_TRAIN__REGISTRY"] = str(registry.absolute())
    # The embedded broker keeps everything in one process: two partitions are plenty.
    partitions = given.kafka.partitions if "partitions" in given.kafka.model_fields_set else 2
    found["TIDECAST_KAFKA__PARTITIONS"] = str(partitions)
    # It answers an empty fetch at once: without a rest, every idle consumer asks thousands of times a second.
    rest_ms = given.kafka.rest_at_end_ms if "rest_at_end_ms" in given.kafka.model_fields_set else 20
    found["TIDECAST_KAFKA__REST_AT_END_MS"] = str(rest_ms)
    renew = given.kafka.renew_producers if "renew_producers" in given.kafka.model_fields_set else True
    found["TIDECAST_KAFKA__RENEW_PRODUCERS"] = str(renew).lower()
    return _as_variables(given) | found


def _as_variables(given: Settings) -> dict[str, str]:
    """Return what was set of the shop and its stages as variables: whose rows are whose depends on it."""
    found = {}
    for section in _SHARED & given.model_fields_set:
        part = getattr(given, section)
        values = part.model_dump(mode="json", include=part.model_fields_set)
        for key in part.model_fields_set:
            if values[key] is not None:
                text = values[key] if isinstance(values[key], str) else json.dumps(values[key])
                found[f"TIDECAST_{section}__{key}".upper()] = text
    return found


def with_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings as a child with this environment would read them."""
    os.environ.update(environment)
    return load_settings()


def _tell(data_dir: Path, environment: Mapping[str, str]) -> str:
    """Write the variables down where a shell can read them, and return the line that does."""
    pairs = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    (data_dir / "environment").write_text("".join(f"export {pair}\n" for pair in pairs), encoding="utf-8")
    return f". {shlex.quote(str((data_dir / 'environment').absolute()))}"


def _told(data_dir: Path) -> dict[str, str]:
    """Return what `_tell` wrote: in a shell that read it, these servers are no broker of one's own."""
    try:
        words = shlex.split((data_dir / "environment").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def _kept_port(path: Path) -> int:
    """Return the port noted in `path` if it is free, else note a new one."""
    try:
        port = int(path.read_text(encoding="ascii"))
        if port_is_free(port):
            return port
    except (OSError, ValueError, OverflowError):
        pass
    port = free_port()
    path.write_text(f"{port}\n", encoding="ascii")
    return port


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in _EVERY_ADDRESS else host


def _is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=1.0)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
