"""Laws of the settings of the shop's currency, wherever they come from."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streams.cli.app import app
from streams.errors import ConfigurationError
from streams.settings import load_settings

_NUMBER = "must be a number above 0 such as 1.17"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file with rates, which is in force."""
    file = tmp_path / "settings.toml"
    file.write_text('[shop]\ncurrency = "EUR"\n[shop.rates]\nGBP = 1.17\nJPY = "0.00617000000000000000001"\n')
    monkeypatch.setenv("TIDECAST_CONFIG", str(file))
    return file


def test_rates_are_exact_and_shown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As written, as a number or as text, in the file or in the environment, which wins; `config show` shows them."""
    assert load_settings().shop.rates == {"GBP": Decimal("1.17"), "JPY": Decimal("0.00617000000000000000001")}
    monkeypatch.setenv("TIDECAST_SHOP__RATES__GBP", "1.10000000000000000000001")
    monkeypatch.setenv("TIDECAST_SHOP__RATES__USD", "1")
    rates = {"GBP": "1.10000000000000000000001", "JPY": "0.00617000000000000000001", "USD": "1"}
    assert load_settings().shop.rates == {code: Decimal(rate) for code, rate in rates.items()}
    shown = json.loads(CliRunner().invoke(app, ["config", "show"]).stdout)
    assert (shown["shop"]["currency"], shown["shop"]["rates"]) == ("EUR", rates)
    monkeypatch.delenv("TIDECAST_SHOP__RATES__GBP")
    monkeypatch.setenv("TIDECAST_SHOP__RATES", '{"GBP": "1.2"}')
    assert load_settings().shop.rates["GBP"] == Decimal("1.2")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        *(
            (f"TIDECAST_SHOP__RATES__GBP={bad}", bad, _NUMBER)
            for bad in ("0", "-1", "nan", "inf", "1e-400", "true", "x")
        ),
        ("TIDECAST_SHOP__RATES__GBP=0." + "1" * 31, "0.1111", _NUMBER),
        ("TIDECAST_SHOP__RATES__POUND=1", "POUND", "must be an ISO 4217 code such as EUR"),
        ("TIDECAST_SHOP__CURRENCY=eur", "eur", "must be an ISO 4217 code such as EUR"),
        ("TIDECAST_SHOP__CURRENCY=GBP", "GBP", "must be 1, or left out: it is shop.currency itself"),
    ],
)
def test_bad_rates_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    """By name and value, with the allowed form."""
    variable, _, given = name.partition("=")
    monkeypatch.setenv(variable, given)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(caught.value).startswith("shop")
    assert value in str(caught.value)
    assert said in str(caught.value)
    assert "Value error" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('["GBP", 1.1]', "shop.rates = ['GBP', 1.1]: must be a table"),
        ('{ "" = 1.1 }', "shop.rates = '': must be an ISO 4217 code such as EUR"),
        ("{ POUND = 1.1 }", "shop.rates.POUND = 'POUND': must be an ISO 4217 code such as EUR"),
    ],
)
def test_rates_of_a_wrong_form_are_refused_in_plain_words(tmp_path: Path, table: str, said: str) -> None:
    """The place, the value and the form that it must have, without a word of the library that checks it."""
    path = tmp_path / "wrong.toml"
    path.write_text(f'[shop]\ncurrency = "EUR"\nrates = {table}\n')
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path)
    assert str(caught.value) == said


def test_rates_need_a_currency(file: Path) -> None:
    """Nobody could say what they are in."""
    file.write_text(file.read_text().replace('currency = "EUR"\n', ""))
    with pytest.raises(ConfigurationError, match=r"^shop = .*rates need shop\.currency, in which they are; set it$"):
        load_settings()


@pytest.mark.parametrize("variable", ["TIDECAST_SHOP__RATES", "TIDECAST_KAFKA__EXTRA", "TIDECAST_KAFKA"])
def test_what_must_be_json_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """By the variable, without its value, which may hold a password."""
    monkeypatch.setenv("TIDECAST_SHOP__COUNTRY", "DE")
    monkeypatch.setenv(variable, "{secret")
    with pytest.raises(ConfigurationError, match=f"^{variable}: .*give it as JSON$") as caught:
        load_settings()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIDECAST_LEARN__MAX_PENDING", "1" + "0" * 30),
        ("TIDECAST_SHOP", "[" * 20_000),
        *(("TIDECAST_SHOP__COUNTRY", bad) for bad in ("utils", "__init__", "HolidayBase", "DE-", "XX", "DE-XX")),
    ],
)
def test_what_no_setting_can_be_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """As a wrong setting, by its name, and not with a traceback."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=r"shop|SHOP|max_pending"):
        load_settings()


def test_arguments_of_the_library_are_no_settings(tmp_path: Path) -> None:
    """A key of a file that pydantic-settings would take for itself is as unknown as any other."""
    path = tmp_path / "settings.toml"
    path.write_text("_cli_parse_args = true\n")
    with pytest.raises(ConfigurationError, match="_cli_parse_args: there is no such setting"):
        load_settings(path)
