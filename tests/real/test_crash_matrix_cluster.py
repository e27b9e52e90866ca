"""The crash matrix on a Redis Cluster of three masters with replicas, and a master that fails over."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest

from streams.errors import CheckpointConflict, StoreUnavailable
from streams.runtime import hooks
from streams.runtime.checkpoint import Checkpoint, decode_header
from streams.runtime.task import store_name
from streams.settings import Settings
from streams.store import RedisStore
from streams.topologies.score import ScoreStage
from tests.real.cluster import RedisCluster
from tests.real.harness import Shop, wait_until
from tests.real.matrix import PARTITIONS, TASKS, CrashMatrix, verify
from tests.real.shop import ClosedLog
from tests.real.verify import Evidence

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


class TestOnCluster(CrashMatrix):
    """All of it; what a cluster adds is the loss of writes that it had acknowledged."""

    overrides: ClassVar[Mapping[str, str]] = {"TIDECAST_REDIS__CLUSTER": "true"}

    @pytest.fixture(scope="class")
    @classmethod
    def redis_server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
        cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
        try:
            yield cluster.start()
        finally:
            cluster.stop()

    def test_a_write_is_never_sent_again_unwatched(
        self, redis_server: RedisCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its connection breaks as another owner writes: on a new one nothing is watched, and all would be taken."""
        settings = Settings(redis={"url": redis_server.url, "cluster": True, "prefix": "unwatched"})
        store, client = RedisStore.connect(settings), redis_server.client()
        header, row = "unwatched:{t}:h", "unwatched:{t}:u:b"
        store.checkpoint("t", Checkpoint(None, b"first", {"u:a": b"1", "u:b": b"1"}, {}, {}))

        def interfere(point: str) -> None:
            if point == "mid_checkpoint":
                monkeypatch.undo()
                client.set(row, b"of another owner")
                client.set(header, b"of another owner")
                for node in redis_server.nodes:
                    node.client().client_kill_filter(_type="normal")

        monkeypatch.setattr(hooks, "reach", interfere)
        with pytest.raises((StoreUnavailable, CheckpointConflict)):
            store.checkpoint("t", Checkpoint(b"first", b"second", {"u:a": b"2"}, {}, {}))
        assert store.read("t", ["u:a", "u:b"]) == (b"of another owner", [b"1", b"of another owner"])

    def test_a_master_fails_over_and_loses_acknowledged_writes(
        self, shop: Shop, log: ClosedLog, undisturbed: Evidence, redis_server: RedisCluster
    ) -> None:
        """The worker meets an older checkpoint than the one it wrote, and takes nothing of it for the newest."""
        role = shop.start("score")
        wait_until(lambda: _checkpointed(shop) > 300, "a checkpoint in flight", tell=lambda: shop.log("score"))
        task = store_name(ScoreStage(shop.settings()), 0)
        lost: list[int] = []

        def go_on() -> None:
            before = _checkpointed(shop)
            wait_until(lambda: _checkpointed(shop) > before + 100, "checkpoints that will be lost", tell=role.status)
            os.kill(role.process.pid, signal.SIGSTOP)
            lost.append(_checkpointed(shop))

        redis_server.fail_over(f"{shop.prefix}:{{{task}}}:h", go_on)
        assert _checkpointed(shop) < lost[0]
        os.kill(role.process.pid, signal.SIGCONT)
        shop.finish([role], log.end, {"score": PARTITIONS})
        shop.finish([shop.start("demand"), shop.start("learn")], log.end, TASKS)
        verify(shop, undisturbed)


def _checkpointed(shop: Shop) -> int:
    """Return the offsets of the first task's stored checkpoint, added up."""
    header = shop.headers("score").get("0")
    return sum(offset for _, _, offset in decode_header(header).offsets) if header is not None else 0
