"""The peers' environments are pinned, and made anew only when the pins change."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.peers import environments
from benchmarks.peers.environments import HERE, PEERS, pins, python_of
from benchmarks.peers.task import Task, parse


@pytest.mark.parametrize("peer", PEERS)
def test_everything_is_pinned(peer: str) -> None:
    """A line is a name and its version; the peer itself and orjson are among them; nothing says where from."""
    lines = (HERE / f"{peer}.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line) for line in lines)
    assert {PEERS[peer], "orjson"} <= set(pins(peer))


@pytest.mark.parametrize("peer", PEERS)
def test_every_peer_has_a_job(peer: str) -> None:
    """What the contenders start is there."""
    assert (HERE / f"{peer}_job.py").exists()


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time it is found as it was left; other pins make it anew."""
    ran: list[list[str]] = []

    def run(_peer: str, command: list[str]) -> None:
        ran.append(command)
        (tmp_path / "quix").mkdir(exist_ok=True)

    monkeypatch.setattr(environments, "_run", run)
    assert python_of("quix", tmp_path) == python_of("quix", tmp_path) == tmp_path / "quix" / "bin" / "python"
    assert len(ran) == 2
    (tmp_path / "quix" / "made-of").write_text("other pins", encoding="ascii")
    python_of("quix", tmp_path)
    assert len(ran) == 4


def test_a_task_survives_the_command_line(tmp_path: Path) -> None:
    """What the benchmark asks for is what the job reads."""
    task = Task("score", "run-1", "127.0.0.1:1", "clicks", "answers", 7, tmp_path)
    assert parse("", task.arguments()) == task
