"""Rows and checkpoints in Redis (or Valkey), and the same port in memory for the driver.

Keys are ``<prefix>:{<task>}:<key>``: the braces keep a task in one Cluster slot, so that a checkpoint is one
MULTI/EXEC. A string row begins with the event time it was last touched at (int64, little-endian), by which it expires.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
    WatchError,
)
from redis.retry import Retry

from streams.errors import CheckpointConflict, ConfigurationError, StoreUnavailable
from streams.runtime import hooks
from streams.runtime.checkpoint import Checkpoint
from streams.settings import Settings

_LOG = logging.getLogger("tidecast.store")

HEADER_KEY = "h"
_SET_AT_ONCE = 500


def last_touched(row: bytes) -> int:
    """Return the event time (ms) at the head of a packed row.

    >>> last_touched((1_400_000_000_000).to_bytes(8, "little", signed=True) + b"rest")
    1400000000000
    """
    return int.from_bytes(row[:8], "little", signed=True)


def all_last_touched(rows: Sequence[bytes]) -> NDArray[np.int64]:
    """Return `last_touched` (n,) of n rows."""
    return np.frombuffer(b"".join([row[:8] for row in rows]), "<i8")


_LOOK = "check that it runs, and redis.url (TIDECAST_REDIS__URL)"
_PASSES = (ReadOnlyError, MasterDownError, ClusterDownError, MovedError, AskError, TryAgainError)
# What the client has no class for: it passes by itself, or by an operator's hand.
_NOT_NOW = ("MISCONF", "NOREPLICAS", "BUSY", "LOADING")
# The same of a cluster; these are no RedisError, nor are the client's own refusals of a wrong command.
_CLUSTER_AWAY = ("Redis Cluster cannot be connected", "All slots are not covered", "startup_nodes could not agree")


class RedisStore:
    """The store over one Redis; see `Store` for the port."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client: Any = client
        self._cluster = isinstance(client, redis.RedisCluster)
        self._prefix = prefix

    @classmethod
    def connect(cls, settings: Settings) -> RedisStore:
        """Open it as the settings say; no connection is made yet. Raises ConfigurationError."""
        if settings.redis.url is None:
            raise ConfigurationError("redis.url is not set; set TIDECAST_REDIS__URL=redis://host:port/0")
        seconds = settings.redis.timeout_ms / 1_000
        options: dict[str, Any] = {
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            # Retries are the worker's business: it pauses and says so. A client's own would send a transaction again on
            # another connection, which watches nothing.
            "retry": Retry(NoBackoff(), 0),
        }
        url = settings.redis.url.get_secret_value()
        try:
            if settings.redis.cluster:
                client: Any = redis.RedisCluster.from_url(url, **options)
            else:
                client = redis.Redis.from_url(url, **options)
        except ValueError as error:
            raise ConfigurationError(f"redis.url: {error}; the form is redis://[:password@]host:port/db") from error
        except (RedisError, RedisClusterException) as error:
            raise StoreUnavailable(f"Redis Cluster does not answer: {error}; {_LOOK}") from error
        return cls(client, settings.redis.prefix)

    def check(self) -> None:
        """See that no server evicts rows; where the policy may not be asked for, say so and go on."""
        all_masters = {"target_nodes": redis.RedisCluster.PRIMARIES} if self._cluster else {}
        try:
            told = self._answer(lambda: self._client.info("memory", **all_masters))
        except ResponseError as error:  # what passes was told apart already
            _LOG.warning("Redis does not say whether it evicts rows (%s); maxmemory-policy must be noeviction", error)
            return
        # Of a cluster with one shard the client gives what that one said.
        nodes = told if all(isinstance(memory, dict) for memory in told.values()) else {"Redis": told}
        for node, memory in nodes.items():
            policy = str(memory.get("maxmemory_policy"))
            if policy.startswith("allkeys"):
                raise ConfigurationError(
                    f"{node}: maxmemory-policy is {policy}, and an evicted row would be taken for a new user's; "
                    "set it to noeviction"
                )

    def read(self, task: str, keys: Sequence[str]) -> tuple[bytes | None, list[bytes | None]]:
        """Return header and rows by one MGET, which Redis runs atomically."""
        start = self._name(task, "")
        names = [start + HEADER_KEY, *[start + key for key in keys]]
        values = self._answer(lambda: self._client.mget(names))
        return values[0], values[1:]

    def checkpoint(self, task: str, checkpoint: Checkpoint) -> None:
        """Compare the header, then write rows and header in one MULTI/EXEC."""
        header, start = self._name(task, HEADER_KEY), self._name(task, "")
        changed = [(start + key, row) for key, row in checkpoint.rows.items() if row is not None]
        removed = [self._name(task, key) for key, row in checkpoint.rows.items() if row is None]
        touched = {self._name(task, f"x:{period}"): keys for period, keys in checkpoint.touched.items()}

        trimmed = {self._name(task, f"x:{period}"): count for period, count in checkpoint.trimmed.items()}

        def write() -> None:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.watch(header)
                found = pipe.get(header)
                if found == checkpoint.header:
                    return  # an earlier try whose answer was lost
                if found != checkpoint.expected:
                    raise CheckpointConflict(
                        f"{task}: the stored checkpoint is not the one written last"
                        + (" (it is gone)" if found is None else "")
                    )
                pipe.multi()
                if self._cluster:  # its pipeline refuses MSET, though all keys share a slot
                    for name, row in changed:
                        pipe.set(name, row)
                else:
                    # By parts: while a command is packed no other thread runs.
                    for first in range(0, len(changed), _SET_AT_ONCE):
                        pipe.mset(dict(changed[first : first + _SET_AT_ONCE]))
                if removed:
                    pipe.delete(*removed)
                for name, count in trimmed.items():
                    pipe.ltrim(name, count, -1)
                for name, keys in touched.items():
                    pipe.rpush(name, *keys)
                hooks.reach("mid_checkpoint")
                pipe.set(header, checkpoint.header)
                pipe.execute()

        try:
            self._answer(write)
        except WatchError as error:
            raise CheckpointConflict(f"{task}: another owner wrote a checkpoint meanwhile") from error

    def old_keys(self, task: str, period: int, before: int, limit: int) -> tuple[list[str], int]:
        """Look at the head of the period's list, and at the head of each row it names."""
        name = self._name(task, f"x:{period}")
        listed = self._answer(lambda: self._client.lrange(name, 0, limit - 1))
        keys = list(dict.fromkeys(key.decode() for key in listed))

        def heads() -> list[bytes]:
            pipe = self._client.pipeline(transaction=False)
            for key in keys:
                pipe.getrange(self._name(task, key), 0, 7)
            return list(pipe.execute())

        found = self._answer(heads) if keys else []
        old = [key for key, head in zip(keys, found, strict=True) if len(head) == 8 and last_touched(head) < before]
        return old, len(listed)

    def keys(self, task: str) -> list[str]:
        """Return the full names of all keys of a task: rows, lists of expiry and the header. Walks the whole store."""
        return sorted(self._scan(self._name(task, ""), "*"))

    def tasks(self, stage: str) -> list[str]:
        """Return the names of a stage's tasks, of any layout, that have a checkpoint. Walks the whole store."""
        names = self._scan(f"{self._prefix}:{{{stage}.", f"*}}:{HEADER_KEY}")
        return sorted({name.rpartition("{")[2].partition("}")[0] for name in names})

    def drop(self, task: str) -> int:
        """Delete header and rows of a task in one step, so that no half of them is left to be believed.

        Returns the number of keys. Raises CheckpointConflict where a worker keeps writing.
        """
        header = self._name(task, HEADER_KEY)

        def once() -> int:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.watch(header)
                names = self.keys(task)
                pipe.multi()
                for start in range(0, len(names), 1_000):
                    pipe.unlink(*names[start : start + 1_000])
                pipe.execute()
                return len(names)

        for _ in range(5):
            try:
                return int(self._answer(once))
            except WatchError:
                continue
        raise CheckpointConflict(f"{task}: a worker keeps writing checkpoints; stop it first")

    def ping(self) -> bool:
        """Say whether the store answers."""
        try:
            return bool(self._client.ping())
        except (RedisError, RedisClusterException, OSError):
            return False

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _name(self, task: str, key: str) -> str:
        return f"{self._prefix}:{{{task}}}:{key}"

    def _scan(self, start: str, rest: str) -> list[str]:
        """Return the names that begin with `start`, as it stands, and go on as the pattern `rest`."""
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", start) + rest
        return [name.decode() for name in self._answer(lambda: list(self._client.scan_iter(pattern, count=10_000)))]

    def _answer(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (WatchError, CheckpointConflict):
            raise
        except ResponseError as error:
            if isinstance(error, OutOfMemoryError):
                raise StoreUnavailable(
                    f"Redis is full ({error}); raise maxmemory (the policy must stay noeviction)"
                ) from error
            if isinstance(error, _PASSES) or str(error).startswith(_NOT_NOW):
                raise StoreUnavailable(f"Redis cannot serve now: {error}") from error
            raise
        except RedisClusterException as error:
            if isinstance(error, SlotNotCoveredError) or str(error).startswith(_CLUSTER_AWAY):
                raise StoreUnavailable(f"Redis Cluster does not answer: {error}; {_LOOK}") from error
            raise
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis does not answer: {error}; {_LOOK}") from error


class MemoryStore:
    """The same port over a dict: for the driver, backtests and unit tests. `down` makes it not answer."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], bytes] = {}
        self.periods: dict[tuple[str, int], list[str]] = {}
        self.down = False

    def check(self) -> None:
        """See that it answers; nothing vanishes from a dict."""
        self._check()

    def read(self, task: str, keys: Sequence[str]) -> tuple[bytes | None, list[bytes | None]]:
        """Return header and rows."""
        self._check()
        return self.rows.get((task, HEADER_KEY)), [self.rows.get((task, key)) for key in keys]

    def checkpoint(self, task: str, checkpoint: Checkpoint) -> None:
        """Compare the header, then write."""
        self._check()
        found = self.rows.get((task, HEADER_KEY))
        if found == checkpoint.header:
            return
        if found != checkpoint.expected:
            raise CheckpointConflict(f"{task}: the stored checkpoint is not the one written last")
        for key, row in checkpoint.rows.items():
            if row is None:
                self.rows.pop((task, key), None)
            else:
                self.rows[task, key] = row
        for period, count in checkpoint.trimmed.items():
            del self.periods.get((task, period), [])[:count]
        for period, keys in checkpoint.touched.items():
            self.periods.setdefault((task, period), []).extend(keys)
        self.rows[task, HEADER_KEY] = checkpoint.header

    def old_keys(self, task: str, period: int, before: int, limit: int) -> tuple[list[str], int]:
        """Look at the head of the period's list."""
        self._check()
        listed = self.periods.get((task, period), [])[:limit]
        found = {key: self.rows.get((task, key)) for key in listed}
        return [key for key, row in found.items() if row is not None and last_touched(row) < before], len(listed)

    def tasks(self, stage: str) -> list[str]:
        """Return the names of a stage's tasks, of any layout, that have a checkpoint."""
        self._check()
        return sorted(task for task, key in self.rows if key == HEADER_KEY and task.startswith(f"{stage}."))

    def ping(self) -> bool:
        """Say whether the store answers."""
        return not self.down

    def close(self) -> None:
        """Nothing to close."""

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("the store is switched off")
