"""What must hold after any crash, checked from the logs and the store alone."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass

import msgspec
import numpy as np

from features.engine import ScoreFeatures
from features.layout import PRODUCT_OFFSET, PRODUCT_PARTITION
from features.products import ProductTable
from models.linear import LinearModel
from models.online import PurchaseLearner
from schemas.internal import ActivityRow, Example, decode_activity, decode_examples
from schemas.outputs import decode_dead_letter
from streams.logs import KafkaTopics
from streams.runtime.checkpoint import decode_header
from streams.settings import Settings
from streams.topologies.series import Series
from streams.verification.features import verify_features
from streams.verification.report import By
from tests.real.harness import Shop


@dataclass(slots=True)
class Evidence:
    """All logs of one run, read once."""

    shop: Shop
    predictions: list[dict[str, object]]
    examples: list[tuple[int, Example]]
    activity: dict[tuple[int, str], list[tuple[int, ActivityRow]]]
    models: dict[str, LinearModel]

    @classmethod
    def gather(cls, shop: Shop) -> Evidence:
        """Read the topics of a finished run as a read_committed consumer."""
        activity: dict[tuple[int, str], list[tuple[int, ActivityRow]]] = defaultdict(list)
        for record in shop.read("tidecast.activity"):
            for row in decode_activity(record.value or b"").rows:
                activity[record.input.partition, row.product_id].append((record.offset, row))
        examples = [
            (record.input.partition, example)
            for record in shop.read("tidecast.examples")
            for example in decode_examples(record.value or b"").examples
        ]
        models: dict[str, LinearModel] = {}
        for record in shop.read("tidecast.models"):
            params = json.loads(record.value or b"{}").get("params")
            if params:
                model = LinearModel.from_params(params)
                models[f"{model.name}:{model.version}"] = model
        predictions = [json.loads(record.value or b"{}") for record in shop.read("predictions")]
        return cls(shop, predictions, examples, dict(activity), models)

    def ids(self) -> list[str]:
        """Return the ids of all predictions, in the order read."""
        return [str(one["id"]) for one in self.predictions]

    def said_of_demand(self) -> dict[str, object]:
        """Return the demand predictions by id, but for when they were made."""
        return {
            str(one["id"]): {key: value for key, value in one.items() if key != "produced_at"}
            for one in self.predictions
            if one["kind"] == "demand"
        }

    def check_examples(self, settings: Settings, *, by: By = "engine", sample: int | None = None) -> int:
        """Check vectors as `tidecast verify features` does, the example of every click being there; return how many."""
        found = verify_features(KafkaTopics(settings), settings, by=by, sample=sample)
        assert found.clean, found
        assert found.examples == found.accepted == len(self.examples)
        assert (found.unverifiable, found.other_definition) == (0, 0)
        return found.compared

    def said_of_products(self) -> Counter[tuple[int, str, int, int, int, int]]:
        """Return what activity says: partition, product, kind, time, quantity and when it was said, how often."""
        return Counter(
            (partition, product, row.kind, row.time, row.quantity, row.at)
            for (partition, product), rows in self.activity.items()
            for _, row in rows
        )

    def refused(self) -> Counter[tuple[str, str]]:
        """Return how many dead letters there are, by topic and reason."""
        letters = [decode_dead_letter(record.value or b"") for record in self.shop.read("tidecast.deadletters")]
        return Counter((letter.topic, letter.reason) for letter in letters)

    def check_probabilities(self) -> int:
        """Check that each probability is what the model it names gives on its vector, to the bit; return how many."""
        said = {str(one["id"]): one for one in self.predictions if one["kind"] == "purchase"}
        for _, example in self.examples:
            vector = np.frombuffer(example.vector, "<f8").reshape(1, -1)
            probability = float(self.models[example.model].predict(vector)[0])
            payload = said[example.id]["payload"]
            assert isinstance(payload, dict)
            assert example.probability == probability == payload["probability"], example.id
        return len(self.examples)

    def check_learner(self, settings: Settings) -> int:
        """Check that the stored learner is, to the bit, what the examples log makes of a new one.

        Returns how many messages the new one had to read again.
        """
        features = ScoreFeatures()
        learner = PurchaseLearner(
            features.names,
            features.schema_hash,
            horizon_ms=settings.score.horizon_s * 1_000,
            lateness_ms=settings.time.allowed_lateness_s * 1_000,
            publish_every=settings.learn.publish_every,
            max_pending=settings.learn.max_pending,
        )
        log = self.shop.read("tidecast.examples")
        read_again = 0
        for record in log:
            learner.feed(record.input.partition, record.offset, decode_examples(record.value or b""))
            while (wanted := learner.clock.wanted) is not None:
                read_again += 1
                again = next(one for one in log if one.input.partition == wanted[0] and one.offset >= wanted[1])
                learner.clock.recall(wanted[0], again.offset, decode_examples(again.value or b""))
                learner.learn(learner.clock.release())
        [stored] = self.shop.rows("learn").values()
        assert learner.state() == stored
        return read_again


def same_rows(left: Shop, right: Shop) -> None:
    """Check that two finished runs left equal rows: all of score's and of demand's, but for versions.

    A version names a place in the run's own log. Of a series counts what its stage reads: nothing open that is void.
    """
    assert left.rows("score") == right.rows("score")
    ours, theirs = (_demand_rows(shop) for shop in (left, right))
    assert set(ours) == set(theirs)
    wrong = [key for key, row in ours.items() if row != theirs[key]]
    assert not wrong, f"{len(wrong)} of {len(ours)} rows of demand differ: {wrong[:5]}"


def _demand_rows(shop: Shop) -> dict[str, object]:
    closed = {task: _closed(header) for task, header in shop.headers("demand").items()}
    found: dict[str, object] = {}
    for key, row in shop.rows("demand").items():
        task, _, name = key.partition("/")
        if name.startswith(("p:", "c:")):
            found[key] = _without_version(row)
        elif name.startswith("s:"):
            series = Series.unpack(row)
            series.drop_void(closed[task])
            found[key] = series.pack()
        else:
            found[key] = row
    return found


def _closed(header: bytes) -> int:
    closed = msgspec.msgpack.decode(msgspec.msgpack.decode(decode_header(header).extra)["state"])["closed"]
    return -1 if closed is None else int(closed)


def _without_version(row: bytes) -> tuple[bytes, bytes]:
    table = ProductTable()
    table.load({"p": row})
    slot = table.slots.of["p"]
    words = table.rows[slot].copy()
    words[PRODUCT_PARTITION] = words[PRODUCT_OFFSET] = 0
    return words.tobytes(), table.tiles[slot].tobytes()
