"""What a worker hears of the time in partitions that others own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from confluent_kafka import Producer

from streams.embedded import EmbeddedServers
from streams.kafka import producer_config
from streams.records import CLICKSTREAM, Input
from streams.roles import wall_ms
from streams.runtime.neighbours import Neighbours
from streams.settings import KafkaSettings, Settings
from streams.topics import create
from streams.topologies.score import ScoreStage

INPUTS = [Input(CLICKSTREAM, 0)]


def test_time_elsewhere_is_told_an_idle_time_later_and_never_ahead_of_the_log(servers: EmbeddedServers) -> None:
    """What has only just come there says nothing yet, and an event that is stamped ahead only when it was appended."""
    settings = Settings(kafka=KafkaSettings(bootstrap_servers=servers.bootstrap, prefix="n1-", partitions=1))
    create(settings)
    producer = Producer(producer_config(settings))
    clock = [100.0]
    neighbours = Neighbours(ScoreStage(settings), settings, lambda: clock[0])

    def happened(at: int) -> None:
        click = {"event_id": f"{at}", "type": "view", "time": at, "user_id": "u", "product_id": "p"}
        producer.produce("n1-" + CLICKSTREAM, json.dumps(click), partition=0)
        assert producer.flush(30) == 0

    def look(until: Callable[[], bool]) -> None:
        limit = time.monotonic() + 30
        while not until():
            assert time.monotonic() < limit
            assert neighbours.latest(INPUTS) == told
            time.sleep(0.01)

    told: int | None = None
    happened(1_000)
    assert neighbours.latest(INPUTS) is None
    look(lambda: not neighbours.looking)
    clock[0] += settings.time.idle_ms / 1_000
    ahead = wall_ms() + settings.time.max_ahead_s * 1_000 - 60_000
    happened(ahead)
    told = 1_000
    assert neighbours.latest(INPUTS) == told
    look(lambda: not neighbours.looking)
    clock[0] += settings.time.idle_ms / 1_000
    now = neighbours.latest(INPUTS)
    assert now is not None
    assert told < now <= wall_ms() < ahead
    neighbours.close()
