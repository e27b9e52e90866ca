"""The crash matrix: whatever is killed, flushed, stopped or moved, what is seen is as if nothing had happened.

Each run works on the same closed log under one pinned model. After it: the prediction ids equal those of an
undisturbed run, each once; every example equals the oracle at its own offsets and versions; every probability is the
named model's on that vector; the rows are equal; the learner is what its log makes of a new one.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from features.engine import ScoreFeatures
from models.linear import prior
from schemas.outputs import encode_announcement
from streams.runtime import hooks
from tests.real.harness import Role, Shop, wait_until
from tests.real.servers import KafkaServer, RedisServer
from tests.real.shop import ClosedLog, closed_log
from tests.real.verify import Evidence, same_rows

PARTITIONS = 2
TASKS = {"score": PARTITIONS, "demand": PARTITIONS, "learn": 1}
_PIN = "pinned:1"


def new_shop(
    kafka: KafkaServer,
    redis_server: RedisServer,
    prefix: str,
    logs: Path,
    log: ClosedLog,
    overrides: Mapping[str, str],
) -> Shop:
    # The learner's memory holds a part of what is pending only: the rest it reads from its log again.
    pinned = {
        "TIDECAST_SCORE__MODEL_PIN": _PIN,
        "TIDECAST_RUNTIME__BATCH_MAX_EVENTS": "100",
        "TIDECAST_SCORE__HORIZON_S": "172800",
        "TIDECAST_LEARN__MAX_PENDING": "100",
    }
    shop = Shop(kafka.bootstrap, redis_server.url, prefix, logs, PARTITIONS, {**pinned, **overrides})
    shop.preload(log)
    announce_pinned(shop)
    return shop


def announce_pinned(shop: Shop) -> None:
    """Announce the model that the matrix pins: of fixed, random weights."""
    features = ScoreFeatures()
    weights = np.random.default_rng(1).normal(0, 0.2, len(features.names))
    params = prior(features.names, features.schema_hash).to_params() | {
        "name": "pinned",
        "version": "1",
        "weights": weights.tolist(),
    }
    value = encode_announcement(
        model="purchase",
        role="champion",
        name="pinned",
        version="1",
        params=params,
        path=None,
        sha256=None,
        schema_hash=features.schema_hash,
        published_at=0,
        metrics={},
    )
    producer = shop.producer()
    producer.produce(shop.prefix + "tidecast.models", value, key=b"purchase/champion", partition=0)
    assert producer.flush(30) == 0


def verify(shop: Shop, undisturbed: Evidence) -> None:
    found = Evidence.gather(shop)
    ids = found.ids()
    assert len(ids) == len(set(ids))
    mine, theirs = found.said_of_products(), undisturbed.said_of_products()
    assert (mine - theirs, theirs - mine) == (Counter(), Counter())
    lost, invented = set(undisturbed.ids()) - set(ids), set(ids) - set(undisturbed.ids())
    told = f"lost {len(lost)}: {sorted(lost)[:5]}; invented {len(invented)}: {sorted(invented)[:5]}"
    assert lost | invented == set(), f"{told}; refused {found.refused()}, else {undisturbed.refused()}"
    assert found.said_of_demand() == undisturbed.said_of_demand()
    assert found.check_examples(shop.settings()) > 3_000
    assert found.check_examples(shop.settings(), by="oracle", sample=600) > 300
    assert found.check_probabilities() > 3_000
    same_rows(shop, undisturbed.shop)
    assert found.check_learner(shop.settings()) > 10


def caught_in_flight(shop: Shop, role: Role) -> None:
    """Stop a worker in the middle of the log: some of it committed, some not."""
    wait_until(lambda: _applied(role) > 300, "the worker under way", tell=lambda: shop.log(role.name))
    os.kill(role.process.pid, signal.SIGSTOP)


def _applied(role: Role) -> int:
    status = role.status()
    tasks = status["tasks"].values() if status else []
    return sum(offset for task in tasks for offset in task["offsets"].values())


def _disturb_each(shop: Shop, log: ClosedLog, disturb: Callable[[], None]) -> None:
    for name in TASKS:
        role = shop.start(name)
        if name == "score":
            caught_in_flight(shop, role)
            disturb()
            os.kill(role.process.pid, signal.SIGCONT)
        shop.finish([role], log.end, {name: TASKS[name]})


def _flush(server: RedisServer) -> None:
    server.client().flushall()


def _dump(server: RedisServer, prefix: str) -> dict[bytes, bytes]:
    client = server.client()
    return {name: client.get(name) for name in client.scan_iter(match=f"{prefix}:*") if client.type(name) == b"string"}


def _restore(server: RedisServer, saved: dict[bytes, bytes]) -> None:
    client = server.client()
    for name, row in saved.items():
        client.set(name, row)


class CrashMatrix:
    """The tests that hold on any broker. `kafka` and `redis_server` come from the subclass or the folder."""

    overrides: ClassVar[Mapping[str, str]] = {}
    """Settings of this kind of servers."""

    @pytest.fixture(scope="class")
    @classmethod
    def log(cls) -> ClosedLog:
        return closed_log()

    @pytest.fixture(scope="class")
    @classmethod
    def undisturbed(
        cls, kafka: KafkaServer, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory, log: ClosedLog
    ) -> Evidence:
        """One run in peace; every example of it is checked against the oracle."""
        shop = new_shop(
            kafka, redis_server, f"calm-{os.getpid()}-", tmp_path_factory.mktemp("calm"), log, cls.overrides
        )
        try:
            shop.finish([shop.start(role) for role in TASKS], log.end, TASKS)
        finally:
            shop.kill_all()
        evidence = Evidence.gather(shop)
        assert evidence.check_examples(shop.settings(), by="oracle") > 3_000
        return evidence

    @pytest.fixture
    def shop(
        self, kafka: KafkaServer, redis_server: RedisServer, topic_prefix: str, tmp_path: Path, log: ClosedLog
    ) -> Iterator[Shop]:
        shop = new_shop(kafka, redis_server, topic_prefix, tmp_path, log, self.overrides)
        yield shop
        shop.kill_all()

    @pytest.mark.parametrize("point", hooks.POINTS)
    def test_killed_at_a_named_point(self, shop: Shop, log: ClosedLog, undisturbed: Evidence, point: str) -> None:
        """SIGKILL of every role at this point, then a new start, changes nothing."""
        hit = []
        for name in TASKS:
            if point == "after_model_swap" and name != "score":
                continue  # no other role serves a model here
            if point == "during_recovery":
                # Only where a commit has no checkpoint behind it yet is there something to rebuild.
                commits = 3 if name == "score" else 2  # the first commit is the claim's
                assert shop.start(name, hook=f"after_commit:{commits}").process.wait(90) == -9, shop.log(name)
                hit.append("after_commit")
            # The stages behind score have their whole input before them: often one batch, one commit, one checkpoint.
            count = 1 if name != "score" or point in ("after_model_swap", "during_recovery") else 2
            assert shop.start(name, hook=f"{point}:{count}").process.wait(90) == -9, shop.log(name)
            hit.append(point)
            # The next role's own work needs this one's output.
            shop.finish([shop.start(name)], log.end, {name: TASKS[name]})
        assert shop.hooks_hit() == hit
        rest = [name for name in TASKS if point == "after_model_swap" and name != "score"]
        shop.finish([shop.start(name) for name in rest], log.end, TASKS)
        verify(shop, undisturbed)

    def test_flushall_in_flight(
        self, shop: Shop, log: ClosedLog, undisturbed: Evidence, redis_server: RedisServer
    ) -> None:
        """A store that is wiped under a running worker is rebuilt from the log, and no known user is taken for new."""
        saved = _dump(redis_server, undisturbed.shop.prefix)
        _disturb_each(shop, log, lambda: _flush(redis_server))
        _restore(redis_server, saved)
        verify(shop, undisturbed)

    def test_redis_killed_and_restarted_empty(
        self, shop: Shop, log: ClosedLog, undisturbed: Evidence, redis_server: RedisServer
    ) -> None:
        """So is one that died and came back empty."""
        saved = _dump(redis_server, undisturbed.shop.prefix)

        def replace() -> None:
            redis_server.kill()
            redis_server.restart(empty=True)

        _disturb_each(shop, log, replace)
        _restore(redis_server, saved)
        verify(shop, undisturbed)

    def test_redis_away_for_a_minute(
        self, shop: Shop, log: ClosedLog, undisturbed: Evidence, redis_server: RedisServer
    ) -> None:
        """A worker without its store pauses, says so, stays in its group, and resumes by itself."""
        role = shop.start("score")
        caught_in_flight(shop, role)
        redis_server.pause()
        away_since = time.monotonic()
        os.kill(role.process.pid, signal.SIGCONT)
        wait_until(
            lambda: (role.ready()[1] or "").startswith("paused"),
            "saying that it pauses",
            tell=lambda: shop.log("score"),
        )
        wait_until(lambda: time.monotonic() - away_since > 60, "a minute", deadline_s=70)
        assert role.process.poll() is None
        redis_server.resume()
        shop.finish([role], log.end, {"score": PARTITIONS})
        shop.finish([shop.start("demand"), shop.start("learn")], log.end, TASKS)
        verify(shop, undisturbed)
