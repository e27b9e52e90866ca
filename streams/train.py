"""Training, end to end: history from Kafka, weights, a backtest, a signed version, an announcement.

Killed at any moment and started again, a run goes on from its last checkpoint and ends in the same version.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from models.promotion import Backtest, backtest
from models.registry import Card, Registry, RegistryError, VersionExists
from models.samples import NotEnoughHistory
from models.sequence import SEQUENCE, SequenceForecaster, SequenceSpec
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
from schemas.codec import decode_plan
from schemas.outputs import HistoryBucket, decode_history
from schemas.wire import DecodeError
from streams.announcing import DEMAND, Role, announce
from streams.errors import ConfigurationError, TopicsError
from streams.kafka import admin, partition_counts, read_to_end
from streams.records import ACTIVITY, HISTORY, PLAN, Record
from streams.serving import registry_of
from streams.settings import Settings
from streams.topologies.calendar import Calendar
from streams.topologies.facts import Facts
from streams.topologies.layout import activity_partition
from streams.training_run import Plan, RunFolder


@dataclass(frozen=True, slots=True)
class Read:
    """What the history topic held: the last value of each key as a panel, and the next offset of each partition.

    `notes` says what was left out, and why.
    """

    panel: Panel
    offsets: dict[str, dict[str, int]]
    notes: tuple[str, ...] = ()


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
                plan, panel = _begin(settings, folder, asked, now_ms, note)
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
        result = backtest(trained, panel, champion=_champion(registry, trained.spec, note))
        card = register(registry, plan, trained, result)
        role: Role = "champion" if result.decision == "promoted" else "shadow"
        announce(settings, card, role, now_ms)
        if role == "champion":
            # Noted after it was told, as by hand: a crash between the two resumes the run, and both come again.
            registry.promote(DEMAND, card.version)
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
    """Read the compacted history topic to where it ends now; of each key the last value counts, none if deleted.

    The panel ends where the slowest demand task is: what that has not closed did not sell nothing, it is unknown.
    """
    latest: dict[bytes, HistoryBucket] = {}
    offsets: dict[str, dict[str, int]] = {}
    facts = Facts()
    skipped: list[str] = []

    def take(record: Record) -> None:
        if record.input.topic == PLAN:
            with suppress(DecodeError):
                facts.learn(decode_plan(record.value or b""))
            return
        offsets.setdefault(HISTORY, {})[str(record.input.partition)] = record.offset + 1
        key = record.key or b""
        latest.pop(key, None)
        if record.value is not None:
            try:
                bucket = decode_history(record.value)
                if key != f"{bucket.product_id}|{bucket.bucket_start}".encode():
                    raise DecodeError("invalid", f"key {key!r} is not that of {bucket.id}")
            except DecodeError as error:
                skipped.append(f"{record.input} offset {record.offset}: {error}")
                return
            if bucket.freq == settings.demand.bucket:
                latest[key] = bucket

    read_to_end(settings, [HISTORY, PLAN], take)
    notes = [f"{len(skipped)} records of the history are none of ours, such as {skipped[0]}"] if skipped else []
    calendar = Calendar(settings.demand.bucket, settings.shop.timezone)
    tasks = partition_counts(admin(settings)).get(settings.kafka.prefix + ACTIVITY)
    if tasks is None:
        raise TopicsError(f"topics are missing: {settings.kafka.prefix}{ACTIVITY}; run 'tidecast topics create'")
    through = closed_through(latest.values(), calendar, tasks, settings.demand.retire_after)
    kept = [row for row in latest.values() if through is None or calendar.number(row.bucket_start) <= through]
    if len(kept) < len(latest):
        assert through is not None
        until = datetime.fromtimestamp(calendar.start(through + 1) / 1_000, UTC).isoformat()
        notes.append(f"a demand task has closed its buckets only until {until}: nothing later is trained on")
    # What was planned is asked of the plan, not of the rows: they are silent where a series rests.
    panel = Panel.from_rows(kept, settings.demand.bucket, settings.shop.timezone, covariate_names=())
    return Read(with_plan(panel, facts, calendar), offsets, tuple(notes))


def closed_through(rows: Iterable[HistoryBucket], calendar: Calendar, tasks: int, retire_after: int) -> int | None:
    """Return the number of the last bucket that every demand task has closed; None where no series is alive.

    A series publishes each bucket until it rests, `retire_after` buckets after its last sale.
    """
    last: dict[str, int] = {}
    sold: dict[str, int] = {}
    for row in rows:
        number = calendar.number(row.bucket_start)
        last[row.product_id] = max(number, last.get(row.product_id, number))
        if row.quantity > 0:
            sold[row.product_id] = max(number, sold.get(row.product_id, number))
    frontier: dict[int, int] = {}
    for product, number in last.items():
        if product in sold and number - sold[product] < retire_after:
            task = activity_partition(product, tasks)
            frontier[task] = max(number, frontier.get(task, number))
    return min(frontier.values(), default=None)


def with_plan(panel: Panel, facts: Facts, calendar: Calendar) -> Panel:
    """Return the panel with what was planned for each of its buckets, asked for as a demand worker asks."""
    names = facts.covariate_names()
    starts = [calendar.start(number) for number in panel.index().tolist()]
    planned = np.zeros((len(panel.products), len(starts), len(names)))
    if names:
        for place, product in enumerate(panel.products):
            planned[place] = facts.planned(product, starts, names)
    return replace(panel, covariates=planned, covariate_names=names)


def _champion(registry: Registry, spec: SequenceSpec, note: Callable[[str], None]) -> SequenceForecaster | None:
    """Return the network that serves now, None where it cannot forecast what the new one does."""
    version = registry.champion(DEMAND)
    if version is None:
        return None
    try:
        there = registry.load(DEMAND, version, schema_hash=spec.schema_hash())
        forecaster = SequenceForecaster.from_tensors(SequenceSpec.from_json(there.card.spec), there.tensors)
    except (RegistryError, ValueError) as error:
        note(f"not compared with champion {version}: {error}")
        return None
    if forecaster.spec.horizon != spec.horizon:
        note(f"not compared with champion {version}: it looks {forecaster.spec.horizon} buckets ahead")
        return None
    return forecaster


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


def _begin(
    settings: Settings, folder: RunFolder, asked: dict[str, Any], now_ms: int, note: Callable[[str], None]
) -> tuple[Plan, Panel]:
    """Read the history and write down what the run is, before anything is computed."""
    read = read_history(settings)
    for one in read.notes:
        note(one)
    stamp = datetime.fromtimestamp(now_ms / 1_000, UTC).strftime("%Y%m%dT%H%M%SZ")
    plan = Plan(f"{stamp}-{read.panel.fingerprint()[:8]}", now_ms, asked, read.offsets)
    folder.begin(plan, read.panel)
    return plan, read.panel
