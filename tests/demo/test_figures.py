"""What the demo counts, and the shops it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.codec import Click, encode_event
from schemas.outputs import encode_dead_letter, encode_demand, encode_history, encode_purchases
from streams.demo.figures import Figures
from streams.demo.shops import Item, from_source, simulated
from streams.errors import SourceError
from streams.records import CATALOG, CLICKSTREAM, DEADLETTERS, HISTORY, PREDICTIONS, Input, Record
from tests.sources.conftest import CLICKS, HEAD

DAY = 86_400_000


def record(topic: str, value: bytes) -> Record:
    return Record(Input(topic, 0), 0, None, value, (), 0)


def sent(number: int, user: str | None = "u") -> Item:
    click = Click(f"c{number}", "view", DAY, user)
    return Item(CLICKSTREAM, b"k", encode_event(click), DAY, click, 0.5)


def purchase(number: int) -> Record:
    value = encode_purchases(
        ids=[f"{number}-purchase"],
        subjects=["u"],
        as_of=[DAY],
        produced_at=DAY,
        model_name="purchase",
        model_version="1",
        horizon_s=3_600,
        probabilities=[0.25],
        event_ids=[f"c{number}"],
        session_ids=[None],
    )[0]
    return record(PREDICTIONS, value)


def forecast(product: str, day: int, mean: float) -> Record:
    value = encode_demand(
        id=f"{product}|{day}",
        subject=product,
        as_of=day * DAY,
        produced_at=0,
        model_name="seasonal",
        model_version="1",
        horizon_s=86_400,
        revision=0,
        bucket="D",
        starts=[day * DAY],
        mean=[mean],
        quantiles=[[mean - 1, mean, mean + 1]],
        levels=[0.1, 0.5, 0.9],
    )
    return record(PREDICTIONS, value)


def closed(product: str, day: int, quantity: int, revision: int = 0) -> Record:
    value = encode_history(
        id=f"{product}|{day}|{revision}",
        product_id=product,
        bucket_start=day * DAY,
        freq="D",
        quantity=quantity,
        value_minor=0,
        views=0,
        carts=0,
        price=None,
        covariates={},
        revision=revision,
    )
    return record(HISTORY, value)


def test_only_clicks_with_a_user_are_waited_for() -> None:
    """Facts, anonymous clicks, damaged ones and repeats are sent, and wait for no prediction."""
    figures = Figures()
    items = [sent(1), sent(2), sent(1), sent(3, None), Item(CLICKSTREAM, b"k", b"{", DAY), Item(CATALOG, b"p", b"", 0)]
    for item in items:
        figures.sending(item)
    assert (figures.sent, figures.clicks, figures.anonymous) == (6, 5, 1)
    assert figures.waiting == {"c1", "c2"}


def test_a_prediction_or_a_refusal_ends_the_waiting_for_good() -> None:
    """A click that was scored or refused waits no longer, also when it is repeated later."""
    figures = Figures()
    figures.sending(sent(1))
    figures.sending(sent(2))
    figures.take(purchase(1), 7.0)
    figures.sending(sent(1))
    letter = encode_dead_letter(
        topic=CLICKSTREAM,
        partition=0,
        offset=0,
        reason="late",
        detail="",
        appended_at=0,
        key=b"k",
        value=sent(2).value,
        headers=(),
    )
    figures.take(record(DEADLETTERS, letter), 8.0)
    assert figures.waiting == set()
    assert (figures.purchases, figures.first_prediction_s, figures.refused["late"]) == (1, 7.0, 1)
    assert figures.truth_gap() == 0.25


@pytest.mark.parametrize("history_first", [True, False])
def test_the_day_shown_is_the_last_that_was_sold(history_first: bool) -> None:
    """A forecast is shown when its day is over, in whatever order the topics are read, with the latest revision."""
    figures = Figures()
    forecasts = [forecast("p", day, 5.0) for day in (2, 3, 4)]
    sales = [closed("p", 1, 4), closed("p", 2, 6), closed("p", 3, 7), closed("p", 3, 5, revision=1)]
    assert figures.day() is None
    figures.take(forecasts[0], 1.0)
    assert figures.day() == 2 * DAY
    for each in (sales + forecasts) if history_first else (forecasts + sales):
        figures.take(each, 1.0)
    assert figures.day() == 3 * DAY
    assert figures.sold[3 * DAY]["p"] == 5


def test_complete_is_what_the_workers_counted() -> None:
    """While a click waits, or a forecast or a closed day that a worker counted was not read, more will come."""
    figures = Figures()
    counted = {"demand_predictions": 1, "buckets_closed": 1, "buckets_revised": 1}
    figures.sending(sent(1))
    for each in (forecast("p", 3, 5.0), closed("p", 2, 4), closed("p", 2, 3, revision=1), purchase(1)):
        assert not figures.complete(counted)
        figures.take(each, 1.0)
    assert figures.complete(counted)
    assert not figures.complete({"models_published": 1})


def test_the_cut_last_day_has_no_truth() -> None:
    """The simulated shop ends where it is told to; what its last day would have sold as a whole is not known."""
    end = 20_000 * DAY + DAY // 2
    shop = simulated(1, end)
    assert shop.true_mean is not None
    assert shop.true_mean("p1", 20_000 * DAY) is None
    assert shop.true_mean("p1", (20_000 - 21) * DAY) is None
    assert shop.true_mean("p1", 19_999 * DAY) is not None
    whole = simulated(1, 20_001 * DAY)
    assert whole.true_mean is not None
    assert whole.true_mean("p1", 20_000 * DAY) is not None


def write(folder: Path, rows: list[str]) -> Path:
    (folder / "clicks.csv").write_text("\n".join(["user,time,product", *rows]) + "\n")
    (folder / "source.toml").write_text(HEAD + CLICKS)
    return folder / "source.toml"


def test_rows_that_are_no_events_are_said(tmp_path: Path) -> None:
    """How many rows could not be read, of how many, and why."""
    shop = from_source(write(tmp_path, ["u,2024-01-01T00:00:00Z,p", "u,never,p"]))
    assert shop.total == len(list(shop.items)) == 1
    assert shop.rows == "2 rows, of which 1 unreadable (clicks.time.invalid 1)"


def test_a_source_without_an_event_is_refused(tmp_path: Path) -> None:
    """Where no row becomes an event, there is nothing to show, and the reason is said."""
    source = write(tmp_path, ["u,2024-01-01T00:00:00Z,p"])
    source.write_text(source.read_text().replace('{ value = "view" }', '{ column = "user", map = { pv = "view" } }'))
    with pytest.raises(SourceError, match=r"clicks\.type\.invalid 1"):
        from_source(source)
