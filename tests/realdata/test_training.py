"""The sequence model on a real shop: trained by the schedule, killed, resumed to the same weights, swapped in flight.

Three products in a hundred of Online Retail: a forecast costs a millisecond, and there is one for each product and day.
"""

from __future__ import annotations

import json
import logging
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
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from models.buckets import bucket_start
from models.promotion import backtest
from models.registry import Card, Registry
from models.sequence import SEQUENCE
from models.training import TrainConfig, spec_for, train
from models.windows import Panel
from schemas.outputs import DemandPrediction, decode_prediction
from streams.announcing import DEMAND, SEASONAL, promote, rollback
from streams.embedded import EmbeddedServers
from streams.kafka import read_to_end
from streams.records import PREDICTIONS, SHADOW, Record
from streams.resetting import Place, inspect
from streams.roles import wall_ms
from streams.runtime.tables import Tables
from streams.settings import Settings
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
SOME = r"^\d{3}[147]5[A-Za-z]*$"
CUT = "2011-08-29T00:00:00"
"""What is before is trained on; what comes after, a month, is forecast by versions that swap."""
PACE = "12000x"
"""A day takes seven seconds, the month four minutes: time to swap also on a slow machine. The rest goes at once."""
SWAPS = 3

Sold = dict[str, dict[int, int]]
"""Units sold by product and day (number since 1970)."""


