"""The plain reading of the door agrees with the runtime's own, record by record, on whatever comes."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.internal import decode_activity
from schemas.outputs import decode_dead_letter
from streams.driver import TopologyDriver
from streams.records import ACTIVITY, CLICKSTREAM, DEADLETTERS, MARKER_HEADER, ORDERS, REDRIVE_HEADER, Headers, Input
from streams.settings import Settings, TimeSettings
from streams.topologies.score import ScoreStage
from streams.verification.door import Refused, accepted, judged

START = 1_700_000_000_000
SETTINGS = Settings(time=TimeSettings(allowed_lateness_s=60, max_ahead_s=120))


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[str, bytes | None, Headers]]:
    """Records of both inputs: in and out of order, repeated, early, late, redriven, torn; and markers."""
    found: list[tuple[str, bytes | None, Headers]] = []
    now = START
    for number in range(draw(st.integers(1, 40))):
        now += draw(st.sampled_from((0, 1, 10_000, 59_999, 60_000, 200_000)))
        time = now + draw(st.sampled_from((0, 0, 0, -1, -30_000, -60_000, -60_001, -300_000, 150_000)))
        topic = draw(st.sampled_from((CLICKSTREAM, CLICKSTREAM, ORDERS)))
        kind = draw(st.sampled_from(("event", "event", "event", "event", "marker", "end", "torn", "none", "redriven")))
        event = {
            "event_id": f"e{number - draw(st.sampled_from((0, 0, 0, 1, 5)))}",
            "time": max(time, 0),
            "user_id": "u",
        }
        if topic == CLICKSTREAM:
            event |= {"type": "view", "product_id": f"p{number}"}
        else:
            event |= {"order_id": f"o{number}", "status": "placed", "lines": [{"product_id": f"p{number}"}]}
        value: bytes | None = json.dumps(event).encode()
        headers: Headers = ()
        if kind in ("marker", "end"):
            value = json.dumps({"time": time, "source": "test"}).encode()
            headers = ((MARKER_HEADER, b"end" if kind == "end" else b"time"),)
        elif kind == "torn":
            value = json.dumps(event).encode()[:-3]
        elif kind == "none":
            value = None
        elif kind == "redriven":
            headers = ((REDRIVE_HEADER, b"letter"),)
        found.append((topic, value, headers))
    return found


@settings(max_examples=300, deadline=None)
@given(logs(), st.integers(0, 2**20), st.booleans())
def test_what_is_accepted_in_which_order_and_why_the_rest_is_not(
    log: list[tuple[str, bytes | None, Headers]], seed: int, ended: bool
) -> None:
    """Each record names a product of its own; activity names those accepted, in the order in which they were."""
    driver = TopologyDriver(SETTINGS, [ScoreStage])
    for number, (topic, value, headers) in enumerate(log):
        driver.now_ms = START + 30_000 * number
        driver.pipe(topic, b"u", value, headers=headers)
        if seed >> (number % 20) & 1:
            driver.run(checkpoint=bool(seed & 1))
    if ended:
        driver.mark_time(driver.now_ms + 100_000, end=True)
    driver.run()
    inputs = [Input(CLICKSTREAM, 0), Input(ORDERS, 0)]
    came_to = [driver.committed["score", input_].offset for input_ in inputs]
    told = [row.product_id for record in driver.output(ACTIVITY) for row in decode_activity(record.value or b"").rows]
    logged = [driver.log.read(input_, 0) for input_ in inputs]
    waiting = accepted(*logged, SETTINGS)
    closed = accepted(*(some[:end] for some, end in zip(logged, came_to, strict=True)), SETTINGS, closed=True)
    for found in (list(waiting), list(closed)):
        names = [i.product_id if hasattr(i := one.item, "product_id") else i.lines[0].product_id for one in found]
        assert names == told
    letters = [decode_dead_letter(record.value or b"") for record in driver.output(DEADLETTERS)]
    read = (some[:end] for some, end in zip(logged, came_to, strict=True))
    refused = [one for one in judged(*read, SETTINGS, closed=True) if isinstance(one, Refused)]
    reasons = {(one.record.input.topic, one.record.offset): one.reason for one in refused}
    assert {(one.topic, one.offset): one.reason for one in letters} == {
        place: reason for place, reason in reasons.items() if reason != "duplicate"
    }
    assert driver.counts("score").get("duplicates", 0) == sum(one.reason == "duplicate" for one in refused)
