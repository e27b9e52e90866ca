"""A change that breaks a reader is refused, with a message that says which, where and what to do."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import msgspec
import pytest
from pydantic import BaseModel, Field, create_model

from schemas import contracts as subject
from schemas.compatibility import backward, forward, full
from schemas.contracts import Contract


class Old(BaseModel):
    """A record before the change."""

    id: str
    count: Annotated[int, Field(ge=0, le=100)]
    kind: Literal["a", "b"]
    note: str | None = None
    ratio: float = 0.5
    tags: dict[str, int] = Field(default_factory=dict)
    points: list[Annotated[int, Field(le=10)]] = Field(default_factory=list, max_length=5)


def changed(drop: str = "", **fields: Any) -> dict[str, Any]:
    """Return the schema of Old with fields dropped, added or replaced."""
    kept = {name: (field.annotation, field) for name, field in Old.model_fields.items() if name != drop}
    return create_model("Old", **{**kept, **fields}).model_json_schema()  # type: ignore[no-any-return, call-overload]


OLD = Old.model_json_schema()
SAFE = {
    "nothing": changed(),
    "an optional field": changed(extra=(str | None, None)),
    "an optional field that is no null": changed(extra=(int, 3)),
    "a description": changed(note=(str | None, Field(None, description="said of it"))),
}
NARROWER = {
    "field removed": ("count", changed(drop="count")),
    "optional field removed": ("note", changed(drop="note")),
    "required field added": ("extra", changed(extra=(str, ...))),
    "type narrowed": ("ratio", changed(ratio=(int, 1))),
    "type changed": ("id", changed(id=(int, ...))),
    "null no more": ("note", changed(note=(str, ""))),
    "enum narrowed": ("kind", changed(kind=(Literal["a"], ...))),
    "enum from anything": ("id", changed(id=(Literal["a"], ...))),
    "range narrowed": ("count", changed(count=(Annotated[int, Field(ge=1, le=100)], ...))),
    "length bounded": ("id", changed(id=(Annotated[str, Field(max_length=5)], ...))),
    "pattern added": ("id", changed(id=(Annotated[str, Field(pattern="^a")], ...))),
    "optional made required": ("ratio", changed(ratio=(float, ...))),
    "values of a map narrowed": ("tags", changed(tags=(dict[str, bool], Field(default_factory=dict)))),
    "keys of a map narrowed": (
        "tags",
        changed(tags=(dict[Annotated[str, Field(max_length=3)], int], Field(default_factory=dict))),
    ),
    "items narrowed": (
        "points",
        changed(points=(list[Annotated[int, Field(le=9)]], Field(default_factory=list, max_length=5))),
    ),
    "default changed": ("ratio", changed(ratio=(float, 0.7))),
}
WIDER = {
    "type widened": ("count", changed(count=(Annotated[float, Field(ge=0, le=100)], ...))),
    "null allowed": ("id", changed(id=(str | None, ...))),
    "enum widened": ("kind", changed(kind=(Literal["a", "b", "c"], ...))),
    "range widened": ("count", changed(count=(Annotated[int, Field(ge=0, le=101)], ...))),
    "range unbounded": ("count", changed(count=(int, ...))),
    "required made optional": ("count", changed(count=(Annotated[int, Field(ge=0, le=100)], 0))),
}


@pytest.mark.parametrize("change", SAFE)
def test_a_safe_change_passes(change: str) -> None:
    """What changes for nobody passes under every promise."""
    assert full(OLD, SAFE[change]) == []


@pytest.mark.parametrize("change", NARROWER)
def test_taking_less_breaks_new_readers_of_old_data(change: str) -> None:
    """Whatever refuses or loses old data is refused, and its field is named."""
    field, schema = NARROWER[change]
    for judge in (backward, full):
        assert {one.field.split(".")[1].removesuffix("[]") for one in judge(OLD, schema)} == {field}


@pytest.mark.parametrize("change", WIDER)
def test_saying_more_breaks_old_readers_of_new_data(change: str) -> None:
    """Whatever an older reader would refuse is refused under the full promise, and only there."""
    field, schema = WIDER[change]
    assert backward(OLD, schema) == []
    for judge in (forward, full):
        assert {one.field.split(".")[1] for one in judge(OLD, schema)} == {field}


@pytest.mark.parametrize(("judge", "reads_new"), [(backward, True), (forward, False)])
@pytest.mark.parametrize("change", [*SAFE, *NARROWER, *WIDER])
def test_what_passes_is_really_readable(change: str, judge: Callable[..., list[Any]], reads_new: bool) -> None:
    """A validator of the reader's schema takes every sample of the writer's, wherever no break was found."""
    schema = SAFE[change] if change in SAFE else {**NARROWER, **WIDER}[change][1]
    reader, writer = (schema, OLD) if reads_new else (OLD, schema)
    if judge(OLD, schema):
        return
    for sample in samples():
        if jsonschema.Draft202012Validator(writer).is_valid(sample):
            jsonschema.validate(sample, reader)


def samples() -> list[dict[str, Any]]:
    """Return records of which most schemas take some and refuse some."""
    base: dict[str, Any] = {"id": "abcdef", "count": 0, "kind": "a"}
    more: list[dict[str, Any]] = [
        *({"count": count} for count in (1, 50, 100, 101, 0.5, None)),
        *({"kind": kind} for kind in ("b", "c", None)),
        *({"id": value} for value in ("a", None, 5)),
        *({"note": value} for value in ("x", None)),
        *({"ratio": value} for value in (0.1, 7)),
        *({"tags": value} for value in ({"a": 1}, {"abcd": 5})),
        *({"points": value} for value in ([10], [1, 2, 3])),
    ]
    without = [{key: value for key, value in base.items() if key != name} for name in base]
    return [base, *({**base, **one} for one in more), *without]


def test_the_committed_files_are_fresh_and_keep_every_promise(capsys: pytest.CaptureFixture[str]) -> None:
    """What is committed is what the models say now, and no released reader is broken."""
    assert subject.main(["check"]) == 0, capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of files as they were generated and released before the change under test."""
    subject.write(tmp_path)
    subject.release(tmp_path)
    assert subject.check(tmp_path) == []
    return tmp_path