@pytest.fixture
def source(data: Path, sources: Path, tmp_path: Path) -> Path:
    """Return the description of Online Retail, cut to some products."""
    text = (sources / "online_retail.toml").read_text()
    assert PRODUCTS in text
    text = text.replace(PRODUCTS, SOME).replace("../data/", f"{data}/")
    path = tmp_path / "online_retail.toml"
    path.write_text(f"{text}\n[[filter]]\ntable = 'catalog'\ncolumn = 'StockCode'\nkeep_regex = '{SOME}'\n")
    return path


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Give an embedded broker and store, and the settings of the roles on them."""
    overrides = {
        # Small batches: a day of orders makes many forecasts.
        "TIDECAST_RUNTIME__BATCH_MAX_EVENTS": "100",
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
    """A killed training ends in the weights of an undisturbed one; its swaps in flight lose and double nothing."""
    began = time.monotonic()

    def tell(what: str) -> None:
        line = f"{what} [{time.monotonic() - began:.0f} s]"
        logging.getLogger(__name__).info(line)
        print(line)

    sold = units_sold(data)
    create(shop.settings())
    roles = [shop.start("score"), shop.start("demand")]
    caught_up(shop, roles, ended(start_replay(shop, source, "--to", CUT)))
    stop(shop, roles)  # training asks nothing of them, and has the machine for itself
    panel = read_history(shop.settings()).panel
    same_as_the_files(panel, sold)
    tell(f"{panel.buckets} days of {len(panel.products)} products replayed")

    with ThreadPoolExecutor(1) as pool:
        undisturbed = pool.submit(train_undisturbed, shop, panel)
        card, resumed_from = train_by_schedule(shop)
        expected = undisturbed.result()
    weights = weights_of(Path(shop.settings().train.registry), card)
    assert weights == weights_of(shop.logs / "undisturbed", expected)
    # The best epoch's weights are kept: that the later ones were the same, too, is seen in their scores.
    assert card.notes["validation_wql"] == expected.notes["validation_wql"]
    tell(f"{card.version}: killed after epoch {resumed_from} of {EPOCHS}, resumed to the same weights")
    tell(
        f"{len(weights)} bytes; validation WQL by epoch {card.notes['validation_wql']}, best {card.notes['best_epoch']}"
    )
    figures = " ".join(f"{name} {value:.4f}" for name, value in sorted(card.metrics.items()))
    tell(f"WQL of the LSTM {card.metrics['wql']:.4f}, of the seasonal forecast {card.metrics['wql_seasonal']:.4f}")
    tell(f"decision: {card.decision} ({figures})")

    seasonal_serves(shop, card)
    roles = [shop.start("score"), shop.start("demand")]
    said = Said(shop.settings())
    try:
        wait_until(said.ended, "what was forecast so far")
        before = said.counts()
        sending = start_replay(shop, source, "--from", CUT, "--speed", PACE)
        swap_in_flight(shop, said, before, card)
        assert sending[0].poll() is None, "the swaps must happen while events flow"
        sending[0].kill()
        sending[0].wait()
        tell("swapped; the rest is replayed at once")
        caught_up(shop, roles, ended(start_replay(shop, source, "--from", CUT)))
        stop(shop, roles)
        wait_until(said.ended, "the end of the predictions")
        tell(each_forecast_once(said, sold, card))
        tell(the_shadow(shop, said, card))
    finally:
        said.close()


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
    """Wait until every task applied everything up to the last event, and committed what it said of it."""

    def there() -> bool:
        assert all(role.process.poll() is None for role in roles), "".join(shop.log(role.name) for role in roles)
        marks = [mark for role in roles for mark in role.watermarks()]
        return len(marks) == 2 * len(roles) and all(mark is not None and mark > last_time for mark in marks)

    def committed() -> bool:
        for role in roles:
            status = role.status()
            for name, task in (status or {"tasks": {"": {}}})["tasks"].items():
                if not task:
                    return False
                found = inspect(Place.parse(name, shop.settings()), shop.settings()).committed
                if {str(input_): one.offset for input_, one in found.items()} != task["offsets"]:
                    return False
        return True

    def told() -> object:
        return [(role.name, role.status()) for role in roles]

    wait_until(there, "all applied", deadline_s=300, tell=told)
    wait_until(committed, "all committed", tell=told)


def stop(shop: Shop, roles: list[Role]) -> None:
    """Ask every role to end, which each must do cleanly."""
    for role in roles:
        assert role.stop() == 0, shop.log(role.name)


# -- training -----------------------------------------------------------------------------------------------------


def train_by_schedule(shop: Shop) -> tuple[Card, int]:
    """Let the control worker start a training, kill it after an epoch, let it be resumed.

    Returns the version's card, and how many epochs the second start found done.
    """
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

    def training_log() -> str:
        # A third one may have begun by now: the schedule goes on.
        logs = (registry / "training.log.1", registry / "training.log")
        return "".join(log.read_text() for log in logs if log.exists()) + shop.log("control")

    wait_until(lambda: trainings("failed") == 1, "the killed training's end", tell=training_log)
    wait_until(lambda: trainings("finished") >= 1, "its second start", deadline_s=300, tell=training_log)
    figures = [json.loads(line) for line in training_log().splitlines() if line.startswith('{"version"')]
    assert control.stop() == 0
    (version,) = Registry(registry).list_versions(DEMAND)
    (resumed_from,) = (one["resumed_from"] for one in figures if one["version"] == version)
    assert 1 <= resumed_from < EPOCHS
    return Registry(registry).card(DEMAND, version), resumed_from


def train_undisturbed(shop: Shop, panel: Panel) -> Card:
    """Train on the same history without a disturbance; return the version's card."""
    settings = shop.settings()
    config = TrainConfig(epochs=settings.train.epochs, seed=settings.train.seed)
    folder = shop.logs / "undisturbed"
    trained = train(panel, spec_for(panel, settings.demand.horizon), config, folder / "run", device="cpu")
    return register(Registry(folder), Plan("undisturbed", 0, {}, {}), trained, backtest(trained, panel))


def weights_of(registry: Path, card: Card) -> bytes:
    """Return the bytes of a version's weights."""
    return (registry / DEMAND / card.version / "weights.safetensors").read_bytes()


# -- the swap -----------------------------------------------------------------------------------------------------


