"""How many records a task takes at once: fewer after a slow round, more after a quick one.

A record of clicks costs microseconds, one of activity that closes buckets of thousands of products costs seconds. What
is cut how changes no output; but a worker must be able to stop, or to hand over its tasks, within seconds.
"""

from __future__ import annotations

_SLOW_S = 1.0
_QUICK_S = 0.25


class Pace:
    """Records a batch, between 1 and `most`; begins with at most `first`.

    >>> pace = Pace(most=1_000, first=50)
    >>> pace.took(0.01), pace.took(0.01), pace.took(0.5)
    (100, 200, 200)
    >>> pace.took(8.0)
    25
    """

    def __init__(self, most: int, first: int) -> None:
        self.most = most
        self.records = min(most, first)

    def took(self, seconds: float) -> int:
        """Learn how long a round took; return how many records each batch of the next one may have."""
        if seconds > _SLOW_S:
            self.records = max(1, int(self.records * _SLOW_S / seconds))
        elif seconds < _QUICK_S:
            self.records = min(self.most, 2 * self.records)
        return self.records
