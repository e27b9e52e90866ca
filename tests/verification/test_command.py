"""`tidecast verify features`: what it prints, and the exit code that says it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from streams import logs
from streams.cli.app import app
from streams.logs import RecordedTopics
from streams.settings import Settings
from tests.verification.conftest import changed
from tests.verification.test_features import Edit


def run(monkeypatch: pytest.MonkeyPatch, topics: RecordedTopics, *arguments: str):  # type: ignore[no-untyped-def]
    """Run the command over these topics."""

    def there(settings: Settings) -> RecordedTopics:
        return topics

    monkeypatch.setenv("TIDECAST_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setattr(logs, "KafkaTopics", there)
    return CliRunner().invoke(app, ["verify", "features", *arguments])


def test_exit_code_0_says_that_all_is_as_served(topics: RecordedTopics, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean log: a row a feature, the sums in words, progress on standard error."""
    done = run(monkeypatch, topics)
    assert done.exit_code == 0
    assert "user_views_1h" in done.stdout
    assert "vectors compared with the engine: 0 differ (0.0000%)" in done.stdout
    assert "missing: 0 of " in done.stdout
    assert done.stderr.startswith("verify features: 100%, ")


def test_exit_code_1_says_that_something_differs(topics: RecordedTopics, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed value is named with its example, its feature and both values."""
    edit = Edit(300, "change", "user_views_30d", 1.0)
    done = run(monkeypatch, changed(topics, edit))
    assert done.exit_code == 1
    assert edit.done is not None
    assert f"{edit.done.id}: user_views_30d was served as " in done.stdout


def test_json_is_one_document(topics: RecordedTopics, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and rates by name; what is no number is null."""
    edit = Edit(300, "change", "product_popularity", float("nan"))
    done = run(monkeypatch, changed(topics, edit), "--json", "--by", "engine")
    assert done.exit_code == 1
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert found["features"]["product_popularity"] == {"count": 1, "rate": 1 / found["compared"]}
    assert found["mismatched"]["count"] == 1
    assert (found["missing"]["count"], found["extra"]["count"], found["clean"]) == (0, 0, False)
    assert found["differences"][0]["served"] is None


def test_nothing_compared_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics without an example end with exit code 1, and say so."""
    done = run(monkeypatch, RecordedTopics({}), "--sample", "5")
    assert done.exit_code == 1
    assert "no example to compare" in done.stderr


def test_vectors_of_other_settings_say_whose_to_give(topics: RecordedTopics, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another clock of the shop makes another definition: nothing is compared, and the repair is named."""
    monkeypatch.setenv("TIDECAST_SHOP__TIMEZONE", "Europe/Berlin")
    done = run(monkeypatch, topics)
    assert done.exit_code == 1
    assert "no example to compare; give the workers' own settings under shop" in done.stderr
