"""Laws of training end to end, on the embedded broker: history in, a served version out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer

from models.buckets import bucket_start
from models.registry import RegistryError, SchemaMismatch
from models.sequence import History
from schemas.outputs import Announcement, decode_announcement, encode_history
from streams.announcing import promote, rollback
from streams.embedded import EmbeddedServers
from streams.kafka import producer_config, read_to_end
from streams.records import HISTORY, MODELS, Record
from streams.serving import load_announced, registry_of
from streams.settings import KafkaSettings, Settings, ShopSettings, TrainSettings
from streams.topics import create
from streams.train import read_history, run_training
from streams.training_run import RunFolder, TrainingRunning
from tests.models.panels import weekly_shop

NOW = 1_800_000_000_000
ZONE = "Europe/London"


@pytest.fixture
def settings(servers: EmbeddedServers, tmp_path: Path) -> Settings:
    """Return settings with topics and a registry of their own."""
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=servers.bootstrap, prefix=f"train-{uuid.uuid4().hex[:8]}-", partitions=2),
        shop=ShopSettings(timezone=ZONE),
        train=TrainSettings(registry=tmp_path / "registry", epochs=3, device="cpu"),
    )
    create(settings)
    return settings


def publish(
    settings: Settings, days: int = 70, *, products: int = 4, quantity: int | None = None, rev: int = 0
) -> None:
    """Publish a small shop's closed buckets, or (with `quantity`) other values for them."""
    panel = weekly_shop(products=products, days=days)
    producer = Producer(producer_config(settings))
    for s, product in enumerate(panel.products):
        for t in np.flatnonzero(np.isfinite(panel.quantity[s])):
            start = bucket_start(panel.first_index + int(t), "D", ZONE)
            value = encode_history(
                id=f"{product}|{start}|history|{rev}",
                product_id=product,
                bucket_start=start,
                freq="D",
                quantity=int(panel.quantity[s, t]) if quantity is None else quantity,
                value_minor=0,
                views=int(panel.views[s, t]),
                carts=0,
                price=None,
                covariates={},
                revision=rev,
            )
            producer.produce(settings.kafka.prefix + HISTORY, value, f"{product}|{start}".encode())
    assert producer.flush(30) == 0


def announced(settings: Settings) -> dict[str, Announcement]:
    """Return the last announcement of each role."""
    found: dict[str, Announcement] = {}

    def take(record: Record) -> None:
        assert record.value is not None
        found[(record.key or b"").decode()] = decode_announcement(record.value)

    read_to_end(settings, [MODELS], take)
    return found


def test_the_last_value_of_a_key_counts(settings: Settings) -> None:
    """Revisions replace what they revise, tombstones remove it, strange bytes stop nothing; offsets are noted."""
    publish(settings, 20, products=2, quantity=99)
    publish(settings, 20, products=2, rev=1)
    producer = Producer(producer_config(settings))
    topic = settings.kafka.prefix + HISTORY
    panel = weekly_shop(products=2, days=20)
    last = bucket_start(panel.first_index + 19, "D", ZONE)
    for product in panel.products:
        producer.produce(topic, None, f"{product}|{last}".encode())
    producer.produce(topic, b"\xff not JSON", b"strange")
    producer.flush(30)
    read = read_history(settings)
    np.testing.assert_array_equal(read.panel.quantity, panel.quantity[:, :19])
    assert sum(read.offsets[HISTORY].values()) == 2 * (20 + 19) + 3


