"""The replay against librdkafka's own mock broker: what arrives, in which order, and going on after a stop."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.codec import decode_marker
from schemas.outputs import decode_dead_letter
from streams.errors import ConfigurationError, TidecastError
from streams.kafka import read_to_end
from streams.records import CLICKSTREAM, DEADLETTERS, MARKER_HEADER, ORDERS, Record
from streams.settings import KafkaSettings, Settings
from streams.sources.replay import Progress, ReplayOptions, parse_speed, replay
from streams.sources.sending import ALL_TOPICS
from tests.sources.conftest import CLICKS, MakeSource
from tests.sources.conftest import ORDERS as ORDERS_TOML

T0 = 1_704_067_200_000


@dataclass
class ManualClock:
    """A clock that moves only by sleeping, and by `step` seconds at each look."""

    time: float = 100.0
    step: float = 0.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        self.time += self.step
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Settings of a mock broker that lives as long as its first client."""
    broker = Producer({"test.mock.num.brokers": 1})
    [address] = [str(each).split("/")[0] for each in broker.list_topics(timeout=10).brokers.values()]
    for topic in ALL_TOPICS:
        broker.list_topics(topic, timeout=10)  # the mock makes what it is asked for
    yield Settings(kafka=KafkaSettings(bootstrap_servers=address))
    broker.flush(1)


def log(settings: Settings, *topics: str) -> list[Record]:
    found: list[Record] = []
    read_to_end(settings, list(topics), found.append)
    return found


def marker(record: Record) -> bytes | None:
    return dict(record.headers).get(MARKER_HEADER)


def events(records: list[Record]) -> list[dict[str, Any]]:
    return [json.loads(record.value or b"") for record in records if marker(record) is None]


def shop(make_source: MakeSource, clicks: int = 50) -> Any:
    lines = [f"u{i % 7},2024-01-01T00:{i // 60:02d}:{i % 60:02d}Z,p" for i in range(clicks)]
    sold = [f"o{i},u{i},2024-01-01T00:00:{i:02d}Z,p,1,2.50" for i in range(7)]
    return make_source(
        CLICKS + ORDERS_TOML,
        **{
            "clicks.csv": "user,time,product\n" + "\n".join(lines) + "\nu,never,p\n",
            "orders.csv": "order,user,time,product,quantity,price\n" + "\n".join(sold) + "\n",
        },
    )


def test_all_arrives_in_order_and_equal_keys_meet(make_source: MakeSource, settings: Settings, tmp_path: Path) -> None:
    """Every event once, in time order in each partition, a user's in one partition number, bad rows in dead letters."""
    counts = replay(shop(make_source), settings, ReplayOptions(state=tmp_path / "state.json"))
    assert counts["sent"] == {CLICKSTREAM: 50, ORDERS: 7, DEADLETTERS: 1}
    assert counts["unreadable"] == {"clicks.time.invalid": 1}
    assert counts["rows"] == {"clicks": 51, "orders": 7}
    assert (counts["first_time"], counts["last_time"]) == (T0, T0 + 49_000)
    records = log(settings, CLICKSTREAM, ORDERS)
    assert Counter(record.input.topic for record in records if marker(record) is None) == {CLICKSTREAM: 50, ORDERS: 7}
    partitions: dict[bytes | None, set[int]] = {}
    times: dict[Any, list[int]] = {}
    for record in records:
        value = json.loads(record.value or b"")
        times.setdefault(record.input, []).append(value["time"])
        if marker(record) is None:
            partitions.setdefault(record.key, set()).add(record.input.partition)
    assert all(len(where) == 1 for where in partitions.values())
    assert all(each == sorted(each) for each in times.values())
    [letter] = [decode_dead_letter(record.value or b"") for record in log(settings, DEADLETTERS)]
    assert (letter.topic, letter.offset, letter.reason) == ("shop:clicks", 51, "invalid")


