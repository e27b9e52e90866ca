"""A log with all that occurs, run through score and demand with crashes, and what may be done to its topics."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from zlib import crc32

import msgspec
import pytest

from schemas.internal import Example, ExampleBatch, decode_examples, encode_examples
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.logs import FACTS, RecordedTopics
from streams.records import ACTIVITY, CATALOG, CLICKSTREAM, EXAMPLES, ORDERS, PLAN, REDRIVE_HEADER, Input, Record
from streams.settings import RuntimeSettings, ScoreSettings, Settings, ShopSettings, TimeSettings
from streams.topologies.score import ScoreStage
from tests.real.shop import START_MS, ClosedLog, closed_log

SETTINGS = Settings(score=ScoreSettings(product_staleness_ms=0), runtime=RuntimeSettings(batch_max_events=50))
PARTITIONS = 2
DAY_MS = 86_400_000


def settings(stretch: int = 1, shop: ShopSettings | None = None) -> Settings:
    """Return the settings of a log stretched so much."""
    lateness = TimeSettings(allowed_lateness_s=600 * stretch)
    return SETTINGS.model_copy(update={"time": lateness, "shop": shop or ShopSettings()})


def stretched(log: ClosedLog, by: int) -> ClosedLog:
    """Return the log with all times `by` times as far from its start."""

    def of(match: re.Match[bytes]) -> bytes:
        return b'"time": %d' % (START_MS + (int(match[1]) - START_MS) * by)

    messages = [replace(one, value=re.sub(rb'"time": (\d{13})', of, one.value)) for one in log.messages]
    return ClosedLog(messages, START_MS + (log.end - START_MS) * by)


def fact(chance: random.Random, number: int, time: int) -> tuple[str, bytes]:
    """Return the topic and the value of an entry of catalog or plan, valid from `time` (UTC ms), some of them torn."""
    product = f"p{chance.randrange(15)}"
    # A few ids come again, and say something else.
    entry = {"event_id": f"f{chance.randrange(10 + number)}", "time": time}
    if chance.random() < 0.5:
        topic = CATALOG
        entry |= {"product_id": product, "unit_price": chance.choice((None, 0, 700, 900))}
        entry |= {"stock": chance.choice((None, 0, 3, 5_000))}
    else:
        topic = PLAN
        entry |= {"product_id": chance.choice((None, product, product)), "unit_price": chance.choice((None, 600))}
        entry |= {"covariates": chance.choice(({}, {"promotion": 0.0}, {"promotion": 1.0}, {"else": 2.0}))}
    value = json.dumps(entry).encode()
    return topic, value if chance.random() < 0.9 else value[: chance.randrange(len(value))]


def abroad(value: bytes) -> bytes:
    """Return an event, or a part of one, in one of four currencies or in none."""
    code = (b"", b'"currency": "EUR", ', *(b'"currency": "%s", ' % code for code in (b"JPY", b"KWD", b"USD")))
    return value.replace(b', "currency": "EUR"', b"").replace(b'"time": ', code[crc32(value) % 5] + b'"time": ')


def run_log(
    seed: int = 7,
    *,
    clicks: int = 1_500,
    end: bool = True,
    stretch: int = 1,
    late_facts: bool = False,
    shop: ShopSettings | None = None,
) -> TopologyDriver:
    """Return a driver that has worked through a closed log, crashing now and then, its store wiped once.

    The log is of twelve days, `stretch` times longer where asked for. Catalog and plan say what they have to say before
    it is valid, and with `late_facts` some of it after that. A `shop` has all of it in many currencies.
    """
    log = stretched(closed_log(clicks=clicks, seed=seed, users=60, products=15), stretch)
    said = abroad if shop is not None else bytes
    chance = random.Random(seed)
    stages = [ScoreStage, quiet_demand_stage]
    driver = TopologyDriver(settings(stretch, shop), stages, partitions=PARTITIONS, now_ms=log.end)
    sent: list[Record] = []
    clock = START_MS
    for number, message in enumerate(log.messages):
        clock = max([clock, *(int(found) for found in re.findall(rb'"time": (\d{13})', message.value))])
        if chance.random() < 0.1:
            late = late_facts and chance.random() < 0.5
            topic, value = fact(chance, number, clock + chance.choice((-DAY_MS, -1) if late else (1, 60_000, DAY_MS)))
            driver.pipe(topic, None, said(value))
        key = message.key.encode() if message.key else None
        sent.append(driver.pipe(message.topic, key, said(message.value)))
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
    return RecordedTopics.of(run_log(late_facts=True))


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
        for topic in (CLICKSTREAM, ORDERS, ACTIVITY, *FACTS):
            records[Input(topic, partition)] = list(topics.read(Input(topic, partition)))
        records[Input(EXAMPLES, partition)] = [rewritten(one) for one in topics.read(Input(EXAMPLES, partition))]
    scored = {i: found for i in records if (found := topics.scored(i)) is not None}
    return RecordedTopics(records, scored)
