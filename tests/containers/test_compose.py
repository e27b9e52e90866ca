"""The compose file, for real: up, events in, predictions out, a killed worker replaced, down with nothing left."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from confluent_kafka import Consumer, Producer
from docker.models.containers import Container

from streams.children import free_port
from tests.containers.images import WITH_TORCH, environment

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1_800)]
_ROOT = Path(__file__).parents[2]
_PROJECT = "tidecast-test"
UP = "up --build --detach"
"""How the README brings it up."""
WORKERS = ("score", "demand", "learn", "control")
_DAY_MS = 86_400_000


class Compose:
    """The running project: its command, its containers, its Kafka."""

    def __init__(self) -> None:
        self.kafka_port = free_port()
        self.web_port = free_port()
        ports = {"KAFKA_PORT": self.kafka_port, "REDIS_PORT": free_port(), "WEB_PORT": self.web_port}
        self._environment = {**os.environ, **environment(), **{name: str(port) for name, port in ports.items()}}
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        self._command = ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]
        self._docker = docker.from_env()

    @property
    def bootstrap(self) -> str:
        """Where Kafka is reached from outside."""
        return f"localhost:{self.kafka_port}"

    def __call__(self, *arguments: str) -> str:
        """Run a compose command and return what it printed."""
        done = subprocess.run(
            [*self._command, "-p", _PROJECT, "-f", "docker-compose.yml", *arguments],
            cwd=_ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"compose {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def container(self, service: str) -> Container:
        """Return the container of a service."""
        filters = {"label": [f"com.docker.compose.project={_PROJECT}", f"com.docker.compose.service={service}"]}
        found = self._docker.containers.list(all=True, filters=filters)
        assert len(found) == 1, f"{service}: {found}"
        return found[0]

    def wait_healthy(self, *services: str, limit_s: float = 300) -> None:
        """Wait until the health checks of the services pass."""
        deadline = time.monotonic() + limit_s
        for service in services:
            while (state := self.container(service).attrs["State"])["Health"]["Status"] != "healthy":
                assert time.monotonic() < deadline, (
                    f"{service} is not healthy: {json.dumps(state, indent=1)[-1500:]}\n"
                    f"{self.container(service).logs(tail=40).decode()}"
                )
                time.sleep(0.5)

    def left(self) -> list[str]:
        """Return what is left of the project: containers, volumes, networks."""
        filters = {"label": f"com.docker.compose.project={_PROJECT}"}
        parts = (self._docker.containers.list(all=True, filters=filters), self._docker.volumes.list(filters=filters))
        networks = self._docker.networks.list(filters=filters)
        return [part.name for kind in (*parts, networks) for part in kind]


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    """Bring the project up, and down at the end."""
    project = Compose()
    project("down", "--volumes", "--remove-orphans")  # of a run that was killed
    try:
        project(*UP.split())
        project.wait_healthy("kafka", "redis", *WORKERS)
        yield project
    finally:
        project("down", "--volumes", "--remove-orphans")


def click(number: int, time_ms: int) -> dict[str, Any]:
    """Return a view by one of 40 users of one of 10 products."""
    return {
        "event_id": f"click-{number}",
        "type": "view",
        "time": time_ms,
        "user_id": f"user-{number % 40}",
        "session_id": f"session-{number % 40}-{time_ms // _DAY_MS}",
        "product_id": f"product-{number % 10}",
        "unit_price": 1_250,
        "currency": "EUR",
    }


def order(number: int, time_ms: int) -> dict[str, Any]:
    """Return a paid order of one product."""
    line = {"product_id": f"product-{number // 10 % 10}", "quantity": 1, "unit_price": 1_250, "amount": 1_250}
    return {
        "event_id": f"order-{number}",
        "order_id": f"order-{number}",
        "status": "paid",
        "time": time_ms,
        "user_id": f"user-{number % 40}",
        "lines": [line],
        "currency": "EUR",
    }


def send(compose: Compose, clicks: range, day: int) -> None:
    """Send clicks, and an order for each tenth, of the day that ends `3 - day` days ago."""
    producer = Producer({"bootstrap.servers": compose.bootstrap, "linger.ms": 20, "enable.idempotence": True})
    start = int(time.time() * 1000) - (4 - day) * _DAY_MS
    for number in clicks:
        at = start + (number - clicks.start) * 10_000
        event = click(number, at)
        producer.produce("clickstream", json.dumps(event), key=event["user_id"])
        if number % 10 == 0:
            bought = order(number, at + 5_000)
            producer.produce("orders", json.dumps(bought), key=bought["user_id"])
    assert producer.flush(60) == 0


def predictions(compose: Compose, clicks: int, products: int, limit_s: float = 300) -> list[dict[str, Any]]:
    """Return what a read_committed consumer finds in `predictions`.

    Waits for so many purchase predictions and products with a demand forecast, and then for 3 s of silence, so that a
    duplicate would be seen.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": compose.bootstrap,
            "group.id": f"test-{time.monotonic_ns()}",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    consumer.subscribe(["predictions"])
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + limit_s
    purchases, forecast = 0, set()
    quiet_since = time.monotonic()
    while time.monotonic() < deadline:
        if purchases >= clicks and len(forecast) >= products and time.monotonic() - quiet_since > 3:
            break
        message = consumer.poll(0.5)
        if message is None or message.error() is not None:
            continue
        found.append(prediction := json.loads(message.value()))
        quiet_since = time.monotonic()
        if prediction["kind"] == "purchase":
            purchases += 1
        else:
            forecast.add(prediction["subject"])
    consumer.close()
    return found


