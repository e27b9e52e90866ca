"""Laws of training tables made of a shop's files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.sets import SCORE_SET, schema_hash
from schemas.internal import Example
from streams.backfill.table import TrainingRow, TrainingTable
from streams.backtest.files import stamp
from streams.errors import ConfigurationError, SourceError
from tests.backfill.conftest import FEATURES, Row, of_source, rows_of, vector_of
from tests.backtest.conftest import HOUR, START, Shop, random_shop
from tests.backtest.conftest import tidecast as tidecast  # a fixture
from tests.backtest.test_purchase import _labels

LABEL = "label_3600s"


def ms_of(row: Row) -> int:
    """Return a row's time."""
    return round(row["as_of"].timestamp() * 1_000)


def test_a_row_a_click_of_a_known_user(tmp_path: Path) -> None:
    """Each click of a user has one row, in the order of time, with its session; the card says where all events went."""
    shop = random_shop(3)
    card, rows = of_source(shop.write(tmp_path), tmp_path / "out")
    told = [(one["time"], one["user"], one["session"]) for one in shop.clicks if one["user"]]
    assert [(stamp(ms_of(row)), row["user_id"], row["session_id"]) for row in rows] == told
    assert len({row["prediction_id"] for row in rows}) == len(rows) == card["rows"]
    assert card == json.loads((tmp_path / "out" / "backfill.json").read_text())
    assert card["rows"] + card["without_user"] == len(shop.clicks)
    assert (card["late"], card["duplicates"], card["refused"]) == (0, 0, {})
    assert (card["schema_hash"], card["files"]) == (schema_hash(), ["part-00000.parquet"])
    assert card["log"]["first_event"] == min(one["time"] for one in (*shop.clicks, *shop.orders))
    assert card["unlabelled"] == sum(row[LABEL] is None for row in rows) > 0
    assert card["positive"] == sum(bool(row[LABEL]) for row in rows) > 0
    shown = [row for row in rows if row["category_version_offset"] is not None]
    assert max(row["category_views_7d"] for row in shown) > max(row["product_views_7d"] for row in shown) > 0


def test_columns_have_the_types_of_their_features(tmp_path: Path) -> None:
    """Counts are integers, the rest doubles; times are milliseconds in UTC; only what may be unknown is nullable."""
    of_source(random_shop(3, clicks=100).write(tmp_path), tmp_path / "out")
    schema = pq.read_schema(tmp_path / "out" / "part-00000.parquet")
    fixed = ["prediction_id", "user_id", "session_id", "as_of"]
    versions = [f"{entity}_version_{part}" for entity in ("product", "category") for part in ("partition", "offset")]
    assert schema.names == fixed + FEATURES + [*versions, LABEL, "known_at"]
    for feature in SCORE_SET:
        assert schema.field(feature.name).type == (pa.int64() if feature.dtype == "int" else pa.float64())
        assert not schema.field(feature.name).nullable
    assert schema.field("as_of").type == schema.field("known_at").type == pa.timestamp("ms", tz="UTC")
    assert schema.field(LABEL).type == pa.bool_()


@pytest.mark.parametrize(("seed", "step_ms"), [(1, 1), (2, 600_000)])
def test_labels_are_those_of_a_brute_force_reading(tmp_path: Path, seed: int, step_ms: int) -> None:
    """A label is whether an order follows within the horizon, null while that is not over; known when it is known."""
    shop = random_shop(seed, step_ms=step_ms)
    _, rows = of_source(shop.write(tmp_path), tmp_path / "out")
    asked = [{"as_of": stamp(ms_of(row)), "user_id": row["user_id"]} for row in rows]
    names = {None: "", False: "0", True: "1"}
    assert [names[row[LABEL]] for row in rows] == _labels(shop, asked)
    for row in rows:
        known = row["known_at"] and round(row["known_at"].timestamp() * 1_000)
        if row[LABEL] is None:
            assert known is None
        elif row[LABEL]:
            assert ms_of(row) < known <= ms_of(row) + HOUR
        else:
            assert known == ms_of(row) + HOUR + 600_000


@pytest.mark.parametrize("hours", [0.5, 7.3, 24.0, 41.7])
def test_a_cut_file_gives_the_prefix(tmp_path: Path, hours: float) -> None:
    """Cutting the files at a time changes no earlier row, but for labels that were not yet known."""
    shop = random_shop(3)
    cut = START + int(hours * HOUR)
    _, whole = of_source(shop.write(tmp_path / "whole"), tmp_path / "a")
    _, part = of_source(shop.before(cut).write(tmp_path / "cut"), tmp_path / "b")
    assert len(part) == sum(ms_of(row) < cut for row in whole) > 1
    for ours, theirs in zip(part, whole, strict=False):
        if ours[LABEL] is None:
            theirs = theirs | {LABEL: None, "known_at": None}
        assert ours == theirs
        assert vector_of(ours) == vector_of(theirs)


