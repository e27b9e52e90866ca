"""Fixtures that reach real Kafka and real Redis: one pair, two backends.

``TEST_BACKEND=native`` (the default) runs them on this machine, ``TEST_BACKEND=containers`` through testcontainers.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.containers import KafkaContainer, RedisContainer
from tests.real.harness import Shop
from tests.real.servers import KafkaServer, RedisServer, ServerError

BACKENDS = ("native", "containers")


@pytest.fixture(scope="session")
def backend() -> str:
    """Return the chosen backend's name."""
    name = os.environ.get("TEST_BACKEND", "native")
    if name not in BACKENDS:
        raise ServerError(f"TEST_BACKEND={name}: must be one of {', '.join(BACKENDS)}")
    return name


@pytest.fixture(scope="session")
def kafka(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer | KafkaContainer]:
    """Give one Kafka node to the whole run; tests keep apart by `topic_prefix`."""
    server = KafkaServer(tmp_path_factory.mktemp("kafka")) if backend == "native" else KafkaContainer()
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_server(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | RedisContainer]:
    """Give one Redis server to the whole run; a test that kills or pauses it brings it back."""
    server = RedisServer(tmp_path_factory.mktemp("redis")) if backend == "native" else RedisContainer()
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """Return a prefix that no other test's topics, groups and transactional ids have (at most 50 characters)."""
    return f"{request.node.originalname[:30]}-{uuid.uuid4().hex[:8]}-"


@pytest.fixture
def shop(
    kafka: KafkaServer | KafkaContainer, redis_server: RedisServer | RedisContainer, topic_prefix: str, tmp_path: Path
) -> Iterator[Shop]:
    """Give topics and a store namespace of its own; whatever still runs of it at the end is killed."""
    shop = Shop(kafka.bootstrap, redis_server.url, topic_prefix, tmp_path)
    yield shop
    shop.kill_all()
