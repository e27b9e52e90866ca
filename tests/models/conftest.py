"""Where the real data is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of real data, or skip."""
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("TIDECAST_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; TIDECAST_DATA names another place")
    return folder
