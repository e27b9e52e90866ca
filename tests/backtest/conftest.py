"""Small shops with every oddity that matters, written where a test may write."""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from streams.backtest.files import stamp
from streams.cli import main

HOUR = 3_600_000
START = 1_399_680_000_000  # 2014-05-10T00:00:00Z

DESCRIPTION = """
name = "shop"
timezone = "{timezone}"
currency = "EUR"

[clicks]
path = "clicks.csv"
user = {{ column = "user", missing = [""] }}
{session}
time = "time"
type = "type"
product = "product"
category = "category"

[orders]
path = "orders.csv"
order = "order"
user = {{ column = "user", missing = [""] }}
time = "time"
product = "product"
quantity = "quantity"
price = "price"
status = "status"
{orders}
"""
CLICK_COLUMNS = ("time", "user", "session", "type", "product", "category")
ORDER_COLUMNS = ("time", "user", "order", "status", "product", "quantity", "price")

Row = dict[str, str]


class Shop:
    """Rows of clicks and orders in time order, to be written, cut and changed."""

    def __init__(self, clicks: list[Row], orders: list[Row]) -> None:
        self.clicks, self.orders = clicks, orders

    def before(self, time_ms: int) -> Shop:
        """Return what happened before a time."""
        until = stamp(time_ms)
        return Shop(*([row for row in rows if row["time"] < until] for rows in (self.clicks, self.orders)))

    def write(
        self, folder: Path, *, timezone: str = "UTC", sessions: bool = True, orders: str = "", plan: str = ""
    ) -> Path:
        """Write the files and their description; return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, columns, rows in (("clicks", CLICK_COLUMNS, self.clicks), ("orders", ORDER_COLUMNS, self.orders)):
            with (folder / f"{name}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)
        session = 'session = "session"' if sessions else ""
        text = DESCRIPTION.format(timezone=timezone, session=session, orders=orders) + plan
        (folder / "shop.toml").write_text(text)
        return folder / "shop.toml"


def random_shop(seed: int, clicks: int = 1_500, days: float = 2.0, step_ms: int = 1) -> Shop:
    """Return a shop of a few users and products; times are multiples of `step_ms`, so that coarse ones tie."""
    draw = random.Random(seed)
    times = sorted(START + int(draw.random() * days * 24 * HOUR) // step_ms * step_ms for _ in range(clicks))
    users = [f"u{number}" for number in range(25)]
    click_rows, order_rows = [], []
    for number, time in enumerate(times):
        user = "" if draw.random() < 0.05 else draw.choice(users)
        product = f"p{draw.randrange(12)}"
        kind = draw.choices(["view", "add_to_cart", "wishlist", "purchase"], [80, 15, 4, 1])[0]
        click_rows.append(
            {
                "time": stamp(time), "user": user, "session": f"s-{user or 'none'}-{time // (6 * HOUR)}", "type": kind,
                "product": product, "category": f"c{int(product[1:]) % 3}",
            }
        )  # fmt: skip
        if draw.random() < 0.12:
            later = time + draw.choice([0, draw.randrange(2 * HOUR)]) // step_ms * step_ms
            order = f"o{number}"
            for _ in range(draw.choice([1, 1, 2])):
                order_rows.append(
                    {
                        "time": stamp(later), "user": user, "order": order, "status": "placed",
                        "product": f"p{draw.randrange(12)}", "quantity": str(draw.randrange(1, 5)), "price": "2.50",
                    }
                )  # fmt: skip
            if draw.random() < 0.3:
                gone = later + draw.randrange(3 * HOUR) // step_ms * step_ms
                order_rows.append({**order_rows[-1], "time": stamp(gone), "status": "cancelled"})
    order_rows = [row for row in order_rows if row["time"] <= click_rows[-1]["time"]]
    order_rows.sort(key=lambda row: row["time"])
    return Shop(click_rows, order_rows)


def rows_of(path: Path) -> list[Row]:
    """Read a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def tidecast(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command in this process; returns its exit code."""

    def run(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["tidecast", *map(str, arguments)])
        try:
            main()
        except SystemExit as left:
            return int(left.code or 0)
        return 0

    return run


def lines_of(path: Path) -> Sequence[str]:
    """Return the lines of a file."""
    return path.read_text().splitlines()
