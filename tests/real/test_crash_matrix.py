"""The crash matrix on Apache Kafka: also what only it can show, fencing and rebalances."""

from __future__ import annotations

import os
import signal

import pytest

from tests.real.harness import Shop, wait_until
from tests.real.matrix import PARTITIONS, TASKS, CrashMatrix, caught_in_flight, verify
from tests.real.shop import ClosedLog
from tests.real.verify import Evidence

pytestmark = [pytest.mark.realbroker, pytest.mark.timeout(600)]


class TestOnKafka(CrashMatrix):
    """All of it, with fencing and rebalances."""

    def test_a_second_worker_joins_and_leaves(self, shop: Shop, log: ClosedLog, undisturbed: Evidence) -> None:
        """Tasks move to a second worker under load and back again, and nothing is lost, doubled or reordered."""
        first = shop.start("score", worker="worker-0")
        caught_in_flight(shop, first)
        second = shop.start("score", worker="worker-1")
        os.kill(first.process.pid, signal.SIGCONT)
        wait_until(
            lambda: len(first.watermarks()) == 1 and len(second.watermarks()) == 1,
            "one task each",
            tell=lambda: shop.log("score"),
        )
        assert second.stop() == 0
        shop.finish([first], log.end, {"score": PARTITIONS})
        shop.finish([shop.start("demand"), shop.start("learn")], log.end, TASKS)
        verify(shop, undisturbed)

    def test_a_zombie_that_wakes_after_its_tasks_moved(self, shop: Shop, log: ClosedLog, undisturbed: Evidence) -> None:
        """A worker that slept through its session is fenced when it wakes, whatever it was about to commit."""
        zombie = shop.start("score", worker="worker-0")
        caught_in_flight(shop, zombie)
        heir = shop.start("score", worker="worker-1")
        wait_until(
            lambda: heir.watermarks() == [log.end] * PARTITIONS, "the heir at the end", tell=lambda: shop.log("score")
        )
        os.kill(zombie.process.pid, signal.SIGCONT)
        # As it wakes it still believes in both tasks, and says it is ready.
        wait_until(
            lambda: zombie.process.poll() is not None or len(zombie.watermarks()) == 1,
            "the zombie ended, or with one task again",
            tell=lambda: shop.log("score"),
        )
        assert zombie.process.poll() in (None, 5)
        assert heir.stop() == 0
        if zombie.process.poll() is None:
            assert zombie.stop() == 0
        shop.finish([shop.start("demand"), shop.start("learn")], log.end, TASKS)
        verify(shop, undisturbed)
