"""Events as hypothesis draws them: stamps at the edges of tiles and windows, late ones, sessions, undone purchases."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from features.columns import Event, EventColumns
from features.sets import DAY, HOUR, MINUTE
from schemas.internal import ActivityRow, CategoryRow

START = 1_700_000_000_000 // (30 * DAY) * 30 * DAY + 29 * DAY
"""A day before sessions are cut."""

STEPS = (0, 1, 40_000, 5 * MINUTE - 1, 5 * MINUTE, 30 * MINUTE, 30 * MINUTE + 1, HOUR, 6 * HOUR, DAY, 8 * DAY, 31 * DAY)
VISITORS = st.sampled_from((0, 1, 63 << 26, (1 << 32) - 1)) | st.integers(0, (1 << 32) - 1)
"""Unknown ones, full registers and any."""
BACK = (0, 0, 0, 1, 30_000, 5 * MINUTE, 20 * MINUTE, 2 * HOUR, 3 * DAY)


@st.composite
def histories(draw: st.DrawFn, users: int = 1, max_size: int = 60, late: bool = True) -> list[Event]:
    """Events of some users in the order of arrival; returns and cancellations often name an earlier purchase."""
    events: list[Event] = []
    clock = START
    bought: list[int] = []
    calm = draw(st.booleans())
    for _ in range(draw(st.integers(1, max_size))):
        clock += draw(st.sampled_from(STEPS[:4] if calm else STEPS))
        time = clock - (draw(st.sampled_from(BACK)) if late else 0)
        kind = draw(st.sampled_from((0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 7)))
        if kind == 5:
            bought.append(time)
        undo = draw(st.sampled_from([0, 1, time + 7, *bought])) if kind > 5 else 0
        events.append(
            Event(
                user=f"u{draw(st.integers(1, users))}",
                kind=kind,
                time=time,
                product=draw(st.sampled_from((None, "p", "q", "r", "ü")) if calm else st.sampled_from(_MANY)),
                session=draw(st.sampled_from((None, None, "a", "b", "ö"))),
                value_minor=draw(st.sampled_from((0, 1, 250, 1 << 50, -300))),
                price_minor=draw(st.sampled_from((-1, 0, 99, 1 << 50))),
                undo_time=undo,
                country=draw(st.sampled_from((None, "", "DE", "de-BY", "FR"))),
                channel=draw(st.sampled_from((None, "", "Web", "app", "phone"))),
                list_minor=draw(st.sampled_from((-1, 0, 99, 1250, 1 << 50))),
                plan_minor=draw(st.sampled_from((-1, 0, 90))),
                stock=draw(st.sampled_from((-1, 0, 1, 1 << 50))),
                promotion=draw(st.sampled_from((0.0, 1.0, 0.25, -3.5))),
                category=draw(st.sampled_from((None, "", "c", "d", "é"))),
            )
        )
    return events


_MANY = tuple(f"p{i}" for i in range(60))


def columns(events: list[Event]) -> EventColumns:
    """Return events as the engine takes them."""
    result = EventColumns()
    for event in events:
        result.append(*(getattr(event, name) for name in Event.__slots__))
    return result


@st.composite
def activities(draw: st.DrawFn, max_size: int = 40) -> list[ActivityRow]:
    """Rows of one product in any order."""
    rows: list[ActivityRow] = []
    clock = START
    for _ in range(draw(st.integers(0, max_size))):
        clock += draw(st.sampled_from(STEPS))
        kind = draw(st.sampled_from((0, 0, 1, 2, 3, 4, 5, 6, 7)))
        price = draw(st.sampled_from((-1, 0, 99, 1250, 1 << 50)))
        time = clock - draw(st.sampled_from(BACK))
        quantity, visitor = (-1 if kind > 5 else 1), draw(VISITORS)
        rows.append(ActivityRow("p", None, kind, time, quantity, 0, price, visitor > 0, visitor=visitor))
    return rows


def in_category(activity: list[ActivityRow]) -> list[CategoryRow]:
    """Return what the activity of products is to the category "c" that they are all in."""
    return [CategoryRow("c", row.kind, row.time, row.price) for row in activity]


def renamed(events: list[Event], user: str) -> list[Event]:
    """Return the same events of another user."""
    return [replace(event, user=user) for event in events]
