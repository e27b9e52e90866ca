"""Laws of training: deterministic, resumable after a kill, blind to what is held out."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from models.checkpoint import load_checkpoint, write_atomically
from models.promotion import backtest
from models.samples import NotEnoughHistory
from models.sequence import SequenceForecaster
from models.training import DeviceMissing, Progress, TrainConfig, Trained, choose_device, spec_for, train
from models.windows import Panel
from tests.models.panels import weekly_shop

CONFIG = TrainConfig(epochs=4, seed=7, windows=256, batch=64)


def run(
    folder: Path,
    panel: Panel | None = None,
    config: TrainConfig = CONFIG,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Train a narrow network on a small shop."""
    panel = weekly_shop(covariates=("promo",)) if panel is None else panel
    return train(panel, spec_for(panel, 5, hidden=8, head=8), config, folder, device="cpu", progress=progress)


def same(one: Trained, two: Trained) -> bool:
    """Say whether two runs ended in the same weights, bit for bit."""
    return all(one.tensors[name].tobytes() == two.tensors[name].tobytes() for name in one.tensors | two.tensors)


def test_a_seed_gives_one_model(tmp_path: Path) -> None:
    """Equal seeds give equal weights bit for bit, other seeds others."""
    first, again = run(tmp_path / "a"), run(tmp_path / "b")
    other = run(tmp_path / "c", config=replace(CONFIG, seed=8))
    assert same(first, again)
    assert first.history == again.history
    assert not same(first, other)


_SCRIPT = """
import os, signal, sys
from pathlib import Path
from typing import Literal
from tests.models.test_training import run
point, epoch, batch, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
replace, renames = os.replace, []
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
def killing(source, target):
    renames.append(target)
    if point == "writing" and len(renames) == epoch:
        kill()
    replace(source, target)
os.replace = killing
def progress(at):
    if point == "saved" and at.ended and at.done == epoch:
        kill()
    if point == "learning" and (at.done, at.batch) == (epoch, batch):
        kill()
run(folder, progress=progress)
"""


@pytest.mark.parametrize(("point", "lost"), [("learning", 0), ("writing", 1), ("saved", 0)])
def test_killed_and_resumed_it_ends_in_the_same_weights(tmp_path: Path, point: str, lost: int) -> None:
    """SIGKILL at a random epoch, while learning, within a checkpoint or after one: the same weights follow."""
    epoch, batch = random.randrange(1, CONFIG.epochs), random.randrange(1, 4)
    print(f"killed {point} at epoch {epoch}, batch {batch}")
    killed = subprocess.run(
        [sys.executable, "-c", _SCRIPT, point, str(epoch), str(batch), str(tmp_path / "killed")],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    resumed, undisturbed = run(tmp_path / "killed"), run(tmp_path / "whole")
    assert resumed.resumed_from == epoch - lost
    assert same(resumed, undisturbed)
    assert resumed.history == undisturbed.history


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path: Path) -> None:
    """Other data, or another configuration, begins anew; so does a checkpoint that cannot be read."""
    run(tmp_path)
    assert run(tmp_path).resumed_from == CONFIG.epochs
    assert run(tmp_path, config=replace(CONFIG, seed=9)).resumed_from == 0
    assert run(tmp_path, panel=weekly_shop(seed=4)).resumed_from == 0
    write_atomically(tmp_path / "checkpoint.safetensors", b"\x00" * 100)
    assert load_checkpoint(tmp_path, "any") is None
    assert run(tmp_path).resumed_from == 0


def test_what_is_held_out_changes_no_weight(tmp_path: Path) -> None:
    """Planted values in the backtest's buckets leave the weights as they were."""
    panel = weekly_shop()
    planted = replace(panel, quantity=panel.quantity.copy(), views=panel.views.copy())
    planted.quantity[:, -5:] = 1e4
    planted.views[:, -5:] = 1e4
    assert same(run(tmp_path / "a", panel), run(tmp_path / "b", planted))


@pytest.mark.parametrize("days", [0, 1, 14, 20])
def test_short_histories_are_refused_in_words(tmp_path: Path, days: int) -> None:
    """Too few buckets are no crash: the message says how many there are."""
    with pytest.raises(NotEnoughHistory, match=f"{days} closed buckets"):
        run(tmp_path, weekly_shop(days=days))


@pytest.mark.parametrize("freq", ["H", "D", "W"])
def test_few_products_are_enough(tmp_path: Path, freq: Literal["H", "D", "W"]) -> None:
    """One product with sixty buckets of any frequency trains, and forecasts."""
    panel = replace(weekly_shop(products=1, days=60), freq=freq)
    trained = run(tmp_path, panel)
    result = backtest(trained, panel)
    assert (result.products, result.steps) == (1, 5)
    assert np.isfinite(list(result.metrics().values())).all()


def test_products_that_sell_nothing_are_no_windows(tmp_path: Path) -> None:
    """A panel of zeros is too little to learn from, in words."""
    panel = weekly_shop()
    with pytest.raises(NotEnoughHistory, match="0 training windows"):
        run(tmp_path, replace(panel, quantity=np.zeros_like(panel.quantity)))


def test_it_learns_the_week(tmp_path: Path) -> None:
    """On a shop with a weekly pattern the loss falls, and the closed day is forecast closed."""
    panel = weekly_shop(products=30, days=150)
    config = TrainConfig(epochs=8, seed=1, windows=4_096, batch=128)
    trained = train(panel, spec_for(panel, 7, hidden=16, head=16), config, tmp_path, device="cpu")
    assert min(trained.history) < 0.8 * trained.history[0]
    result = backtest(trained, panel)
    assert result.coverage_95 > 0.8
    assert result.decision == ("promoted" if result.wql < result.wql_seasonal else "shadow")
    assert "wql_champion" not in result.metrics()

    # Beside itself it is no worse, and serves if it did; beside a worse one, too; beside a better one it does not.
    assert backtest(trained, panel, champion=trained.forecaster) == replace(result, wql_champion=result.wql)
    worse = {name: tensor * np.float32(0.5) for name, tensor in trained.tensors.items()}
    beside = backtest(trained, panel, champion=SequenceForecaster.from_tensors(trained.spec, worse))
    assert (beside.wql_champion > beside.wql, beside.decision) == (True, result.decision)
    other = replace(trained, tensors=worse)
    assert backtest(other, panel, champion=trained.forecaster).decision == "shadow"


def test_progress_is_told(tmp_path: Path) -> None:
    """Every epoch that ended is told once, in order, with its scores."""
    seen: list[Progress] = []
    panel = weekly_shop()
    train(panel, spec_for(panel, 5, hidden=8, head=8), CONFIG, tmp_path, device="cpu", progress=seen.append)
    ended = [p for p in seen if p.ended]
    assert [p.done for p in ended] == [1, 2, 3, 4]
    assert all(p.validation is not None and p.best is not None and p.best <= p.validation for p in ended)


def test_a_device_that_is_not_here_is_named() -> None:
    """An unknown or missing device is refused with the setting's name."""
    with pytest.raises(DeviceMissing, match=r"train.device = 'cuda:99'"):
        choose_device("cuda:99")