def test_the_whole_way(compose: Compose) -> None:
    """Every click is predicted once, through the death and replacement of a worker; demand is forecast, too."""
    send(compose, range(1_000), day=1)
    assert {p["payload"]["event_id"] for p in predictions(compose, 1_000, 0) if p["kind"] == "purchase"} == {
        f"click-{number}" for number in range(1_000)
    }
    send(compose, range(1_000, 2_000), day=2)
    compose.container("score").kill()  # SIGKILL, with work in hand
    send(compose, range(2_000, 3_000), day=3)
    before = compose.container("score").id
    compose("up", "--detach", "--no-build", "--force-recreate", "--no-deps", "score")
    compose.wait_healthy("score")
    assert compose.container("score").id != before
    found = predictions(compose, 3_000, 10)
    counts = Counter(p["id"] for p in found)
    assert [one for one, count in counts.items() if count > 1] == []
    purchases = Counter(p["payload"]["event_id"] for p in found if p["kind"] == "purchase")
    assert purchases == Counter(f"click-{number}" for number in range(3_000))
    assert {p["subject"] for p in found if p["kind"] == "demand"} == {f"product-{number}" for number in range(10)}


def test_workers_run_as_nobody_special(compose: Compose) -> None:
    """No worker is root or has capabilities; none on the events' path carries torch, however the image was built."""
    for service in WORKERS:
        worker = compose.container(service)
        assert worker.exec_run(["id", "-u"]).output.strip() == b"10001"
        status = worker.exec_run(["grep", "CapEff", "/proc/1/status"]).output.split()
        assert int(status[1], 16) == 0
    search = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"
    for service in WORKERS:
        found = compose.container(service).exec_run(["python", "-c", search]).exit_code == 1
        assert found == (service == "control" and WITH_TORCH)


def test_metrics_are_served(compose: Compose) -> None:
    """Prometheus finds a worker's metrics on its port."""
    address = next(iter(compose.container("score").attrs["NetworkSettings"]["Networks"].values()))["IPAddress"]
    with urllib.request.urlopen(f"http://{address}:8080/metrics", timeout=5) as answer:
        assert b"tidecast_ready 1.0" in answer.read()


def test_the_web_view_is_published(compose: Compose) -> None:
    """The control worker's page is reached from the host."""
    with urllib.request.urlopen(f"http://127.0.0.1:{compose.web_port}/", timeout=20) as answer:
        assert answer.status == 200


def test_the_control_worker_trains(compose: Compose) -> None:
    """A training that the control worker starts finds torch and ends well; without torch it says what to install."""
    page = f"http://127.0.0.1:{compose.web_port}"
    with urllib.request.urlopen(urllib.request.Request(f"{page}/train", method="POST"), timeout=20) as answer:
        assert answer.status == 202
    deadline = time.monotonic() + 300
    while True:
        with urllib.request.urlopen(f"{page}/status.json", timeout=20) as answer:
            training = json.load(answer)["control"]["training"]
        if training["last"]["ended_at"] is not None:
            break
        assert time.monotonic() < deadline, training
        time.sleep(1)
    said = "\n".join(training["tail"])
    if WITH_TORCH:
        assert training["last"]["exit_code"] == 0, said
        assert json.loads(training["tail"][-1])["decision"], said
    else:
        assert training["last"]["exit_code"] == 2, said
        assert "pip install -e '.[train]' (in Tidecast's folder)" in said


def test_the_training_service_asks_for_a_gpu(compose: Compose) -> None:
    """`train` is behind its profile, is built with torch and reserves an NVIDIA device."""
    assert "train" not in compose("config", "--services").split() or "profile" in compose("config")
    text = (_ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert "profiles: [gpu]" in text
    assert "driver: nvidia" in text
    compose("--profile", "gpu", "config", "--quiet")


def test_workers_stop_gracefully_and_nothing_is_left(compose: Compose) -> None:
    """SIGTERM ends each worker with 0 within 10 s; `down` leaves no container, volume or network."""
    for service in WORKERS:
        started = time.monotonic()
        compose("stop", service)
        assert compose.container(service).attrs["State"]["ExitCode"] == 0, compose.container(service).logs(tail=30)
        assert time.monotonic() - started < 15  # 10 for the worker, the rest for compose itself
    compose("down", "--volumes")
    assert compose.left() == []
