"""What `tidecast state show` says of a task."""

from __future__ import annotations

import pytest

from streams.resetting import Found
from streams.runtime.checkpoint import Header


@pytest.mark.parametrize(
    ("clock", "said"),
    [(1_700_000_000_000, "clock 2023-11-14 22:13:20Z, watermark 2023-11-14 22:03:20Z"), (None, "clock –, watermark –")],
)
def test_times_can_be_read(clock: int | None, said: str) -> None:
    """Clock and watermark are shown as times, or as unknown before the first event."""
    watermark = None if clock is None else clock - 600_000
    header = Header("abcdef", 2, 7, [], clock, watermark, (0, 0), [])
    found = Found("score.abcdef-0", 0, header, None, {}, {}, "from the checkpoint")
    assert found.lines()[1] == f"checkpoint 7 of epoch 2, {said}"
