"""What stands between a task and its next start, and how to clear it: the work of `tidecast state`."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from streams import kafka
from streams.errors import ConfigurationError, RecoveryError, TidecastError, TopicsError
from streams.records import Input
from streams.roles import stage_of
from streams.runtime.assignment import KafkaLog, committed_offsets
from streams.runtime.checkpoint import Header, decode_header
from streams.runtime.recovery import Committed, plan
from streams.runtime.task import store_name
from streams.settings import Settings
from streams.shown import iso
from streams.store import RedisStore
from streams.topologies.stage import Stage

_NAME = re.compile(r"(?P<stage>[a-z]+)(\.(?P<layout>[A-Za-z0-9]+))?-(?P<number>[0-9]+)")


@dataclass(frozen=True, slots=True)
class Place:
    """A task: the stage, its number, and the name its rows are stored under (an older layout's, if that was named)."""

    stage: Stage
    number: int
    name: str

    @classmethod
    def of(cls, stage: Stage, number: int) -> Place:
        """Return a task of a stage, under the name of this version's layout."""
        return cls(stage, number, store_name(stage, number))

    @classmethod
    def parse(cls, text: str, settings: Settings) -> Place:
        """Read ``score-3`` or ``score.1a2b3c-3``. Raises ConfigurationError."""
        match = _NAME.fullmatch(text)
        if match is None:
            raise ConfigurationError(f"task {text!r}: the form is STAGE-NUMBER, as in score-3")
        stage = stage_of(match["stage"], settings)
        number = int(match["number"])
        return cls(stage, number, text) if match["layout"] else cls.of(stage, number)

    @property
    def current(self) -> bool:
        """Whether workers of this version, with these settings, read what is stored under the name."""
        return self.name == store_name(self.stage, self.number)

    def inputs(self, counts: dict[str, int], prefix: str) -> list[Input]:
        """Return the inputs of the task. Raises TopicsError where they are missing, or the task is."""
        missing = [prefix + topic for topic in self.stage.inputs if prefix + topic not in counts]
        if missing:
            raise TopicsError(f"topics are missing: {', '.join(missing)}; run 'tidecast topics create'")
        if self.stage.single_task:
            return [Input(topic, p) for topic in self.stage.inputs for p in range(counts[prefix + topic])]
        partitions = counts[prefix + self.stage.inputs[0]]
        if self.number >= partitions:
            raise TopicsError(f"{self.name}: there is no such task, the inputs have {partitions} partitions")
        return [Input(topic, self.number) for topic in self.stage.inputs]


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of a task.

    `logs`: first offset held and next one to be written; `verdict`: what the next start does.
    """

    name: str
    keys: int
    header: Header | None
    header_problem: str | None
    committed: dict[Input, Committed]
    logs: dict[Input, tuple[int, int]]
    verdict: str

    def strayed(self) -> dict[Input, int]:
        """Return the inputs whose committed offset is not in the log any more, with the log's first offset."""
        return {
            input_: low
            for input_, (low, high) in self.logs.items()
            if input_ in self.committed and not low <= self.committed[input_].offset <= high
        }

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        header = self.header
        return {
            "task": self.name,
            "keys": self.keys,
            "checkpoint": None
            if header is None
            else {
                "layout": header.layout,
                "epoch": header.epoch,
                "sequence": header.sequence,
                "offsets": {str(Input(topic, partition)): offset for topic, partition, offset in header.offsets},
                "clock": header.clock,
                "watermark": header.watermark,
            },
            "checkpoint_problem": self.header_problem,
            "committed": {str(i): {"offset": c.offset, "epoch": c.epoch} for i, c in self.committed.items()},
            "log": {str(i): {"first": low, "next": high} for i, (low, high) in self.logs.items()},
            "next_start": self.verdict,
        }

    def lines(self) -> list[str]:
        """Return it as lines to read."""
        header = self.header
        offsets = {} if header is None else {Input(topic, part): offset for topic, part, offset in header.offsets}
        lines = [f"{self.name}: {self.keys} keys in the store"]
        if header is not None:
            lines.append(
                f"checkpoint {header.sequence} of epoch {header.epoch}, clock {_time(header.clock)}, "
                f"watermark {_time(header.watermark)}"
            )
        else:
            lines.append(self.header_problem or "no checkpoint")
        for input_, (low, high) in self.logs.items():
            there = self.committed.get(input_)
            said = "nothing committed" if there is None else f"committed {there.offset} (epoch {there.epoch})"
            if input_ in self.strayed():
                said += ", which is not in the log"
            lines.append(f"{input_}: checkpoint {offsets.get(input_, '–')}, {said}, log {low} to {high}")
        return [*lines, f"next start: {self.verdict}"]


def _time(at_ms: int | None) -> str:
    return "–" if at_ms is None else iso(at_ms)


def stored(settings: Settings) -> list[tuple[str, bool]]:
    """Return the names of all tasks that have a checkpoint, and whether this version, so configured, reads it."""
    store = RedisStore.connect(settings)
    try:
        found = {stage: store.tasks(stage) for stage in ("score", "demand", "learn")}
    finally:
        store.close()
    layouts = {stage: stage_of(stage, settings).layout for stage in found}
    return [(name, name.rpartition("-")[0] == f"{stage}.{layouts[stage]}") for stage in found for name in found[stage]]


def inspect(place: Place, settings: Settings) -> Found:
    """Look at store, group and log.

    Raises TidecastError where one of them does not answer, ConfigurationError for another version's name without rows.
    """
    store = RedisStore.connect(settings)
    consumer = _consumer(place, settings)
    try:
        raw, _ = store.read(place.name, [])
        keys = len(store.keys(place.name))
        if not keys and not place.current:
            raise ConfigurationError(f"{place.name}: the store holds nothing of it; see 'tidecast state list'")
        header, problem = _header(raw)
        prefix = settings.kafka.prefix
        inputs = place.inputs(kafka.partition_counts(consumer), prefix)
        committed = committed_offsets(consumer, prefix, inputs)
        log = KafkaLog(consumer, settings)
        try:
            # Asked first: it waits where a topic was made a moment ago.
            logs = {i: kafka.bounds(consumer, TopicPartition(prefix + i.topic, i.partition)) for i in inputs}
            if place.current:
                verdict = problem or _verdict(place, inputs, header, committed, log, settings)
            else:
                verdict = "none with this version and these settings, which have rows of their own"
        finally:
            log.close()
        return Found(place.name, keys, header, problem, committed, logs, verdict)
    except KafkaException as error:
        raise TidecastError(f"{place.name}: Kafka does not answer: {error.args[0].str()}") from error
    finally:
        consumer.close()
        store.close()


def repair(place: Place, found: Found, settings: Settings) -> list[str]:
    """Delete the task's checkpoint and rows, move committed offsets that the log does not hold; say what was done.

    Offsets first: if they cannot be moved, nothing was deleted. Raises TidecastError.
    """
    done: list[str] = []
    strayed = found.strayed() if place.current else {}
    if strayed:
        _commit(place, found, strayed, settings)
        done.extend(
            f"{input_}: committed offset {found.committed[input_].offset} is not in the log; moved to {first}: "
            "predictions begin there"
            for input_, first in strayed.items()
        )
    store = RedisStore.connect(settings)
    try:
        done.append(f"{place.name}: {store.drop(place.name)} keys deleted")
    finally:
        store.close()
    return [*done, f"next start: {inspect(place, settings).verdict}"] if place.current else done


def _header(raw: bytes | None) -> tuple[Header | None, str | None]:
    if raw is None:
        return None, None
    try:
        return decode_header(raw), None
    except (ValueError, msgspec.DecodeError) as error:
        return None, f"the checkpoint's header is unreadable ({error})"


def _verdict(
    place: Place,
    inputs: list[Input],
    header: Header | None,
    committed: dict[Input, Committed],
    log: KafkaLog,
    settings: Settings,
) -> str:
    memory_ms = place.stage.memory_ms + settings.time.allowed_lateness_s * 1_000
    try:
        found = plan(place.name, inputs, header, committed, log, memory_ms)
    except RecoveryError as error:
        return f"refused, {type(error).__name__}: {error}"
    parts = []
    for input_ in inputs:
        first, bound = found.positions[input_], found.bounds[input_]
        silent = f", up to {bound} only to rebuild state" if first < bound else ""
        parts.append(f"{input_} from {first}{silent}")
    return "; ".join(parts)


def _commit(place: Place, found: Found, offsets: dict[Input, int], settings: Settings) -> None:
    """Commit as nobody's member, which Kafka takes only while the group is empty.

    A static member that was stopped stays in it for the session timeout, so this waits as long.
    """
    consumer = _consumer(place, settings)
    wanted = [
        TopicPartition(settings.kafka.prefix + i.topic, i.partition, offset, metadata=str(found.committed[i].epoch))
        for i, offset in offsets.items()
    ]
    deadline = time.monotonic() + settings.kafka.session_timeout_ms / 1_000 + 2
    try:
        while True:
            try:
                for answer in consumer.commit(offsets=wanted, asynchronous=False) or ():
                    if answer.error is not None:
                        raise KafkaException(answer.error)
                return
            except KafkaException as error:
                if not kafka.stale_member(error):
                    raise TidecastError(f"{place.name}: offsets not moved: {error.args[0].str()}") from error
                if time.monotonic() > deadline:
                    raise TidecastError(
                        f"{place.name}: its group still has members ({error.args[0].str()}); stop all "
                        f"{place.stage.name} workers and try again; nothing was changed"
                    ) from error
                time.sleep(0.5)
    finally:
        consumer.close()


def _consumer(place: Place, settings: Settings) -> Consumer:
    return Consumer(kafka.consumer_config(settings, f"tidecast.{place.stage.name}"))
