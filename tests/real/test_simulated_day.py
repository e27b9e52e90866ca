"""A simulated day with all its faults on Apache Kafka: what was served is what the log says, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from schemas.codec import Click, decode_marker
from schemas.outputs import PurchasePrediction, decode_dead_letter, decode_prediction
from streams.logs import KafkaTopics
from streams.records import CLICKSTREAM, DEADLETTERS, MARKER_HEADER, ORDERS, PREDICTIONS, Input
from streams.simulator import FaultRates, ShopConfig
from streams.simulator import Shop as Simulated
from streams.simulator.faults import Sent
from streams.simulator.sending import SimulateOptions, send_shop
from streams.topics import create
from streams.topologies.layout import user_partition
from streams.verification.door import Applied, Refused, judged
from streams.verification.features import verify_features
from tests.real.harness import Role, Shop, wait_until

pytestmark = [pytest.mark.realbroker, pytest.mark.timeout(600)]

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
ORACLE = 1_000
"""About so many vectors are recomputed by brute force, which takes some 20 ms each."""
TASKS = {"score": 2, "demand": 2}
Place = tuple[str, int, int]
"""Topic, partition, offset."""


def simulated(skew_ms: int) -> Simulated:
    """Return the last whole day of a shop; of its events 5% are late, a fifth of those more than is allowed."""
    rates = FaultRates(
        duplicates=0.01, late=0.04, too_late=0.01, corrupt=0.001, disordered=0.05, skewed_users=0.02, skew_ms=skew_ms
    )
    end = int(time.time() * 1_000) // DAY_MS * DAY_MS
    return Simulated(ShopConfig(end_ms=end, days=1, users=800, products=40, sessions_per_user_day=2, faults=rates))


@pytest.mark.parametrize("skew_ms", [3 * DAY_MS, -6 * HOUR_MS], ids=["a clock ahead", "a clock behind"])
def test_every_event_is_accounted_for_and_every_vector_is_right(shop: Shop, skew_ms: int) -> None:
    """Through kill -9 of both stages and a rebalance: 0 differ, are missing or extra; sent = applied + refused.

    What is refused, and why, is what the rule says that is told anew, and what the simulator meant to be refused.
    """
    day = simulated(skew_ms)
    create(shop.settings())
    told = send_shop(day, shop.settings(), SimulateOptions())
    _work(shop, told["last_time"] + 1)
    sent = _logged(shop, day)
    verdicts = dict(_verdicts(shop))
    assert set(sent) == set(verdicts)
    _check_accounts(shop, sent, verdicts)
    _check_plan(day, sent, verdicts)
    found = verify_features(KafkaTopics(shop.settings()), shop.settings())
    assert found.clean, found
    assert found.compared == found.accepted == found.examples == len(_predicted(verdicts)) > 5_000
    found = verify_features(KafkaTopics(shop.settings()), shop.settings(), by="oracle", sample=ORACLE)
    assert found.clean, found
    assert found.examples == found.accepted
    assert found.compared > ORACLE // 2


def _work(shop: Shop, end: int) -> None:
    """Let the stages work the log off; each is killed, and one gets a second worker that is killed too."""
    total = sum(len(shop.read(topic)) for topic in (CLICKSTREAM, ORDERS))
    demand = shop.start("demand", hook="after_commit:10")
    assert shop.start("score", hook="after_commit:20").process.wait(90) == -9, shop.log("score")
    first = shop.start("score", worker="worker-0")
    wait_until(lambda: _applied([first]) > total // 4, "under way", tell=lambda: shop.log("score"))
    os.kill(first.process.pid, signal.SIGSTOP)
    second = shop.start("score", worker="worker-1")
    os.kill(first.process.pid, signal.SIGCONT)
    both = [first, second]
    wait_until(
        lambda: [len(role.watermarks()) for role in both] == [1, 1], "a task each", tell=lambda: shop.log("score")
    )
    os.kill(second.process.pid, signal.SIGKILL)
    assert second.process.wait(10) == -9
    assert _applied(both) < total, "all was applied before the second worker left"
    assert demand.process.wait(90) == -9, shop.log("demand")
    shop.finish([first, shop.start("demand")], end, TASKS)


def _applied(roles: list[Role]) -> int:
    tasks = [task for role in roles for task in (role.status() or {"tasks": {}})["tasks"].values()]
    return sum(offset for task in tasks for offset in task["offsets"].values())


@dataclass(frozen=True, slots=True)
class Logged:
    """A record as it was sent, and how far (ms) its partition had come beyond its stamp; below 0: not so far."""

    sent: Sent
    behind: int


def _logged(shop: Shop, day: Simulated) -> dict[Place, Logged]:
    """Return what was sent of clicks and orders by its place: where its user's key leads, one behind the other."""
    queues: dict[Input, list[Sent]] = defaultdict(list)
    for one in day.events():
        if one.topic in (CLICKSTREAM, ORDERS):
            queues[Input(one.topic, user_partition((one.key or b"").decode(), shop.partitions))].append(one)
    found: dict[Place, Logged] = {}
    skew_ms, max_ahead_ms = day.config.faults.skew_ms, shop.settings().time.max_ahead_s * 1_000
    for topic in (CLICKSTREAM, ORDERS):
        numbers: Counter[Input] = Counter()
        reached: Counter[Input] = Counter()
        for record in shop.read(topic):
            input_ = record.input
            if MARKER_HEADER in dict(record.headers):
                reached[input_] = max(reached[input_], decode_marker(record.value or b"").time)
                continue
            one = queues[input_][numbers[input_]]
            numbers[input_] += 1
            assert one.value == record.value
            stamp = one.time_ms + (skew_ms if "skewed" in one.faults else 0)
            found[topic, input_.partition, record.offset] = Logged(one, reached[input_] - stamp)
            if "corrupt" not in one.faults and stamp <= record.appended_at + max_ahead_ms:
                reached[input_] = max(reached[input_], stamp)
    assert len(found) == sum(map(len, queues.values()))
    return found


