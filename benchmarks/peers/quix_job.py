"""The job in Quix Streams: a streaming dataframe, the users' state in its store, a topic out.

As its documentation recommends: `apply(..., stateful=True)` gives the state of the message's key, kept in RocksDB and a
changelog topic, committed every 5 s, at least once; all by default. Run as `python -m benchmarks.peers.quix_job` in an
environment of its own.
"""

from __future__ import annotations

from typing import Any

from quixstreams import Application, State

from benchmarks.peers.features import Products, new_row, score
from benchmarks.peers.task import Meter, Task, echo, parse


def main(task: Task) -> None:
    """Answer the clicks of `task` and print what it cost."""
    app = Application(
        broker_address=task.bootstrap,
        consumer_group=task.name,
        auto_offset_reset="earliest",
        state_dir=task.folder,
        loglevel="WARNING",
    )
    clicks = app.topic(task.source, value_deserializer="json")
    answers = app.topic(task.sink, value_serializer="json")
    meter = Meter()
    products: Products = {}

    def scored(click: dict[str, Any], state: State) -> dict[str, Any]:
        meter.start()
        row = state.get("row") or new_row()
        said = score(row, products, click)
        state.set("row", row)
        return said

    def passed(click: dict[str, Any]) -> dict[str, Any]:
        meter.start()
        return echo(click)

    stream = app.dataframe(clicks)
    stream = stream.apply(scored, stateful=True) if task.job == "score" else stream.apply(passed)
    stream.to_topic(answers)
    app.run(count=task.events, collect=False)
    meter.report(task.events)


if __name__ == "__main__":
    main(parse(__doc__))
