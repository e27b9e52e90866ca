"""Laws of the learner: River's answers, to the bit across restarts, and nothing that poisons it."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, optim, preprocessing

from models.labels import Label
from models.linear import CLIP, LinearModel
from models.online import LearnerStateError, PurchaseLearner, Snapshot, WeightRate
from models.scaling import Scaler, finite_logs
from schemas.internal import Example, ExampleBatch, Outcome
from tests.models.logs import Event, build, happenings

FEATURES = ("clicks", "seconds", "price")
HORIZON, LATENESS = 60_000, 5_000

Log = list[tuple[int, int, ExampleBatch]]  # partition, offset, batch


def learner(publish_every: int = 100) -> PurchaseLearner:
    return PurchaseLearner(
        FEATURES, "h", horizon_ms=HORIZON, lateness_ms=LATENESS, corrections_ms=100_000, publish_every=publish_every
    )


def shop(clicks: int = 600, tasks: int = 2, seed: int = 1) -> Log:
    """Write a log in which the first feature makes an order likelier; some orders are cancelled later."""
    chance = random.Random(seed)
    queues: list[list[tuple[int, int, Example | Outcome]]] = [[] for _ in range(tasks)]
    for n in range(clicks):
        task, time = n % tasks, 1_000_000 + n * 1_000
        lean = chance.gauss(0, 1)
        vector = np.array([math.exp(1 + lean), chance.expovariate(1e-3), -chance.random()])
        user = f"u{n}"
        queues[task].append((time, n, Example(f"e{n}", user, time, vector.tobytes(), (n, 0), None, 0.05, "prior:0")))
        if chance.random() < 1 / (1 + math.exp(2 - 2 * lean)):
            bought = time + chance.randint(1, HORIZON)
            queues[task].append((bought, n, Outcome("order", user, f"o{n}", bought)))
            if chance.random() < 0.2:
                undone = bought + chance.randint(1, HORIZON)
                queues[task].append((undone, n, Outcome("cancel", user, f"o{n}", undone)))
    logs: Log = []
    for task, queue in enumerate(queues):
        queue.sort(key=lambda item: item[:2])
        for offset, start in enumerate(range(0, len(queue), 10)):
            items = [item for _, _, item in queue[start : start + 10]]
            examples = [item for item in items if isinstance(item, Example)]
            outcomes = [item for item in items if isinstance(item, Outcome)]
            logs.append((task, offset, ExampleBatch(task, tasks, queue[start][0] - 1, "h", examples, outcomes)))
        logs.append((task, len(queue), ExampleBatch(task, tasks, 10**10, "h", [], [])))
    return logs


def interleave(log: Log, seed: int) -> Log:
    chance, queues = random.Random(seed), {p: [m for m in log if m[0] == p] for p in {m[0] for m in log}}
    mixed = []
    while any(queues.values()):
        mixed.append(queues[chance.choice([p for p, q in queues.items() if q])].pop(0))
    return mixed


def feed(subject: PurchaseLearner, log: Log) -> list[Snapshot]:
    return [snapshot for message in log for snapshot in subject.feed(*message)]


def tell(
    subject: PurchaseLearner,
    logs: list[list[tuple[int, ExampleBatch]]],
    partition: int,
    offset: int,
    batch: ExampleBatch,
) -> list[Snapshot]:
    """Feed one message, and again those that the clock wants to see again."""
    snapshots = subject.feed(partition, offset, batch)
    while subject.clock.wanted is not None:
        wanted, start = subject.clock.wanted
        for again, found in [one for one in logs[wanted] if one[0] >= start][: 1 + offset % 4]:
            subject.clock.recall(wanted, again, found)
        snapshots += subject.learn(subject.clock.release())
    return snapshots


def label(vector: np.ndarray, positive: bool, at: int, schema_hash: str = "h") -> Label:
    example = Example(f"e{at}", "u", at, vector.tobytes(), (0, 0), None, 0.05, "prior:0")
    return Label(at, example.id, positive, False, schema_hash, example)


def test_any_interleaving_makes_the_same_model() -> None:
    """The same log: the same versions and figures at every count, bit for bit."""
    log = shop()
    first, second = learner(), learner()
    one, two = feed(first, interleave(log, 1)), feed(second, interleave(log, 2))
    assert [(s.model.to_params(), s.metrics, s.trained_through) for s in one] == [
        (s.model.to_params(), s.metrics, s.trained_through) for s in two
    ]
    assert first.state() == second.state()
    assert first.progress.corrections > 0


@pytest.mark.parametrize("stop", [0, 1, 7, 40, 80, 121])
def test_a_restart_goes_on_to_the_same_bits(stop: int) -> None:
    """State and log from the floor make the same versions and the same final state as a life without a break."""
    log = interleave(shop(), 3)
    whole = learner()
    versions = [s.model.to_params() for s in feed(whole, log)]
    before = learner()
    early = [s.model.to_params() for s in feed(before, log[:stop])]
    after = learner()
    after.load(before.state())
    floor = before.clock.floor()
    late = feed(after, interleave([m for m in log if m[1] >= floor.get(m[0], 0)], 4))
    assert early + [s.model.to_params() for s in late] == versions
    assert after.state() == whole.state()


@given(
    st.one_of(happenings(users=4, orders=6, until=150, size=30), happenings(users=2, orders=2, until=300, size=40)),
    st.integers(1, 3),
    st.sampled_from([0, 10, 30, 300]),
    st.sampled_from([100, 160, 410, 10_000]),
    st.booleans(),
    st.sampled_from([None, 1, 2, 5]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_the_same_log_makes_the_same_state(
    happened: list[Event],
    tasks: int,
    corrections: int,
    end: int,
    scattered: bool,
    most: int | None,
    random: random.Random,
) -> None:
    """Whatever the interleaving and wherever it restarts, while reading again too: versions, state and floor are one.

    After all restarts the floor, too, is that of a life without a break: it depends on what was read, and nothing else.
    """
    vector = {time: np.array([time % 7.0, time, -(time % 3.0)]).tobytes() for time in range(401)}.__getitem__
    logs = build(happened, tasks, random, redriven=0.2, end=end, vector=vector, scattered=scattered)

    def new() -> PurchaseLearner:
        return PurchaseLearner(
            FEATURES,
            "h",
            horizon_ms=20,
            lateness_ms=5,
            corrections_ms=corrections,
            publish_every=3,
            max_pending=most,
        )

    def read(subject: PurchaseLearner, cursors: list[int], messages: int) -> list[object]:
        told: list[object] = []
        for _ in range(messages):
            left = [p for p, log in enumerate(logs) if cursors[p] < len(log)]
            if not left:
                break
            partition = random.choice(left)
            offset, message = logs[partition][cursors[partition]]
            cursors[partition] += 1
            snapshots = tell(subject, logs, partition, offset, message)
            told += [(one.model.to_params(), one.metrics, one.trained_through) for one in snapshots]
        return told

    whole = new()
    versions = read(whole, [0] * tasks, 10**6)
    subject, cursors, told = new(), [0] * tasks, []
    for _ in range(random.randint(1, 4)):
        told += read(subject, cursors, random.randint(0, 25))
        state, floor, subject = subject.state(), subject.clock.floor(), new()
        subject.load(state)
        assert subject.state() == state
        cursors = [sum(offset < floor.get(p, 0) for offset, _ in log) for p, log in enumerate(logs)]
    told += read(subject, cursors, 10**6)
    assert told == versions
    assert subject.state() == whole.state()
    assert subject.clock.floor() == whole.clock.floor()


def test_versions_come_by_count() -> None:
    """At 64, then every `publish_every`; their names sort as they were made, and each says how far it has read."""
    found = feed(learner(publish_every=100), interleave(shop(), 5))
    counts = [int(s.model.version.partition("-")[0]) for s in found]
    assert counts[:4] == [64, 100, 200, 300]
    assert [s.model.version for s in found] == sorted(s.model.version for s in found)
    assert [s.trained_through for s in found] == sorted(s.trained_through for s in found)
    assert all(s.model.name == "purchase" and s.metrics["learnt"] == n for s, n in zip(found, counts, strict=True))


def test_the_served_model_answers_as_river_does() -> None:
    """LinearModel from the learner's parameters and River's own pipeline agree to 1e-12."""
    subject = learner()
    feed(subject, shop())
    rows = np.random.default_rng(2).lognormal(1, 2, (200, 3)) * [1, 1, -1]
    served = LinearModel.from_params(subject.model().to_params()).predict(rows)
    for row, found in zip(rows, served, strict=True):
        assert found == pytest.approx(subject.predict_proba_one(row), abs=1e-12)


def test_scaler_is_rivers_to_the_bit() -> None:
    """The array scaler and River's StandardScaler keep equal statistics, and so equal outputs."""
    mine, rivers = Scaler.of(3), preprocessing.StandardScaler()
    for row in np.random.default_rng(0).normal(0, 3, (500, 3)):
        row[2] = 1.0  # never varies
        mine.learn_one(row)
        named = dict(zip(FEATURES, row.tolist(), strict=True))
        rivers.learn_one(named)
        found = dict(zip(FEATURES, mine.transform_one(row, clip=1e9).tolist(), strict=True))
        assert found == pytest.approx(rivers.transform_one(named), abs=1e-13)
    assert mine.mean.tolist() == [rivers.means[name] for name in FEATURES]
    assert mine.variance.tolist() == [rivers.vars[name] for name in FEATURES]


