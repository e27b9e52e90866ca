"""Laws of a source's time zone and currency: the same in every command, and what does not fit is said."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from streams.cli.app import app
from streams.demo.run import environment_of
from streams.demo.shops import from_source
from streams.settings import load_settings
from streams.sources import open_source
from streams.sources.shop import warning_of, with_shop_of

_SOURCE = """
[clicks]
path = "clicks.csv"
user = "user"
time = "time"
product = "product"
price = "price"
type = { value = "view" }
[orders]
path = "clicks.csv"
order = "time"
user = "user"
time = "time"
product = "product"
price = "price"
status = { value = "placed" }
"""
_ZONE = 'timezone = "Asia/Kathmandu"\n'


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set, and nothing that a test sets stays."""
    for name in ("TIDECAST_CONFIG", "TIDECAST_SHOP__TIMEZONE", "TIDECAST_SHOP__CURRENCY", "TIDECAST_SHOP__RATES__GBP"):
        monkeypatch.delenv(name, raising=False)


def _shop(folder: Path, head: str = _ZONE) -> Path:
    """Write a shop with a click and an order at 18:30 UTC of two days, which is 00:15 of the next in Nepal."""
    rows = [f"u,2024-05-0{day}T18:30:00Z,p,19.99" for day in (1, 2)]
    (folder / "clicks.csv").write_text("\n".join(["user,time,product,price", *rows]) + "\n")
    (folder / "shop.toml").write_text(f'name = "shop"\ncurrency = "GBP"\n{head}{_SOURCE}')
    return folder / "shop.toml"


@pytest.mark.parametrize("where", ["environment", "file"])
def test_the_source_says_what_was_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """What was set stays, be it the default; else the source's time zone holds, and nothing else changes."""
    source = open_source(_shop(tmp_path))
    found = with_shop_of(load_settings(), source)
    assert found.shop.timezone == "Asia/Kathmandu"
    assert found.model_copy(update={"shop": load_settings().shop}) == load_settings()
    if where == "file":
        (tmp_path / "settings.toml").write_text('[shop]\ntimezone = "UTC"\n')
        monkeypatch.setenv("TIDECAST_CONFIG", str(tmp_path / "settings.toml"))
    else:
        monkeypatch.setenv("TIDECAST_SHOP__TIMEZONE", "UTC")
    assert with_shop_of(load_settings(), source) == load_settings()


def test_the_demo_gives_its_roles_the_time_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their environment, as the workers read it; a simulated shop sets nothing."""
    shop = from_source(_shop(tmp_path))
    environment = environment_of(shop, "127.0.0.1:1", "redis://127.0.0.1:2/0", tmp_path)
    assert environment["TIDECAST_SHOP__TIMEZONE"] == "Asia/Kathmandu"
    monkeypatch.setenv("TIDECAST_SHOP__TIMEZONE", "Europe/Paris")
    environment = environment_of(shop, "127.0.0.1:1", "redis://127.0.0.1:2/0", tmp_path)
    assert environment["TIDECAST_SHOP__TIMEZONE"] == "Europe/Paris"


@pytest.mark.parametrize(
    ("set_to", "zone", "day"), [(None, "Asia/Kathmandu", "2024-05-03"), ("UTC", "UTC", "2024-05-02")]
)
def test_files_are_counted_by_one_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_to: str | None, zone: str, day: str
) -> None:
    """Backfill and both backtests: by the source's clock, or by the one that is set, with a warning."""
    path = _shop(tmp_path)
    if set_to is not None:
        monkeypatch.setenv("TIDECAST_SHOP__TIMEZONE", set_to)
    commands = {
        "table": ["backfill", "--source", str(path)],
        "demand": ["backtest", "demand", str(path), "--freq", "D", "--origins", day, "--top", "1", "--no-train"],
        "purchase": ["backtest", "purchase", str(path)],
    }
    for name, command in commands.items():
        result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / name)])
        assert result.exit_code == 0, result.exception
        assert ("set TIDECAST_SHOP__TIMEZONE=Asia/Kathmandu for all roles" in result.stderr) == (set_to is not None)
        assert "shop.rates" not in result.stderr
    first = pq.read_table(tmp_path / "table" / "part-00000.parquet").to_pylist()[0]
    assert first["hour_cos"] > 0.99 if zone != "UTC" else first["hour_cos"] < 0.2  # about midnight, or 18:30
    metrics = json.loads((tmp_path / "demand" / "metrics.json").read_bytes())
    assert metrics["settings"]["timezone"] == zone


_REPLAYED = [
    (_ZONE, {}, ["TIDECAST_SHOP__TIMEZONE=Asia/Kathmandu"]),
    (_ZONE, {"TIDECAST_SHOP__TIMEZONE": "Asia/Kathmandu"}, []),
    ("", {"TIDECAST_SHOP__TIMEZONE": "Europe/Paris"}, []),
    ("", {"TIDECAST_SHOP__CURRENCY": "GBP"}, []),
    ("", {"TIDECAST_SHOP__CURRENCY": "EUR", "TIDECAST_SHOP__RATES__GBP": "1.17"}, []),
    (_ZONE, {"TIDECAST_SHOP__CURRENCY": "EUR"}, ["TIMEZONE=Asia/Kathmandu", "TIDECAST_SHOP__RATES__GBP"]),
]


@pytest.mark.parametrize(("head", "environment", "repairs"), _REPLAYED)
def test_replay_says_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, environment: dict[str, str], repairs: list[str]
) -> None:
    """One line before anything is sent, with what to set; none where all fits, or the source leaves it open."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    path = _shop(tmp_path, head)
    # The client refuses it: here nothing is to be sent.
    monkeypatch.setenv("TIDECAST_KAFKA__EXTRA", '{"no.such.setting": "1"}')
    command = ["replay", str(path), "--bootstrap", "127.0.0.1:1", "--state", str(tmp_path / "state.json")]
    result = CliRunner().invoke(app, command)
    assert "no.such.setting" in str(result.exception)
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == min(len(repairs), 1)
    assert all(repair in warnings[0] for repair in repairs)
    assert warning_of(load_settings(), open_source(path)) == (warnings[0] if warnings else None)
