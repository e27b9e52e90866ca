"""The report says what was measured, and whether a peer counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.report import ALONE, SHARE, describe, judge, page, save, table
from benchmarks.workload import Workload

RATES = {
    "score/tidecast": [40_000.0, 60_000.0, 50_000.0],
    "score/bare": [200_000.0, 210_000.0, 190_000.0],
    "pass/quix": [50_000.0, 30_000.0, 40_000.0],
    "score/quix": [5_000.0, 5_000.0, 5_000.0],
    "pass/faust": [3_000.0, 3_000.0, 3_000.0],
    "score/faust": [1_000.0, 1_000.0, 1_000.0],
    "score/wall": [30_000.0, 30_000.0, 30_000.0],
    "score/redis": [4.25, 4.25, 4.25],
}
RESULT = describe(RATES, Workload(events=1_000), {"quix": 500, "faust": 100}, "a test")


def test_medians_and_ratios_are_of_the_repeats() -> None:
    """A median is that of its repeats, a ratio that of two medians."""
    by_name = {one["name"]: one for one in RESULT["measurements"]}
    assert by_name["score/tidecast"]["median"] == 50_000
    assert by_name["score/tidecast"]["ratio_to_bare"] == 0.25
    assert "ratio_to_bare" not in by_name["score/redis"]
    assert set(by_name) == set(RATES)


def test_a_peer_counts_from_its_share_of_what_it_makes_alone() -> None:
    """At the bar it counts, below it does not."""
    assert [(peer["name"], peer["counts"]) for peer in RESULT["peers"]] == [("quix", True), ("faust", False)]
    assert RESULT["peers"][0]["tidecast_to_peer"] == 10


@pytest.mark.parametrize("peer", ALONE)
@pytest.mark.parametrize(("share", "counts"), [(SHARE + 0.01, True), (SHARE - 0.01, False)])
def test_the_bar_is_that_of_the_peer(peer: str, share: float, counts: bool) -> None:
    """Each peer is measured by its own library."""
    medians = {
        "score/bare": 1e6,
        "score/tidecast": 1.0,
        f"score/{peer}": 1.0,
        f"pass/{peer}": 1e6 * share * ALONE[peer],
    }
    assert judge(peer, medians)["counts"] is counts


def test_page_and_table_are_made_of_the_saved_data(tmp_path: Path) -> None:
    """What was saved and read again gives the same page, which names every measurement and peer."""
    save(tmp_path / "results.json", RESULT)
    again = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert page(again) == page(RESULT)
    assert table(again) == table(RESULT)
    for name in RATES:
        assert f"| `{name}` |" in page(again)
        assert name in table(again)
    assert "| Quix Streams | " in page(again)
    assert "Faust does not count" in table(again)


def test_a_run_without_peers_has_a_page() -> None:
    """Only Tidecast and the bare loop: nothing is said of peers."""
    rates = {name: RATES[name] for name in ("score/tidecast", "score/bare")}
    assert "Quix Streams |" not in page(describe(rates, Workload(), {}, "a test"))
