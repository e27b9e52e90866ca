"""A trivial stage: per user, a count and a rolling digest of events, said after every event. Order matters to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from schemas.codec import Click, DecodeError, Order, decode_click, decode_order
from streams.records import CLICKSTREAM, DEADLETTERS, ORDERS, PREDICTIONS, Output, Record
from streams.runtime.checkpoint import Rows
from streams.runtime.merge import Entry
from streams.settings import Settings
from streams.topologies.stage import Forward, State, Step


class TallyStage:
    """Reads clicks and orders; says (events so far, rolling digest) per user."""

    name = "tally"
    inputs = (CLICKSTREAM, ORDERS)
    tables: tuple[str, ...] = ()
    outputs = (PREDICTIONS, DEADLETTERS)
    partitioned_outputs: tuple[str, ...] = ()
    ordered = True
    guarded = True
    single_task = False
    layout = "t1"
    memory_ms = 30 * 86_400_000
    expiring = ("u:",)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def decode(self, record: Record) -> Click | Order:
        if record.value is None:
            raise DecodeError("undecodable", "no value")
        return decode_click(record.value) if record.input.topic == CLICKSTREAM else decode_order(record.value)

    def decode_run(self, records: Sequence[Record]) -> None:
        return None

    def time_of(self, item: Click | Order) -> int:
        return item.time

    def on_table(self, record: Record) -> bool:
        return False

    def lacks(self) -> str | None:
        return None

    def serves(self) -> Mapping[str, str]:
        return {}

    def open(self, partition: int, tasks: int) -> State:
        return TallyState()


class TallyState(Forward):
    """Counts and digests by user."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, int, int]] = {}
        self._dirty: set[str] = set()

    def initial_keys(self) -> Sequence[str]:
        return ()

    def missing(self, entries: Sequence[Entry]) -> Sequence[str]:
        return [f"u:{user}" for user in dict.fromkeys(_user(entry) for entry in entries) if user not in self.rows]

    def foreign(self, entries: Sequence[Entry], now_ms: int, *, refresh: bool) -> Mapping[str, Sequence[str]]:
        return {}

    def load(self, rows: Mapping[str, bytes | None]) -> None:
        for key, row in rows.items():
            self.rows[key[2:]] = (0, 0, 0) if row is None else tuple(json.loads(row[8:]))

    def load_foreign(self, task: str, rows: Mapping[str, bytes | None], now_ms: int) -> None:
        raise AssertionError("nothing foreign was asked for")

    def step(self, entries: Sequence[Entry], step: Step) -> list[Output]:
        outputs = []
        for entry in entries:
            user = _user(entry)
            count, digest, last = self.rows[user]
            digest = (digest * 31 + entry.time + entry.rank) % 1_000_000_007
            self.rows[user] = (count + 1, digest, max(last, entry.time))
            self._dirty.add(user)
            cause = f"{entry.record.input.topic}-{entry.record.input.partition}-{entry.offset}"
            value = json.dumps({"id": cause, "user": user, "count": count + 1, "digest": digest}).encode()
            outputs.append(Output(PREDICTIONS, user.encode(), value))
            step.count("events")
        return outputs

    def dirty(self) -> int:
        return len(self._dirty)

    def drain(self) -> Rows:
        rows: Rows = {
            f"u:{user}": self.rows[user][2].to_bytes(8, "little") + json.dumps(self.rows[user]).encode()
            for user in self._dirty
        }
        self._dirty.clear()
        return rows

    def forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.rows.pop(key[2:], None)

    def trim(self, limit: int) -> None:
        for user in [user for user in self.rows if user not in self._dirty][limit:]:
            del self.rows[user]

    def extra(self) -> bytes:
        return b""

    def restore(self, extra: bytes) -> None:
        return

    def watermark(self) -> int | None:
        return None


def _user(entry: Entry) -> str:
    item = entry.item
    assert isinstance(item, Click | Order)
    return item.user_id or ""
