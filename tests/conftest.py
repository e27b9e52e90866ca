"""What every test run shares: ``--no-skips`` makes a skipped test a failure, for runs that must prove something."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# A slow machine breaks no law.
settings.register_profile("laws", deadline=None)
settings.load_profile("laws")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--no-skips", action="store_true", help="a skipped test, class or module fails the run")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a skipped test (an expected failure is none)."""
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a module that skips itself."""
    report = yield
    _refuse_skip(report, collector.config)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    if report.skipped and config.getoption("--no-skips"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was not run: {reason}"


@pytest.fixture(scope="session")
def real_sources(request: pytest.FixtureRequest) -> Path:
    """The folder of the real sources' descriptions, which stands beside that of the data."""
    data = Path(os.environ.get("TIDECAST_DATA", request.config.rootpath.parent / "shared" / "data"))
    if not data.is_dir():
        pytest.skip(f"no real data at {data}; set TIDECAST_DATA")
    return data.parent / "sources"
