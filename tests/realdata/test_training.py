"""The sequence model on a real shop: trained by the schedule, killed, resumed to the same weights, swapped in flight.

Every tenth product of Online Retail: forecasts for all of them would be a gigabyte in the embedded broker's memory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from models.buckets import bucket_start
from models.promotion import backtest
from models.registry import Card, Registry
from models.training import TrainConfig, spec_for, train
from models.windows import Panel
from schemas.outputs import DemandPrediction, decode_prediction
from streams.announcing import DEMAND, announce
from streams.embedded import EmbeddedServers
from streams.kafka import read_to_end
from streams.records import PREDICTIONS, Record
from streams.roles import wall_ms
from streams.serving import SEQUENCE
from streams.topics import create
from streams.train import read_history, register
from streams.training_run import Plan
from tests.real.harness import Role, Shop, wait_until
from tests.realdata import files
from tests.realdata.running import tidecast

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(1_200)]

ZONE = "Europe/London"
EPOCHS = 4
RETIRE_AFTER = 14
PRODUCTS = r"^\d{5}[A-Za-z]*$"
TENTH = r"^\d{4}5[A-Za-z]*$"
CUT = "2011-08-29T00:00:00"
"""What is before is trained on. What comes after is a month that is replayed in some twenty seconds: time to swap."""
PACE = "140000x"
SWAPS = 4

Sold = dict[str, dict[int, int]]
"""Units sold by product and day (number since 1970)."""


@pytest.fixture
def source(data: Path, sources: Path, tmp_path: Path) -> Path:
    """Return the description of Online Retail, cut to every tenth product."""
    text = (sources / "online_retail.toml").read_text()
    assert PRODUCTS in text
    text = text.replace(PRODUCTS, TENTH).replace("../data/", f"{data}/")
    path = tmp_path / "online_retail.toml"
    path.write_text(f"{text}\n[[filter]]\ntable = 'catalog'\ncolumn = 'StockCode'\nkeep_regex = '{TENTH}'\n")
    return path


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Give an embedded broker and store, and the settings of the roles on them."""
    overrides = {
        "TIDECAST_RUNTIME__BATCH_MAX_EVENTS": "1000",
        "TIDECAST_RUNTIME__CHECKPOINT_INTERVAL_MS": "1000",
        "TIDECAST_SHOP__TIMEZONE": ZONE,
        "TIDECAST_DEMAND__RETIRE_AFTER": str(RETIRE_AFTER),
        "TIDECAST_TRAIN__SCHEDULE": "* * * * *",
        "TIDECAST_TRAIN__EPOCHS": str(EPOCHS),
        "TIDECAST_TRAIN__DEVICE": "cpu",
        "TIDECAST_TRAIN__REGISTRY": str(tmp_path / "registry"),
        "TIDECAST_CONTROL__WEB_PORT": "-1",
    }
    folder = tmp_path / "data"
    try:
        with EmbeddedServers(folder) as servers:
            shop = Shop(servers.bootstrap, servers.redis_url, "retail-", tmp_path, overrides=overrides)
            try:
                yield shop
            finally:
                shop.kill_all()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_trained_by_the_schedule_killed_resumed_and_swapped(shop: Shop, source: Path, data: Path) -> None:
    """A killed training ends in the weights of an undisturbed one; its swap in flight loses and doubles nothing."""
    began = time.monotonic()
    sold = units_sold(data)
    create(shop.settings())
    roles = [shop.start("score"), shop.start("demand")]
    caught_up(shop, roles, ended(start_replay(shop, source, "--to", CUT)))
    panel = read_history(shop.settings()).panel
    same_as_the_files(panel, sold)
    print(f"{panel.buckets} days of {len(panel.products)} products after {time.monotonic() - began:.0f} s")

    with ThreadPoolExecutor(1) as pool:
        undisturbed = pool.submit(train_undisturbed, shop, panel)
        card = train_by_schedule(shop)
        expected = undisturbed.result()
    weights = Path(shop.settings().train.registry) / DEMAND / card.version / "weights.safetensors"
    assert weights.read_bytes() == expected.read_bytes()
    print(f"killed and resumed to the same {weights.stat().st_size} bytes after {time.monotonic() - began:.0f} s")
    print(f"WQL {card.metrics['wql']:.4f}, seasonal forecast {card.metrics['wql_seasonal']:.4f}: {card.decision}")

    sending = start_replay(shop, source, "--from", CUT, "--speed", PACE)
    swap_in_flight(shop, sending, roles[1], card)
    caught_up(shop, roles, ended(sending))
    for role in roles:
        assert role.stop() == 0, shop.log(role.name)
    each_forecast_once(shop, sold, card)
    print(f"all of it in {time.monotonic() - began:.0f} s")


# -- the replay ---------------------------------------------------------------------------------------------------