def test_it_learns_what_there_is_to_learn() -> None:
    """Prequentially it beats the running base rate, and the feature that matters carries the weight."""
    subject = learner()
    feed(subject, shop(clicks=6_000))
    figures = subject.progress.metrics()
    assert figures["log_loss"] < 0.93 * figures["base_rate_log_loss"]
    weights = np.abs(subject.model().weights)
    assert weights[0] > 3 * weights[1:].max()


def test_one_instant_is_predicted_before_any_of_it_is_learnt() -> None:
    """An order settles all its user's clicks at once: their losses are those of one model, the one before."""
    vector = np.array([3.0, 100.0, -1.0])
    clicks = [Example(f"e{n}", "u", 100_000 + n, vector.tobytes(), (0, 0), None, 0.05, "prior:0") for n in range(5)]
    # Refused, but long ago: what comes later is judged.
    clicks.append(Example("old", "v", 1_000, b"", (0, 0), None, 0.05, "prior:0"))
    subject = learner()
    batch = ExampleBatch(0, 1, 10**10, "h", clicks, [Outcome("order", "u", "o", 101_000)])
    subject.feed(0, 0, batch)
    assert subject.progress.positives == 5
    assert subject.progress.loss == pytest.approx(5 * -math.log(0.05))
    assert subject.progress.served_loss == pytest.approx(5 * -math.log(0.05))


