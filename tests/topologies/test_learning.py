"""Laws of the learner's memory: a part of the log in it, the rest read again, and nothing of that shows."""

from __future__ import annotations

from random import Random

import pytest

from models.online import PurchaseLearner
from schemas.internal import ExampleBatch, decode_examples, encode_examples
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.errors import LogTruncated
from streams.records import EXAMPLES, Input, Record
from streams.runtime.task import Task
from streams.settings import LearnSettings, ScoreSettings, Settings
from streams.topologies.learn import LearnStage
from streams.topologies.score import ScoreStage
from tests.real.shop import ClosedLog, closed_log

HORIZON_S = 2 * 86_400
PARTITIONS = 2


CHOSEN = Settings(score=ScoreSettings(horizon_s=HORIZON_S), learn=LearnSettings(max_pending=100, publish_every=50))


def feed(driver: TopologyDriver, log: ClosedLog, start: int, end: int, crashes: float = 0.0) -> None:
    """Send some of the messages; between two bunches of them the learner may lose its memory."""
    random = Random(3)
    for number in range(start, min(end, len(log.messages)), 40):
        for message in log.messages[number : min(number + 40, end)]:
            driver.pipe(message.topic, (message.key or "").encode(), message.value, appended_at=log.end)
        driver.run(checkpoint=random.random() < 0.5)
        if random.random() < crashes:
            driver.crash("learn")


def opened(log: ClosedLog, *, retain: bool = True) -> TopologyDriver:
    stages = [ScoreStage, quiet_demand_stage, LearnStage]
    now_ms = log.end + 3 * HORIZON_S * 1_000
    return TopologyDriver(CHOSEN, stages, partitions=PARTITIONS, now_ms=now_ms, retain=retain)


def run(log: ClosedLog, *, crashes: float = 0.0, retain: bool = True) -> TopologyDriver:
    """Run the shop to its end, and until all is known."""
    driver = opened(log, retain=retain)
    feed(driver, log, 0, len(log.messages), crashes)
    driver.mark_time(driver.now_ms, end=True)
    driver.run()
    return driver


def stored(driver: TopologyDriver) -> bytes:
    """Return the learner's row."""
    [task] = driver.tasks("learn")
    [row] = driver.store.read(task.name, ["model"])[1]
    assert row is not None
    return row


def made_of(driver: TopologyDriver) -> tuple[bytes, int]:
    """Return the state of a new learner after the whole examples log, and how many examples it let go of at most."""
    stage = driver.stage("learn")
    assert isinstance(stage, LearnStage)
    learner = PurchaseLearner(
        stage.feature_names,
        stage.schema_hash,
        horizon_ms=HORIZON_S * 1_000,
        lateness_ms=stage.settings.time.allowed_lateness_s * 1_000,
        publish_every=50,
        max_pending=100,
    )
    batches: list[tuple[int, int, ExampleBatch]] = [
        (r.input.partition, r.offset, decode_examples(r.value or b"")) for r in driver.output(EXAMPLES)
    ]
    most = 0
    for batch in batches:
        learner.feed(*batch)
        while (wanted := learner.clock.wanted) is not None:
            most = max(most, learner.clock.evicted)
            learner.clock.recall(*next(one for one in batches if one[0] == wanted[0] and one[1] >= wanted[1]))
            learner.learn(learner.clock.release())
    return learner.state(), most


@pytest.fixture(scope="module")
def log() -> ClosedLog:
    return closed_log(clicks=1_500)


@pytest.mark.parametrize("crashes", [0.0, 0.2])
def test_what_is_read_again_is_learnt_alike(log: ClosedLog, crashes: float) -> None:
    """A learner that keeps a part of the pending examples, crashes and reads again, is what its log makes of one."""
    driver = run(log, crashes=crashes)
    state, most = made_of(driver)
    assert most > 50
    assert stored(driver) == state


def test_a_log_that_is_forgotten_is_kept_as_far_as_it_is_needed(log: ClosedLog) -> None:
    """Where passed records are dropped, those that the learner will read again are not."""
    assert stored(run(log, retain=False)) == stored(run(log))


def test_what_rebuilds_holds_nothing_back(log: ClosedLog) -> None:
    """A task may take no more than up to its bounds: holding an input back for another could be for ever."""
    stage = LearnStage(CHOSEN)
    inputs = [Input(EXAMPLES, number) for number in range(PARTITIONS)]
    task = Task(stage, 0, inputs, PARTITIONS, CHOSEN.time)
    task.start(dict.fromkeys(inputs, 0), dict.fromkeys(inputs, 10**6), 1)
    driver = run(log)
    quiet = ExampleBatch(1, PARTITIONS, 0, stage.schema_hash, [], [])
    task.feed([Record(inputs[1], 0, None, encode_examples(quiet), log.end)])
    for record in driver.log.read(inputs[0], 0):
        task.feed([record])
    while (batch := task.take(100)) is not None:
        task.step(batch, 0)
    assert stage.open(0, PARTITIONS).fullness(inputs[0]) == 0
    assert task.recovering
    assert task.state.fullness(inputs[0]) > 1
    assert task.fullness(inputs[0], 10) == 0


def test_a_log_that_was_cut_too_early_is_named(log: ClosedLog) -> None:
    """The examples topic keeps less than a horizon: the worker ends with the repair, and guesses no label."""
    driver = opened(log)
    feed(driver, log, 0, 900)
    for input_ in driver.tasks("learn")[0].inputs:
        driver.log.forget(input_, driver.log.bounds(input_)[1] - 1)
    with pytest.raises(LogTruncated, match=r"retention\.ms"):
        feed(driver, log, 900, len(log.messages))


def test_what_is_refused_counts_once_however_often_it_is_read(log: ClosedLog) -> None:
    """Records that a restart reads again to rebuild what is pending are in the tallies already, crash after crash."""
    driver = opened(log)
    half = len(log.messages) // 2
    feed(driver, log, 0, half)
    driver.pipe("tidecast.examples", b"0", b"no batch", partition=0, appended_at=log.end)
    driver.run()
    [task] = driver.tasks("learn")
    refused = next(name for name in task.counts if name.startswith("rejected"))
    positions, again = task.offsets(), dict(task.state.floor() or {})
    assert any(again[input_] < offset - 1 for input_, offset in positions.items())
    driver.crash("learn")
    [task] = driver.tasks("learn")
    for input_ in task.inputs:
        for record in driver.log.read(input_, task.offsets()[input_]):
            task.feed([record])
    batch = task.take(5)
    assert batch is not None
    task.step(batch, 0)
    assert task.recovering
    driver.checkpoint("learn")
    driver.crash("learn")
    driver.run()
    assert driver.counts("learn")[refused] == 1
