"""The real data: where they are. A test that needs them fails where they are missing; it never skips."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest) -> Path:
    """Return the folder of the files."""
    folder = Path(os.environ.get("TIDECAST_DATA", request.config.rootpath.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.fail(f"no real data at {folder}; set TIDECAST_DATA", pytrace=False)
    return folder.resolve()


@pytest.fixture(scope="session")
def sources(data: Path) -> Path:
    """Return the folder of the sources' descriptions, which stands beside that of the data."""
    folder = data.parent / "sources"
    if not folder.is_dir():
        pytest.fail(f"no descriptions of the sources at {folder}; they stand beside TIDECAST_DATA", pytrace=False)
    return folder
