"""A view of another stage's rows lags by a bounded time, whatever the clock does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.topologies.freshness import Freshness

STALENESS_MS = 100
IDS = st.sets(st.sampled_from("abcdefg"), max_size=5)
OPERATIONS = st.lists(st.tuples(st.sampled_from(["note", "ask"]), IDS, st.integers(-300, 150)), max_size=40)


@given(OPERATIONS)
def test_what_is_old_or_was_never_read_is_wanted(operations: list[tuple[str, set[str], int]]) -> None:
    """As long as the clock goes forward, exactly that; where it was set back, nothing that is old is left out."""
    view, read, now, forward = Freshness(), dict[str, int](), 1_000, True
    for what, ids, after in operations:
        now += after
        forward = forward and after >= 0
        if what == "note":
            view.note(ids, now)
            read.update(dict.fromkeys(ids, now))
            continue
        assert view.wanting(ids, None) == ids - read.keys()
        old = {id_ for id_ in ids if id_ not in read or read[id_] <= now - STALENESS_MS}
        found = view.wanting(ids, now - STALENESS_MS)
        assert found == old if forward else old <= found <= ids


def test_it_is_forgotten_as_a_whole() -> None:
    """Beyond the bound nothing is known; up to it everything is."""
    view = Freshness()
    view.note("abc", 1_000)
    view.trim(3)
    assert view.wanting(set("abcd"), 0) == {"d"}
    view.trim(2)
    assert view.wanting(set("abcd"), 0) == view.wanting(set("abcd"), None) == set("abcd")
