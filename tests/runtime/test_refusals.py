"""Laws of the accounts: whatever the door refuses is counted by reason and source, and every way of asking agrees."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from schemas.outputs import decode_dead_letter
from streams.cli.status import _notes
from streams.control.page import _workers
from streams.deadletters import REASONS
from streams.driver import TopologyDriver
from streams.runtime.refusals import DUPLICATE, in_words, refusals, tallies_of, total, without_refusals
from streams.settings import KafkaSettings, Settings
from streams.telemetry import Telemetry
from streams.topologies.demand import DemandStage
from streams.topologies.score import ScoreStage

T0 = 1_700_000_000_000
HOUR = 3_600_000
SETTINGS = Settings(kafka=KafkaSettings(max_message_bytes=10_000))
WANTED = {
    "clickstream": {"duplicate": 2, "future": 1, "invalid": 1, "late": 3, "oversized": 1, "undecodable": 2},
    "orders": {"duplicate": 1, "future": 2, "invalid": 2, "late": 1, "oversized": 1, "undecodable": 1},
}


@pytest.fixture(scope="module")
def shop() -> TopologyDriver:
    """Good events of both inputs, and of each thing that is refused as many as WANTED says."""
    driver = TopologyDriver(SETTINGS, [ScoreStage, DemandStage], partitions=2, now_ms=T0 + HOUR)
    for topic in WANTED:
        _pipe(driver, topic, "good-0", T0)
        _pipe(driver, topic, "good-1", T0 + HOUR)
    driver.mark_time(T0 + HOUR)
    driver.run()
    for topic, wanted in WANTED.items():
        for i in range(wanted["duplicate"]):
            _pipe(driver, topic, "good-1", T0 + HOUR + i)
        for i in range(wanted["late"]):
            _pipe(driver, topic, f"late-{i}", T0 + i)
        for i in range(wanted["future"]):
            _pipe(driver, topic, f"future-{i}", T0 + 5 * HOUR)
        for _ in range(wanted["invalid"]):
            _raw(driver, topic, b"{}")
        for _ in range(wanted["undecodable"]):
            _raw(driver, topic, b"\xff")
        for _ in range(wanted["oversized"]):
            _raw(driver, topic, b" " * 10_001)
    driver.pipe("tidecast.activity", b"0", b"\xc1", partition=1)
    driver.mark_time(T0 + HOUR + 1)
    driver.run()
    return driver


def _pipe(driver: TopologyDriver, topic: str, event_id: str, time: int) -> None:
    event: dict[str, Any] = {"event_id": f"{topic}-{event_id}", "time": time, "user_id": "u1"}
    if topic == "clickstream":
        event |= {"type": "view", "product_id": "p1"}
    else:
        event |= {"order_id": event_id, "status": "placed", "lines": [{"product_id": "p1"}]}
    _raw(driver, topic, json.dumps(event).encode())


def _raw(driver: TopologyDriver, topic: str, value: bytes) -> None:
    driver.pipe(topic, b"u1", value, partition=0)


def test_refusals_are_counted_by_reason_and_source(shop: TopologyDriver) -> None:
    """Each reason of each input is counted apart, behind the door too; the sums are the tallies of the reasons."""
    counts = shop.counts("score")
    assert refusals(counts) == WANTED
    assert refusals(shop.counts("demand")) == {"tidecast.activity": {"undecodable": 1}}
    for reason in (*REASONS, DUPLICATE):
        of_all, _ = tallies_of("", reason)
        assert counts[of_all] == sum(wanted[reason] for wanted in WANTED.values())


def test_the_tallies_are_the_dead_letters(shop: TopologyDriver) -> None:
    """Of each topic and reason there are as many dead letters as are counted, and none of what was repeated."""
    letters = [decode_dead_letter(record.value or b"") for record in shop.output("tidecast.deadletters")]
    found = Counter((letter.topic, letter.reason) for letter in letters)
    counted = refusals(total([shop.counts("score"), shop.counts("demand")]))
    assert found == {
        (topic, reason): count
        for topic, reasons in counted.items()
        for reason, count in reasons.items()
        if reason != DUPLICATE
    }


def test_a_crash_changes_no_tally() -> None:
    """What is rebuilt from checkpoint and log was counted once."""
    driver = TopologyDriver(SETTINGS, [ScoreStage], now_ms=T0 + HOUR)
    for turn, event_id in enumerate("bc"):
        for one in ("a", "a", event_id):
            _pipe(driver, "clickstream", one, T0)
        _raw(driver, "orders", b"{}")
        driver.mark_time(T0 + 1 + turn)
        driver.run(checkpoint=turn == 0)
    before = driver.counts("score")
    driver.crash("score")
    driver.run()
    assert driver.counts("score") == before
    assert refusals(before) == {"clickstream": {"duplicate": 3}, "orders": {"invalid": 2}}


def test_prometheus_has_reason_and_topic(shop: TopologyDriver) -> None:
    """The metric has one sample for each task, topic and reason; they add up to what is counted."""
    telemetry = Telemetry("score")
    for task in shop.tasks("score"):
        telemetry.tell_counts(task.name, task.counts)
    body = telemetry.answer("/metrics")[2].decode()
    [family] = [one for one in text_string_to_metric_families(body) if one.name == "tidecast_refused"]
    found: dict[str, dict[str, int]] = {}
    for sample in family.samples:
        assert set(sample.labels) == {"task", "topic", "reason"}
        reasons = found.setdefault(sample.labels["topic"], {})
        reasons[sample.labels["reason"]] = reasons.get(sample.labels["reason"], 0) + int(sample.value)
    assert found == WANTED


def test_a_worker_shows_its_own_tasks_only(shop: TopologyDriver) -> None:
    """A task that went to another worker is not told twice: all that bears its name goes, and nothing else."""
    telemetry, alone = Telemetry("score"), Telemetry("score")
    first, second = shop.tasks("score")
    for where, tasks in ((telemetry, (first, second)), (alone, (second,))):
        for task in tasks:
            where.tell_counts(task.name, task.counts)
            where.watermark.labels(task.name).set(1)
            where.dirty.labels(task.name).set(1)
    telemetry.keep([second.name])
    assert _of_tasks(telemetry) == _of_tasks(alone) != []
    telemetry.keep(())
    assert _of_tasks(telemetry) == []


def _of_tasks(telemetry: Telemetry) -> list[str]:
    return [line for line in telemetry.answer("/metrics")[2].decode().splitlines() if 'task="' in line]


def test_status_and_web_view_tell_them_in_words(shop: TopologyDriver) -> None:
    """`tidecast status` and the web view say each topic's reasons, and the other tallies beside them, once."""
    status = {"ready": True, "at": T0, "tasks": {task.name: {"counts": task.counts} for task in shop.tasks("score")}}
    others, refused = _notes(status)
    assert refused == (
        "refused clickstream: duplicate 2, future 1, invalid 1, late 3, oversized 1, undecodable 2; "
        "orders: duplicate 1, future 2, invalid 2, late 1, oversized 1, undecodable 1"
    )
    assert "clicks_predicted 2" in others
    assert not any(word in others for word in ("rejected", "duplicates"))
    assert refused.removeprefix("refused ") in _workers({"score/a": status})


@given(st.dictionaries(st.text(max_size=30), st.integers(0, 9)), st.sampled_from((*REASONS, DUPLICATE)))
def test_every_tally_is_told_once(counts: dict[str, int], reason: str) -> None:
    """What refusals do not tell is left beside them, whatever the names; of a topic's name nothing is lost."""
    topic = "tide_cast.a-b"
    of_all, of_topic = tallies_of(topic, reason)
    counted = total([counts, {of_all: 4, of_topic: 4}])
    assert refusals(counted)[topic][reason] >= 4
    told = {tallies_of(one, why)[1] for one, reasons in refusals(counted).items() for why in reasons}
    left = without_refusals(counted)
    assert told.isdisjoint(left)
    assert of_all not in left
    assert in_words(counted)