def with_change(name: str, change: Callable[[dict[str, Any]], object]) -> dict[str, Contract]:
    """Return the contracts with one schema changed."""
    known = subject.contracts()
    schema: dict[str, Any] = copy.deepcopy(dict(known[name].schema))
    change(schema)
    return {**known, name: replace(known[name], schema=schema)}


def _purchase(schema: dict[str, Any]) -> dict[str, Any]:
    return schema["$defs"]["PurchasePrediction"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("predictions", lambda s: s["$defs"]["PurchasePayload"]["properties"].pop("session_id"), "session_id: removed"),
        ("predictions", lambda s: _purchase(s)["required"].append("extra"), "$.extra: new and required"),
        ("predictions", lambda s: _purchase(s)["properties"]["horizon_s"].update(type="string"), "horizon_s: narrowed"),
        (
            "predictions",
            lambda s: s["$defs"]["DemandPayload"]["properties"]["bucket"]["enum"].pop(),
            "bucket: narrowed",
        ),
        (
            "predictions",
            lambda s: s["$defs"]["DemandPayload"]["properties"]["bucket"]["enum"].append("M"),
            "bucket: widened",
        ),
        ("predictions", lambda s: s["oneOf"].pop(), "$: narrowed"),
        ("clickstream", lambda s: s["properties"].pop("channel"), "channel: removed"),
        ("clickstream", lambda s: s["required"].append("country"), "country: required now"),
        ("orders", lambda s: s["properties"]["status"]["enum"].remove("paid"), "status: narrowed"),
        ("orders", lambda s: s["$defs"]["OrderLine"]["properties"]["quantity"].update(maximum=9), "quantity: narrowed"),
        (
            "activity",
            lambda s: s["$defs"]["ActivityRow"]["prefixItems"].__delitem__(slice(8, None)),
            "$.rows[][8]: removed",
        ),
        ("activity", lambda s: s["$defs"]["ActivityRow"]["prefixItems"].reverse(), "means something else"),
    ],
)
def test_check_refuses_a_change_that_breaks_readers(
    folder: Path, name: str, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    """The message names the contract, the released version, the field and the repair, even with fresh files."""
    known = with_change(name, change)
    subject.write(folder, known)
    problems = subject.check(folder, known)
    assert problems
    assert any(said in problem for problem in problems), problems
    assert all(problem.startswith(f"{name}: breaks ") and " with v1 at $" in problem for problem in problems)


def test_check_lets_optional_fields_and_wider_inputs_pass(folder: Path) -> None:
    """An optional field anywhere, and a wider type of an input, are no breaks; releasing them makes version 2."""
    extra = {"type": "string", "default": ""}
    for name in ("predictions", "clickstream"):
        known = with_change(name, lambda schema: _fields(schema).update(extra=extra))
        subject.write(folder, known)
        assert subject.check(folder, known) == []
    assert subject.release(folder, known) == ["clickstream v2"]
    known = with_change("orders", lambda schema: schema["properties"]["status"]["enum"].append("packed"))
    subject.write(folder, known)
    assert [problem for problem in subject.check(folder, known) if problem.startswith("orders")] == []


def _fields(schema: dict[str, Any]) -> dict[str, Any]:
    return (_purchase(schema) if "oneOf" in schema else schema)["properties"]  # type: ignore[no-any-return]


def test_a_promise_holds_over_all_released_versions(folder: Path) -> None:
    """A field that came with version 2 cannot go again in version 3."""
    known = with_change("predictions", lambda schema: _fields(schema).update(extra={"type": "string", "default": ""}))
    subject.release(folder, known)
    subject.write(folder)
    assert [problem for problem in subject.check(folder) if "v2 at $.extra: removed" in problem]
    assert not [problem for problem in subject.check(folder) if " v1 " in problem]


def test_check_names_what_is_stale(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not what the models say is named with the place and the repair; the exit code is 1."""
    path = folder / "orders.json"
    value = json.loads(path.read_text())
    value["properties"]["channel"]["description"] = "something else"
    path.write_text(json.dumps(value))
    (folder / "plan.json").unlink()
    (folder / "ghost.json").write_text("{}")
    assert subject.main(["check"], folder) == 1
    said = capsys.readouterr().err
    assert "orders.json: stale at $.properties.channel.description; run 'python -m schemas.contracts write'" in said
    assert "plan.json: cannot be read" in said
    assert "ghost.json: generated from nothing" in said
    subject.main(["write"], folder)
    (folder / "ghost.json").unlink()
    assert subject.main(["check"], folder) == 0


def test_what_was_released_cannot_just_vanish(folder: Path) -> None:
    """A contract without its model, and a model without a release, are both reported."""
    known = subject.contracts()
    orders = known.pop("orders")
    assert any(problem.startswith("orders: released, but gone") for problem in subject.check(folder, known))
    added = {**subject.contracts(), "wishes": Contract("wishes", orders.promise, orders.schema)}
    assert any(problem.startswith("wishes: never released") for problem in subject.check(folder, added))


def test_the_asyncapi_document_points_nowhere_but_into_itself() -> None:
    """Every topic has its message, every reference its target, and no dialect but AsyncAPI's own is used."""
    document = json.loads((subject.GENERATED / "asyncapi.json").read_text())
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert addresses >= {"clickstream", "orders", "catalog", "plan", "predictions"}
    assert {one.removeprefix("tidecast.") for one in addresses if one.startswith("tidecast.")} == {
        *("activity", "examples", "shadow", "history", "models", "deadletters")
    }

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            assert not value.keys() & {"$defs", "prefixItems"}
            if "$ref" in value:
                target = document
                for part in value["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(document)


def test_usage_is_shown_for_anything_else() -> None:
    """An unknown verb is exit code 2."""
    assert subject.main(["burn"]) == 2


def test_msgspec_schemas_name_their_positions() -> None:
    """A row's positions carry the fields' names, so that a swap is seen."""
    rows = subject.contracts()["activity"].schema["$defs"]["ActivityRow"]["prefixItems"]
    assert [item["title"] for item in rows][:2] == ["product_id", "category_id"]
    assert msgspec.json.decode(msgspec.json.encode(rows)) == rows
