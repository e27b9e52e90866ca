"""Laws of checkpoints that are written beside the work: what they hold, when they are written, what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.errors import CheckpointConflict, StoreUnavailable
from streams.runtime.checkpoint import Checkpoint, decode_header
from streams.runtime.keeping import Keeper, Told, fetch
from streams.runtime.task import Task
from streams.runtime.worker import _Dropped
from streams.store import MemoryStore
from tests.runtime.test_round import MANY, Scene


class ByHand:
    """In place of a thread: each call waits until it is told to run."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Told], Callable[[], Told]]] = []

    def submit(self, call: Callable[..., Told], *arguments: object) -> Future[Told]:
        told: Future[Told] = Future()
        self.waiting.append((told, lambda: call(*arguments)))
        return told

    def run(self) -> None:
        """Run what waits."""
        while self.waiting:
            told, call = self.waiting.pop(0)
            told.set_result(call())

    def shutdown(self) -> None:
        self.run()


class Kept(Scene):
    """A scene whose checkpoints are written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = ByHand()
        self.worker._keeper._thread = self.thread  # type: ignore[assignment]
        self.users: list[str] = []

    def step(self, user: str = "u") -> None:
        """Let clicks of a user come, and step them; the transaction before ends meanwhile."""
        self.come(user=user)
        self.users += [user] * MANY
        self.turn(*[self.end] if self.transactions.open else [])

    def settle(self) -> None:
        """Let the transaction under way end, and the worker hear of it."""
        self.end()
        self.worker._finish()

    def hear(self) -> None:
        """Let the worker hear of a write that has ended."""
        if self.worker._keeper.ended():
            self.worker._kept()

    def written(self) -> tuple[int, dict[str, tuple[int, int]]]:
        """Return the next click by the stored header, and count and digest of each stored user."""
        raw, _ = self.store.read(self.task.name, [])
        rows = {key[2:]: row for (_, key), row in self.store.rows.items() if key.startswith("u:")}
        tallies = {user: tuple(json.loads(row[8:])[:2]) for user, row in rows.items()}
        return (dict_of(raw)["clickstream"] if raw else 0), tallies

    def tallies(self, until: int) -> dict[str, tuple[int, int]]:
        """Return what the first clicks make of each user."""
        made: dict[str, tuple[int, int]] = {}
        for number, user in enumerate(self.users[:until]):
            count, digest = made.get(user, (0, 0))
            made[user] = count + 1, (digest * 31 + 10**9 + number) % 1_000_000_007
        return made


def dict_of(header: bytes) -> dict[str, int]:
    return {topic: offset for topic, _, offset in decode_header(header).offsets}


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A scene, its clients closed at the end."""
    scene = Kept()
    yield scene
    close(scene)


def close(scene: Kept) -> None:
    scene.thread.run()
    scene.worker._consumer.close()
    scene.worker._rereader.close()


_ops = st.sampled_from(["step a", "step b", "end", "take", "write", "hear", "away", "back"])


@given(st.lists(_ops, max_size=25))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
def test_what_is_stored_is_a_moment_that_was_committed(ops: list[str]) -> None:
    """Whatever goes on meanwhile: all rows as of the header's offsets, and these never beyond what is committed."""
    scene = Kept()
    worker = scene.worker
    # Rows that are in memory need no store.
    for op in ["step a", "step b", *ops, "back", "end", "write", "hear", "take", "write", "hear"]:
        if op.startswith("step"):
            scene.step(op[-1])
        elif op == "end":
            scene.settle()
        elif op == "take":
            if not worker._keeper.busy():
                worker._begin_checkpoint()
        elif op == "write":
            scene.thread.run()
        elif op == "hear":
            scene.hear()
        else:
            scene.store.down = op == "away"
        down, scene.store.down = scene.store.down, False
        offset, rows = scene.written()
        scene.store.down = down
        ended = scene.transactions.begun[: -1 if scene.transactions.open else None]
        assert offset <= (ended[-1][1] if ended else 0)
        assert rows == scene.tallies(offset)
    assert scene.written()[0] == len(scene.users)
    assert scene.task.dirty() == 0
    close(scene)


def test_a_checkpoint_waits_for_what_is_in_it(kept: Kept) -> None:
    """Its write begins when the transaction under way has ended."""
    kept.step()
    kept.worker._begin_checkpoint()
    assert not kept.thread.waiting
    kept.settle()
    assert len(kept.thread.waiting) == 1


def test_what_was_taken_back_is_never_written(kept: Kept) -> None:
    """A checkpoint goes with the transaction that it waits for."""
    kept.step()
    kept.worker._begin_checkpoint()
    kept.transactions.fails = True
    with pytest.raises(_Dropped):
        kept.settle()
    assert not kept.thread.waiting
    assert not kept.worker._keeper.busy()


