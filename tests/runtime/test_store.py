"""Laws of a store that cannot serve: what passes by itself, or by an operator's hand, pauses a worker and ends none."""

from __future__ import annotations

from typing import Any, cast

import pytest
import redis
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    SlotNotCoveredError,
)

from streams.errors import ConfigurationError, StoreUnavailable
from streams.runtime.checkpoint import Checkpoint
from streams.store import RedisStore


class _Refusing:
    """A client that answers every read with this error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def mget(self, names: list[str]) -> list[bytes | None]:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        ReadOnlyError("You can't write against a read only replica."),
        MasterDownError("Link with MASTER is down"),
        ClusterDownError("The cluster is down"),
        ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
        redis.exceptions.ConnectionError("refused"),
        redis.exceptions.TimeoutError("no answer"),
        OSError("no route"),
        RedisClusterException("Redis Cluster cannot be connected. Please provide at least one reachable node: refused"),
        RedisClusterException("All slots are not covered after query all startup_nodes. 0 of 16384 covered"),
        SlotNotCoveredError('Slot "5" is not covered by the cluster.'),
    ],
)
def test_what_passes_is_unavailability(error: Exception) -> None:
    """As the client words it, its code already cut off."""
    store = RedisStore(cast(redis.Redis, _Refusing(error)), "tc")
    with pytest.raises(StoreUnavailable):
        store.read("score.a-0", ["u:1"])


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("WRONGTYPE Operation against a key"),
        RedisClusterException("MGET - all keys must map to the same key slot"),
    ],
)
def test_a_mistake_is_no_unavailability(error: Exception) -> None:
    """A refusal that no waiting mends is raised as it is."""
    store = RedisStore(cast(redis.Redis, _Refusing(error)), "tc")
    with pytest.raises(type(error), match=str(error)):
        store.read("score.a-0", ["u:1"])


class _Pipeline:
    """Notes commands, and refuses what a cluster's pipeline refuses."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def __enter__(self) -> _Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def get(self, name: str) -> bytes | None:
        return None

    def mset(self, rows: dict[str, bytes]) -> None:
        raise redis.exceptions.RedisClusterException("Calling pipelined function mset is blocked")

    def set(self, name: str, row: bytes) -> None:
        self._said.append(name)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


class _Cluster(redis.RedisCluster):
    def __init__(self) -> None:
        self.said: list[str] = []

    def pipeline(self, transaction: bool | None = None, shard_hint: Any = None) -> Any:
        return _Pipeline(self.said)

    def __del__(self) -> None:
        return


def test_a_cluster_is_given_row_by_row() -> None:
    """Its pipeline knows no MSET; the header is written last."""
    client = _Cluster()
    checkpoint = Checkpoint(None, b"header", {"u:1": b"a", "u:2": b"b", "u:3": None}, {}, {})
    RedisStore(cast(redis.Redis, client), "tc").checkpoint("score.a-0", checkpoint)
    assert client.said == ["tc:{score.a-0}:u:1", "tc:{score.a-0}:u:2", "tc:{score.a-0}:h"]


class _Informing:
    """A client that says this of its server."""

    def __init__(self, said: Any) -> None:
        self._said = said

    def info(self, section: str, **of: Any) -> Any:
        if isinstance(self._said, Exception):
            raise self._said
        return self._said


@pytest.mark.parametrize("said", [{"maxmemory_policy": "allkeys-lfu"}, {"a": {"maxmemory_policy": "allkeys-random"}}])
def test_a_server_that_evicts_is_refused(said: Any) -> None:
    """Whether it says so alone or as one of several."""
    store = RedisStore(cast(redis.Redis, _Informing(said)), "tc")
    with pytest.raises(ConfigurationError, match="maxmemory-policy is allkeys-"):
        store.check()


@pytest.mark.parametrize(
    "said",
    [
        {"maxmemory_policy": "noeviction", "used_memory": 1},
        {"maxmemory_policy": "volatile-lru"},
        {"used_memory": 1, "maxmemory": 0},
        {"a": {"maxmemory_policy": "noeviction"}, "b": {}},
        NoPermissionError("no permissions"),
        ResponseError("unknown command 'INFO'"),
    ],
)
def test_a_server_that_evicts_no_rows_or_does_not_say_is_taken(said: Any) -> None:
    """Rows bear no time to live, so that volatile policies leave them."""
    RedisStore(cast(redis.Redis, _Informing(said)), "tc").check()
