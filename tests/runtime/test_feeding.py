"""Laws of how records come in: messages turn into records, and records into entries, together as one by one."""

from __future__ import annotations

import json
from typing import Any

from confluent_kafka import KafkaError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.kafka import record_of, runs_of
from streams.records import MARKER_HEADER, REDRIVE_HEADER, UNREADABLE_HEADER, Headers, Input, Record
from streams.runtime.task import Task
from streams.settings import Settings
from streams.topologies.score import ScoreStage

LAW = settings(deadline=None)
CLICKS, ORDERS = Input("clickstream", 0), Input("orders", 0)
NOW = 1_700_000_000_000
PREFIX = "shop-"


def _value(number: int, time: Any) -> bytes:
    told = {"event_id": f"e{number}", "type": "view", "time": time, "user_id": "u", "product_id": "p"}
    return json.dumps(told).encode()


_good = st.builds(_value, st.integers(0, 999), st.integers(NOW - 1_000, NOW) | st.just("2023-11-14T22:13:20Z"))
_future = st.builds(_value, st.integers(0, 999), st.just(NOW + 10**7))
_bad: st.SearchStrategy[bytes | None] = st.sampled_from([None, b"", b"{", b"}", b'{"a":1}', b"\xff", b"[]\n{}"])
_marker = st.just(json.dumps({"time": NOW, "source": "s"}).encode())
_records = st.one_of(
    *[st.tuples(_good, st.just(()))] * 6,
    st.tuples(_future, st.just(())),
    st.tuples(_bad, st.just(())),
    st.tuples(_marker, st.just(((MARKER_HEADER, b"time"),))),
    st.tuples(_good, st.just(((REDRIVE_HEADER, b"letter"),))),
    st.tuples(_good, st.just((("trace", b""),))),
    st.tuples(_good, st.just(((UNREADABLE_HEADER, b""),))),
)


def _task() -> Task:
    conf = Settings()
    task = Task(ScoreStage(conf), 0, (CLICKS, ORDERS), 1, conf.time)
    task.start({CLICKS: 3, ORDERS: 0}, {CLICKS: 3, ORDERS: 0}, 1)
    return task


@LAW
@given(st.lists(_records, min_size=1, max_size=90))
def test_fed_together_is_fed_one_by_one(told: list[tuple[bytes | None, Headers]]) -> None:
    """Torn, early, redriven or plain, the same entries stand in line; what was taken before is left out."""
    records = [Record(CLICKS, number, b"u", value, NOW, headers) for number, (value, headers) in enumerate(told)]
    together, alone = _task(), _task()
    together.feed(records)
    for record in records:
        alone.feed([record])
    found, expected = list(together._merge.held()), list(alone._merge.held())
    assert found == expected
    assert [entry.offset for entry in found] == list(range(3, len(records)))
    assert [entry.redriven for entry in found] == [
        bool(entry.record.headers) and entry.record.headers[0][0] == REDRIVE_HEADER for entry in found
    ]


def test_usual_clicks_are_decoded_together() -> None:
    """One torn record among many costs no more than its neighbours their speed."""
    task = _task()
    alone: list[int] = []
    decode = task.stage.decode

    def counted(record: Record) -> object:
        alone.append(record.offset)
        return decode(record)

    task.stage.decode = counted  # type: ignore[method-assign]
    values = [_value(number, NOW) for number in range(2_000)]
    task.feed([Record(CLICKS, number, None, value, NOW) for number, value in enumerate(values)])
    assert alone == []
    values[1_000] = b"torn"
    task.feed([Record(CLICKS, 2_000 + number, None, value, NOW) for number, value in enumerate(values)])
    assert 3_000 in alone
    assert len(alone) <= 48


def _message(told: tuple[str, int, bool, list[tuple[str, bytes | None]] | None], offset: int) -> Message:
    topic, partition, failed, headers = told
    error = KafkaError(KafkaError._PARTITION_EOF) if failed else None
    key = b"k" if offset % 2 else None
    return Message(
        topic=PREFIX + topic,
        partition=partition,
        offset=offset,
        key=key,
        value=b"%d" % offset,
        headers=headers,
        timestamp=(1, NOW + offset),
        error=error,
    )


_headers = st.none() | st.sampled_from([[("a", b"b")], [("a", None), ("c", b"")]])
_places = st.tuples(st.sampled_from(["clickstream", "orders"]), st.integers(0, 1), st.booleans(), _headers)


@LAW
@given(st.lists(_places, max_size=12) | st.lists(st.just(("orders", 1, False, None)), max_size=12))
def test_messages_turn_into_the_same_records_in_runs(told: list[Any]) -> None:
    """Each record is what `record_of` makes of its message; a run is of one input; nothing changes places."""
    messages = [_message(one, offset) for offset, one in enumerate(told)]
    flat: list[Record | Message] = []
    for run in runs_of(messages, PREFIX):
        if isinstance(run, list):
            assert len({record.input for record in run}) == 1
            flat += run
        else:
            flat.append(run)
    assert flat == [record_of(message, PREFIX) if message.error() is None else message for message in messages]
