"""The same servers as containers, through testcontainers; the interface is that of `servers`.

Images are those that ``docker-compose.yml`` names; ``tests.containers.images`` makes equivalents where none can be
pulled. A port is chosen on the host first and bound to the same number, so that it stays over restarts and Kafka can
advertise it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

# Before the import: Ryuk is an image more, and cannot be pulled where ours are built locally.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from testcontainers.core.container import DockerContainer

from streams.children import free_port
from tests.real.servers import TEST_PROPERTIES, ServerError

KAFKA_IMAGE = os.environ.get("KAFKA_IMAGE", "apache/kafka:4.1.0")
REDIS_IMAGE = os.environ.get("REDIS_IMAGE", "redis:7")


class _Container:
    """A container on one fixed port of the host."""

    def __init__(self, image: str, inner_port: int) -> None:
        self.port = free_port()
        self._container = DockerContainer(image).with_bind_ports(inner_port, self.port)

    def stop(self) -> None:
        """Stop and remove the container."""
        self._container.stop()

    def kill(self) -> None:
        """SIGKILL what runs in it; its file system stays."""
        wrapped = self._container.get_wrapped_container()
        wrapped.reload()
        if wrapped.status in {"running", "paused"}:
            wrapped.kill()
            wrapped.wait()

    def pause(self) -> None:
        """Freeze it."""
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        """Wake it."""
        self._container.get_wrapped_container().unpause()

    def _wait(self, ready: Callable[[], bool], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not ready():
            wrapped = self._container.get_wrapped_container()
            wrapped.reload()
            if wrapped.status == "exited" or time.monotonic() > deadline:
                raise ServerError(f"{wrapped.image}: {wrapped.status}, no answer\n{wrapped.logs(tail=30).decode()}")
            time.sleep(0.1)


class KafkaContainer(_Container):
    """`servers.KafkaServer`, in a container."""

    def __init__(self) -> None:
        super().__init__(KAFKA_IMAGE, 9092)
        values = {
            **TEST_PROPERTIES,
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": "1@localhost:9093",
            # The broker also talks to itself (transactions), and from inside cannot reach the host's port.
            "listeners": "OUTSIDE://:9092,INSIDE://:9094,CONTROLLER://:9093",
            "advertised.listeners": f"OUTSIDE://127.0.0.1:{self.port},INSIDE://localhost:9094",
            "listener.security.protocol.map": "OUTSIDE:PLAINTEXT,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "INSIDE",
        }
        for name, value in values.items():
            self._container.with_env("KAFKA_" + name.upper().replace(".", "_"), str(value))
        self._container.with_env("CLUSTER_ID", "dGlkZWNhc3QtdGVzdHMtMA").with_env("KAFKA_HEAP_OPTS", "-Xmx768m")

    @property
    def bootstrap(self) -> str:
        """The address clients start from."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> KafkaContainer:
        """Start it and wait until it answers."""
        self._container.start()
        self._wait(self._answers, 90)
        return self

    def restart(self) -> None:
        """Start again on the same data, killing what still runs."""
        self.kill()
        self._container.get_wrapped_container().start()
        self._wait(self._answers, 90)

    def _answers(self) -> bool:
        try:
            admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            return bool(admin.list_topics(timeout=1).brokers)
        except KafkaException:
            return False


class RedisContainer(_Container):
    """`servers.RedisServer`, in a container."""

    def __init__(self) -> None:
        super().__init__(REDIS_IMAGE, 6379)
        self._container.with_command(["redis-server", "--maxmemory-policy", "noeviction", "--appendonly", "no"])

    @property
    def url(self) -> str:
        """The address, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """Return a client with a short timeout."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def start(self) -> RedisContainer:
        """Start it and wait until it answers."""
        self._container.start()
        self._wait(self._answers, 30)
        return self

    def restart(self, *, empty: bool = True) -> None:
        """Start it again on the same port; with `empty` false the data are kept."""
        if self._answers():
            if empty:
                self.client().flushall()
            self.client().save()
        self.kill()
        self._container.get_wrapped_container().start()
        self._wait(self._answers, 30)

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False
