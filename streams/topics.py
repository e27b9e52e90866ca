"""The topics: how each is configured, creating them, and checking that partition counts match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic

from models.buckets import kept_buckets
from models.labels import remembered_ms
from streams.errors import TopicsError
from streams.kafka import admin, partition_counts
from streams.records import (
    ACTIVITY,
    CATALOG,
    CLICKSTREAM,
    DEADLETTERS,
    EXAMPLES,
    HISTORY,
    MODELS,
    ORDERS,
    PLAN,
    PREDICTIONS,
    SHADOW,
    STATUS,
)
from streams.settings import Settings
from streams.topologies.stage import Stage

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it should be; `single`: one partition whatever the setting says."""

    name: str
    config: Mapping[str, str]
    single: bool = False


def wanted(settings: Settings) -> list[Topic]:
    """Return all topics with their configuration.

    Retention follows the longest memory: inputs keep features' memory, activity that of the series too, examples what a
    learner reads again, + lateness + two weeks of outage.
    """
    lateness = settings.time.allowed_lateness_s * 1_000
    keep_inputs = {"retention.ms": str(35 * _DAY_MS + lateness + 14 * _DAY_MS)}
    keep_examples = {"retention.ms": str(remembered_ms(settings.score.horizon_s * 1_000, lateness) + 14 * _DAY_MS)}
    bucket_ms = {"H": _DAY_MS // 24, "D": _DAY_MS, "W": 7 * _DAY_MS}[settings.demand.bucket]
    buckets = kept_buckets(settings.demand.bucket) + settings.demand.retire_after
    keep_activity = {"retention.ms": str(max(35 * _DAY_MS, buckets * bucket_ms) + lateness + 14 * _DAY_MS)}
    forever = {"retention.ms": "-1"}
    compacted = {"cleanup.policy": "compact"}
    return [
        Topic(CLICKSTREAM, keep_inputs),
        Topic(ORDERS, keep_inputs),
        Topic(CATALOG, forever, single=True),
        Topic(PLAN, forever, single=True),
        Topic(ACTIVITY, keep_activity),
        Topic(EXAMPLES, keep_examples),
        Topic(PREDICTIONS, {"retention.ms": str(14 * _DAY_MS)}),
        Topic(SHADOW, {"retention.ms": str(14 * _DAY_MS)}),
        Topic(HISTORY, compacted),
        Topic(MODELS, compacted, single=True),
        Topic(DEADLETTERS, {"retention.ms": str(30 * _DAY_MS), "max.message.bytes": "4000000"}),
        Topic(STATUS, {"cleanup.policy": "compact,delete", "retention.ms": str(_DAY_MS)}, single=True),
    ]


def create(settings: Settings) -> dict[str, str]:
    """Create what is missing; return "created" or "exists" for each topic. Raises TopicsError, TidecastError."""
    client = admin(settings)
    there = partition_counts(client)
    prefix = settings.kafka.prefix
    result: dict[str, str] = {}
    new: list[NewTopic] = []
    for topic in wanted(settings):
        name = prefix + topic.name
        partitions = 1 if topic.single else settings.kafka.partitions
        if name in there:
            if there[name] != partitions:
                raise TopicsError(
                    f"{name} has {there[name]} partitions, {partitions} are set; keys would move between tasks: set "
                    f"kafka.partitions = {there[name]}, or use another kafka.prefix"
                )
            result[name] = "exists"
            continue
        config = {
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(max(settings.kafka.max_message_bytes * 2, 8_000_000)),
            **topic.config,
        }
        new.append(NewTopic(name, partitions, settings.kafka.replication_factor, config=config))
    for name, future in client.create_topics(new, operation_timeout=30).items() if new else ():
        try:
            future.result(30)
            result[name] = "created"
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicsError(f"{name} could not be created: {error.args[0].str()}") from error
            result[name] = "exists"
    return result


def check_partitions(stage: Stage, counts: Mapping[str, int], prefix: str) -> int:
    """Return the number of tasks of a stage. Raises TopicsError where topics are missing or counts differ."""
    names = [*stage.inputs, *stage.tables, *stage.outputs]
    missing = [prefix + name for name in names if prefix + name not in counts]
    if missing:
        raise TopicsError(f"topics are missing: {', '.join(missing)}; run 'tidecast topics create'")
    partitioned = {name: counts[prefix + name] for name in (*stage.inputs, *stage.partitioned_outputs)}
    if len(set(partitioned.values())) != 1:
        told = ", ".join(f"{prefix}{name} has {count}" for name, count in partitioned.items())
        raise TopicsError(
            f"partition counts must be equal: {told}; recreate the topics with one count "
            "('tidecast topics create' makes all of them with kafka.partitions)"
        )
    return next(iter(partitioned.values()))