def start_replay(shop: Shop, source: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Start to replay a part of the source; return the process, and where it puts its counts."""
    log = shop.logs / "replay.out"
    state = ["--state", str(shop.logs / "replay.json")]
    return tidecast(["replay", str(source), *state, *arguments], shop.environment, log), log


def ended(sending: tuple[subprocess.Popen[bytes], Path]) -> int:
    """Wait for a replay's end; return the time (ms) of its last event."""
    process, log = sending
    wait_until(lambda: process.poll() is not None, "the replay's end", deadline_s=300)
    assert process.returncode == 0, log.with_suffix(".err").read_text()
    return int(json.loads(log.read_text().splitlines()[-1])["last_time"])


def caught_up(shop: Shop, roles: list[Role], last_time: int) -> None:
    """Wait until every task applied everything up to the last event."""

    def there() -> bool:
        assert all(role.process.poll() is None for role in roles), "".join(shop.log(role.name) for role in roles)
        marks = [mark for role in roles for mark in role.watermarks()]
        return len(marks) == 2 * len(roles) and all(mark is not None and mark > last_time for mark in marks)

    wait_until(there, "all applied", deadline_s=300, tell=lambda: [(r.name, r.status()) for r in roles])


# -- training -----------------------------------------------------------------------------------------------------


def train_by_schedule(shop: Shop) -> Card:
    """Let the control worker start a training, kill it after an epoch, let it be resumed; return the version's card."""
    control = shop.start("control")
    registry = Path(shop.settings().train.registry)
    run = registry / ".training" / "run"
    wait_until((run / "checkpoint.safetensors").exists, "an epoch", deadline_s=300, tell=lambda: shop.log("control"))
    told = re.search(r"\d+", (run.parent / "lock").read_text())
    assert told is not None
    os.kill(int(told[0]), signal.SIGKILL)
    assert Registry(registry).list_versions(DEMAND) == []

    def trainings(what: str) -> int:
        status = control.status()
        return int(status["training"][what]) if status else 0

    wait_until(lambda: trainings("failed") == 1, "the killed training's end", tell=lambda: shop.log("control"))
    wait_until(lambda: trainings("finished") == 1, "its second start", deadline_s=300, tell=lambda: shop.log("control"))
    figures = json.loads((registry / "training.log").read_text().splitlines()[-1])
    assert 1 <= figures["resumed_from"] < EPOCHS
    assert control.stop() == 0
    return Registry(registry).card(DEMAND, figures["version"])


def train_undisturbed(shop: Shop, panel: Panel) -> Path:
    """Train on the same history without a disturbance; return the file of the weights."""
    settings = shop.settings()
    config = TrainConfig(epochs=settings.train.epochs, seed=settings.train.seed)
    folder = shop.logs / "undisturbed"
    trained = train(panel, spec_for(panel, settings.demand.horizon), config, folder / "run", device="cpu")
    card = register(Registry(folder), Plan("undisturbed", 0, {}, {}), trained, backtest(trained, panel))
    return folder / DEMAND / card.version / "weights.safetensors"


# -- the swap -----------------------------------------------------------------------------------------------------


def swap_in_flight(shop: Shop, sending: tuple[subprocess.Popen[bytes], Path], demand: Role, card: Card) -> None:
    """Announce the trained version and the seasonal forecast in turn, each after the worker has forecast again."""

    def forecasts() -> int:
        status = demand.status()
        return sum(task["counts"].get("demand_predictions", 0) for task in status["tasks"].values()) if status else 0

    for number in range(SWAPS):
        before = forecasts()
        wait_until(lambda before=before: forecasts() > before, "another forecast", tell=lambda: shop.log("demand"))  # type: ignore[misc]
        assert sending[0].poll() is None, "the swap must happen while events flow"
        seasonal = number % 2 == (card.decision != "promoted")
        announce(shop.settings(), None if seasonal else card, "champion", wall_ms())


def each_forecast_once(shop: Shop, sold: Sold, card: Card) -> None:
    """Check that each product was forecast once after each day on which its series lived, by models that served."""
    ids: Counter[str] = Counter()
    models: dict[int, set[str]] = defaultdict(set)

    def take(record: Record) -> None:
        said = decode_prediction(record.value or b"")
        if isinstance(said, DemandPrediction):
            ids[said.id] += 1
            models[said.as_of].add(f"{said.model.name}:{said.model.version}")

    read_to_end(shop.settings(), [PREDICTIONS], take, timeout_s=60)
    assert [name for name, count in ids.items() if count > 1] == []
    last = max(day for days in sold.values() for day in days)
    expected = {
        f"{product}|{bucket_start(day + 1, 'D', ZONE)}|demand|0"
        for product, days in sold.items()
        for day in range(min(days), last)
        if any(day - ago in days for ago in range(RETIRE_AFTER + 1))
    }
    lost, invented = sorted(expected - set(ids)), sorted(set(ids) - expected)
    assert (lost[:5], invented[:5]) == ([], []), (len(lost), len(invented))
    served = [sorted(models[at]) for at in sorted(models)]
    changes = sum(before != after for before, after in pairwise(served))
    print(f"{ids.total()} forecasts, each once; the model changed {changes} times between two days")
    assert {name for day in served for name in day} == {"seasonal:1", f"{SEQUENCE}:{card.version}"}
    assert changes >= 2


# -- the files ----------------------------------------------------------------------------------------------------


def units_sold(data: Path) -> Sold:
    """Return what was sold by the plainest reading; goods that come back do not undo that they were wanted."""
    sold: Sold = defaultdict(Counter)
    for row in files.rows(data / "online_retail.csv.gz"):
        quantity = int(row["Quantity"])
        product = row["StockCode"]
        if quantity > 0 and float(row["UnitPrice"]) > 0 and re.fullmatch(TENTH[1:-1], product):
            day = date.fromisoformat(row["InvoiceDate"][:10]).toordinal() - date(1970, 1, 1).toordinal()
            sold[product][day] += quantity
    return {product: dict(days) for product, days in sold.items()}


def same_as_the_files(panel: Panel, sold: Sold) -> None:
    """Check the history that came over Kafka: every product, every day from its first sale on."""
    last = panel.first_index + panel.buckets - 1
    assert set(panel.products) == {product for product, days in sold.items() if min(days) <= last}
    for product, quantities in zip(panel.products, panel.quantity, strict=True):
        days = sold[product]
        expected = [
            float(days.get(day, 0)) if day >= min(days) else np.nan for day in range(panel.first_index, last + 1)
        ]
        np.testing.assert_array_equal(quantities, expected, err_msg=product)