def test_a_young_log_does_not_teach_that_everybody_buys() -> None:
    """While only orders are known for sure, the model's mean probability is near the share of buyers to come."""
    chance, subject, messages = random.Random(7), learner(), 300
    early = []
    for n in range(messages):
        time = 10**6 + n * 200  # one horizon in all: not one true negative is known at its end
        vector = np.array([chance.random(), chance.random(), 0.0]).tobytes()
        click = Example(f"e{n}", f"u{n}", time, vector, (n, 0), None, 0.05, "prior:0")
        outcomes = [Outcome("order", f"u{n}", f"o{n}", time + chance.randint(1, 3_000))] if n % 10 == 0 else []
        early += subject.feed(0, n, ExampleBatch(0, 1, time - 5_000, "h", [click], outcomes))
    progress = subject.progress
    assert progress.provisional > 100
    assert progress.scored == 0
    assert "log_loss" not in early[-1].metrics
    probabilities = early[-1].model.predict(np.random.default_rng(1).random((100, 3)))
    assert 0.05 < probabilities.mean() < 0.2


def test_a_buyer_taken_for_a_negative_is_countered() -> None:
    """Patience ends before a late order: the example is learnt as a negative, then as a positive, and judged once."""
    subject, vector = learner(), np.array([1.0, 2.0, 3.0]).tobytes()
    examples = [Example(n, n, t, vector, (0, 0), None, 0.05, "prior:0") for n, t in (("a", 0), ("b", 30_000))]
    subject.feed(0, 0, ExampleBatch(0, 1, 10**10, "h", examples, [Outcome("order", "b", "o", 80_000)]))
    progress = subject.progress
    assert (progress.learnt, progress.learnt_positives, progress.provisional) == (3, 1, 2)
    assert (progress.scored, progress.positives, progress.corrections) == (2, 1, 0)


