"""`tidecast state prepare` on real Kafka and Redis: another definition's rows are built while the old one serves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from streams.topics import create
from tests.real.harness import Role, Shop, wait_until
from tests.real.shop import closed_log

pytestmark = [pytest.mark.realbroker, pytest.mark.timeout(300)]


def state(shop: Shop, *arguments: str, hook: str = "") -> subprocess.CompletedProcess[str]:
    """Run `tidecast state`."""
    environment = {**os.environ, **shop.environment, "TIDECAST_HOOK": hook}
    command = [sys.executable, "-m", "streams.cli", "state", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def applied(role: Role) -> int:
    """Return how many clicks a role predicted."""
    status = role.status()
    return sum(task["counts"].get("clicks_predicted", 0) for task in status["tasks"].values()) if status else 0


def test_rows_of_another_definition_are_ready_before_its_worker_starts(shop: Shop) -> None:
    """The old worker serves throughout; killed, the preparation goes on; the new worker has little left to rebuild.

    Its rows are, byte for byte, what a worker without preparation rebuilds from the log, and nothing is said twice.
    """
    log = closed_log(clicks=3_000)
    new = replace(shop, overrides={"TIDECAST_SHOP__TIMEZONE": "Europe/Berlin"})
    small = replace(new, overrides={**new.overrides, "TIDECAST_RUNTIME__CHECKPOINT_MAX_ROWS": "20"})
    create(shop.settings())
    shop.write(log.messages[:2_500])
    old = shop.start("score")
    wait_until(lambda: applied(old) > 2_000, "most of the log", tell=old.status)

    killed = state(small, "prepare", "score", hook="mid_checkpoint:5")
    assert killed.returncode == -9, killed.stderr
    first = state(new, "prepare", "score", "--json")
    assert first.returncode == 0, first.stderr
    ready = json.loads(first.stdout)
    assert len(ready) == 2
    assert all(one["behind"] <= 1_000 for one in ready)
    again = json.loads(state(new, "prepare", "score", "--json").stdout)
    assert sum(one["rebuilt"] for one in again) < sum(one["rebuilt"] for one in ready)

    shop.write(log.messages[2_500:])
    shop.close_log(log.end)
    shop.finish([old], log.end, {"score": 2})
    names = json.loads(state(new, "list", "--json").stdout)
    assert sorted(one["current"] for one in names) == [False, False, True, True]
    for one in names:
        if not one["current"]:
            assert state(new, "reset", one["task"], "--yes").returncode == 0
    new.finish([new.start("score")], log.end, {"score": 2})
    prepared = new.rows("score")

    for number in range(2):
        assert state(new, "reset", f"score-{number}", "--yes").returncode == 0
    assert new.rows("score") == {}
    new.finish([new.start("score")], log.end, {"score": 2})
    assert new.rows("score") == prepared != {}
    ids = [json.loads(record.value or b"")["id"] for record in new.read("predictions")]
    assert len(ids) == len(set(ids)) > 2_500


def test_what_runs_already_is_not_prepared(shop: Shop) -> None:
    """Beside workers of this very version the command says that there is nothing to do, or that they own the rows."""
    log = closed_log(clicks=500)
    shop.preload(log)
    role = shop.start("score")
    shop.finish([role], log.end, {"score": 2})
    done = state(shop, "prepare", "score")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": 0 records read") == 2
    before = shop.rows("score")
    shop.finish([shop.start("score")], log.end, {"score": 2})
    assert shop.rows("score") == before
