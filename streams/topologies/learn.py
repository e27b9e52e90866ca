"""Learn: outcomes meet the vectors that were served, and versions of the online model come out.

One task reads every partition of the examples; its state is the model's parameters, while pending labels are rebuilt
from the log, which is read again from the learner's floor on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from features.engine import ScoreFeatures
from models.labels import LabelLogError
from models.online import STATE_FORMAT, PurchaseLearner, Snapshot
from schemas.codec import DecodeError
from schemas.internal import ExampleBatch, decode_examples
from schemas.outputs import encode_announcement
from streams.errors import LogTruncated
from streams.records import DEADLETTERS, EXAMPLES, MODELS, Input, Output, Record
from streams.runtime.checkpoint import Rows
from streams.runtime.merge import Entry
from streams.settings import Settings
from streams.topologies.layout import score_layout
from streams.topologies.shop import shop_of
from streams.topologies.stage import State, Step
from streams.topologies.upstream import check_batch

_PARAMETERS = "model"
_FOREVER_MS = 100 * 366 * 86_400_000
_KEPT = 100
"""So many versions can be pinned beside the latest; the one pinned in the settings of this role stays."""


class LearnStage:
    """The learner's stage; owning partition 0 of the models topic is what makes a worker the learner."""

    name = "learn"
    inputs = (EXAMPLES,)
    tables = (MODELS,)
    outputs = (MODELS, DEADLETTERS)
    partitioned_outputs: tuple[str, ...] = ()
    ordered = False
    guarded = False
    single_task = True
    expiring: tuple[str, ...] = ("\0",)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tasks = 0
        features = ScoreFeatures(shop_of(settings))
        self.feature_names = features.names
        self.schema_hash = features.schema_hash
        # What a label is, and when it is known, follows from these.
        labels = f"{settings.score.horizon_s}/{settings.time.allowed_lateness_s}/{settings.learn.max_pending}"
        self.layout = score_layout(f"learn{STATE_FORMAT}{features.schema_hash}{labels}")
        # What was learnt has no memory's end: a learner without its row learns again from the log's start.
        self.memory_ms = _FOREVER_MS

    def decode(self, record: Record) -> ExampleBatch:
        """Return the batch in a record. Raises DecodeError."""
        if record.value is None:
            raise DecodeError("undecodable", "the record has no value")
        batch = decode_examples(record.value)
        check_batch(batch, record, self.tasks, self.settings)
        return batch

    def decode_run(self, records: Sequence[Record]) -> None:
        """Return None: a record is a batch by itself."""
        return

    def time_of(self, item: ExampleBatch) -> int:
        """Return the batch's watermark as its time."""
        return item.watermark or 0

    def on_table(self, record: Record) -> bool:
        """Nothing is read from the table; the topic only stands for ownership."""
        return False

    def lacks(self) -> str | None:
        """Return None: nothing was asked for."""
        return None

    def serves(self) -> Mapping[str, str]:
        """Return nothing: models are made here, not served."""
        return {}

    def open(self, partition: int, tasks: int) -> State:
        """Return the empty state of the task."""
        self.tasks = tasks
        return _LearnState(self)


