"""docs/features.md says what features/sets.py declares, and what it says in words holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import documentation
from features.columns import Event, EventColumns
from features.documentation import ENTITIES, FIELDS, PAGE, as_data, check, duration, in_words, listed, main, page, title
from features.engine import ScoreFeatures
from features.oracle import UserOracle
from features.oracle_products import product_values
from features.sets import (
    DAY,
    HOUR,
    LOG_LENGTH,
    MEMORY_MS,
    MINUTE,
    PRODUCT_WINDOWS,
    SCORE_SET,
    USER_WINDOWS,
    memory_ms,
    schema_hash,
)
from schemas.internal import ActivityRow, EventKind


def test_the_committed_page_is_the_declaration() -> None:
    """What is committed is what the declaration makes today."""
    assert check() == []


def test_every_feature_is_on_the_page_once_under_its_entity() -> None:
    """One table per entity names its features in the order of the vector, and no other."""
    sections = {part.partition("\n")[0].lower(): part for part in PAGE.read_text(encoding="utf-8").split("\n## ")}
    for entity in ENTITIES:
        rows = re.findall(r"^\| `(\w+)` \|", sections[title(entity).lower()], re.MULTILINE)
        assert rows == [feature.name for feature in listed(entity)]
    assert sum(len(listed(entity)) for entity in ENTITIES) == len(SCORE_SET)


def test_a_stale_page_is_named_with_its_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page of another declaration, a cut one and none at all fail the check; writing repairs all of them."""
    path = tmp_path / "features.md"
    assert "cannot be read" in check(path)[0]
    assert main(["write"], path) == main(["check"], path) == 0
    path.write_text(page()[:-200], encoding="utf-8")
    assert main(["check"], path) == 1
    monkeypatch.setattr(documentation, "SCORE_SET", SCORE_SET[:-1])
    path.write_text(page(), encoding="utf-8")
    monkeypatch.undo()
    assert main(["check"], path) == 1
    for line in capsys.readouterr().err.splitlines():
        assert re.search(r"features\.md: stale at line \d+; run 'python -m features.documentation write'", line)
    assert main(["write"], path) == main(["check"], path) == 0
    assert main(["draw"], path) == 2


def test_the_page_states_the_numbers_of_the_declaration() -> None:
    """Hash, memory and the length of the log are those in force."""
    text = page()
    assert f"Feature schema `{schema_hash()}`" in text
    assert f"longest memory is {duration(memory_ms())}" in text
    assert f"last {LOG_LENGTH} events" in text


def test_words_and_data_tell_the_same() -> None:
    """A feature in words has a text for each field; as data it has the same name, unit, type and memory."""
    for feature in SCORE_SET:
        words, data = dict(zip(FIELDS, in_words(feature), strict=True)), as_data(feature)
        assert [words[name] for name in ("name", "entity", "unit", "dtype")] == [
            data[name] for name in ("name", "entity", "unit", "dtype")
        ]
        assert words["memory"] == (duration(feature.memory_ms) if data["memory_ms"] else "")
        assert (words["tile"] == "") == (data["window_ms"] is None) == (data["tile_ms"] is None)
        assert (words["window"] == "") == (data["window_ms"] is None and data["last"] is None)


@pytest.mark.parametrize("ms", [1, 999, 1_000, 61_001, 3_600_000, 86_400_000 * 30 + 5 * 60_000])
def test_a_duration_adds_up(ms: int) -> None:
    """The parts of a duration sum to the milliseconds that it was made of."""
    units = {"d": 86_400_000, "h": 3_600_000, "min": 60_000, "s": 1_000, "ms": 1}
    parts = re.findall(r"(\d+) (\w+)", duration(ms))
    assert sum(int(count) * units[unit] for count, unit in parts) == ms


T0 = 1_700_000_000_000


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 40 * DAY), min_size=1, max_size=40), st.integers(0, 40 * DAY))
def test_windows_are_off_by_less_than_a_tile(ages: list[int], shift: int) -> None:
    """A window counts all of (n - 1) tiles back from its end, nothing beyond n, and nothing after its end."""
    now = T0 + shift
    times = sorted(now - age for age in ages)
    user = UserOracle()
    for time in times:
        found = user.apply(Event("u", EventKind.VIEW, time))
    for window in USER_WINDOWS:
        least = sum(times[-1] - (window.span_ms - window.tile_ms) < time for time in times)
        most = sum(times[-1] - window.span_ms < time for time in times)
        assert least <= found[f"user_views_{window.name}"] <= most
    activity = [ActivityRow("p", None, EventKind.VIEW, time, 1, 0, -1, True) for time in times]
    values, end = product_values(activity, now, -1), now // (5 * MINUTE) * 5 * MINUTE
    for window in PRODUCT_WINDOWS:
        exact = 0 if window.tile_ms == 5 * MINUTE else window.tile_ms
        least = sum(end - (window.span_ms - exact) <= time < end for time in times)
        most = sum(end - window.span_ms <= time < end for time in times)
        assert least <= values[f"product_views_{window.name}"] <= most


def _late(after: int, *, session: str) -> dict[str, float]:
    """What an event sees that comes when `after` events of its user, one a minute in session "s", are stamped later."""
    start = T0 // DAY * DAY + HOUR
    features = ScoreFeatures()
    features.load_user("u", None)
    events = EventColumns()
    for i in range(40):
        events.append("u", EventKind.VIEW, start + i * MINUTE, None, "s")
    events.append("u", EventKind.VIEW, start + (39 - after) * MINUTE + MINUTE // 2, None, session)
    return dict(zip(features.names, features.apply(events)[-1].tolist(), strict=True))


def test_an_event_within_the_log_is_as_of_its_stamp() -> None:
    """With as many events stamped later as the log keeps, a late one sees just what was stamped before it."""
    found = _late(LOG_LENGTH, session="s")
    before = 40 - LOG_LENGTH
    assert found["user_views_1d"] == found["session_events"] == before + 1
    assert found["user_since_view"] == found["session_since_previous"] == MINUTE / 2 / 1_000


def test_an_event_beyond_the_log_sees_what_left_it_in_whole_tiles() -> None:
    """Its tile counts whole, its session is the one that left last or its own alone, and times since say never."""
    never = MEMORY_MS / 1_000
    left = 40 - LOG_LENGTH
    for session, events in (("s", left + 1), ("else", 1)):
        found = _late(LOG_LENGTH + 9, session=session)
        assert found["user_views_1d"] == left + 1
        assert found["session_events"] == events
        assert found["user_since_view"] == found["session_since_previous"] == never
