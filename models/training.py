"""Training of the sequence forecaster: pinball loss, early stopping by time, and a checkpoint after each epoch.

A run is a function of its panel, spec and configuration: on a CPU the same ones give the same weights bit for bit,
also when the process was killed in between and started again. torch is needed here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.buckets import CONTEXT, Ints
from models.checkpoint import Checkpoint, Tensors, load_checkpoint, save_checkpoint
from models.samples import Batch, Samples, Split, check_enough
from models.sequence import Z_MAX, SequenceForecaster, SequenceSpec
from models.windows import Panel

if TYPE_CHECKING:
    import torch

    from models.network import SequenceNetwork


class TorchMissing(ImportError):
    """torch is not installed; serving does not need it, training does."""


class DeviceMissing(ValueError):
    """The device asked for is not here, or this torch cannot use it."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to train; `windows` and `batch` count windows, `patience` epochs without a better validation."""

    epochs: int = 20
    seed: int = 1
    windows: int = 16_384
    batch: int = 256
    learning_rate: float = 3e-3
    dropout: float = 0.1
    patience: int = 5
    mean_weight: float = 0.1
    clip: float = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is: `done` of `epochs`, and `batch` of `batches` in the next; `ended`: an epoch was just saved.

    `loss` and `validation` are of the last epoch done, `best` is the lowest validation WQL so far.
    """

    done: int
    epochs: int
    batch: int
    batches: int
    ended: bool = False
    loss: float | None = None
    validation: float | None = None
    best: float | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """The best weights of a run; `history` is the validation WQL by epoch, `resumed_from` the epochs found done."""

    spec: SequenceSpec
    tensors: dict[str, NDArray[np.float32]]
    split: Split
    history: tuple[float, ...]
    best_epoch: int
    device: str
    resumed_from: int

    @property
    def forecaster(self) -> SequenceForecaster:
        """Return these weights, ready to serve."""
        return SequenceForecaster.from_tensors(self.spec, self.tensors)


def spec_for(panel: Panel, horizon: int, *, hidden: int = 48, head: int = 64) -> SequenceSpec:
    """Return the network that fits a panel: its frequency, time zone and covariates, and the year where there is one.

    Covariates are scaled by what lies before the cut, so that nothing held out leaks in.
    """
    past = panel.covariates[:, : Split.of(panel, horizon).cut]
    shift, spread = past.mean(axis=(0, 1)), past.std(axis=(0, 1))
    yearly = panel.buckets >= {"H": 400 * 24, "D": 400, "W": 57}[panel.freq]
    context = CONTEXT[panel.freq]
    spec = SequenceSpec(panel.freq, panel.timezone, horizon, context, hidden, head, yearly)
    return spec.with_covariates(panel.covariate_names, shift, np.where(spread > 0, spread, 1.0))


def train(
    panel: Panel,
    spec: SequenceSpec,
    config: TrainConfig,
    folder: Path,
    *,
    device: str = "auto",
    progress: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Train to the end, from the folder's checkpoint where it belongs to this very run.

    Raises NotEnoughHistory where there is too little to learn from, TorchMissing without torch, and DeviceMissing.
    """
    split = Split.of(panel, spec.horizon)
    samples = Samples(panel.before(split.held_out), spec)
    series, origin, level = samples.eligible(0, split.cut)
    check_enough(len(series), panel)
    validation = _validation(samples, split)
    torch = _torch()
    place = choose_device(device)
    run = _Run(panel, spec, config, place)
    with _deterministic(torch, config.seed):
        run.start(folder)
        resumed_from = run.epoch
        # Sold quantity counts in the score, so busy windows are drawn more often, by the root lest a few rule all.
        draw = np.cumsum(np.sqrt(level))
        while run.epoch < config.epochs and run.epoch - run.best_epoch < config.patience:
            random = np.random.default_rng([config.seed, run.epoch])
            torch.manual_seed(int(random.integers(2**63)))
            count = min(config.windows, 8 * len(series))
            pick = np.minimum(np.searchsorted(draw, random.random(count) * draw[-1], side="right"), len(series) - 1)
            batches = [pick[i : i + config.batch] for i in range(0, count, config.batch)]
            losses = []
            for number, at in enumerate(batches):
                progress(run.progress(number, len(batches)))
                losses.append(run.learn(samples.batch(series[at], origin[at], split.cut), number, len(batches)))
            run.end_epoch(float(np.mean(losses)), run.score(validation))
            run.save(folder)
            progress(run.progress(0, len(batches), ended=True))
    return Trained(spec, run.best, split, tuple(run.history), run.best_epoch, str(place), resumed_from)


def choose_device(name: str) -> torch.device:
    """Return the torch device of a setting: "auto" takes a GPU where there is one. Raises DeviceMissing."""
    _torch()
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceMissing(f"train.device = {name!r}: not usable here ({reason}); use auto or cpu") from error
    return device


