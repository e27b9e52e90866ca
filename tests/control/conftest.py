"""The servers of `tests.real` for the tests of this folder."""

from __future__ import annotations

from tests.real.conftest import backend, kafka, redis_server, topic_prefix

__all__ = ["backend", "kafka", "redis_server", "topic_prefix"]
