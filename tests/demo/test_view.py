"""The screen and the words of the demo: they fit, and say what is true."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from streams.demo.figures import Figures, Forecast, Shopper
from streams.demo.shops import DemoShop
from streams.demo.view import line, quality, screen, summary, why_nothing

DAY = 86_400_000


def nothing() -> Iterator[object]:
    yield from ()


def a_shop(*, simulated: bool, rows: str | None = None) -> DemoShop:
    known = (lambda product, start: 0.0 if product == "p0" else 12.3) if simulated else None
    return DemoShop("shop", nothing(), 33_003_944, known, rows)  # type: ignore[arg-type]


def some_figures(products: int = 40, name: str = "p") -> Figures:
    figures = Figures(total=33_003_944, sent=33_003_944, clicks=30_000, anonymous=2_345, at=20_001 * DAY)
    figures.waiting = {"a", "b"}
    figures.purchases = 27_653
    for number in range(8):
        figures.shoppers[f"{name}{number}"] = Shopper(f"{name}{number}", 0.123, 1.0)
    for number in range(products):
        product = f"{name}{number}"
        figures.forecasts.setdefault(20_000 * DAY, {})[product] = Forecast(product, 1_234.5, 1_100.0, 1_400.0)
        figures.sold.setdefault(20_000 * DAY, {})[product] = number
    figures.compared = 20_000 * DAY
    figures.version = "purchase 12000-1f2e3d4c"
    figures._errors.append(0.077)
    figures.metrics = {"log_loss": 0.3, "base_rate_log_loss": 0.25, "scored": 12_000}
    return figures


def shown(figures: Figures, shop: DemoShop, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(screen(figures, shop, width, height), overflow="ignore", crop=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@given(
    width=st.integers(80, 240),
    height=st.integers(24, 70),
    simulated=st.booleans(),
    name=st.sampled_from(["p", "[bold]", "a-rather-long-name-of-an-item-", "商品"]),
)
def test_the_screen_fits_the_terminal(width: int, height: int, simulated: bool, name: str) -> None:
    """From 80 × 24 on, no line is cut or wrapped, what was learnt is in view, and so are several rows."""
    lines = shown(some_figures(name=name), a_shop(simulated=simulated), width, height)
    assert len(lines) < height
    assert all(len(each) <= width for each in lines)
    text = "\n".join(lines)
    assert "learning" in text
    assert text.count("1,100 – 1,400") == 8
    assert "33,003,944 of 33,003,944 events sent" in text


@given(width=st.integers(50, 79), height=st.integers(18, 70))
def test_the_screen_of_a_small_terminal_fits_in_height(width: int, height: int) -> None:
    """Narrower than 80 columns, there are fewer rows."""
    assert len(shown(some_figures(), a_shop(simulated=True), width, height)) < height


def test_a_day_stands_beside_what_it_sold_and_its_truth() -> None:
    """Units sold and true means are shown, a mean of 0 too."""
    figures = some_figures(products=1)
    row = next(each for each in shown(figures, a_shop(simulated=True), 80, 24) if "1,100" in each)
    assert row.split()[-2:] == ["0", "0.0"]
    assert "sold on 2024-10-04" in "\n".join(shown(figures, a_shop(simulated=True), 80, 24))


def test_a_source_has_no_columns_for_a_truth_that_nobody_knows() -> None:
    """Without a simulated truth nothing is called true."""
    text = "\n".join(shown(some_figures(), a_shop(simulated=False), 80, 24))
    assert "true mean" not in text
    assert "truth" not in text
    assert "sold" in text


def test_times_are_by_the_clock_of_the_shop() -> None:
    """A day is named by the date that it has there."""
    figures = some_figures()
    figures.timezone = "Europe/Berlin"
    berlin = 20_000 * DAY - DAY // 12
    figures.forecasts[berlin], figures.sold[berlin] = (
        figures.forecasts.pop(20_000 * DAY),
        figures.sold.pop(20_000 * DAY),
    )
    figures.compared = berlin
    text = "\n".join(shown(figures, a_shop(simulated=False), 80, 24))
    assert "sold on 2024-10-04, as forecast" in text
    assert "shop time 2024-10-05 02:00" in text


def test_an_empty_screen_can_be_shown() -> None:
    """Before anything came back, the screen says so."""
    assert "no day is over yet" in "\n".join(shown(Figures(), a_shop(simulated=True), 80, 24))


@pytest.mark.parametrize(("loss", "said"), [(0.3, "20.0% worse than"), (0.2, "20.0% better than")])
def test_quality_says_better_or_worse_and_over_how_many(loss: float, said: str) -> None:
    """A figure comes with its sense and its count."""
    figures = some_figures()
    figures.metrics["log_loss"] = loss
    assert f"over 12,000 judged clicks, {said} the base rate's 0.2500" in quality(figures)


def test_the_summary_accounts_for_every_click_and_row() -> None:
    """Scored, waiting, without user, refused, unreadable: each is said where there are any."""
    figures = some_figures()
    figures.refused["late"] = 3
    text = "\n".join(summary(figures, a_shop(simulated=False, rows="50 rows, of which 16 unreadable")))
    assert "27,653 clicks scored, 2 waiting, 2,345 without user" in text
    assert "late 3" in text
    assert "16 unreadable" in text
    assert "waiting" not in line(Figures())
    assert "without" not in line(Figures())


def test_nothing_scored_has_a_reason() -> None:
    """What is missing is named: workers, acceptance, clicks, users."""
    assert "score (compiling kernels)" in why_nothing(Figures(clicks=1), {"score": "compiling kernels"}, 9)
    refused = Figures(clicks=1)
    refused.refused["future"] = 1
    assert "future 1" in why_nothing(refused, {}, 9)
    assert "no clicks" in why_nothing(Figures(), {}, 9)
    assert "names a user" in why_nothing(Figures(clicks=2, anonymous=2), {}, 9)
    assert "within 9 s" in why_nothing(Figures(clicks=2), {}, 9)
