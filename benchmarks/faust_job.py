"""The same job in Faust, as its documentation recommends: an agent over a stream, state in tables, a topic out.

It does less than Tidecast's score stage: counts per kind over all time and the last hour, recency, a linear model; no
exactly-once, no product features, no examples. Run as `python -m benchmarks.faust_job BOOTSTRAP PREFIX EVENTS`; prints
its CPU seconds as JSON.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time

import faust


def main(bootstrap: str, prefix: str, events: int) -> None:
    """Score `events` clicks and print what it cost."""
    name = f"{prefix}faust-{time.time_ns()}"
    app = faust.App(
        name,
        broker=f"kafka://{bootstrap}",
        store="memory://",
        topic_partitions=1,
        topic_disable_leader=True,
        web_enabled=False,
        datadir=f"/tmp/{name}",
    )
    clicks = app.topic(prefix + "clickstream", value_serializer="json")
    scores = app.topic(prefix + "faust", value_serializer="json")
    counts = app.Table(f"{prefix}counts", default=dict, partitions=1)
    state = {"done": 0, "started": 0.0}
    weights = {"views": 0.1, "carts": 0.7, "hour": 0.2, "recency": -0.05}

    @app.agent(clicks)
    async def score(stream: faust.Stream) -> None:  # type: ignore[type-arg]
        async for event in stream.events():
            click = event.value
            if "type" not in click:
                continue
            if not state["started"]:
                state["started"] = time.process_time()
            user = click["user_id"]
            row = dict(counts[user])
            hour = click["time"] // 3_600_000
            row["views"] = row.get("views", 0) + (click["type"] == "view")
            row["carts"] = row.get("carts", 0) + (click["type"] == "add_to_cart")
            row["hour"] = row.get("hour", 0) + 1 if row.get("at") == hour else 1
            recency = (click["time"] - row.get("last", click["time"])) / 3_600_000
            row["at"], row["last"] = hour, click["time"]
            counts[user] = row
            z = -3.0 + sum(weight * (recency if key == "recency" else row[key]) for key, weight in weights.items())
            probability = 1 / (1 + math.exp(-z))
            await scores.send(key=user, value={"id": click["event_id"], "user": user, "probability": probability})
            state["done"] += 1
            if state["done"] == events:
                cost = {"events": events, "cpu_s": time.process_time() - state["started"]}
                # Faust has put its logger in the place of sys.stdout.
                os.write(1, f"{json.dumps(cost)}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    worker = faust.Worker(app, loglevel="ERROR", blocking_timeout=None)
    worker.execute_from_commandline()


if __name__ == "__main__":
    bootstrap_, prefix_, events_ = sys.argv[1:4]
    sys.argv = sys.argv[:1]
    main(bootstrap_, prefix_, int(events_))