def test_killed_and_resumed_the_same_version_is_served(settings: Settings, servers: EmbeddedServers) -> None:
    """`tidecast train`, killed and started again after the history moved on, serves what an undisturbed run does."""
    publish(settings)
    other = settings.train.model_copy(update={"registry": settings.train.registry.with_name("undisturbed")})
    undisturbed = run_training(settings.model_copy(update={"train": other}), now_ms=NOW)
    environment = os.environ | {
        "TIDECAST_KAFKA__BOOTSTRAP_SERVERS": servers.bootstrap,
        "TIDECAST_KAFKA__PREFIX": settings.kafka.prefix,
        "TIDECAST_SHOP__TIMEZONE": ZONE,
        "TIDECAST_TRAIN__REGISTRY": str(settings.train.registry),
        "TIDECAST_TRAIN__DEVICE": "cpu",
    }
    command = [sys.executable, "-m", "streams.cli", "train", "--epochs", "3"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if "epoch 1 of 3" in line:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL, "".join(seen)
    publish(settings, quantity=1, rev=1)
    done = subprocess.run(command, capture_output=True, env=environment, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["resumed_from"] >= 1
    assert figures["sha256"] == undisturbed["sha256"]
    assert figures["decision"] == undisturbed["decision"]
    assert figures["wql_lstm"] == undisturbed["wql_lstm"]
    assert not (settings.train.registry / ".training" / "run").exists()

    role = "champion" if figures["decision"] == "promoted" else "shadow"
    announcement = announced(settings)[f"demand/{role}"]
    assert (announcement.version, announcement.sha256) == (figures["version"], figures["sha256"])
    forecaster = load_announced(announcement, settings)
    assert forecaster.forecast([History(20_100, np.ones(30))])[0].shape == (1, settings.demand.horizon)
    card = registry_of(settings).card("demand", figures["version"])
    assert card.offsets == {HISTORY: {k: v for k, v in card.offsets[HISTORY].items() if v > 0}}
    assert card.metrics["wql_seasonal"] == figures["wql_seasonal"]


def test_a_version_for_other_settings_is_refused(settings: Settings) -> None:
    """A worker that serves other buckets, zones or a longer horizon refuses the version, and one that was changed."""
    publish(settings)
    figures = run_training(settings, now_ms=NOW)
    (announcement,) = announced(settings).values()
    for change in (
        {"demand": settings.demand.model_copy(update={"horizon": 8})},
        {"demand": settings.demand.model_copy(update={"bucket": "W"})},
        {"shop": ShopSettings(timezone="UTC")},
    ):
        with pytest.raises(SchemaMismatch, match="train a version with these settings"):
            load_announced(announcement, settings.model_copy(update=change))
    path = settings.train.registry / "demand" / figures["version"] / "card.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(RegistryError):
        load_announced(announcement, settings)


def test_promotion_and_rollback_are_announced(settings: Settings) -> None:
    """Workers hear of each change of champion; the last step back leads to the seasonal forecast."""
    publish(settings)
    versions = [run_training(settings, now_ms=NOW + 1_000 * i)["version"] for i in range(2)]
    registry = registry_of(settings)
    while registry.champion("demand") is not None:
        rollback(settings, NOW)
    for version in versions:
        promote(settings, version, NOW)
        assert announced(settings)["demand/champion"].version == version
    assert rollback(settings, NOW) == registry.card("demand", versions[0])
    assert announced(settings)["demand/champion"].version == versions[0]
    assert rollback(settings, NOW) is None
    assert announced(settings)["demand/champion"].name == "seasonal"


def test_little_history_is_an_outcome(settings: Settings) -> None:
    """Without enough closed buckets the outcome says so; nothing is registered or announced."""
    publish(settings, 10)
    figures = run_training(settings, now_ms=NOW)
    assert (figures["version"], figures["decision"]) == (None, "not_enough_history")
    assert "10 closed buckets" in figures["reason"]
    assert announced(settings) == {}
    assert registry_of(settings).list_versions("demand") == []


def test_one_training_at_a_time(settings: Settings) -> None:
    """A second training is refused while one holds the lock; a lock file that was left behind holds nothing."""
    folder = RunFolder(settings.train.registry)
    with folder.lock(), pytest.raises(TrainingRunning, match=f"process {os.getpid()}"):
        run_training(settings, now_ms=NOW)
    assert (folder.path.parent / "lock").exists()
    assert run_training(settings, now_ms=NOW)["decision"] == "not_enough_history"
