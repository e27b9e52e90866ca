"""Purchase on a real shop: the online model earns its keep, and no vector knows what comes after it."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from models.linear import LinearModel
from schemas.codec import Click, Order, OrderLine, encode_event
from schemas.internal import Example, decode_examples
from schemas.outputs import Announcement, PurchasePrediction, decode_announcement, decode_prediction
from streams.backtest.feed import Feed
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.records import CLICKSTREAM, EXAMPLES, MODELS, ORDERS, PREDICTIONS, Record
from streams.settings import LearnSettings, ScoreSettings, Settings
from streams.sources import SourceEvent, open_source
from streams.topologies.learn import LearnStage
from streams.topologies.score import ScoreStage
from tests.realdata import files

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(1_200)]

WARM_UP = 20_000
STAGES = ("score", "demand", "learn")
PARTITIONS = 2


@dataclass(slots=True)
class Heard:
    """What a run said: its examples in order, and the versions of its model."""

    examples: list[Example]
    versions: list[Announcement]


def learnt(events: Iterator[SourceEvent], *, publish_every: int) -> Heard:
    """Run score, demand and learn over events and their end."""
    settings = Settings(score=ScoreSettings(product_staleness_ms=0), learn=LearnSettings(publish_every=publish_every))
    driver = TopologyDriver(settings, [ScoreStage, quiet_demand_stage, LearnStage], partitions=PARTITIONS, retain=False)
    heard = Heard([], [])
    driver.tap(EXAMPLES, lambda record: heard.examples.extend(decode_examples(record.value or b"").examples))
    driver.tap(
        MODELS,
        lambda record: (
            heard.versions.append(decode_announcement(record.value or b""))
            if record.key == b"purchase/champion"
            else None
        ),
    )
    feed = Feed(driver, STAGES, 250)
    for event in events:
        feed.put(event.topic, event.key, event.value)  # type: ignore[arg-type]  # `events` has no Unreadable
    assert feed.time is not None
    feed.run([feed.time + 1])
    return heard


def gain(versions: Sequence[Announcement], after: int) -> tuple[int, float, float]:
    """Return how many examples were scored after the first `after`, and the mean losses of model and base rate."""
    first = next(version.metrics for version in versions if version.metrics["scored"] >= after)
    last = versions[-1].metrics
    count = last["scored"] - first["scored"]
    model, base = (
        (last[name] * last["scored"] - first[name] * first["scored"]) / count
        for name in ("log_loss", "base_rate_log_loss")
    )
    return int(count), model, base


def test_the_online_model_beats_the_base_rate(sources: Path) -> None:
    """After the first 20,000 examples the model's prequential log loss is below that of the running base rate."""
    heard = learnt(open_source(sources / "yoochoose.toml").events(), publish_every=1_000)
    count, model, base = gain(heard.versions, WARM_UP)
    print(f"{count} examples after the first {WARM_UP}: log loss {model:.4f}, running base rate {base:.4f}")
    assert count > 200_000
    assert model < base


def test_the_figures_of_the_learner_are_those_of_brute_force(data: Path, sources: Path) -> None:
    """Labels from the files and predictions by published versions give the losses that the learner tells of itself."""
    end = 1_397_000_000_000  # 2014-04-08, 23:33
    heard = learnt(open_source(sources / "yoochoose.toml").events(end_ms=end), publish_every=20)
    settings = Settings()
    horizon, lateness = settings.score.horizon_s * 1_000, settings.time.allowed_lateness_s * 1_000
    orders: dict[str, list[int]] = defaultdict(list)
    for line in files.yoochoose_lines(data):
        if line.time < end:
            orders[line.user].append(line.time)
    labels = []
    for example in heard.examples:
        times = orders[example.user]
        place = bisect_right(times, example.as_of)
        positive = place < len(times) and times[place] <= example.as_of + horizon
        labels.append((times[place] if positive else example.as_of + horizon + lateness, example.id, positive, example))
    # Before the first negative is known, nothing is judged: there are buyers only.
    judged_from = min(example.as_of for example in heard.examples) + horizon + lateness
    labels = sorted((label for label in labels if label[0] >= judged_from), key=lambda label: label[:2])

    told = heard.versions[-1].metrics
    assert told["corrections"] == told["refused"] == 0
    count = int(told["scored"])
    known = labels[:count]
    assert sum(positive for _, _, positive, _ in known) == told["positives"]
    base, positives = 0.0, 0
    for scored, (_, _, positive, _) in enumerate(known):
        base += _loss((positives + 1) / (scored + 2), positive)
        positives += positive
    assert base / count == pytest.approx(told["base_rate_log_loss"], rel=1e-9)
    served = sum(_loss(example.probability, positive) for _, _, positive, example in known) / count
    assert served == pytest.approx(told["served_log_loss"], rel=1e-9)

    # The version that came after n labels judges those after it: a little staler than what the learner judges with.
    versions = [version for version in heard.versions if version.metrics["scored"]]
    model, at = 0.0, int(versions[0].metrics["scored"])
    begun = at
    for version, until in zip(versions, [*(v.metrics["scored"] for v in versions[1:]), count], strict=True):
        part = known[at : int(until)]
        if part:
            vectors = np.array([np.frombuffer(example.vector, "<f8") for _, _, _, example in part])
            assert version.params is not None
            probabilities = LinearModel.from_params(version.params).predict(vectors).tolist()
            model += sum(_loss(p, positive) for p, (_, _, positive, _) in zip(probabilities, part, strict=True))
        at = int(until)
    model /= count - begun
    of_learner = (told["log_loss"] * count - versions[0].metrics["log_loss"] * begun) / (count - begun)
    print(
        f"{count} labels until 2014-04-08: log loss {of_learner:.4f} by the learner, {model:.4f} by its published "
        f"versions; running base rate {base / count:.4f}, as served {served:.4f}"
    )
    assert model == pytest.approx(of_learner, rel=0.02)