def test_no_checkpoint_is_due_before_the_last_one_was_heard_of(kept: Kept) -> None:
    """However long the store takes for it."""
    kept.step()
    kept.settle()
    kept.worker._begin_checkpoint()
    kept.worker._checkpointed = 0.0
    assert not kept.worker._due()
    kept.thread.run()
    assert not kept.worker._due()
    kept.hear()
    kept.worker._checkpointed = 0.0
    assert kept.worker._due()


def test_rows_may_be_read_while_a_checkpoint_is_on_its_way(kept: Kept) -> None:
    """Before it stands, and when it stands but was not heard of; not where another one stands."""
    kept.step()
    kept.settle()
    kept.worker._begin_checkpoint()
    for written in (False, True):
        if written:
            kept.thread.run()
        kept.come(user=f"new {written}")
        batch = kept.task.take(MANY)
        assert batch is not None
        fetch(kept.store, kept.task, batch)
    kept.hear()
    header = kept.store.rows.pop((kept.task.name, "h"))
    kept.come(user="newer")
    batch = kept.task.take(MANY)
    assert batch is not None
    with pytest.raises(CheckpointConflict, match="gone"):
        fetch(kept.store, kept.task, batch)
    kept.store.rows[kept.task.name, "h"] = header + b"of another owner"
    with pytest.raises(CheckpointConflict):
        fetch(kept.store, kept.task, batch)


def test_who_loses_a_task_waits_for_what_is_on_its_way(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next owner reads what stands for good."""
    kept.step()
    kept.settle()
    kept.worker._begin_checkpoint()
    waited = 0

    def wait(writing: list[Future[Told]]) -> None:
        nonlocal waited
        waited += len(writing)
        kept.worker._keeper._dropped.clear()  # as where the write had begun before
        kept.thread.run()

    monkeypatch.setattr("streams.runtime.keeping.wait", wait)
    kept.worker._on_lost(Mock(), [])
    assert waited == 1
    assert kept.written() == (MANY, kept.tallies(MANY))


def test_a_stop_tries_again_what_failed_before(kept: Kept) -> None:
    """The store was away for a moment, and is back when the worker ends."""
    kept.step()
    kept.settle()
    kept.worker._begin_checkpoint()
    kept.store.down = True
    kept.thread.run()
    kept.store.down = False
    submit = kept.thread.submit

    def at_once(*arguments: Any) -> Future[Told]:
        told = submit(*arguments)
        kept.thread.run()
        return told

    kept.thread.submit = at_once  # type: ignore[method-assign, assignment]
    kept.worker._stopping = True
    kept.worker._leave_a_checkpoint()
    assert kept.written() == (MANY, kept.tallies(MANY))


def test_a_store_that_does_not_answer_is_asked_once(kept: Kept) -> None:
    """However many tasks have a checkpoint for it; with one that answers, all are written or say why."""
    tasks = [Task(kept.stage, number, kept.task.inputs, 3, kept.worker._settings.time) for number in range(3)]
    asked: list[str] = []

    class Away(MemoryStore):
        answers = False

        def checkpoint(self, task: str, checkpoint: Checkpoint) -> None:
            asked.append(task)
            if not self.answers:
                raise StoreUnavailable("no answer")
            if task == tasks[1].name:
                raise CheckpointConflict("of another owner")
            super().checkpoint(task, checkpoint)

    store = Away()
    keeper = Keeper(store, 100)
    for answers, errors in (
        (False, [StoreUnavailable] * 3),
        (True, [type(None), CheckpointConflict, type(None)]),
    ):
        store.answers = answers
        keeper.take(tasks)
        keeper.begin()
        told = keeper.finish()
        assert [task for task, _ in told] == tasks
        assert [type(error) for _, error in told] == errors
        assert not keeper.busy()
    assert asked == [tasks[0].name, *[task.name for task in tasks]]
    keeper.close()


def test_a_store_that_is_away_too_long_stops_the_work(kept: Kept) -> None:
    """As soon as twice as many rows wait as may."""
    runtime = kept.worker._settings.runtime
    kept.step()
    kept.store.down = True
    for most, stops in ((2, False), (1, True)):
        bounded = {"runtime": runtime.model_copy(update={"checkpoint_max_rows": most})}
        kept.worker._settings = kept.worker._settings.model_copy(update=bounded)
        kept.step()
        kept.settle()
        kept.worker._begin_checkpoint()
        kept.thread.run()
        if stops:
            with pytest.raises(StoreUnavailable):
                kept.hear()
        else:
            kept.hear()
            assert not kept.worker._keeper.busy()
    kept.store.down = False
