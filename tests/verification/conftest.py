"""A log with all that occurs, run through score and demand with crashes, and what may be done to its topics."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from schemas.internal import Example, ExampleBatch, decode_examples, encode_examples
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.logs import RecordedTopics
from streams.records import ACTIVITY, CLICKSTREAM, EXAMPLES, ORDERS, REDRIVE_HEADER, Input, Record
from streams.settings import RuntimeSettings, ScoreSettings, Settings, TimeSettings
from streams.topologies.score import ScoreStage
from tests.real.shop import START_MS, ClosedLog, closed_log

SETTINGS = Settings(score=ScoreSettings(product_staleness_ms=0), runtime=RuntimeSettings(batch_max_events=50))
PARTITIONS = 2


def settings(stretch: int = 1) -> Settings:
    """Return the settings of a log stretched so much."""
    lateness = TimeSettings(allowed_lateness_s=600 * stretch)
    return SETTINGS.model_copy(update={"time": lateness})


def stretched(log: ClosedLog, by: int) -> ClosedLog:
    """Return the log with all times `by` times as far from its start."""

    def of(match: re.Match[bytes]) -> bytes:
        return b'"time": %d' % (START_MS + (int(match[1]) - START_MS) * by)

    messages = [replace(one, value=re.sub(rb'"time": (\d{13})', of, one.value)) for one in log.messages]
    return ClosedLog(messages, START_MS + (log.end - START_MS) * by)


def run_log(seed: int = 7, *, clicks: int = 1_500, end: bool = True, stretch: int = 1) -> TopologyDriver:
    """Return a driver that has worked through a closed log, crashing now and then, its store wiped once.

    The log is of twelve days, `stretch` times longer where asked for.
    """
    log = stretched(closed_log(clicks=clicks, seed=seed, users=60, products=15), stretch)
    chance = random.Random(seed)
    driver = TopologyDriver(settings(stretch), [ScoreStage, quiet_demand_stage], partitions=PARTITIONS, now_ms=log.end)
    sent: list[Record] = []
    for number, message in enumerate(log.messages):
        key = message.key.encode() if message.key else None
        sent.append(driver.pipe(message.topic, key, message.value))
        if chance.random() < 0.01:
            again = chance.choice(sent[-200:])
            headers = ((REDRIVE_HEADER, b"letter"),)
            driver.pipe(again.input.topic, again.key, again.value, partition=again.input.partition, headers=headers)
        if number % 97 == 0:
            # Without a checkpoint now and then, so that there is something to rebuild.
            driver.run(checkpoint=chance.random() < 0.5)
        if chance.random() < 0.01:
            driver.crash(chance.choice(["score", "demand"]))
        if number == len(log.messages) // 2:
            driver.store.rows.clear()
            driver.store.periods.clear()
            driver.crash("score")
            driver.crash("demand")
    if end:
        driver.mark_time(log.end, end=True)
    driver.run()
    return driver


@pytest.fixture(scope="session")
def topics() -> RecordedTopics:
    """The topics after such a run."""
    return RecordedTopics.of(run_log())


Change = Callable[[list[Example]], list[Example]]


def changed(
    topics: RecordedTopics, change: Change, *, batch: Callable[[ExampleBatch], ExampleBatch] = lambda b: b
) -> RecordedTopics:
    """Return the topics with other examples: those of each message go through `change`, the message through `batch`."""

    def rewritten(record: Record) -> Record:
        told = decode_examples(record.value or b"")
        changed = encode_examples(batch(msgspec.structs.replace(told, examples=change(told.examples))))
        return msgspec.structs.replace(record, value=changed)

    records = {}
    for partition in range(topics.partitions):
        for topic in (CLICKSTREAM, ORDERS, ACTIVITY):
            records[Input(topic, partition)] = list(topics.read(Input(topic, partition)))
        records[Input(EXAMPLES, partition)] = [rewritten(one) for one in topics.read(Input(EXAMPLES, partition))]
    scored = {i: found for i in records if (found := topics.scored(i)) is not None}
    return RecordedTopics(records, scored)