def _loss(probability: float, positive: bool) -> float:
    return -math.log(max(probability if positive else 1 - probability, 1e-6))


# -- the future ---------------------------------------------------------------------------------------------------

END = 1 << 62
LEAD_MS = 4 * 60_000
"""How far ahead of its time a planted event arrives; up to five minutes are taken."""


@dataclass(frozen=True, slots=True)
class Planted:
    """An event that was never in the files: before which click it arrives, and its stamp (ms)."""

    position: int
    time: int
    event: Click | Order

    @property
    def of(self) -> tuple[str, str]:
        """User and product."""
        event = self.event
        product = event.product_id if isinstance(event, Click) else event.lines[0].product_id
        return event.user_id or "", product or ""


def plant(events: Sequence[SourceEvent], *, every: int, seed: int) -> list[Planted]:
    """Return clicks and orders of users, on products, that are clicked while the planted event is still to come."""
    chance, found = random.Random(seed), []
    for number, position in enumerate(range(every, len(events) - every, every)):
        early = number % 4 < 3  # a quarter stands where its stamp says
        time = events[position].time_ms + (LEAD_MS if early else 0)
        near = [
            one.value for one in events[position : position + 40] if one.time_ms < time and one.topic == CLICKSTREAM
        ]
        click = chance.choice(near or [one.value for one in events[position:] if one.topic == CLICKSTREAM][:1])
        assert isinstance(click, Click)
        user, product = click.user_id, click.product_id or ""
        event: Click | Order
        if number % 2:
            event = Click(f"planted:{number}", "add_to_cart", time, user, click.session_id, product, quantity=2)
        else:
            line = OrderLine(product, None, 3, 1_999)
            event = Order(f"planted:{number}", f"planted:{number}", "placed", time, (line,), user, click.session_id)
        found.append(Planted(position, time, event))
    return found


def vectors_of(events: Sequence[SourceEvent], planted: Sequence[Planted], *, with_them: bool) -> dict[str, Example]:
    """Return the example of each click by its event id, from a run with the planted events or without.

    Both runs have the same markers and work at the same moments: what differs is the planted events alone.
    """
    settings = Settings(score=ScoreSettings(product_staleness_ms=0))
    driver = TopologyDriver(settings, [ScoreStage, quiet_demand_stage], partitions=PARTITIONS, retain=False)
    examples: dict[str, Example] = {}
    clicks: dict[str, str] = {}

    def hear(record: Record) -> None:
        examples.update((one.id, one) for one in decode_examples(record.value or b"").examples)

    def told(record: Record) -> None:
        said = decode_prediction(record.value or b"")
        if isinstance(said, PurchasePrediction):
            clicks[said.id] = said.payload.event_id

    driver.tap(EXAMPLES, hear)
    driver.tap(PREDICTIONS, told)
    feed = Feed(driver, STAGES[:2], 16)
    coming = {one.position: one for one in planted}
    for position, event in enumerate(events):
        if position in coming:
            one = coming[position]
            feed.run()
            # The other input says that it is further: nothing holds the planted event back until its time has come.
            other, ahead = (CLICKSTREAM, 1) if isinstance(one.event, Order) else (ORDERS, 0)
            driver.mark_time(one.time + ahead, topics=(other,))
            if with_them:
                topic = ORDERS if isinstance(one.event, Order) else CLICKSTREAM
                driver.pipe(topic, event_key(one), encode_event(one.event), appended_at=event.time_ms)
            driver.run()
        feed.put(event.topic, event.key, event.value)  # type: ignore[arg-type]  # `events` has no Unreadable
    assert feed.time is not None
    feed.run([feed.time + LEAD_MS + 2])
    assert driver.counts("score").get("rejected_late", 0) == driver.counts("score").get("rejected_future", 0) == 0
    return {clicks[name]: example for name, example in examples.items()}


def event_key(one: Planted) -> bytes:
    """Return the key that puts a planted event with its user's."""
    return one.of[0].encode()


def test_a_planted_future_event_changes_no_vector(sources: Path) -> None:
    """Whatever is planted, vectors keep their bytes until an event of their user or product is in their past."""
    events = list(open_source(sources / "yoochoose.toml").events(end_ms=1_396_656_000_000))  # 2014-04-05
    planted = plant(events, every=100, seed=5)
    before = vectors_of(events, planted, with_them=False)
    after = vectors_of(events, planted, with_them=True)

    past: dict[str, int] = {}
    for one in planted:
        for name in one.of:
            past[name] = min(one.time, past.get(name, one.time))
    kept = changed = 0
    for click in (event.value for event in events):
        if not isinstance(click, Click):
            continue
        theirs = (past.get(click.user_id or "", END), past.get(click.product_id or "", END))
        same = before[click.event_id].vector == after[click.event_id].vector
        if min(theirs) > click.time:
            assert same, f"{click}: changed by an event that is stamped later, or is of others"
            kept += 1
        else:
            changed += not same
    endangered = sum(
        {event.value.user_id, event.value.product_id} & set(one.of) != set() and event.time_ms < one.time
        for one in planted
        for event in events[one.position : one.position + 60]
        if isinstance(event.value, Click)
    )
    print(
        f"{len(planted)} planted events: {kept} vectors kept their bytes, {endangered} of them of a user or product "
        f"whose planted event had arrived before; {changed} vectors after their time changed"
    )
    assert kept > 5_000
    assert endangered > len(planted)
    assert changed > len(planted)
