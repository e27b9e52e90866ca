"""Laws of a version in shadow: it forecasts what the champion forecasts, elsewhere, and changes nothing of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.network import SequenceNetwork, tensors_of
from models.registry import Card, Registry
from models.sequence import SEQUENCE, History, SequenceForecaster, SequenceSpec
from schemas.internal import ActivityBatch, ActivityRow, EventKind, encode_activity
from schemas.outputs import DemandPrediction, decode_prediction, encode_announcement
from streams.driver import TopologyDriver
from streams.records import ACTIVITY, MODELS, PREDICTIONS, SHADOW
from streams.settings import DemandSettings, Settings, TrainSettings
from streams.topologies.demand import DemandStage

DAY_MS = 86_400_000
FIRST = 15_000
HORIZON = 3
SPEC = SequenceSpec("D", "UTC", horizon=HORIZON, context=28, hidden=4, head=4)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Return a registry of two versions with weights as drawn."""
    registry = Registry(tmp_path_factory.mktemp("registry"))
    for version in ("20260101T000000Z-a", "20260201T000000Z-b"):
        card = Card("demand", SEQUENCE, version, SPEC.schema_hash(), SPEC.to_json(), {}, {}, "shadow", 0)
        registry.register(card, tensors_of(SequenceNetwork(SPEC)))
    return registry


class Workers:
    """The demand stage over days of sales of two products, told of models in between."""

    def __init__(self, registry: Registry) -> None:
        chosen = Settings(demand=DemandSettings(horizon=HORIZON), train=TrainSettings(registry=Path(registry.root)))
        self.registry = registry
        self.driver = TopologyDriver(chosen, [DemandStage], now_ms=(FIRST + 1_000) * DAY_MS)
        self.day = 0

    def announce(self, role: str, version: str, *, name: str = SEQUENCE, sha256: str | None = None) -> None:
        """Tell the workers of a version."""
        card = self.registry.card("demand", version) if name == SEQUENCE else None
        value = encode_announcement(
            model="demand",
            role=role,  # type: ignore[arg-type]
            name=name,
            version=version,
            params=None if card else {},
            path=f"demand/{version}" if card else None,
            sha256=(sha256 or card.sha256) if card else None,
            schema_hash=card.schema_hash if card else "",
            published_at=0,
            metrics={},
        )
        self.driver.pipe(MODELS, f"demand/{role}".encode(), value)

    def sell(self, days: int = 1) -> None:
        """Let days pass on which both products sell."""
        for _ in range(days):
            at = (FIRST + self.day) * DAY_MS
            rows = [
                ActivityRow(product, None, EventKind.PURCHASE, at + 5, 1 + self.day % 3, 0, -1, True)
                for product in "pq"
            ]
            self.day += 1
            batch = ActivityBatch(0, 1, at + DAY_MS, rows)
            self.driver.pipe(ACTIVITY, b"0", encode_activity(batch), partition=0)
            self.driver.run()

    def said(self, topic: str) -> list[DemandPrediction]:
        """Return what was said so far on a topic."""
        found = [decode_prediction(record.value or b"") for record in self.driver.output(topic)]
        assert all(isinstance(one, DemandPrediction) for one in found)
        return [one for one in found if isinstance(one, DemandPrediction)]


def test_the_champion_says_the_same_with_a_shadow_and_without(registry: Registry) -> None:
    """Predictions are the same bytes; the shadow's forecasts are of the same products and times, by its own network."""
    alone, watched = Workers(registry), Workers(registry)
    alone.sell(10)
    watched.sell(4)
    watched.announce("shadow", "20260101T000000Z-a")
    watched.sell(6)
    assert [(r.key, r.value) for r in watched.driver.output(PREDICTIONS)] == [
        (r.key, r.value) for r in alone.driver.output(PREDICTIONS)
    ]
    assert alone.said(SHADOW) == []
    shadow = watched.said(SHADOW)
    published = [one for one in watched.said(PREDICTIONS) if one.as_of > (FIRST + 4) * DAY_MS]
    assert [(s.subject, s.as_of, s.horizon_s) for s in shadow] == [(p.subject, p.as_of, p.horizon_s) for p in published]
    assert {(s.model.name, s.model.version) for s in shadow} == {(SEQUENCE, "20260101T000000Z-a")}
    assert len({one.id for one in (*shadow, *published)}) == 2 * len(shadow)

    forecaster = SequenceForecaster.from_tensors(SPEC, registry.load("demand", "20260101T000000Z-a").tensors)
    sold = np.array([1.0 + day % 3 for day in range(10)])
    none = np.full(10, -1.0)
    expected, _ = forecaster.forecast([History(FIRST + 9, sold, none, np.zeros(10), np.zeros(10))])
    assert [step.mean for step in shadow[-1].payload.steps] == expected[0].tolist()


def test_a_shadow_ends_where_a_champion_as_new_serves(registry: Registry) -> None:
    """Promoted, it is in no shadow any more; rolled back behind it, it is again."""
    workers = Workers(registry)
    workers.announce("shadow", "20260101T000000Z-a")
    workers.sell(2)
    for champion in ("20260101T000000Z-a", "20260201T000000Z-b"):
        before = len(workers.said(SHADOW))
        workers.announce("champion", champion)
        workers.sell(2)
        assert len(workers.said(SHADOW)) == before
        assert workers.said(PREDICTIONS)[-1].model.version == champion
    workers.announce("champion", "1", name="seasonal")
    workers.sell()
    assert workers.said(PREDICTIONS)[-1].model.name == "seasonal"
    assert workers.said(SHADOW)[-1].as_of == (FIRST + 7) * DAY_MS


def test_another_version_takes_its_place_but_none_that_was_changed(registry: Registry) -> None:
    """The newest announced forecasts in shadow; one whose weights are not those announced is refused."""
    workers = Workers(registry)
    workers.announce("shadow", "20260101T000000Z-a")
    workers.sell()
    workers.announce("shadow", "20260201T000000Z-b", sha256="0" * 64)
    workers.sell()
    assert {one.model.version for one in workers.said(SHADOW)} == {"20260101T000000Z-a"}
    workers.announce("shadow", "20260201T000000Z-b")
    workers.sell()
    assert workers.said(SHADOW)[-1].model.version == "20260201T000000Z-b"


def test_what_serves_and_what_was_refused_is_said(registry: Registry) -> None:
    """The status names champion and shadow, and why an announced champion does not serve, till another is announced."""
    workers = Workers(registry)
    stage = workers.driver.stage("demand")
    workers.announce("shadow", "20260101T000000Z-a")
    workers.announce("champion", "20260201T000000Z-b", sha256="0" * 64)
    workers.sell()
    said = dict(stage.serves())
    assert (said["champion"], said["shadow"]) == ("seasonal:1", "20260101T000000Z-a")
    assert "20260201T000000Z-b" in said["refused"]
    workers.announce("champion", "20260201T000000Z-b")
    workers.sell()
    assert dict(stage.serves()) == {"champion": "sequence:20260201T000000Z-b"}
