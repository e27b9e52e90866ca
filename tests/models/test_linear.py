"""Laws of the model that serves."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.linear import LinearModel, ModelDataError, prior
from models.scaling import LOWEST_PROBABILITY, finite_logs

FEATURES = tuple(f"f{n}" for n in range(48))


def random_model(seed: int = 0) -> LinearModel:
    random = np.random.default_rng(seed)
    return LinearModel(
        name="purchase",
        version="000000001000",
        features=FEATURES,
        schema_hash="abc",
        mean=random.normal(1, 1, 48),
        scale=np.where(random.random(48) < 0.1, 0.0, random.gamma(2, 1, 48)),
        weights=random.normal(0, 0.5, 48),
        intercept=-2.5,
    )


def vectors(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(1, 3, (count, 48)) * np.random.default_rng(seed).choice([-1, 0, 1], 48)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1_000])
def test_another_batch_size_gives_the_same_bytes(size: int) -> None:
    """Cutting rows into other batches changes no bit, nor does a copy that is laid out differently."""
    rows, model = vectors(2_000), random_model()
    whole = model.predict(rows)
    parts = [model.predict(rows[start : start + size]) for start in range(0, len(rows), size)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert model.predict(np.asfortranarray(rows)).tobytes() == whole.tobytes()


def test_it_is_the_textbook_formula() -> None:
    """The signed logarithm, standardised, clipped, weighted and squashed, row by row in plain Python."""
    model, rows = random_model(), vectors(50)
    for row, found in zip(rows, model.predict(rows), strict=True):
        logit = model.intercept
        for value, mean, scale, weight in zip(row, model.mean, model.scale, model.weights, strict=True):
            if scale > 0:
                standard = (math.copysign(math.log1p(abs(value)), value) - mean) / scale
                logit += weight * min(max(standard, -model.clip), model.clip)
        chance = 1 / (1 + math.exp(-logit))
        assert found == pytest.approx(min(max(chance, LOWEST_PROBABILITY), 1 - LOWEST_PROBABILITY), abs=1e-12)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
    st.floats(allow_nan=False, allow_infinity=False),
)
@settings(deadline=None)
def test_parameters_survive_json_to_the_bit(weights: list[float], intercept: float) -> None:
    """from_params(json(to_params)) is the same model, whatever the floats."""
    both = np.array(weights)
    model = LinearModel("m", "1", ("a", "b"), "h", both, np.array([1e-3, 2.0]), both, intercept)
    again = LinearModel.from_params(json.loads(json.dumps(model.to_params())))
    assert again.to_params() == model.to_params()
    assert again.weights.tobytes() == model.weights.tobytes()


@given(st.lists(st.floats(), min_size=48, max_size=48))
@settings(deadline=None)
def test_every_input_has_a_probability(values: list[float]) -> None:
    """NaN and infinities say nothing, and the answer stays a probability that a log loss can bear."""
    found = random_model().predict(np.array([values]))[0]
    assert LOWEST_PROBABILITY <= found <= 1 - LOWEST_PROBABILITY


def test_the_prior_answers_its_probability() -> None:
    """Whatever it is asked; and it names itself so that nobody mistakes it for something learnt."""
    model = prior(FEATURES, "abc", 0.03)
    assert model.predict(vectors(5)) == pytest.approx(0.03)
    assert (model.name, model.version) == ("purchase-prior", "0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [1.0]}, r"model purchase:000000001000: weights has shape \(1,\); 48 finite"),
        ({"intercept": float("nan")}, "intercept"),
        ({"scale": [-1.0] * 48}, "no scale negative"),
        ({"transform": "sqrt"}, "transform 'sqrt' is unknown"),
        ({"mean": ["x"] * 48}, "numbers expected"),
        ({"features": 3}, "publish the model again"),
    ],
)
def test_damaged_parameters_are_refused(change: dict[str, object], message: str) -> None:
    """The error names model, field and value."""
    with pytest.raises(ModelDataError, match=message):
        LinearModel.from_params({**random_model().to_params(), **change})


def test_missing_parameters_and_foreign_vectors_are_refused() -> None:
    """So are parameters without a field, and vectors of another width."""
    params = random_model().to_params()
    del params["clip"]
    with pytest.raises(ModelDataError, match="'clip' is missing"):
        LinearModel.from_params(params)
    with pytest.raises(ModelDataError, match=r"vectors of shape \(3, 47\) given, \(n, 48\) expected"):
        random_model().predict(np.zeros((3, 47)))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 10**6).map(float), max_size=20))
@settings(deadline=None)
def test_signed_logarithms_are_those_of_the_library(values: list[float]) -> None:
    """Within a few units in the last place, relative to 1, for whatever number; and odd."""
    vector = np.array(values)
    found, turned = finite_logs(vector), finite_logs(-vector)
    assert found is not None
    assert turned is not None
    truth = np.copysign(np.log1p(np.abs(vector)), vector)
    assert (np.abs(found - truth) <= 5e-16 * np.maximum(1.0, np.abs(truth))).all()
    assert (found == -turned).all()


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 86])
def test_a_value_has_one_logarithm_wherever_it_stands(width: int) -> None:
    """However many go through at once, the bits are the same."""
    values = vectors(1)[0, :1].repeat(width) + 0.1
    found = finite_logs(values)
    assert found is not None
    assert {*found.view(np.int64).tolist()} == {*np.array(finite_logs(values[:1])).view(np.int64).tolist()}
