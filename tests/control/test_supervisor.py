"""Laws of the supervisor: what it tells the roles, whom it starts again, and whose end is the end of all."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import streams.supervisor
from streams.children import start_child
from streams.errors import TidecastError
from streams.supervisor import Supervisor

_WAIT = "import signal; signal.pause()"


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    """Start a stand-in for each role, and note role and environment; END_WITH_<ROLE> is the exit code it ends with."""
    noted: list[tuple[str, dict[str, str]]] = []

    def start(command: list[str], *, env: dict[str, str], log: Path | None) -> Any:
        role = command[-1]
        noted.append((role, env))
        code = env.get(f"END_WITH_{role.upper()}")
        return start_child([sys.executable, "-c", _WAIT if code is None else f"raise SystemExit({code})"], log=log)

    monkeypatch.setattr(streams.supervisor, "start_child", start)
    return noted


@pytest.fixture
def supervise() -> Iterator[Callable[..., Supervisor]]:
    """Make started supervisors, and stop them."""
    made: list[Supervisor] = []

    def make(**options: Any) -> Supervisor:
        made.append(Supervisor(**options))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.stop()


def poll_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    """Look after the roles until `condition` holds, for 30 s at most."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        supervisor.poll()
        time.sleep(0.02)


def test_control_is_told_where_the_others_answer(
    begun: list[tuple[str, dict[str, str]]], supervise: Callable[..., Supervisor]
) -> None:
    """Each role has a port of its own; control gets the addresses of all others, and those of further workers."""
    ports = supervise(status_urls=("http://elsewhere:9100",)).ports()
    assert len(set(ports.values())) == len(ports) == 4
    environments = dict(begun)
    assert {role: int(env["TIDECAST_RUNTIME__METRICS_PORT"]) for role, env in environments.items()} == ports
    urls = {role: env.get("TIDECAST_CONTROL__STATUS_URLS") for role, env in environments.items()}
    assert json.loads(urls.pop("control") or "") == [
        *(f"http://127.0.0.1:{ports[role]}" for role in ("score", "demand", "learn")),
        "http://elsewhere:9100",
    ]
    assert set(urls.values()) == {None}


def test_a_role_that_ended_is_started_again_on_its_port(
    begun: list[tuple[str, dict[str, str]]], supervise: Callable[..., Supervisor]
) -> None:
    """A killed role comes back where it was; the others are left alone."""
    supervisor = supervise()
    ports = supervisor.ports()
    os.kill(supervisor.children["demand"].process.pid, signal.SIGKILL)
    poll_until(supervisor, lambda: len(begun) == 5)
    role, environment = begun[-1]
    assert (role, int(environment["TIDECAST_RUNTIME__METRICS_PORT"])) == ("demand", ports["demand"])
    assert supervisor.ports() == ports
    assert all(child.process.poll() is None for child in supervisor.children.values())


@pytest.mark.parametrize("code", [2, 3, 4])
def test_without_control_the_others_go_on(
    begun: list[tuple[str, dict[str, str]]], supervise: Callable[..., Supervisor], code: int
) -> None:
    """A control role that ends for good is let go; nobody is started again for it, and nobody is stopped."""
    supervisor = supervise(environment={"END_WITH_CONTROL": str(code)})
    poll_until(supervisor, lambda: "control" not in supervisor.children)
    supervisor.poll()
    assert len(begun) == 4
    assert sorted(supervisor.children) == ["demand", "learn", "score"]
    assert all(child.process.poll() is None for child in supervisor.children.values())


def test_a_worker_that_ends_for_good_ends_the_run(
    begun: list[tuple[str, dict[str, str]]], supervise: Callable[..., Supervisor]
) -> None:
    """Settings, topics and contradictions do not mend themselves: the run ends and names the role."""
    supervisor = supervise(environment={"END_WITH_SCORE": "4"})
    with pytest.raises(TidecastError, match="role score ended with exit code 4"):
        poll_until(supervisor, lambda: False)
    assert len(begun) == 4
