"""`tidecast state prepare` where a task reads more of the log again than others committed meanwhile."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.internal import Example, ExampleBatch, encode_examples
from streams.embedded import EmbeddedServers
from streams.errors import TopicsError
from streams.kafka import consumer_config, producer_config
from streams.preparing import prepare
from streams.records import EXAMPLES
from streams.runtime.checkpoint import decode_header
from streams.runtime.task import store_name
from streams.settings import KafkaSettings, RedisSettings, RuntimeSettings, Settings
from streams.store import RedisStore
from streams.topics import create
from streams.topologies.learn import LearnStage
from streams.topologies.score import ScoreStage

_MESSAGES = 1_500


def configured(servers: EmbeddedServers, prefix: str) -> Settings:
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=servers.bootstrap, prefix=prefix, partitions=1),
        redis=RedisSettings(url=servers.redis_url, prefix=prefix),
        runtime=RuntimeSettings(checkpoint_interval_ms=0, batch_max_events=100),
    )


def test_what_a_learner_reads_again_is_prepared_once(servers: EmbeddedServers) -> None:
    """A pending example keeps the floor at the log's start: no pass follows for that, and one leaves checkpoints."""
    settings = configured(servers, "p1-")
    create(settings)
    stage = LearnStage(settings)
    click = Example("e", "ann", 1_000, b"", (1, 0), None, 0.05, "purchase-prior:0")
    producer = Producer(producer_config(settings))
    for number in range(_MESSAGES):
        batch = ExampleBatch(0, 1, 1_001 + number, stage.schema_hash, [] if number else [click], [])
        producer.produce("p1-" + EXAMPLES, encode_examples(batch), partition=0)
    assert producer.flush(30) == 0
    consumer = Consumer(consumer_config(settings, "tidecast.learn"))
    consumer.commit(offsets=[TopicPartition("p1-" + EXAMPLES, 0, _MESSAGES, metadata="1")], asynchronous=False)
    consumer.close()

    [ready] = prepare(stage, settings, lambda: 0, lambda *_: None)
    assert (ready.rebuilt, ready.behind) == (_MESSAGES, _MESSAGES)
    store = RedisStore.connect(settings)
    header = store.read(store_name(stage, 0), [])[0]
    store.close()
    assert header is not None
    # One row is changed at any time, yet the way was kept, step by step.
    assert decode_header(header).sequence >= _MESSAGES // 100


def test_a_shop_without_topics_is_not_called_ready(servers: EmbeddedServers) -> None:
    """Nothing was prepared where nothing is: the error says what to do."""
    settings = configured(servers, "p2-")
    with pytest.raises(TopicsError, match="topics create"):
        list(prepare(ScoreStage(settings), settings, lambda: 0, lambda *_: None))
