"""Laws of idle inputs: whatever waits for one is let go by markers, and soon no more of them are written."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.records import MARKER_HEADER, Input, Record
from streams.runtime.task import Task
from streams.settings import Settings
from streams.topologies.score import ScoreStage

INPUTS = (Input("clickstream", 0), Input("orders", 0))
MARKED = ((MARKER_HEADER, b"time"),)


class Log:
    """A task and the log it reads; every record is appended at the same late time."""

    def __init__(self) -> None:
        chosen = Settings()
        self.task = Task(ScoreStage(chosen), 0, INPUTS, 1, chosen.time)
        self.task.start(dict.fromkeys(INPUTS, 0), dict.fromkeys(INPUTS, 0), 0)
        self._ends = dict.fromkeys(INPUTS, 0)

    def append(self, input_: Input, value: dict[str, object], headers: tuple[tuple[str, bytes], ...] = ()) -> None:
        """Write a record, and let the task read it."""
        self.task.feed(Record(input_, self._ends[input_], None, json.dumps(value).encode(), 10**9, headers))
        self._ends[input_] += 1

    def work(self) -> int:
        """Take and apply what can be; return how many events it was."""
        taken = 0
        while (batch := self.task.take(100)) is not None:
            taken += len(batch.events)
            self.task.load(dict.fromkeys(self.task.missing(batch)))
            self.task.state.load_foreign("", {"p:p": None}, 0)
            self.task.step(batch, 0)
        return taken


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.booleans()), max_size=12))
def test_nothing_waits_for_ever(arrivals: list[tuple[int, int, bool]]) -> None:
    """With both inputs idle, markers at the release time let every event go, in a few rounds, and then stop."""
    log, events, applied = Log(), 0, 0
    for number, (kind, time, settle) in enumerate(arrivals):
        line = {"product_id": "p"}
        click = {"event_id": f"{number}", "type": "view", "time": time, "user_id": "u", **line}
        order = {"event_id": f"{number}", "order_id": f"{number}", "status": "placed", "time": time, "lines": [line]}
        if kind < 2:
            log.append(INPUTS[kind], click if kind == 0 else order)
            events += 1
        else:
            log.append(INPUTS[kind - 2], {"time": time, "source": "s"}, MARKED)
        if settle or number == len(arrivals) - 1:
            applied += log.work()
            rounds = 0
            while log.task.held_back_by() and (target := log.task.release_time()) is not None:
                for input_ in log.task.held_back_by():
                    log.append(input_, {"time": target, "source": "w"}, MARKED)
                applied += log.work()
                rounds += 1
                assert rounds <= 3
            assert applied == events
