"""The declared features for people: as rows to list, and as `docs/features.md`.

``python -m features.documentation write`` makes the page from `features.sets`; ``check`` fails where it is stale. Every
number on it is taken from the declaration; nothing here knows how a feature is computed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import get_args

from features.sets import (
    DAY,
    DISTINCT_LIMIT,
    HOUR,
    LOG_LENGTH,
    MEMORY_MS,
    MINUTE,
    PRODUCT_WINDOWS,
    SCORE_SET,
    SECOND,
    SESSION_GAP_MS,
    SESSION_PERIOD_MS,
    USER_WINDOWS,
    VALUE_LIMIT,
    Entity,
    Feature,
    memory_ms,
    schema_hash,
)

PAGE = Path(__file__).parents[1] / "docs" / "features.md"
"""Where the committed page is."""

ENTITIES: tuple[Entity, ...] = get_args(Entity)

FIELDS = ("name", "entity", "aggregate", "window", "tile", "half-life", "memory", "unit", "dtype", "description")
"""What `in_words` tells of a feature, in order."""

_UNITS = ((DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (SECOND, "s"), (1, "ms"))


def duration(ms: int) -> str:
    """Return a time of `ms` >= 0 in the largest units that it has.

    >>> duration(5 * MINUTE), duration(DAY + 6 * HOUR), duration(0)
    ('5 min', '1 d 6 h', '0 s')
    """
    parts = []
    for unit_ms, unit in _UNITS:
        count, ms = divmod(ms, unit_ms)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts) or "0 s"


def listed(entity: Entity | None = None) -> list[Feature]:
    """Return the features of `entity` (None: all) in the order of the vector.

    >>> [feature.name for feature in listed("context")][:2]
    ['hour_sin', 'hour_cos']
    """
    return [feature for feature in SCORE_SET if entity in (None, feature.entity)]


def in_words(feature: Feature) -> tuple[str, ...]:
    """Return one text for each of `FIELDS`, "" where it does not apply.

    >>> in_words(listed("user")[0])
    ('user_views_1h', 'user', 'count', '1h', '5 min', '', '1 h', 'events', 'int', 'views of the user in 1h')
    """
    window, half_life = feature.window, feature.half_life_ms
    return (
        feature.name,
        feature.entity,
        feature.aggregate,
        window.name if window is not None else f"last {feature.last}" if feature.last is not None else "",
        duration(window.tile_ms) if window is not None else "",
        duration(half_life) if half_life is not None else "",
        duration(feature.memory_ms) if feature.memory_ms else "",
        feature.unit,
        feature.dtype,
        feature.description + (f" (unknown: {feature.missing:g})" if feature.missing is not None else ""),
    )


def as_data(feature: Feature) -> dict[str, object]:
    """Return a feature as plain data: times in ms, `limit` in the feature's own unit, null where it does not apply.

    >>> [as_data(listed("user")[0])[name] for name in ("name", "tile_ms", "window_ms", "memory_ms")]
    ['user_views_1h', 300000, 3600000, 3600000]
    """
    window = feature.window
    return {
        "name": feature.name,
        "entity": feature.entity,
        "kinds": list(feature.kinds),
        "value": feature.value,
        "aggregate": feature.aggregate,
        "window": window.name if window is not None else None,
        "window_ms": window.span_ms if window is not None else None,
        "tile_ms": window.tile_ms if window is not None else None,
        "last": feature.last,
        "half_life_ms": feature.half_life_ms,
        "limit": feature.limit,
        "prior": list(feature.prior) if feature.prior is not None else None,
        "memory_ms": feature.memory_ms,
        "unit": feature.unit,
        "dtype": feature.dtype,
        "missing": feature.missing,
        "description": feature.description,
    }


def title(entity: Entity) -> str:
    """Return what a table of features is called.

    >>> title("user"), title("user_category")
    ('User', 'User x category')
    """
    return entity.capitalize().replace("_", " x ")


def page() -> str:
    """Return `docs/features.md` as it must be."""
    return "\n".join([*_text(), *(line for entity in ENTITIES for line in _table(entity))]) + "\n"


def check(path: Path = PAGE) -> list[str]:
    """Return what is wrong with the page at `path`: nothing, or one message."""
    repair = "run 'python -m features.documentation write' and commit"
    try:
        committed = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        return [f"{path.name}: cannot be read ({type(error).__name__}); {repair}"]
    pairs = enumerate(zip_longest(committed.split("\n"), page().split("\n")), 1)
    stale = next((number for number, (old, new) in pairs if old != new), None)
    return [] if stale is None else [f"{path.name}: stale at line {stale}; {repair}"]


def main(arguments: Sequence[str] | None = None, path: Path = PAGE) -> int:
    """Run one of write and check; returns the exit code."""
    match list(sys.argv[1:] if arguments is None else arguments):
        case ["write"]:
            path.write_text(page(), encoding="utf-8")
            return 0
        case ["check"]:
            problems = check(path)
            sys.stderr.writelines(f"{problem}\n" for problem in problems)
            return 1 if problems else 0
        case _:
            sys.stderr.write("usage: python -m features.documentation write|check\n")
            return 2


def _text() -> Iterator[str]:
    gap, period, memory = (duration(ms) for ms in (SESSION_GAP_MS, SESSION_PERIOD_MS, MEMORY_MS))
    yield f"""# Features

Made from `features/sets.py` by `python -m features.documentation write`; do not edit it. `tidecast features list`
prints the tables, `tidecast features show user ID`, `show product ID` and `show category ID` what a stored row says.

