"""The job in Faust: an agent over a stream, the users' state in a table, a topic out.

As its documentation recommends: a table is a dict whose changes go to a changelog topic, written by assignment; in
memory, its default and faster than RocksDB. Two things make nearly twice the rate: a producer that waits for company
(`producer_linger`), and loggers that do not make records which nobody sees. Run as
`python -m benchmarks.peers.faust_job` in an environment of its own.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import faust

from benchmarks.peers.features import Products, new_row, score
from benchmarks.peers.task import Meter, Task, echo, parse


def main(task: Task) -> None:
    """Answer the clicks of `task` and print what it cost."""
    app = faust.App(
        task.name,
        broker=f"kafka://{task.bootstrap}",
        topic_partitions=1,
        topic_disable_leader=True,
        web_enabled=False,
        producer_linger=0.02,
        datadir=str(task.folder),
    )
    clicks = app.topic(task.source, key_type=bytes, key_serializer="raw", value_serializer="json")
    answers = app.topic(task.sink, key_type=bytes, key_serializer="raw", value_serializer="json")
    meter = Meter()

    if task.job == "score":
        users = app.Table("users", default=new_row, partitions=1)
        products: Products = {}

        def answer(click: dict[str, Any]) -> dict[str, Any]:
            user = click["user_id"]
            row = users[user]
            said = score(row, products, click)
            users[user] = row
            return said

    else:
        answer = echo

    @app.agent(clicks)
    async def run(stream: faust.Stream) -> None:
        done = 0
        async for key, click in stream.items():
            meter.start()
            await answers.send(key=key, value=answer(click))
            done += 1
            if done == task.events:
                await app.producer.flush()
                meter.report(done)
                # A worker that stops takes seconds, and nothing of them is asked for.
                os._exit(0)

    for library in ("aiokafka", "faust", "mode"):
        logging.getLogger(library).setLevel(logging.WARNING)
    worker = faust.Worker(app, loglevel="ERROR", blocking_timeout=None)
    worker.execute_from_commandline()


if __name__ == "__main__":
    task_ = parse(__doc__)
    sys.argv = sys.argv[:1]
    main(task_)
