"""Laws of the models that serve: only what can be used and was learnt of what is asked, and only the pinned one."""

from __future__ import annotations

import json

import pytest

from features.engine import ScoreFeatures
from models.linear import prior
from schemas.outputs import encode_announcement
from streams.driver import TopologyDriver
from streams.records import CLICKSTREAM, DEADLETTERS, MODELS, PREDICTIONS
from streams.settings import ScoreSettings, Settings
from streams.topologies.score import ScoreStage

START = 1_700_000_000_000


def announced(params: dict[str, object], *, key: bytes = b"purchase/champion") -> tuple[bytes, bytes]:
    """Return key and value of an announcement of a purchase model with these parameters."""
    name, version = str(params["name"]), str(params["version"])
    value = encode_announcement(
        model="purchase",
        role="champion",
        name=name,
        version=version,
        params=params,
        path=None,
        sha256=None,
        schema_hash=ScoreFeatures().schema_hash,
        published_at=0,
        metrics={},
    )
    return key, value


def a_model(version: str = "1", **changes: object) -> dict[str, object]:
    """Return the parameters of a model that says 0.5 to everything."""
    features = ScoreFeatures()
    return prior(features.names, features.schema_hash, 0.5).to_params() | {"name": "m", "version": version} | changes


def probabilities(driver: TopologyDriver) -> list[float]:
    """Return what was predicted so far."""
    return [json.loads(record.value or b"{}")["payload"]["probability"] for record in driver.output(PREDICTIONS)]


def click(driver: TopologyDriver, number: int) -> None:
    """Send a click, and let it be answered."""
    event = {"event_id": f"c{number}", "type": "view", "time": START + number, "user_id": "u", "product_id": "p"}
    driver.pipe(CLICKSTREAM, b"u", json.dumps(event).encode())
    driver.mark_time(START + number)
    driver.run()


@pytest.mark.parametrize("damage", [{"weights": [1.0]}, {"scale": "x"}, {"clip": -1.0}, {"transform": "sqrt"}])
def test_a_model_that_cannot_be_used_is_a_dead_letter(damage: dict[str, object]) -> None:
    """The one that serves goes on."""
    driver = TopologyDriver(Settings(), [ScoreStage], now_ms=START + 10_000)
    driver.pipe(MODELS, *announced(a_model()))
    click(driver, 1)
    driver.pipe(MODELS, *announced(a_model("2", **damage)))
    click(driver, 2)
    assert probabilities(driver) == [0.5, 0.5]
    [letter] = driver.output(DEADLETTERS)
    assert json.loads(letter.value or b"{}")["reason"] == "invalid"


def test_a_model_of_another_horizon_does_not_serve() -> None:
    """What was learnt of an hour says nothing of a week."""
    week = Settings(score=ScoreSettings(horizon_s=7 * 86_400))
    driver = TopologyDriver(week, [ScoreStage], now_ms=START + 10_000)
    driver.pipe(MODELS, *announced(a_model(horizon_ms=3_600_000)))
    click(driver, 1)
    driver.pipe(MODELS, *announced(a_model("2", horizon_ms=7 * 86_400_000)))
    click(driver, 2)
    assert probabilities(driver) == pytest.approx([0.05, 0.5])


def test_a_pinned_model_that_is_not_there_is_said() -> None:
    """Readiness names it; without a pin nothing is missed."""
    assert ScoreStage(Settings()).lacks() is None
    lacks = ScoreStage(Settings(score=ScoreSettings(model_pin="purchase:7"))).lacks()
    assert lacks is not None
    assert "purchase:7" in lacks