@pytest.mark.parametrize("poison", [np.array([1.0, np.nan, 1.0]), np.array([np.inf, 0.0, 0.0]), np.zeros(2)])
def test_what_is_not_finite_or_another_layout_is_refused(poison: np.ndarray) -> None:
    """Such examples are counted, and change nothing else in the model."""
    subject = learner()
    feed(subject, shop(clicks=100))
    before = subject.model().to_params()
    subject.learn([label(poison, True, 10**11)])
    subject.learn([label(np.zeros(3), True, 10**11, schema_hash="other")])
    assert subject.model().to_params() == before
    assert subject.progress.refused == 2


def test_absurd_values_do_not_blow_it_up() -> None:
    """Finite but absurd inputs leave finite weights and a model that still answers probabilities."""
    subject = learner()
    chance = np.random.default_rng(3)
    for n in range(500):
        row = chance.choice([0.0, 1.0, 1e300, -1e300], 3)
        subject.learn([label(row, bool(n % 7 == 0), n + 1)])
    model = subject.model()
    assert np.isfinite(model.weights).all()
    assert np.abs(model.weights).max() < 10
    assert 0 < model.predict(np.array([[1e300, -1e300, 0.0]]))[0] < 1


def test_before_anything_was_learnt_it_is_the_prior() -> None:
    """The model of a new learner is the prior, whatever it was asked to read."""
    subject = learner()
    assert subject.model().name == "purchase-prior"
    again = learner()
    again.load(subject.state())
    assert again.model().to_params() == subject.model().to_params()


def test_a_state_that_does_not_fit_is_refused() -> None:
    """Damage, other features or another horizon are named; nothing is guessed."""
    subject = learner()
    feed(subject, shop(clicks=50))
    state = subject.state()
    with pytest.raises(LearnerStateError, match="delete it to learn again"):
        learner().load(state[:-3])
    other = PurchaseLearner(FEATURES, "h", horizon_ms=1, lateness_ms=LATENESS, corrections_ms=100_000)
    with pytest.raises(LearnerStateError, match=r"\(60000, 5000, 100000, None\)"):
        other.load(state)


def test_the_pipeline_is_rivers() -> None:
    """Fed the same rows, a pipeline built of River's own parts alone has the same weights."""
    subject, chance = learner(), np.random.default_rng(5)
    scaler = preprocessing.StandardScaler()
    regression = linear_model.LogisticRegression(
        optimizer=optim.SGD(WeightRate()), intercept_init=math.log(0.05 / 0.95), intercept_lr=0.0
    )
    for n in range(300):
        row, positive = chance.lognormal(0, 1, 3), bool(chance.random() < 0.2)
        logs = finite_logs(row)
        assert logs is not None
        named = dict(zip(FEATURES, logs.tolist(), strict=True))
        scaler.learn_one(named)
        clipped = {key: min(max(value, -CLIP), CLIP) for key, value in scaler.transform_one(named).items()}
        regression.intercept = subject.model().intercept if n else regression.intercept
        regression.learn_one(clipped, positive)
        subject.learn([label(row, positive, n + 1)])
    assert subject.model().weights.tolist() == pytest.approx(list(regression.weights.values()), abs=1e-12)
