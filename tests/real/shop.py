"""A small closed log with all that occurs: disorder, duplicates, late and corrupt events, returns, cancellations."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

START_MS = 1_700_000_000_000
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the closed log."""

    topic: str
    key: str | None
    value: bytes


@dataclass(frozen=True, slots=True)
class ClosedLog:
    """Messages in the order in which they are produced, and the event time (ms) at which the log is closed."""

    messages: list[Message]
    end: int


def closed_log(*, clicks: int = 4_000, users: int = 150, products: int = 40, seed: int = 7) -> ClosedLog:
    """Return a log over about twelve days."""
    chance = random.Random(seed)
    time = START_MS
    messages: list[Message] = []
    placed: list[tuple[str, str, str]] = []
    for number in range(clicks):
        time += chance.randrange(0, 2 * 12 * _DAY_MS // clicks)
        user = f"u{min(chance.randrange(users), chance.randrange(users))}"
        product = f"p{min(chance.randrange(products), chance.randrange(products))}"
        stamp = time - (chance.randrange(500_000) if chance.random() < 0.1 else 0)
        kind = chance.choices(["view", "add_to_cart", "wishlist", "search", "purchase"], [80, 10, 4, 4, 2])[0]
        click = {
            "event_id": f"c{number}",
            "type": kind,
            "time": stamp,
            "user_id": None if chance.random() < 0.03 else user,
            "product_id": None if kind == "search" else product,
            "category_id": _category(product),
            "unit_price": 500 + 10 * chance.randrange(50),
            "currency": "EUR",
        }
        value = json.dumps(click).encode()
        messages.append(Message("clickstream", user, value))
        if chance.random() < 0.02:
            messages.append(Message("clickstream", user, value))  # sent twice
        if chance.random() < 0.01:
            messages.append(Message("clickstream", user, value[: chance.randrange(len(value))]))  # torn
        if chance.random() < 0.01:
            late = click | {"event_id": f"late{number}", "time": stamp - 2 * _DAY_MS}
            messages.append(Message("clickstream", user, json.dumps(late).encode()))
        if chance.random() < 0.08:
            messages.append(_order(chance, f"o{number}", "placed", stamp + 1_000, user, product))
            placed.append((f"o{number}", user, product))
        if placed and chance.random() < 0.02:
            order, buyer, bought = chance.choice(placed[-30:])
            status = chance.choice(["cancelled", "returned", "paid"])
            messages.append(_order(chance, order, status, stamp + 2_000, buyer, bought, suffix=f"-{number}"))
    return ClosedLog(messages, time + 3_000)


def _category(product: str) -> str | None:
    """Return the category that events name for a product: one of three, for every fourth none."""
    number = int(product[1:])
    return f"c{number % 3}" if number % 4 else None


def _order(
    chance: random.Random, order: str, status: str, time: int, user: str, product: str, suffix: str = ""
) -> Message:
    line = {
        "product_id": product,
        "category_id": _category(product),
        "quantity": 1 if suffix else chance.randrange(1, 4),
        "unit_price": 900,
    }
    value = {
        "event_id": f"{order}{suffix}",
        "order_id": order,
        "status": status,
        "time": time,
        "user_id": user,
        "lines": [line],
        "currency": "EUR",
    }
    return Message("orders", user, json.dumps(value).encode())
