"""What the reader judges, and how far it may read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.control.pacing import Clocks, Sampler
from streams.records import Input

_A, _B, _P = Input("clickstream", 0), Input("orders", 0), Input("predictions", 0)


@given(st.lists(st.binary(max_size=8), max_size=50), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_smaller_sample_is_part_of_a_larger(subjects: list[bytes], one: float, other: float) -> None:
    """Who is judged depends on the subject alone; at a smaller share some are left out, nobody is new."""
    small, large = Sampler(min(one, other)), Sampler(max(one, other))
    assert {s for s in subjects if small.wants(s)} <= {s for s in subjects if large.wants(s)}


def test_the_share_follows_the_load() -> None:
    """Too much halves it, quiet brings it back, a set share stays."""
    adaptive, fixed = Sampler(None, most_per_s=100), Sampler(0.5, most_per_s=100)
    for second in range(1, 20):
        for number in range(1_600):
            adaptive.wants(b"%d-%d" % (second, number))
            fixed.wants(b"%d-%d" % (second, number))
        adaptive.adapt(float(second), 1.0)
        fixed.adapt(float(second), 1.0)
    assert 1 / 32 <= adaptive.share <= 1 / 16
    assert fixed.share == 0.5
    for second in range(20, 40):
        adaptive.adapt(float(second), 1.0)
    assert adaptive.share == 1.0
    adaptive.adapt(40.0, 0.05)
    assert adaptive.share == 0.5, "no room left"


def test_the_watermark_is_the_least_of_what_is_still_read() -> None:
    """An unread partition holds the watermark back, one at its end for long enough does not."""
    clocks = Clocks([_A, _B], [_P], lateness_ms=10, idle_s=2)
    assert clocks.watermark(0.0) is None
    clocks.saw(_A, 1_000)
    assert clocks.watermark(0.0) is None, "nothing is known of the orders"
    clocks.saw(_B, 500)
    clocks.saw(_B, 400)
    assert clocks.watermark(0.0) == 490
    clocks.ended(_B, 1.0)
    assert clocks.watermark(2.9) == 490
    assert clocks.watermark(3.0) == 990
    clocks.ended(_A, 3.0)
    assert clocks.watermark(9.0) == 990
    clocks.saw(_B, 600)
    assert clocks.watermark(9.0) == 590, "it goes on"


def test_outcomes_wait_for_predictions() -> None:
    """Nothing is read ahead of the predictions further than judging them takes."""
    clocks = Clocks([_A, _B], [_P], lateness_ms=10, idle_s=2)
    clocks.ended(_P, 0.0)
    assert clocks.waiting(1.0) == {_A, _B}
    clocks.saw(_P, 1_000, horizon_ms=100)
    assert clocks.waiting(1.0) == set()
    clocks.saw(_A, 1_221)
    clocks.saw(_B, 1_220)
    assert clocks.waiting(1.0) == {_A}
    clocks.saw(_P, 1_001, horizon_ms=100)
    assert clocks.waiting(1.0) == set()


def test_all_prediction_partitions_count_until_their_end() -> None:
    """While a partition of predictions is read, the least of them sets the pace; an idle one does not."""
    other = Input("predictions", 1)
    clocks = Clocks([_A], [_P, other], lateness_ms=0, idle_s=2)
    clocks.saw(_P, 9_000, horizon_ms=100)
    assert clocks.waiting(0.0) == {_A}, "the other one was not read yet"
    clocks.saw(other, 1_000, horizon_ms=100)
    clocks.saw(_A, 2_000)
    assert clocks.waiting(0.0) == {_A}
    clocks.ended(other, 0.5)
    assert clocks.waiting(1.0) == set()
