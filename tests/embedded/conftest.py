"""Embedded servers for the tests of this folder, and clients for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streams.embedded import EmbeddedServers


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """Give one embedded pair to the tests that do not harm it."""
    with EmbeddedServers(tmp_path_factory.mktemp("embedded")) as running:
        yield running