def _verdicts(shop: Shop) -> Iterator[tuple[Place, Applied | str]]:
    """Judge all records of clicks and orders again, by the plain rule: what was applied, or why it was not."""
    topics = KafkaTopics(shop.settings())
    for partition in range(shop.partitions):
        inputs = [Input(topic, partition) for topic in (CLICKSTREAM, ORDERS)]
        for one in judged(*(topics.read(input_) for input_ in inputs), shop.settings(), closed=True):
            if isinstance(one, Refused):
                yield (one.record.input.topic, partition, one.record.offset), one.reason
            else:
                yield (CLICKSTREAM if isinstance(one.item, Click) else ORDERS, partition, one.offset), one


def _predicted(verdicts: dict[Place, Applied | str]) -> set[str]:
    """Return the ids of the predictions that the accepted clicks of known users get."""
    return {
        f"{CLICKSTREAM}-{partition}-{offset}-purchase"
        for (topic, partition, offset), verdict in verdicts.items()
        if topic == CLICKSTREAM and isinstance(verdict, Applied) and verdict.item.user_id is not None
    }


def _check_accounts(shop: Shop, sent: dict[Place, Logged], verdicts: dict[Place, Applied | str]) -> None:
    """Check topics and tallies against the rule: each event is in one of them, and together they are those sent."""
    said = [decode_prediction(record.value or b"") for record in shop.read(PREDICTIONS)]
    purchases = Counter(one.id for one in said if isinstance(one, PurchasePrediction))
    assert purchases == Counter(_predicted(verdicts))
    letters = [decode_dead_letter(record.value or b"") for record in shop.read(DEADLETTERS)]
    reasons = {place: verdict for place, verdict in verdicts.items() if isinstance(verdict, str)}
    refused = {(one.topic, one.partition, one.offset): one.reason for one in letters}
    assert len(letters) == len(refused)
    assert refused == {place: reason for place, reason in reasons.items() if reason != "duplicate"}
    counts = shop.counts("score")
    whys = Counter(reasons.values())
    assert counts["duplicates"] == whys["duplicate"] > 0
    for reason in ("late", "future", "undecodable", "invalid"):
        assert counts[f"rejected_{reason}"] == whys[reason], reason
    applied = purchases.total() + counts["clicks_without_user"] + counts["orders_applied"]
    assert len(sent) == applied + counts["duplicates"] + len(letters)


def _check_plan(day: Simulated, sent: dict[Place, Logged], verdicts: dict[Place, Applied | str]) -> None:
    """Check that what was planned to be refused was refused for that reason, and all else accepted, late or not."""
    first = [one.sent for one in sent.values() if "duplicate" not in one.sent.faults]
    planned = Counter(name for one in first for name in one.faults) + Counter(duplicate=len(sent) - len(first))
    assert planned == day.faults
    found: Counter[tuple[str, str]] = Counter()
    lateness = day.config.faults.allowed_lateness_s * 1_000
    for place, one in sent.items():
        verdict, faults = verdicts[place], one.sent.faults
        if "corrupt" in faults:
            assert verdict in ("undecodable", "invalid")
        elif "skewed" in faults and day.config.faults.skew_ms > 0:
            assert verdict == "future"
        elif one.behind > lateness:
            # Nothing that its input still waited for could come so late.
            assert verdict == "late"
            assert {"too_late", "skewed", "duplicate"} & set(faults), (place, one)
        elif "duplicate" in faults:
            assert verdict == "duplicate"
        else:
            assert isinstance(verdict, Applied), (place, one, verdict)
        found.update((name, verdict if isinstance(verdict, str) else "applied") for name in faults)
    # An input that is far apart in itself, or at its end, has not come so far yet that what it brings were too late.
    assert found["too_late", "late"] > 0.7 * planned["too_late"] > 20
    assert found["late", "applied"] > 0.9 * planned["late"] > 200
    assert found["skewed", "applied"] < 0.05 * planned["skewed"]
    print(f"{len(sent)} sent; planned {dict(planned)}; found {dict(found)}")