class Said:
    """The forecasts as a consumer sees them: of each partition, id and model in the order of the log."""

    def __init__(self, settings: Settings) -> None:
        self._tables = Tables(settings, (PREDICTIONS,))
        self.forecasts: dict[int, list[tuple[str, str]]] = defaultdict(list)

    def read(self) -> bool:
        """Take what is new; tell whether there was any."""
        records = self._tables.poll(5_000, timeout_s=0.2)
        for record in records:
            one = decode_prediction(record.value or b"")
            if isinstance(one, DemandPrediction):
                self.forecasts[record.input.partition].append((one.id, f"{one.model.name}:{one.model.version}"))
        return bool(records)

    def counts(self) -> dict[int, int]:
        """Return how many forecasts of each partition were read."""
        return {partition: len(forecasts) for partition, forecasts in self.forecasts.items()}

    def more(self, before: dict[int, int]) -> bool:
        """Tell whether every partition has more of them than before."""
        self.read()
        return all(self.counts()[partition] > count for partition, count in before.items())

    def serves(self, model: str) -> bool:
        """Tell whether every partition's latest forecast is by this model."""
        self.read()
        return len(self.forecasts) == 2 and all(said[-1][1] == model for said in self.forecasts.values())

    def ended(self) -> bool:
        """Tell whether all there is was read: nothing came since the last look, and the end was reached."""
        return not self.read() and self._tables.caught_up

    def close(self) -> None:
        """Leave."""
        self._tables.close()


def seasonal_serves(shop: Shop, card: Card) -> None:
    """Begin from the seasonal forecast, whatever the gate has decided."""
    if card.decision == "promoted":
        assert rollback(shop.settings(), wall_ms()) is None


def swap_in_flight(shop: Shop, said: Said, before: dict[int, int], card: Card) -> None:
    """Promote the version and roll it back in turn, each once all tasks are heard to forecast by the one before."""
    models = (":".join(SEASONAL), f"{SEQUENCE}:{card.version}")
    wait_until(lambda: said.more(before), "the first forecasts of this replay", tell=lambda: shop.log("demand"))
    assert said.serves(models[0])
    for number in range(SWAPS):
        if number == 0:
            command = tidecast(["models", "promote", card.version], shop.environment, shop.logs / "promote.out")
            assert command.wait(120) == 0, (shop.logs / "promote.err").read_text()
        elif number % 2 == 0:
            promote(shop.settings(), card.version, wall_ms())
        else:
            assert rollback(shop.settings(), wall_ms()) is None
        model = models[(number + 1) % 2]
        wait_until(lambda model=model: said.serves(model), f"forecasts by {model}", tell=lambda: shop.log("demand"))  # type: ignore[misc]


def each_forecast_once(said: Said, sold: Sold, card: Card) -> str:
    """Check that each product was forecast once after each day on which its series lived, by the model that served."""
    ids = Counter(name for forecasts in said.forecasts.values() for name, _ in forecasts)
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
    runs = {
        partition: [(model, len(list(group))) for model, group in groupby(model for _, model in forecasts)]
        for partition, forecasts in said.forecasts.items()
    }
    served = (":".join(SEASONAL), f"{SEQUENCE}:{card.version}")
    for partition, found in runs.items():
        assert [model for model, _ in found] == [served[n % 2] for n in range(SWAPS + 1)], (partition, found)
    told = "; ".join(f"task {partition}: {found}" for partition, found in sorted(runs.items()))
    return f"{ids.total()} forecasts, none lost, none doubled, {SWAPS} swaps in flight: {told}"


def the_shadow(shop: Shop, said: Said, card: Card) -> str:
    """Check what the version said in shadow: nothing while it served, else what the champion was asked, each once."""
    found: list[str] = []

    def take(record: Record) -> None:
        one = decode_prediction(record.value or b"")
        assert isinstance(one, DemandPrediction)
        assert (one.model.name, one.model.version) == (SEQUENCE, card.version)
        found.append(one.id.replace("|shadow|", "|demand|"))

    read_to_end(shop.settings(), [SHADOW], take)
    by_seasonal = {name for told in said.forecasts.values() for name, model in told if model == ":".join(SEASONAL)}
    assert len(found) == len(set(found))
    assert set(found) <= by_seasonal
    assert bool(found) == (card.decision == "shadow")
    return f"{len(found)} forecasts in shadow"


# -- the files ----------------------------------------------------------------------------------------------------


def units_sold(data: Path) -> Sold:
    """Return what was sold by the plainest reading; goods that come back do not undo that they were wanted."""
    sold: Sold = defaultdict(Counter)
    for row in files.rows(data / "online_retail.csv.gz"):
        quantity = int(row["Quantity"])
        product = row["StockCode"]
        if quantity > 0 and float(row["UnitPrice"]) > 0 and re.fullmatch(SOME[1:-1], product):
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
