"""Laws of taking without an order among the inputs."""

from __future__ import annotations

from random import Random

from streams.records import Input, Record
from streams.runtime.merge import Entry, Merge

INPUTS = [Input("examples", number) for number in range(3)]


def entry(rank: int, offset: int, time: int) -> Entry:
    return Entry(time, rank, offset, None, Record(INPUTS[rank], offset, None, None, 0))


def test_what_is_there_comes_by_time_and_waits_for_nobody() -> None:
    """Each input in its own order, the earliest head first, and none is waited for."""
    random = Random(1)
    for _ in range(200):
        merge = Merge(INPUTS, ordered=False)
        heads: list[list[Entry]] = [
            [entry(rank, offset, random.randrange(20)) for offset in range(random.randrange(5))] for rank in range(3)
        ]
        for queue in heads:
            for one in queue:
                merge.push([one])
        taken = merge.take(100)
        assert len(taken) == sum(map(len, heads))
        for one in taken:
            assert (one.time, one.rank) == min((queue[0].time, queue[0].rank) for queue in heads if queue)
            heads[one.rank].pop(0)


def test_what_is_gone_below_a_bound_is_not_waited_for() -> None:
    """A log whose records just below the committed offset are gone: the input is where it should be."""
    merge = Merge(INPUTS[:2], ordered=False)
    for offset in (0, 5):
        merge.push([entry(0, offset, 1)])
    merge.push([entry(1, 0, 1)])
    taken = merge.take(10, [3, 1])
    assert [(one.rank, one.offset) for one in taken] == [(0, 0), (1, 0)]
    assert merge.positions == [3, 1]
    assert not merge.can_take([3, 1])