def test_every_partition_hears_of_time_and_of_the_end(make_source: MakeSource, settings: Settings) -> None:
    """A marker in each partition of both inputs every 1,000 events, and the end just after the last event."""
    replay(shop(make_source, 2_500), settings, ReplayOptions())
    heard: dict[Any, list[tuple[bytes, int]]] = {}
    for record in log(settings, CLICKSTREAM, ORDERS):
        kind = marker(record)
        if kind is not None:
            assert decode_marker(record.value or b"").source == "shop"
            heard.setdefault(record.input, []).append((kind, decode_marker(record.value or b"").time))
    assert len(heard) == 8
    for each in heard.values():
        assert [kind for kind, _ in each][-3:] == [b"time", b"time", b"end"]
        assert each[-1] == (b"end", T0 + 2_499_001)
        assert [time for _, time in each] == sorted(time for _, time in each)


def test_speed_is_kept_and_time_goes_on_in_gaps(make_source: MakeSource, settings: Settings) -> None:
    """At 60x an hour takes a minute, and markers move through a gap without an event, never past the next one."""
    source = make_source(CLICKS, **{"clicks.csv": "user,time,product\nu,2024-01-01T00:00,p\nu,2024-01-01T01:00,p\n"})
    clock = ManualClock()
    replay(source, settings, ReplayOptions(speed=60.0), clock=clock)
    assert sum(clock.slept) == pytest.approx(60.0)
    times = [decode_marker(r.value or b"").time for r in log(settings, ORDERS) if r.input.partition == 0]
    assert len(times) >= 50
    assert times == sorted(times)
    assert times[-2:] == [T0 + 3_600_000, T0 + 3_600_001]


def test_stopped_and_run_again_it_goes_on(make_source: MakeSource, settings: Settings, tmp_path: Path) -> None:
    """After a stop anywhere the next run sends the rest: no event is lost, and what comes twice has its id twice."""

    class Stopped(Exception):
        pass

    source = shop(make_source, 3_000)
    state = tmp_path / "state.json"
    clock = ManualClock(step=1.0)  # the state is written at every other look

    def stop(progress: Progress) -> None:
        if progress.events >= 1_500:
            raise Stopped

    with pytest.raises(Stopped):
        replay(source, settings, ReplayOptions(state=state), clock=clock, report=stop)
    counts = replay(source, settings, ReplayOptions(state=state))
    assert counts["resumed_after"] > 1_000
    assert counts["sent"] == {CLICKSTREAM: 3_000, ORDERS: 7, DEADLETTERS: 1}
    ids = Counter(event["event_id"] for event in events(log(settings, CLICKSTREAM, ORDERS)))
    assert len(ids) == 3_007
    assert max(ids.values()) <= 2
    again = replay(source, settings, ReplayOptions(state=state))
    assert again["resumed_after"] == 0  # it was finished: a new run is a new replay


def test_another_log_is_not_gone_on_with(make_source: MakeSource, settings: Settings, tmp_path: Path) -> None:
    """Where the topics hold less than the state says was sent, they are other topics: the replay starts over."""
    source = shop(make_source)
    state = tmp_path / "state.json"
    replay(source, settings, ReplayOptions(state=state))
    data = json.loads(state.read_bytes())
    state.write_text(json.dumps(data | {"done": False, "position": 20, "sent": {CLICKSTREAM: 10**6}}))
    assert replay(source, settings, ReplayOptions(state=state))["resumed_after"] == 0
    state.write_text("{}")
    with pytest.raises(ConfigurationError, match="delete it to start over"):
        replay(source, settings, ReplayOptions(state=state))


def test_no_broker(make_source: MakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a broker: an error that says so and what to check, in seconds."""
    import streams.sources.sending as sending

    real = sending.partition_counts
    monkeypatch.setattr(sending, "partition_counts", lambda client: real(client, 0.5))
    with pytest.raises(TidecastError, match=r"no Kafka broker answers.*check kafka.bootstrap_servers"):
        replay(shop(make_source), Settings(kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1")), ReplayOptions())


@pytest.mark.parametrize("text", ["fast", "0x", "-1x", "", "nan"])
def test_no_speed(text: str) -> None:
    """A speed that is none is refused by its name and the allowed forms."""
    with pytest.raises(ConfigurationError, match="is one of max, 1x"):
        parse_speed(text)
