"""`python -m tests.runtime.run_frozen`: the trivial stage, which stops its process (SIGSTOP) once, in a live step."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from streams import roles
from streams.records import Output
from streams.runtime.merge import Entry
from streams.settings import load_settings
from streams.topologies.stage import State, Step
from tests.runtime.tally import TallyStage, TallyState


class _FrozenStage(TallyStage):
    def open(self, partition: int, tasks: int) -> State:
        return _FrozenState()


class _FrozenState(TallyState):
    frozen = False

    def step(self, entries: Sequence[Entry], step: Step) -> list[Output]:
        if not _FrozenState.frozen:
            _FrozenState.frozen = True
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().step(entries, step)


if __name__ == "__main__":
    roles.stage_of = lambda role, settings: _FrozenStage(settings)  # type: ignore[assignment]
    sys.exit(roles.run_role("tally", load_settings()))