class _Run:
    """The moving parts of one training run, and their way into a checkpoint and back."""

    def __init__(self, panel: Panel, spec: SequenceSpec, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device, self.spec = config, device, spec
        text = json.dumps([spec.to_json(), asdict(config), device.type, panel.fingerprint()], sort_keys=True)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self.epoch, self.best_epoch = 0, 0
        self.loss: float | None = None
        self.history: list[float] = []
        self.best: Tensors = {}

    def start(self, folder: Path) -> None:
        """Build network and optimiser, at the checkpoint if there is one."""
        import torch

        from models.network import SequenceNetwork, load_tensors, tensors_of

        self.network: SequenceNetwork = SequenceNetwork(self.spec, self.config.dropout)
        saved = load_checkpoint(folder, self.fingerprint)
        if saved is None:
            self.best = tensors_of(self.network)
        else:
            load_tensors(self.network, saved.part("network"))
            self.best = saved.part("best")
            self.epoch, self.best_epoch = saved.state["epoch"], saved.state["best_epoch"]
            self.history = list(saved.state["history"])
        self.network.to(self.device)
        self.parameters = dict(self.network.named_parameters())
        self.optimiser = torch.optim.Adam(self.parameters.values(), lr=self.config.learning_rate)
        self.levels = torch.tensor(self.spec.quantiles, dtype=torch.float32, device=self.device)
        if saved is not None:
            self._load_optimiser(saved)

    def learn(self, batch: Batch, number: int, batches: int) -> float:
        """Take one step of Adam; warm up, then fall to zero along a cosine over all epochs."""
        import torch

        done = (self.epoch * batches + number) / (self.config.epochs * batches)
        warm = min(1.0, (self.epoch * batches + number + 1) / 50)
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        self.network.train()
        loss = self._loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimiser.step()
        return float(loss.detach())

    def _loss(self, batch: Batch) -> torch.Tensor:
        """Pinball loss of the quantiles in ``log1p(q / scale)``, where a rare bulk order does not drown the rest.

        Quantiles survive the change of units; the mean does not, and has a Poisson loss in ``q / scale``.
        """
        import torch

        target = torch.from_numpy((batch.target / batch.scale[:, None]).astype(np.float32)).to(self.device)
        known = torch.isfinite(target)
        target = torch.where(known, target, 0.0).clamp(min=0.0)
        z, mean = self._predict(batch)
        miss = torch.log1p(target)[..., None] - z
        pinball = torch.maximum(self.levels * miss, (self.levels - 1.0) * miss).mean(dim=-1)
        poisson = mean - target.clamp(max=50.0) * torch.log(mean + 1e-6)
        return ((pinball + self.config.mean_weight * poisson) * known).sum() / known.sum().clamp(min=1)

    def _predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        past, ahead = (torch.from_numpy(a).to(self.device) for a in (batch.past, batch.ahead))
        # bfloat16 keeps float32's range, so it needs no loss scaling; older GPUs and the CPU stay at float32.
        half = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            result: tuple[torch.Tensor, torch.Tensor] = self.network(past, ahead)
        return result

    def score(self, batches: list[Batch]) -> float:
        """Return the validation WQL: pinball loss in units over units sold."""
        import torch

        self.network.eval()
        levels, loss, sold = np.array(self.spec.quantiles), 0.0, 0.0
        for batch in batches:
            with torch.no_grad():
                z = self._predict(batch)[0].cpu().numpy().astype(np.float64)
            miss = batch.target[..., None] - batch.scale[:, None, None] * np.expm1(np.clip(z, 0.0, Z_MAX))
            loss += float(np.nansum(np.maximum(levels * miss, (levels - 1.0) * miss))) * 2 / len(levels)
            sold += float(np.nansum(np.abs(batch.target)))
        return loss / max(sold, 1.0)

    def end_epoch(self, loss: float, score: float) -> None:
        """Note an epoch's scores, and keep its weights if they are the best."""
        from models.network import tensors_of

        self.epoch, self.loss = self.epoch + 1, loss
        if not self.history or score < min(self.history):
            self.best, self.best_epoch = tensors_of(self.network), self.epoch
        self.history.append(score)

    def save(self, folder: Path) -> None:
        """Write the checkpoint of this epoch."""
        from models.network import tensors_of

        tensors = {f"network/{k}": v for k, v in tensors_of(self.network).items()}
        tensors |= {f"best/{k}": v for k, v in self.best.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"adam.{key}/{name}"] = value.detach().cpu().numpy()
        state = {"fingerprint": self.fingerprint, "epoch": self.epoch, "best_epoch": self.best_epoch}
        save_checkpoint(folder, Checkpoint(tensors, {**state, "history": self.history}))

    def _load_optimiser(self, saved: Checkpoint) -> None:
        import torch

        parts = {key: saved.part(f"adam.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
        for name, parameter in self.parameters.items():
            moments = {key: torch.from_numpy(np.array(part[name])) for key, part in parts.items()}
            # Adam keeps its step counter on the CPU.
            self.optimiser.state[parameter] = {k: v if k == "step" else v.to(self.device) for k, v in moments.items()}

    def progress(self, batch: int, batches: int, *, ended: bool = False) -> Progress:
        """Return where the run is."""
        last, best = (self.history[-1], min(self.history)) if self.history else (None, None)
        return Progress(self.epoch, self.config.epochs, batch, batches, ended, self.loss, last, best)


def _validation(samples: Samples, split: Split) -> list[Batch]:
    """Windows of all products at the validation origins, at most 1,024 in a batch."""
    parts: list[tuple[Ints, Ints]] = [samples.eligible(t, t + 1)[:2] for t in split.validation_origins]
    series, origin = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    starts = range(0, len(series), 1024)
    return [samples.batch(series[i : i + 1024], origin[i : i + 1024], split.held_out) for i in starts]


@contextmanager
def _deterministic(torch: Any, seed: int) -> Iterator[None]:
    """One thread and deterministic kernels, a seeded generator; all put back afterwards."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.set_num_threads(1)  # sums over threads depend on how many there are
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise TorchMissing(
            "training needs torch, which is not installed: pip install -e '.[train]' (in Tidecast's folder)"
        ) from error
    return torch
