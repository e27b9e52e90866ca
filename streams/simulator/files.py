"""The simulated shop as files: a source that `tidecast replay` and the backtest read, and its truth beside it.

Files hold the events as they happened; duplicates, lateness and damage belong to the way to a log, see `Shop.events`.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path

from schemas.codec import Catalog, Click, Order, Plan
from schemas.currency import decimals_of
from streams.records import CATALOG, CLICKSTREAM, ORDERS, PLAN
from streams.simulator.config import DAY_MS
from streams.simulator.shop import Shop
from streams.sources import Unreadable

_TABLES = {CLICKSTREAM: "clicks", ORDERS: "orders", CATALOG: "catalog", PLAN: "plan"}
_HEADERS = {
    "clicks": "user,session,time,type,product,category,price,query,country,channel",
    "orders": "order,user,session,time,status,product,category,quantity,price,country,channel",
    "catalog": "product,time,name,category,price,stock",
    "plan": "product,time,price,promotion",
}

_SOURCE = """\
# A simulated shop: `tidecast simulate --seed {seed} --users {users} --products {products} --days {days}`.
# Its truth is in truth.csv.gz (per click) and truth_demand.csv.gz (per product and day).
name = "{name}"
timezone = "UTC"
currency = "{currency}"

[clicks]
path = "clicks.csv.gz"
sorted = true
user = "user"
session = "session"
time = {{ column = "time", unit = "ms" }}
type = "type"
product = "product"
category = "category"
price = {price}
query = "query"
country = "country"
channel = "channel"

[orders]
path = "orders.csv.gz"
sorted = true
order = "order"
user = "user"
session = "session"
time = {{ column = "time", unit = "ms" }}
status = "status"
product = "product"
category = "category"
quantity = "quantity"
price = {price}
country = "country"
channel = "channel"

[catalog]
path = "catalog.csv.gz"
sorted = true
product = "product"
time = {{ column = "time", unit = "ms" }}
name = "name"
category = "category"
price = {price}
stock = "stock"

[plan]
path = "plan.csv.gz"
sorted = true
product = "product"
time = {{ column = "time", unit = "ms" }}
price = {price}
covariates = ["promotion"]
"""


def write_shop(shop: Shop, folder: Path, report: Callable[[int, int], None] = lambda events, time_ms: None) -> Path:
    """Write all files into `folder` and return the path of its source.toml, which is written last.

    `report` is told the events written and the event time reached, now and then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source.toml"
    source.unlink(missing_ok=True)
    written: Counter[str] = Counter()
    with ExitStack() as stack:
        files = {name: stack.enter_context(_table(folder, name, head)) for name, head in _HEADERS.items()}
        for event in shop.clean():
            value = event.value
            table = _TABLES[event.topic]
            files[table].write(_row(value))
            written[table] += 1
            if not event.position & 4_095:
                report(event.position, event.time_ms)
    _write_truth(shop, folder)
    config = shop.config
    digits = decimals_of(config.currency)
    price = '"price"' if digits == 0 else f'{{ column = "price", scale = {10.0**-digits:.{digits}f} }}'
    facts = config.model_dump(include={"name", "currency", "seed", "users", "products", "days"})
    source.write_text(_SOURCE.format(price=price, **facts), encoding="utf-8")
    return source


def _write_truth(shop: Shop, folder: Path) -> None:
    config, truth = shop.config, shop.truth
    with _table(folder, "truth", "event_id,probability") as file:
        for number, probability in enumerate(truth.purchase_probabilities().tolist(), 1):
            file.write(f"{config.name}:clicks:{number},{probability:.6g}\n")
    with _table(folder, "truth_demand", "product,day,mean,unconstrained") as file:
        days = [
            datetime.fromtimestamp((config.first_day + d) * DAY_MS // 1_000, UTC).date() for d in range(config.days)
        ]
        means, wished = truth.mean_demand.tolist(), truth.unconstrained.tolist()
        for product in range(config.products):
            for day, mean, wish in zip(days, means[product], wished[product], strict=True):
                file.write(f"p{product},{day},{mean:.6g},{wish:.6g}\n")


@contextmanager
def _table(folder: Path, name: str, header: str) -> Iterator[TextIOWrapper]:
    # No time of writing and no name in the header: equal shops make equal bytes.
    with (
        (folder / f"{name}.csv.gz").open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=3, fileobj=raw, mtime=0) as packed,
        TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        text.write(header + "\n")
        yield text


def _click(e: Click) -> str:
    price = "" if e.unit_price is None else e.unit_price
    return (
        f"{e.user_id or ''},{e.session_id or ''},{e.time},{e.type},{e.product_id or ''},{e.category_id},{price},"
        f"{e.query or ''},{e.country},{e.channel}\n"
    )


def _order(e: Order) -> str:
    [line] = e.lines
    return (
        f"{e.order_id},{e.user_id or ''},{e.session_id or ''},{e.time},{e.status},{line.product_id},{line.category_id},"
        f"{line.quantity},{line.unit_price},{e.country},{e.channel}\n"
    )


def _catalog(e: Catalog) -> str:
    return f"{e.product_id},{e.time},{e.name},{e.category_id},{e.unit_price},{e.stock}\n"


def _row(event: Click | Order | Catalog | Plan | Unreadable) -> str:
    if isinstance(event, Click):
        return _click(event)
    if isinstance(event, Order):
        return _order(event)
    if isinstance(event, Catalog):
        return _catalog(event)
    assert isinstance(event, Plan)
    return _plan(event)


def _plan(e: Plan) -> str:
    return f"{e.product_id},{e.time},{e.unit_price},{e.covariates['promotion']:.0f}\n"