Feature schema `{schema_hash()}`: {len(SCORE_SET)} features; the longest memory is {duration(memory_ms())}.
The hash, here that of a shop in UTC without holidays, changes with any definition, with the shop's calendar, and with
its currency and rates.
Rows, vectors and models of different hashes are never mixed.

Each click of a known user gets a vector: these features as of the click, itself included. Order lines, returns and
cancellations move the features too, but get no prediction. Nothing stamped after the click counts.

## Windows

Windows are made of tiles anchored to absolute time: a tile of length g begins at a multiple of g since 1970 (UTC).

A user window of n tiles of length g holds, at time t, the tiles (t // g - n, t // g], and of the last one only what is
stamped up to t. It spans between (n - 1) g and n g, so its edge is off by less than one tile: that much is left out at
the far end, and nothing at the near end.

A product window holds the same, but only up to the last multiple of five minutes, and its 1h window holds twelve
finished tiles. Product rows arrive by way of other tasks, and a finished tile cannot know the future. So what happened
to a product in the last five minutes may not count yet. A category has the windows of a product; it counts the events
on products that name it as theirs.

| window | tiles of a user | spans | tiles of a product | spans, up to the last five minutes |
|---|---|---|---|---|"""
    for user, product in zip(USER_WINDOWS, PRODUCT_WINDOWS, strict=True):
        spans = [f"{duration(w.span_ms - w.tile_ms)} to {duration(w.span_ms)}" for w in (user, product)]
        if product.tile_ms == 5 * MINUTE:
            spans[1] = duration(product.span_ms)
        tiles = [f"{w.tiles} of {duration(w.tile_ms)}" for w in (user, product)]
        yield f"| {user.name} | {tiles[0]} | {spans[0]} | {tiles[1]} | {spans[1]} |"
    yield f"""
A product's visitors are kept as one sketch a day, which cannot be cut within it. So they are those of finished days
(UTC) before the day of the event: of the day before in `product_visitors_1d`, of the seven before in
`product_visitors_7d`, who came on several of them counted once. Of unknown users nobody knows how many they are.

A decayed sum halves by whole tiles of age, and is cut where its window ends.

## Order of arrival

A user's last {LOG_LENGTH} events by stamp are kept one by one, in a log. Older ones are kept as tiles and sums only.
While no more than {LOG_LENGTH} events of the user are stamped later, a vector is as of its event, in whatever order
they arrived.

An event that arrives later than that sees less exactly what had left the log before it came:

- in the windows its own tile counts as a whole, with what is stamped later in it; and tiles are kept only as far back
  from the newest event that left the log as the window is long;
- its session is that of the newest event that left the log where the two share it, with all that is counted there; else
  it stands alone;
- a time since something says "never" ({memory}) where the last such event to leave the log is stamped later, and the
  price of what was viewed last is then unknown.

The user's next events see it in its tiles, like any other event.

What is told of the user's last {LOG_LENGTH} events, this one included, looks no further back than the log: where n > 1
events are stamped later, it is of the last {LOG_LENGTH + 1} - n. What is {memory} old or older does not count. An
event's category is the one that it names itself, as a click or as the line of an order.

## Sessions

A session is a run of a user's events, in the order of their stamps, with the same session id. An event without one
continues the run of the event before it, unless more than {gap} lie between. Sessions are cut at multiples of
{period} besides, so that no memory is longer. Different products are counted up to {DISTINCT_LIMIT}.

## Returns and cancellations

A return or a cancellation is an event of its own: it counts in its session and in `user_return_rate_30d`. Where it is
matched with a purchase, it takes that back, out of the tile in which the purchase was made:

- of the user, one purchase and its money, in every window that still holds it. A return of some of the pieces takes
  back what it says, else their share of what was paid, and one purchase: order lines are counted, not pieces;
- of the product, and of the category that the order line names, one purchase.

A cancellation takes back every line of its order of which something is left. What is matched with no purchase takes
nothing back. Only purchases told as orders can be taken back, not those told as clicks, and only within {memory} of the
order, by event time; an order that is first told as placed and later than that as paid counts as bought twice. The same
holds of a customer's orders before the latest 1,000, or before those that make up the latest 1,000 lines. What is
redriven is told, and known, as of the watermark. No count and no sum says less than 0.

## Catalog and plan

The columns `market_…` show what catalog and plan say of the product as of the event: of each, the latest entry that is
valid from then or earlier. An entry counts from when it was read; one that is said later than it is valid from changes
no vector served before. Each example names how far catalog and plan were read, so it can be recomputed. In a training
table of the topics an entry counts from its own time on.

## Units

Times are in seconds; a time since something is at most {memory}, which also stands for "never". Money is in minor
units / 100 (19.99), whatever the currency, and in that of the shop (`shop.currency`) where one is set; amounts are cut
to ± {VALUE_LIMIT:,} minor units. A share is smoothed: its prior is added above and below."""


def _table(entity: Entity) -> Iterator[str]:
    yield f"""
## {title(entity)}

| feature | aggregate | of | window | tile | half-life | memory | unit | type | what it says |
|---|---|---|---|---|---|---|---|---|---|"""
    for feature in listed(entity):
        name, _, aggregate, window, tile, half_life, memory, unit, dtype, said = in_words(feature)
        if feature.prior is not None:
            above, below = feature.prior
            aggregate = f"{aggregate}, + {above:g} over + {below:g}"
        kinds = ", ".join(feature.kinds)
        cells = (f"`{name}`", aggregate, kinds, window, tile, half_life, memory, unit, dtype, said)
        yield f"| {' | '.join(cell or '–' for cell in cells)} |"


if __name__ == "__main__":
    sys.exit(main())
