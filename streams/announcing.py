"""Which version of the demand model serves: promoted, rolled back, and told to the workers."""

from __future__ import annotations

from typing import Final, Literal

from confluent_kafka import KafkaError, Message, Producer

from models.registry import Card, RegistryError
from schemas.outputs import encode_announcement
from streams.errors import TidecastError
from streams.kafka import producer_config
from streams.records import MODELS
from streams.serving import registry_of
from streams.settings import Settings

DEMAND: Final = "demand"
SEASONAL = ("seasonal", "1")
"""Name and version of the forecast that serves where nothing was promoted over it."""

Role = Literal["champion", "shadow"]


class AnnouncementLost(TidecastError):
    """Kafka did not take an announcement."""


class VersionRefused(TidecastError):
    """The registry refused a version: it is missing, was changed, or has no valid signature."""

    exit_code = 2


def promote(settings: Settings, version: str, now_ms: int) -> Card:
    """Verify a version and make it champion. Raises VersionRefused or AnnouncementLost."""
    registry = registry_of(settings)
    try:
        card = registry.load(DEMAND, version).card
        registry.champion(DEMAND)  # what cannot be noted must not be told
        announce(settings, card, "champion", now_ms)
        registry.promote(DEMAND, version)
    except RegistryError as error:
        raise VersionRefused(str(error)) from error
    return card


def rollback(settings: Settings, now_ms: int) -> Card | None:
    """Make the champion's predecessor serve again; None: the seasonal forecast. Raises as `promote` does."""
    registry = registry_of(settings)
    try:
        card = registry.predecessor(DEMAND)
        # Told first, noted then: a crash between the two repeats the step instead of taking a second one.
        announce(settings, card, "champion", now_ms)
        registry.rollback(DEMAND)
    except RegistryError as error:
        raise VersionRefused(str(error)) from error
    return card


def announce(settings: Settings, card: Card | None, role: Role, now_ms: int) -> None:
    """Tell the workers of a version, or (None) that the seasonal forecast serves again."""
    name, version = (card.name, card.version) if card else SEASONAL
    value = encode_announcement(
        model=DEMAND,
        role=role,
        name=name,
        version=version,
        params=None if card else {},
        path=f"{card.model}/{card.version}" if card else None,
        sha256=card.sha256 if card else None,
        schema_hash=card.schema_hash if card else "",
        published_at=now_ms,
        metrics=card.metrics if card else {},
    )
    failed: list[str] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error.str())

    producer = Producer(producer_config(settings))
    producer.produce(settings.kafka.prefix + MODELS, value, f"{DEMAND}/{role}".encode(), on_delivery=delivered)
    if producer.flush(30.0) or failed:
        reason = failed[0] if failed else "no answer in 30 s"
        raise AnnouncementLost(f"{MODELS}: {name} {version} was not announced ({reason}); run the same command again")
