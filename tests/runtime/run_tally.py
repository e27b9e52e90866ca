"""`python -m tests.runtime.run_tally`: the shipped worker around the trivial stage, settings from the environment."""

from __future__ import annotations

import sys

from streams import roles
from streams.settings import load_settings
from tests.runtime.tally import TallyStage

if __name__ == "__main__":
    roles.stage_of = lambda role, settings: TallyStage(settings)  # type: ignore[assignment]
    sys.exit(roles.run_role("tally", load_settings()))
