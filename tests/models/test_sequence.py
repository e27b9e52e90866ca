"""Laws of the sequence forecaster."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.network import SequenceNetwork, tensors_of
from models.samples import Samples
from models.sequence import History, SequenceForecaster, SequenceSpec
from tests.models.panels import weekly_shop

SPEC = SequenceSpec("D", "Europe/London", horizon=5, context=28, hidden=12, head=10).with_covariates(
    ["promo"], np.array([0.5]), np.array([0.3])
)


def network(seed: int = 0, spec: SequenceSpec = SPEC) -> SequenceNetwork:
    """Return an untrained network whose quantiles are wide enough to compare."""
    torch.manual_seed(seed)
    net = SequenceNetwork(spec)
    with torch.no_grad():
        net.out.weight.mul_(4.0)
        net.out.bias.add_(1.5)
    return net.eval()


FORECASTER = SequenceForecaster.from_tensors(SPEC, tensors_of(network()))
LAST = 20_055
quantities = st.lists(st.floats(-50, 1e6) | st.just(float("nan")), min_size=1, max_size=60)


def histories(count: int = 40) -> list[History]:
    """Return histories of different lengths, with and without prices, views and covariates."""
    panel = weekly_shop(products=count, days=56, covariates=("promo",))
    ahead = np.random.default_rng(1).random((count, 61, 1))
    return [
        History(
            LAST,
            panel.quantity[s, s % 30 :],
            panel.price[s] if s % 2 else None,
            panel.views[s] if s % 3 else None,
            None,
            ahead[s] if s % 4 else None,
        )
        for s in range(count)
    ]


def test_another_batch_size_the_same_bytes() -> None:
    """A forecast does not depend on the batch it is asked in, nor on its place there, to the last bit."""
    every = histories()
    mean, quantiles = FORECASTER.forecast(every)
    for size in (1, 3, 17):
        parts = [FORECASTER.forecast(every[i : i + size]) for i in range(0, len(every), size)]
        assert np.concatenate([m for m, _ in parts]).tobytes() == mean.tobytes()
        assert np.concatenate([q for _, q in parts]).tobytes() == quantiles.tobytes()
    assert FORECASTER.forecast(every[::-1])[1][::-1].tobytes() == quantiles.tobytes()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_torch_and_numba_compute_the_same(dtype: torch.dtype, tolerance: float) -> None:
    """The served forward pass equals the trained network's."""
    panel = weekly_shop(products=30, days=56, covariates=("promo",))
    batch = Samples(panel, SPEC).batch(np.arange(30), np.full(30, 50), 56)
    net = network().to(dtype)
    with torch.no_grad():
        z, mean = net(torch.from_numpy(batch.past).to(dtype), torch.from_numpy(batch.ahead).to(dtype))
    served = [
        History(panel.first_index + 49, panel.quantity[s, :50], panel.price[s, :50], panel.views[s, :50],
                panel.carts[s, :50], panel.covariates[s, :55])
        for s in range(30)
    ]  # fmt: skip
    served_mean, served_quantiles = FORECASTER.forecast(served)
    in_units = served_quantiles / batch.scale[:, None, None]
    np.testing.assert_allclose(np.log1p(in_units), np.maximum(z.double().numpy(), 0.0), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(served_mean / batch.scale[:, None], mean.double().numpy(), rtol=tolerance)


@given(quantity=quantities, seed=st.integers(0, 5), last=st.integers(0, 40_000))
@settings(max_examples=60)
def test_quantiles_rise_and_are_finite_and_not_negative(quantity: list[float], seed: int, last: int) -> None:
    """Whatever the history and the weights, quantiles are finite, in order and at least zero; so is the mean."""
    forecaster = SequenceForecaster.from_tensors(SPEC, tensors_of(network(seed)))
    mean, quantiles = forecaster.forecast([History(last, np.array(quantity))])
    assert np.isfinite(mean).all()
    assert np.isfinite(quantiles).all()
    assert (mean >= 0).all()
    assert (quantiles >= 0).all()
    assert (np.diff(quantiles, axis=-1) >= 0).all()


def test_only_the_context_counts() -> None:
    """Buckets older than the context change nothing."""
    recent = np.arange(28.0)
    old = np.concatenate([np.full(40, 1e5), recent])
    one, two = (FORECASTER.forecast([History(LAST, q)])[1] for q in (recent, old))
    assert one.tobytes() == two.tobytes()


def test_a_spec_survives_json() -> None:
    """A spec read back from JSON is the same spec; an unknown format or field is refused by name."""
    assert SequenceSpec.from_json(SPEC.to_json()) == SPEC
    with pytest.raises(ValueError, match="format 99"):
        SequenceSpec.from_json(SPEC.to_json() | {"format": 99})
    with pytest.raises(ValueError, match="surprise"):
        SequenceSpec.from_json(SPEC.to_json() | {"surprise": 1})


def test_the_schema_hash_is_of_the_inputs_only() -> None:
    """Widths do not change the schema hash; frequency, time zone and covariates do."""
    base = SequenceSpec("D", "UTC", 7, 56)
    assert SequenceSpec("D", "UTC", 7, 56, hidden=32).schema_hash() == base.schema_hash()
    others = [SequenceSpec("W", "UTC", 7, 56), SequenceSpec("D", "Asia/Tokyo", 7, 56), SPEC]
    assert len({base.schema_hash(), *(other.schema_hash() for other in others)}) == 4


def test_tensors_that_do_not_fit_are_refused_by_name() -> None:
    """A missing, misshapen, surplus or broken tensor is named."""
    good = tensors_of(network())
    for change, message in [
        ({"out.bias": good["out.bias"][:-1]}, "out.bias: shape"),
        ({"more": good["out.bias"]}, "more"),
        ({"head.bias": good["head.bias"] * np.nan}, "head.bias: holds NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            SequenceForecaster.from_tensors(SPEC, good | change)
    with pytest.raises(ValueError, match=r"out\.weight"):
        SequenceForecaster.from_tensors(SPEC, {k: v for k, v in good.items() if k != "out.weight"})


def test_serving_needs_no_torch() -> None:
    """The forecaster imports and forecasts where torch cannot be imported."""
    script = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "import numpy as np\n"
        "import models.registry, models.promotion, models.training\n"
        "from models.sequence import *\n"
        "spec = SequenceSpec('D', 'UTC', 2, 14, hidden=4, head=4)\n"
        "zeros = {name: np.zeros(shape, np.float32) for name, shape in spec.shapes.items()}\n"
        "print(SequenceForecaster.from_tensors(spec, zeros).forecast([History(1, np.ones(3))])[0].shape)\n"
        "from models.training import choose_device\n"
        "try: choose_device('auto')\n"
        "except ImportError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [
        "(1, 2)",
        "training needs torch, which is not installed: pip install -e '.[train]' (in Tidecast's folder)",
    ]
