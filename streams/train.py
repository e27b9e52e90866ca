"""Training, end to end: history from Kafka, weights, a backtest, a signed version, an announcement.

Killed at any moment and started again, a run goes on from its last checkpoint and ends in the same version.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from models.promotion import Backtest, backtest
from models.registry import Card, Registry, VersionExists
from models.samples import NotEnoughHistory
from models.sequence import SEQUENCE
from models.training import (
    DeviceMissing,
    Progress,
    TorchMissing,
    TrainConfig,
    Trained,
    choose_device,
    spec_for,
    train,
)
from models.windows import Panel
from schemas.outputs import HistoryBucket, decode_history
from schemas.wire import DecodeError
from streams.announcing import DEMAND, Role, announce
from streams.errors import ConfigurationError
from streams.kafka import read_to_end
from streams.records import HISTORY, Record
from streams.serving import registry_of
from streams.settings import Settings
from streams.training_run import Plan, RunFolder


@dataclass(frozen=True, slots=True)
class Read:
    """What the history topic held: the last value of each key as a panel, and the next offset of each partition."""

    panel: Panel
    offsets: dict[str, dict[str, int]]


def run_training(
    settings: Settings,
    *,
    now_ms: int,
    fresh: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train a version on the history topic, register and announce it; return its figures as JSON data.

    A run that was interrupted is finished first, unless `fresh`. Too little history is an outcome, not an error:
    ``{"version": None, "decision": "not_enough_history", …}``. Raises TrainingRunning while another process trains,
    ConfigurationError without torch or for a device that is not here.
    """
    registry = registry_of(settings)
    folder = RunFolder(registry.root)
    started = time.monotonic()
    with folder.lock():
        config = TrainConfig(epochs=settings.train.epochs, seed=settings.train.seed)
        asked = {
            "freq": settings.demand.bucket,
            "timezone": settings.shop.timezone,
            "horizon": settings.demand.horizon,
            "prefix": settings.kafka.prefix,
            **asdict(config),
        }
        if fresh:
            folder.clear()
        try:
            choose_device(settings.train.device)
            found = folder.open(asked)
            if found is None:
                plan, panel = _begin(settings, folder, asked, now_ms)
                note(f"history: {panel.buckets} buckets of {len(panel.products)} products")
            else:
                plan, panel = found
                note(f"resuming {plan.version}, which was interrupted")
            trained = train(
                panel,
                spec_for(panel, settings.demand.horizon),
                config,
                folder.path,
                device=settings.train.device,
                progress=progress,
            )
        except NotEnoughHistory as error:
            folder.clear()
            return {"version": None, "decision": "not_enough_history", "reason": str(error)}
        except (TorchMissing, DeviceMissing) as error:
            raise ConfigurationError(str(error)) from error
        result = backtest(trained, panel)
        card = register(registry, plan, trained, result)
        role: Role = "champion" if result.decision == "promoted" else "shadow"
        if role == "champion":
            registry.promote(DEMAND, card.version)
        announce(settings, card, role, now_ms)
        folder.clear()
    return {
        "version": card.version,
        "decision": result.decision,
        **{"wql_lstm" if name == "wql" else name: value for name, value in result.metrics().items()},
        "buckets": panel.buckets,
        "epochs": len(trained.history),
        "best_epoch": trained.best_epoch,
        "resumed_from": trained.resumed_from,
        "device": trained.device,
        "sha256": card.sha256,
        "seconds": round(time.monotonic() - started, 1),
    }


def read_history(settings: Settings) -> Read:
    """Read the compacted history topic to where it ends now; of each key the last value counts, none if deleted."""
    latest: dict[bytes, HistoryBucket] = {}
    offsets: dict[str, dict[str, int]] = {}

    def take(record: Record) -> None:
        offsets.setdefault(HISTORY, {})[str(record.input.partition)] = record.offset + 1
        key = record.key or b""
        latest.pop(key, None)
        if record.value is not None:
            try:
                bucket = decode_history(record.value)
            except DecodeError:
                return  # not ours: someone else writes to the topic
            if bucket.freq == settings.demand.bucket:
                latest[key] = bucket

    read_to_end(settings, [HISTORY], take)
    panel = Panel.from_rows(latest.values(), settings.demand.bucket, settings.shop.timezone)
    return Read(panel, offsets)


def register(registry: Registry, plan: Plan, trained: Trained, result: Backtest) -> Card:
    """Write the version; the same one already there, from before a crash, is taken as it is."""
    spec = trained.spec
    card = Card(
        model=DEMAND,
        name=SEQUENCE,
        version=plan.version,
        schema_hash=spec.schema_hash(),
        spec=spec.to_json(),
        offsets=plan.offsets,
        metrics=result.metrics(),
        decision=result.decision,
        created_at=plan.created_at,
        notes={
            "asked": plan.asked,
            "validation_wql": list(trained.history),
            "best_epoch": trained.best_epoch,
            "device": trained.device,
            "split": {"cut": trained.split.cut, "held_out": trained.split.held_out},
        },
    )
    try:
        return registry.register(card, trained.tensors)
    except VersionExists:
        there = registry.load(DEMAND, plan.version)
        if any((there.tensors[name] != tensor).any() for name, tensor in trained.tensors.items()):
            raise
        return there.card


def _begin(settings: Settings, folder: RunFolder, asked: dict[str, Any], now_ms: int) -> tuple[Plan, Panel]:
    """Read the history and write down what the run is, before anything is computed."""
    read = read_history(settings)
    stamp = datetime.fromtimestamp(now_ms / 1_000, UTC).strftime("%Y%m%dT%H%M%SZ")
    plan = Plan(f"{stamp}-{read.panel.fingerprint()[:8]}", now_ms, asked, read.offsets)
    folder.begin(plan, read.panel)
    return plan, read.panel