def test_a_planted_future_changes_no_feature(tmp_path: Path) -> None:
    """What is changed from a time on leaves every earlier vector as it was, to the bit."""
    shop, other = random_shop(4), random_shop(5)
    now = START + 20 * HOUR
    past = shop.before(now)
    later = [[row for row in rows if row["time"] >= stamp(now)] for rows in (other.clicks, other.orders)]
    planted = Shop(past.clicks + later[0], past.orders + later[1])
    _, ours = of_source(shop.write(tmp_path / "a"), tmp_path / "out_a")
    _, theirs = of_source(planted.write(tmp_path / "b"), tmp_path / "out_b")
    before = [[vector_of(row) for row in rows if ms_of(row) < now] for rows in (ours, theirs)]
    assert before[0] == before[1]
    assert len(before[0]) > 400


def test_rows_of_a_time_are_those_of_the_whole(tmp_path: Path) -> None:
    """--from and --to choose rows; features look back before the one, labels ahead of the other."""
    path = random_shop(3).write(tmp_path)
    _, whole = of_source(path, tmp_path / "a")
    first, last = START + 9 * HOUR, START + 31 * HOUR
    card, part = of_source(path, tmp_path / "b", from_ms=first, to_ms=last)
    assert part == [row for row in whole if first <= ms_of(row) < last]
    assert all(row[LABEL] is not None for row in part)
    assert (card["from"], card["to"]) == (stamp(first), stamp(last))
    card, none = of_source(path, tmp_path / "c", from_ms=START + 1_000 * HOUR)
    assert (card["rows"], none) == (0, [])


def test_files_and_groups_are_bounded(tmp_path: Path) -> None:
    """A file has no more rows than asked for, a group neither; nothing is lost between them."""
    example = Example("clickstream-0-0-purchase", "u", 1_000, bytes(8 * len(FEATURES)), (1, 0), None, 0.5, "m:1")
    with TrainingTable(tmp_path, 60, rows_per_file=25, rows_per_group=10) as table:
        for number in range(60):
            table.add(TrainingRow(example, str(number), None, None))
    assert table.files == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    parts = [pq.ParquetFile(tmp_path / name).metadata for name in table.files]
    assert [part.num_rows for part in parts] == [25, 25, 10]
    assert max(part.row_group(n).num_rows for part in parts for n in range(part.num_row_groups)) == 10
    assert [row["session_id"] for row in rows_of(tmp_path)] == [str(number) for number in range(60)]


def test_a_table_is_whole_or_not_there(tmp_path: Path) -> None:
    """What fails leaves no file that looks like one; what is there already is not mixed with another."""
    example = Example("clickstream-0-0-purchase", "u", 1_000, bytes(8 * len(FEATURES)), (1, 0), None, 0.5, "m:1")

    def failing() -> None:
        with TrainingTable(tmp_path, 60, rows_per_group=1) as table:
            table.add(TrainingRow(example, None, None, None))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert list(tmp_path.iterdir()) == []
    with TrainingTable(tmp_path, 60):
        pass
    assert rows_of(tmp_path) == []
    with pytest.raises(ConfigurationError, match=r"holds part-00000.parquet already"):
        TrainingTable(tmp_path, 60)


def test_what_cannot_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without clicks there is nothing to make rows of; without pyarrow the extra is named."""
    path = random_shop(3, clicks=50).write(tmp_path)
    head, _, rest = path.read_text().partition("[clicks]")
    path.write_text(head + rest[rest.index("[orders]") :])
    with pytest.raises(SourceError, match=r"has no \[clicks\]"):
        of_source(path, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"pip install -e '\.\[parquet\]'"):
        TrainingTable(tmp_path / "out", 60)


def test_the_command(
    tidecast: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line is the card; wrong times are refused by name; no row is no success."""
    monkeypatch.setenv("TIDECAST_SCORE__HORIZON_S", "7200")
    path = random_shop(3, clicks=200).write(tmp_path, timezone="Europe/Berlin")
    out = tmp_path / "out"
    assert tidecast("backfill", "--source", path, "--out", out, "--from", "2014-05-10T12:00:00") == 0
    said = capsys.readouterr()
    card = json.loads(said.out.splitlines()[-1])
    assert card["from"] == "2014-05-10T10:00:00.000Z"
    assert card["rows"] == len(rows_of(out)) > 50
    assert "label_7200s" in pq.read_schema(out / "part-00000.parquet").names
    assert "backfill shop: 100%" in said.err
    for arguments, code, words in (
        (("--out", out), 2, "holds part-00000.parquet already"),
        (("--out", tmp_path / "b", "--from", "soon"), 2, "--from soon: is no time"),
        (("--out", tmp_path / "b", "--from", "2014-05-11", "--to", "2014-05-10"), 2, "nothing lies between"),
        (("--out", tmp_path / "b", "--from", "2015-05-11"), 1, "no row was written"),
    ):
        assert tidecast("backfill", "--source", path, *arguments) == code
        assert words in capsys.readouterr().err
    assert tidecast("backfill", "--out", tmp_path / "c") == 2
    assert "kafka.bootstrap_servers is not set" in capsys.readouterr().err
