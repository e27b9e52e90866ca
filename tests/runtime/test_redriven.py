"""Laws of redriven records: late as they are they count, each id once."""

from __future__ import annotations

import json

from streams.driver import TopologyDriver
from streams.records import REDRIVE_HEADER
from streams.settings import Settings
from streams.topologies.score import ScoreStage

NOW = 1_700_000_000_000
HOUR_MS = 3_600_000


def test_a_redriven_id_counts_once() -> None:
    """Two letters of one late event change the counts once, also over a restart; they predict nothing."""
    driver = TopologyDriver(Settings(), [ScoreStage])

    def click(event_id: str, time: int, *, redriven: bool = False) -> None:
        value = {"event_id": event_id, "type": "view", "time": time, "user_id": "u", "product_id": "p"}
        headers = ((REDRIVE_HEADER, b"letter"),) if redriven else ()
        driver.pipe("clickstream", b"u", json.dumps(value).encode(), partition=0, headers=headers)
        driver.mark_time(NOW + 2 * HOUR_MS, topics=("orders",))
        driver.run()

    def counted() -> tuple[int, int]:
        counts = driver.counts("score")
        return counts.get("clicks_redriven", 0), counts.get("duplicates", 0)

    driver.now_ms = NOW + 2 * HOUR_MS
    click("first", NOW)
    click("now", NOW + 2 * HOUR_MS)
    click("late", NOW + 5)
    assert len(driver.output("tidecast.deadletters")) == 1
    click("late", NOW + 5, redriven=True)
    assert counted() == (1, 0)
    click("late", NOW + 5, redriven=True)
    driver.crash("score")
    click("late", NOW + 5, redriven=True)
    assert counted() == (1, 2)
    assert len(driver.output("predictions")) == 2
