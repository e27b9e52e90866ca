"""A stored row, found and read without changing anything: the work of `tidecast features show`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from features.columns import TIME_END, FeatureError
from features.documentation import duration
from features.summary import NotTold, ProductRow, UserRow, read_category, read_product, read_user
from schemas.wire import MAX_TEXT
from streams.errors import ConfigurationError, RecoveryError, TidecastError
from streams.roles import stage_of
from streams.runtime.checkpoint import decode_header, reading
from streams.runtime.task import store_name
from streams.settings import Settings
from streams.shown import Kind, Shown, iso, offsets, safe
from streams.store import last_touched
from streams.topologies.layout import DEMAND_STAGE, SCORE_STAGE, activity_partition, user_partition
from streams.topologies.orderbook import OrderBook
from streams.topologies.shop import feature_schema
from streams.topologies.stage import Stage


class RowReader(Protocol):
    """What is asked of a store; each method raises StoreUnavailable where no answer comes."""

    def read(self, task: str, keys: Sequence[str]) -> tuple[bytes | None, list[bytes | None]]:
        """Return the task's header and the rows under `keys`, read in one atomic step."""
        ...

    def tasks(self, stage: str) -> list[str]:
        """Return the names of a stage's tasks, of any layout, that have a checkpoint."""
        ...


_LETTERS: dict[Kind, str] = {"user": "uo", "product": "p", "category": "c"}
"""The first letters of the keys of its rows; "o" is a user's book of orders."""
_READ: dict[Kind, Callable[[bytes, int | None], UserRow | ProductRow]] = {
    "user": read_user,
    "product": read_product,
    "category": read_category,
}


def find_user(settings: Settings, store: RowReader, user: str, time: int | None = None) -> Shown:
    """Return what the store holds of a user: as of its newest event, or of the last of its log up to `time` (UTC ms).

    Raises TidecastError where there is nothing, ConfigurationError for a time before the log, RecoveryError for rows
    that cannot be read, and StoreUnavailable.

    >>> from streams.driver import TopologyDriver
    >>> from streams.topologies.score import ScoreStage
    >>> driver = TopologyDriver(Settings(), [ScoreStage], partitions=4)
    >>> click = b'{"event_id": "1", "type": "view", "time": 1000, "user_id": "u", "product_id": "p"}'
    >>> _ = driver.pipe("clickstream", b"u", click)
    >>> driver.mark_time(1_001)
    >>> driver.run()
    >>> shown = find_user(Settings(), driver.store, "u")
    >>> shown.touched, shown.row.features["session_events"], len(shown.row.log)
    (1000, 1.0, 1)
    """
    return _found(settings, store, "user", user, time)


def find_product(settings: Settings, store: RowReader, product: str, time: int | None = None) -> Shown:
    """Return what the store holds of a product, as of `time` (UTC ms; None: when all that is in the row counts).

    Raises TidecastError where there is nothing, ConfigurationError for a time that the row does not reach back to,
    RecoveryError for rows that cannot be read, and StoreUnavailable.

    >>> from streams.store import MemoryStore
    >>> find_product(Settings(), MemoryStore(), "p1")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    streams.errors.TidecastError: product p1: the store holds no checkpoint of demand at all; ...
    """
    return _found(settings, store, "product", product, time)


def find_category(settings: Settings, store: RowReader, category: str, time: int | None = None) -> Shown:
    """Return what the store holds of a category, as `find_product` does of a product."""
    return _found(settings, store, "category", category, time)


def _found(settings: Settings, store: RowReader, kind: Kind, id_: str, time: int | None) -> Shown:
    _refuse_impossible(kind, id_)
    stage = stage_of(SCORE_STAGE if kind == "user" else DEMAND_STAGE, settings)
    tasks = settings.kafka.partitions
    first = user_partition(id_, tasks) if kind == "user" else activity_partition(id_, tasks)
    keys = [f"{letter}:{id_}" for letter in _LETTERS[kind]]
    headers: dict[str, bytes | None] = {}
    # The id's own task first; a producer with another partitioner may have sent it elsewhere.
    for number in (first, *(other for other in range(tasks) if other != first)):
        name = store_name(stage, number)
        headers[name], rows = store.read(name, keys)
        if any(row is not None for row in rows):
            return _shown(kind, id_, name, store_name(stage, first), headers[name], rows, time)
    raise _unknown(settings, store, stage, kind, id_, first, headers)