class _LearnState:
    def __init__(self, stage: LearnStage) -> None:
        self._stage = stage
        self._positions: dict[int, int] = {}
        self._changed = False
        self._pinnable: list[str] = []
        """Versions that stand under keys of their own, oldest first."""
        self._learner = PurchaseLearner(
            stage.feature_names,
            stage.schema_hash,
            horizon_ms=stage.settings.score.horizon_s * 1_000,
            lateness_ms=stage.settings.time.allowed_lateness_s * 1_000,
            publish_every=stage.settings.learn.publish_every,
            max_pending=stage.settings.learn.max_pending,
        )

    def initial_keys(self) -> Sequence[str]:
        return (_PARAMETERS,)

    def missing(self, entries: Sequence[Entry]) -> Sequence[str]:
        return ()

    def load(self, rows: Mapping[str, bytes | None]) -> None:
        row = rows.get(_PARAMETERS)
        if row is not None:
            self._learner.load(row)

    def foreign(self, entries: Sequence[Entry], now_ms: int, *, refresh: bool) -> Mapping[str, Sequence[str]]:
        return {}

    def load_foreign(self, task: str, rows: Mapping[str, bytes | None], now_ms: int) -> None:
        return

    def watermark(self) -> int | None:
        return self._learner.clock.watermark

    def step(self, entries: Sequence[Entry], step: Step) -> list[Output]:
        for entry in entries:
            batch = entry.item
            assert isinstance(batch, ExampleBatch)
            partition = entry.record.input.partition
            self._learner.clock.add(partition, entry.offset, batch)
            self._positions[partition] = entry.offset + 1
        self._changed = self._changed or bool(entries)
        return self.resume(step)

    def resume(self, step: Step) -> list[Output]:
        outputs = []
        for snapshot in self._learner.learn(self._learner.clock.release()):
            step.count("models_published")
            outputs.extend(self._announce(snapshot, step.now_ms))
        return outputs

    def wants(self) -> tuple[Input, int] | None:
        wanted = self._learner.clock.wanted
        return None if wanted is None else (Input(EXAMPLES, wanted[0]), wanted[1])

    def wants_from(self) -> Mapping[Input, int]:
        unsettled = self._learner.clock.first_unsettled()
        return {Input(EXAMPLES, number): offset for number, offset in unsettled.items()}

    def recall(self, input_: Input, offset: int, item: object | None) -> None:
        assert item is None or isinstance(item, ExampleBatch)
        try:
            self._learner.clock.recall(input_.partition, offset, item)
        except LabelLogError as error:
            raise LogTruncated(str(error)) from error

    def fullness(self, input_: Input) -> float:
        share = self._stage.settings.learn.max_pending / self._stage.tasks
        return self._learner.clock.ahead(input_.partition) / share

    def dirty(self) -> int:
        return int(self._changed)

    def drain(self) -> Rows:
        self._changed = False
        return {_PARAMETERS: self._learner.state()}

    def forget(self, keys: Iterable[str]) -> None:
        return

    def trim(self, limit: int) -> None:
        return

    def extra(self) -> bytes:
        return msgspec.msgpack.encode(self._pinnable)

    def restore(self, extra: bytes) -> None:
        self._pinnable = msgspec.msgpack.decode(extra, type=list[str])

    def floor(self) -> Mapping[Input, int] | None:
        floors = self._learner.clock.floor()
        return {
            Input(EXAMPLES, number): min(position, floors.get(number, position))
            for number, position in self._positions.items()
        }

    def _announce(self, snapshot: Snapshot, now_ms: int) -> list[Output]:
        """Say a version twice: the latest replaces the one before, the other stays readable for who pins it."""
        model = snapshot.model
        value = encode_announcement(
            model="purchase",
            role="champion",
            name=model.name,
            version=model.version,
            params=model.to_params(),
            path=None,
            sha256=None,
            schema_hash=self._stage.schema_hash,
            published_at=now_ms,
            metrics=snapshot.metrics,
        )
        pin = f"{model.name}:{model.version}"
        outputs = [Output(MODELS, b"purchase/champion", value), Output(MODELS, pinned_key(pin), value)]
        self._pinnable.append(pin)
        for dropped in self._pinnable[:-_KEPT]:
            if dropped != self._stage.settings.score.model_pin:
                outputs.append(Output(MODELS, pinned_key(dropped), None))
        del self._pinnable[:-_KEPT]
        return outputs


def pinned_key(pin: str) -> bytes:
    """Return the key under which a version (name:version) stays in the compacted models topic.

    >>> pinned_key("purchase:000000001000-1f2e3d4c")
    b'purchase/purchase:000000001000-1f2e3d4c'
    """
    return f"purchase/{pin}".encode()
