"""Supervised roles on the embedded servers: what the control role's page shows of the others."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streams.children import free_port
from streams.embedded import EmbeddedServers
from streams.roles import wall_ms
from streams.settings import KafkaSettings, Settings
from streams.supervisor import Supervisor
from streams.topics import create


def test_the_page_shows_a_worker_before_and_after_its_restart(servers: EmbeddedServers, tmp_path: Path) -> None:
    """Control hears of a supervised worker from the start, and again when it was killed and started anew."""
    web = free_port()
    environment = {
        "TIDECAST_KAFKA__BOOTSTRAP_SERVERS": servers.bootstrap,
        "TIDECAST_KAFKA__PREFIX": "supervised-",
        "TIDECAST_KAFKA__PARTITIONS": "1",
        "TIDECAST_REDIS__URL": servers.redis_url,
        "TIDECAST_REDIS__PREFIX": "supervised-",
        "TIDECAST_CONTROL__WEB_PORT": str(web),
        "TIDECAST_CONTROL__STATUS_INTERVAL_S": "1",
        "TIDECAST_TRAIN__SCHEDULE": "",
        "TIDECAST_TRAIN__REGISTRY": str(tmp_path / "registry"),
    }
    create(Settings(kafka=KafkaSettings(bootstrap_servers=servers.bootstrap, prefix="supervised-", partitions=1)))
    supervisor = Supervisor(roles=("learn", "control"), environment=environment, log_dir=tmp_path)
    supervisor.start()

    def shown() -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{web}/status.json", timeout=5) as answer:
                return dict(json.load(answer)["workers"].get("learn/worker-0", {}))
        except OSError:
            return {}

    def until(what: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + 100
        while True:
            supervisor.poll()
            found = shown()
            if condition(found):
                return found
            logs = "".join(log.read_text()[-2_000:] for log in tmp_path.glob("*.log"))
            assert time.monotonic() < deadline, f"{what}: {found}\n{logs}"
            time.sleep(0.05)

    try:
        before = until("ready", lambda status: bool(status.get("ready")))
        assert before["url"] == f"http://127.0.0.1:{supervisor.ports()['learn']}"
        killed = supervisor.children["learn"].process.pid
        os.kill(killed, signal.SIGKILL)
        until("started again", lambda _: supervisor.children["learn"].process.pid != killed)
        now = wall_ms()
        after = until("ready again", lambda status: bool(status.get("ready")) and status["at"] > now)
        assert after["url"] == before["url"]
    finally:
        supervisor.stop()