def _refuse_impossible(kind: Kind, id_: str) -> None:
    """Refuse what no event can bear as an id, so that every message about a row stays one line that can be read."""
    try:
        id_.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{kind} {id_!r}: is not UTF-8, and no id is like that") from error
    if not 1 <= len(id_) <= MAX_TEXT or "\0" in id_:
        raise ConfigurationError(
            f"{kind} {id_[:40]!r}: no id is like that; give one of 1 to {MAX_TEXT} characters, as in the events"
        )


def _shown(
    kind: Kind, id_: str, task: str, expected: str, raw: bytes | None, rows: list[bytes | None], time: int | None
) -> Shown:
    packed, *others = rows
    repair = f"run 'tidecast state reset {task}', and the next start rebuilds its rows from the log"
    row: UserRow | ProductRow | None = None
    try:
        header = None if raw is None else decode_header(raw)
        if packed is not None:
            if not 0 <= last_touched(packed) < TIME_END:
                raise FeatureError(f"its newest stamp, {last_touched(packed)}, is no time")
            row = _READ[kind](packed, time)
        stored = others[0] if others else None
        book = None if stored is None else (len(stored), OrderBook.unpack(stored))
    except NotTold as error:
        raise ConfigurationError(
            f"--time: the row of {kind} {safe(id_)} says nothing as of then; give {iso(error.first)} or later, or none"
        ) from error
    except (ValueError, msgspec.DecodeError) as error:
        raise RecoveryError(f"{task}: what is stored of {kind} {id_!r} cannot be read ({error}); {repair}") from error
    touched = None if packed is None else last_touched(packed)
    return Shown(kind, id_, task, expected, header, len(packed or b""), touched, row, book)


def _unknown(
    settings: Settings,
    store: RowReader,
    stage: Stage,
    kind: Kind,
    id_: str,
    number: int,
    headers: dict[str, bytes | None],
) -> TidecastError:
    """Return what to say of an id without a row: that, or why none could be found."""
    tasks = settings.kafka.partitions
    beyond, _ = store.read(store_name(stage, tasks), [])
    if beyond is not None:
        return ConfigurationError(
            f"kafka.partitions is {tasks}, but the store holds a checkpoint of task {store_name(stage, tasks)}: set it "
            "to the number of partitions that the topics have"
        )
    if not any(headers.values()):
        there = store.tasks(stage.name)
        if there:
            others = ", ".join(dict.fromkeys(task.rpartition("-")[0] for task in there))
            return RecoveryError(
                f"{kind} {safe(id_)}: the store holds rows of another layout or feature schema ({others}), this "
                f"version with these settings reads {stage.name}.{stage.layout} (feature schema "
                f"{feature_schema(settings)}); "
                "give the workers' own settings under shop, use the tidecast that wrote them, or start this version's "
                "workers, which rebuild them from the log"
            )
        return TidecastError(
            f"{kind} {safe(id_)}: the store holds no checkpoint of {stage.name} at all; is the worker running, and are "
            "redis.url and redis.prefix its own?"
        )
    name = store_name(stage, number)
    raw = headers[name]
    stands = "which has no checkpoint yet" if raw is None else f"whose checkpoint stands at {_stands(name, raw)}"
    return TidecastError(
        f"{kind} {safe(id_)} has no row: asked was task {name}, {stands}, and then the other tasks; a row "
        f"appears with the next checkpoint after the first event, and goes {duration(stage.memory_ms)} after the last"
    )


def _stands(task: str, raw: bytes) -> str:
    with reading(task):
        return ", ".join(f"{input_} {offset}" for input_, offset in offsets(decode_header(raw)).items())
