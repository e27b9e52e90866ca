"""Laws of a worker's round: what it steps while a transaction is under way, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from unittest.mock import Mock

import pytest
from confluent_kafka import TopicPartition

from streams.records import MARKER_HEADER, Input, Output, Record
from streams.runtime.pace import Pace
from streams.runtime.task import Task
from streams.runtime.transactions import Aborted
from streams.runtime.worker import _WORTH_A_STEP, Worker, _Dropped
from streams.settings import Settings
from streams.store import MemoryStore
from streams.telemetry import Telemetry
from tests.runtime.tally import TallyStage

CLICKS, ORDERS = Input("clickstream", 0), Input("orders", 0)
MANY = _WORTH_A_STEP


class Transactions:
    """In place of Kafka's: one is under way until it is told to end."""

    def __init__(self) -> None:
        self.begun: list[tuple[list[str], int]] = []
        """Of each the ids of its outputs, and the next click."""
        self.open = self.fails = False

    def begin(self, outputs: Sequence[Output], offsets: list[TopicPartition]) -> None:
        assert not self.open
        self.open = True
        read = {place.topic: place.offset for place in offsets}
        self.begun.append(([json.loads(output.value or b"")["id"] for output in outputs], read["clickstream"]))

    def under_way(self) -> bool:
        return self.open

    def finish(self) -> dict[str, int] | None:
        self.open = False
        if self.fails:
            raise Aborted("on request")
        return {}

    def close(self) -> None:
        self.open = False


class Scene:
    """A worker with one task, whose log and clients are played."""

    def __init__(self) -> None:
        settings = Settings(kafka={"bootstrap_servers": "127.0.0.1:1"})
        self.stage, self.store, self.transactions = TallyStage(settings), MemoryStore(), Transactions()
        self.worker = Worker(self.stage, settings, self.store, Telemetry("tally"), lambda: 10**12)
        self.worker._transactions = self.transactions  # type: ignore[assignment]
        self.task = Task(self.stage, 0, (CLICKS, ORDERS), 1, settings.time)
        self.task.start({CLICKS: 0, ORDERS: 0}, {CLICKS: 0, ORDERS: 0}, 1)
        self.worker._tasks, self.worker._rank_of = {0: self.task}, {CLICKS: self.task, ORDERS: self.task}
        self.worker._member = True
        self.sent = 0
        self.polls: list[Callable[[], None]] = []
        self.worker._poll = self._poll  # type: ignore[method-assign]
        marker = json.dumps({"time": 10**11, "source": "test"}).encode()
        self.task.feed([Record(ORDERS, 0, None, marker, 10**12, ((MARKER_HEADER, b"end"),))])

    def come(self, count: int = MANY, user: str = "u") -> None:
        """Let clicks arrive."""
        values = [
            {"event_id": f"{n}", "type": "view", "time": 10**9 + n, "user_id": user, "product_id": "p"}
            for n in range(self.sent, self.sent + count)
        ]
        records = [Record(CLICKS, self.sent + n, None, json.dumps(v).encode(), 10**12) for n, v in enumerate(values)]
        self.sent += count
        self.task.feed(records)

    def turn(self, *polls: Callable[[], None]) -> None:
        """Take what is there and step it; `polls` are what each further poll brings, after the last the end."""
        self.polls = list(polls)
        self.worker._round(self.worker._take(2_000))
        assert not self.polls

    def end(self) -> None:
        """Let the transaction under way end."""
        self.transactions.open = False

    def _poll(self, patience_s: float) -> None:
        self.polls.pop(0)()


def ids(start: int, stop: int) -> list[str]:
    return [f"clickstream-0-{offset}" for offset in range(start, stop)]


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A scene, its clients closed at the end."""
    played = Scene()
    yield played
    played.worker._consumer.close()
    played.worker._rereader.close()


def test_what_comes_meanwhile_goes_with_the_next_transaction(scene: Scene) -> None:
    """With the offsets of all of it; what comes when the one before has ended does not."""
    scene.come()
    scene.turn()
    scene.come(1)

    def last() -> None:
        scene.come()
        scene.end()

    scene.turn(scene.come, scene.come, last)
    assert scene.transactions.begun == [(ids(0, MANY), MANY), (ids(MANY, 4 * MANY + 1), 4 * MANY + 1)]


def test_a_round_ends_with_the_transaction_before_it(scene: Scene) -> None:
    """However much there is to take: outputs never wait for an idle Kafka."""
    for _ in range(3):
        scene.come()
        scene.turn(*[scene.end] if scene.transactions.open else [])
    assert [len(said) for said, _ in scene.transactions.begun] == [MANY] * 3


def test_a_few_wait_for_the_end(scene: Scene) -> None:
    """A step for every record that comes would cost more than it saves."""
    scene.come()
    scene.turn()
    scene.come(1)
    scene.turn(lambda: scene.come(MANY - 1), scene.end)
    assert [len(said) for said, _ in scene.transactions.begun] == [MANY, MANY]
    scene.come(1)
    scene.turn(lambda: scene.come(MANY - 2), scene.end)
    assert [len(said) for said, _ in scene.transactions.begun] == [MANY, MANY, 1]


def test_a_batch_is_never_larger_than_it_may_be(scene: Scene) -> None:
    """Beyond that a round takes nothing more, transaction or not."""
    scene.worker._pace = Pace(3 * MANY, 3 * MANY)
    scene.come()
    scene.turn()
    scene.come()
    scene.turn(lambda: scene.come(5 * MANY))
    assert [len(said) for said, _ in scene.transactions.begun] == [MANY, 3 * MANY]


def test_nothing_of_a_round_outlives_an_abort(scene: Scene) -> None:
    """What was stepped behind a transaction that failed is dropped with it."""
    scene.come()
    scene.turn()
    scene.come()
    scene.transactions.fails = True
    with pytest.raises(_Dropped):
        scene.turn(scene.come, scene.end)
    assert len(scene.transactions.begun) == 1
    assert scene.worker._gathered.take() == ([], [])
    assert not scene.worker._tasks


def test_while_the_store_is_away_nothing_stepped_waits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is committed, up to where it was stepped; the batch that waits for its rows comes with the next one."""
    scene.come()
    scene.turn()
    scene.come()

    def away() -> None:
        scene.come(user="of whom no row is at hand")
        scene.store.down = True

    def wait(error: Exception) -> None:
        assert scene.transactions.begun[1:] == [(ids(MANY, 2 * MANY), 2 * MANY)]
        scene.store.down = False

    monkeypatch.setattr(scene.worker, "_wait_for_store", wait)
    scene.turn(away, scene.end)
    assert scene.transactions.begun[2:] == [(ids(2 * MANY, 3 * MANY), 3 * MANY)]


@pytest.mark.parametrize("stepped", [True, False])
def test_who_loses_a_task_leaves_what_was_stepped(scene: Scene, stepped: bool) -> None:
    """Committed and with a checkpoint, where it is revoked in a poll of a round; not where a batch is in hand."""
    scene.come()
    scene.turn()
    scene.come()
    name = scene.task.name

    def revoke() -> None:
        scene.worker._in_round = not stepped
        scene.worker._on_revoke(Mock(), [])

    with pytest.raises(_Dropped):
        scene.turn(revoke)
    assert len(scene.transactions.begun) == 1 + stepped
    assert (scene.store.read(name, [])[0] is not None) == stepped
    assert not scene.worker._tasks
