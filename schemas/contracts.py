"""The contracts as files: JSON Schemas, an AsyncAPI document, and the check that no change breaks a reader.

``python -m schemas.contracts write`` generates `schemas/generated` from the models; ``release`` freezes what changed as
the next version in `generated/released/<name>`, which is never edited; ``check`` fails where the files are stale or a
model breaks a promise that it made in any released version. A reader also stands for what is written and read later:
logs keep old records, and compacted topics keep them for ever.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import BaseModel

from schemas import compatibility, events, internal, published
from schemas.asyncapi import Channel, document
from schemas.compatibility import Schema

GENERATED = Path(__file__).parent / "generated"
"""Where the committed files are."""

Promise = Literal["FULL_TRANSITIVE", "BACKWARD_TRANSITIVE"]
"""Old and new understand each other, or new readers understand all old data; over all released versions."""

_RULES: dict[Promise, Callable[[Schema, Schema], list[compatibility.Break]]] = {
    "FULL_TRANSITIVE": compatibility.full,
    "BACKWARD_TRANSITIVE": compatibility.backward,
}


@dataclass(frozen=True, slots=True)
class Contract:
    """A named schema and what is promised of its changes."""

    name: str
    promise: Promise
    schema: Schema


def contracts() -> dict[str, Contract]:
    """Return every contract by its name, generated from the models as they are now."""
    models: dict[str, type[BaseModel]] = {
        "clickstream": events.ClickEvent,
        "orders": events.OrderEvent,
        "catalog": events.CatalogEntry,
        "plan": events.PlanEntry,
        "marker": events.TimeMarker,
        "history": published.HistoryBucket,
        "models": published.ModelAnnouncement,
        "deadletters": published.DeadLetter,
    }
    schemas: dict[str, Schema] = {
        **{name: model.model_json_schema() for name, model in models.items()},
        "activity": _msgpack(internal.ActivityBatch),
        "examples": _msgpack(internal.ExampleBatch),
    }
    found = [Contract(name, "BACKWARD_TRANSITIVE", schema) for name, schema in schemas.items()]
    found.append(Contract("predictions", "FULL_TRANSITIVE", published.PREDICTION.json_schema()))
    return {contract.name: contract for contract in found}


def channels() -> list[Channel]:
    """Return the topics of Tidecast and which contract each carries."""
    inputs = "user id; without one, order or session id"
    marked = ("marker",)
    return [
        Channel("clickstream", "clickstream", "receive", inputs, "What visitors do.", also=marked),
        Channel("orders", "orders", "receive", inputs, "What becomes of orders.", also=marked),
        Channel("catalog", "catalog", "receive", "product id", "Facts of products, by the time they are valid from."),
        Channel("plan", "plan", "receive", "product id", "What is known ahead, by the time it is valid from."),
        Channel("activity", "tidecast.activity", "both", "the task's partition", "What events did to products."),
        Channel("examples", "tidecast.examples", "both", "the task's partition", "Vectors as served, and outcomes."),
        Channel("predictions", "predictions", "send", "user or product id", "The output, one envelope."),
        Channel(
            "shadow", "tidecast.shadow", "send", "product id", "What a version in shadow says.", carries="predictions"
        ),
        Channel("history", "tidecast.history", "send", "product|bucket start", "Closed buckets.", compacted=True),
        Channel("models", "tidecast.models", "both", "model/role", "Model versions to serve.", compacted=True),
        Channel("deadletters", "tidecast.deadletters", "send", "the original key", "What could not be taken, and why."),
    ]


def files(known: Mapping[str, Contract]) -> dict[str, dict[str, Any]]:
    """Return the generated files by name."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    generated = {f"{contract.name}.json": {**dialect, **contract.schema} for contract in known.values()}
    generated["asyncapi.json"] = document(channels(), {name: contract.schema for name, contract in known.items()})
    return generated


def write(folder: Path = GENERATED, known: Mapping[str, Contract] | None = None) -> None:
    """Write the generated files of `known` (default: the models as they are)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files(known or contracts()).items():
        (folder / name).write_text(_text(content), encoding="utf-8")


def release(folder: Path = GENERATED, known: Mapping[str, Contract] | None = None) -> list[str]:
    """Freeze every contract that changed as its next released version; returns what was frozen, such as "orders v2"."""
    frozen = []
    for contract in (known or contracts()).values():
        versions = released(folder, contract.name)
        if versions and versions[max(versions)] == contract.schema:
            continue
        number = max(versions, default=0) + 1
        place = folder / "released" / contract.name / f"v{number}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(_text(contract.schema), encoding="utf-8")
        frozen.append(f"{contract.name} v{number}")
    return frozen


def released(folder: Path, name: str) -> dict[int, Schema]:
    """Return the released versions of one contract."""
    return {
        int(path.stem.removeprefix("v")): json.loads(path.read_text(encoding="utf-8"))
        for path in (folder / "released" / name).glob("v*.json")
    }


def check(folder: Path = GENERATED, known: Mapping[str, Contract] | None = None) -> list[str]:
    """Return what is wrong, one message each: stale files, broken promises, contracts that were never released."""
    known = known or contracts()
    return [*_stale(folder, known), *_broken(folder, known)]


def main(arguments: Sequence[str] | None = None, folder: Path = GENERATED) -> int:
    """Run one of write, release and check; returns the exit code."""
    match list(sys.argv[1:] if arguments is None else arguments):
        case ["write"]:
            write(folder)
        case ["release"]:
            problems = check(folder)
            broken = [problem for problem in problems if "never released" not in problem]
            if not broken:
                sys.stderr.writelines(f"released {one}\n" for one in release(folder))
            return _report(broken)
        case ["check"]:
            return _report(check(folder))
        case _:
            sys.stderr.write("usage: python -m schemas.contracts write|check|release\n")
            return 2
    return 0


def _report(problems: Sequence[str]) -> int:
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


def _stale(folder: Path, known: Mapping[str, Contract]) -> Iterator[str]:
    repair = "run 'python -m schemas.contracts write' and commit"
    wanted = files(known)
    for name, content in wanted.items():
        try:
            committed = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            yield f"{name}: cannot be read ({type(error).__name__}); {repair}"
            continue
        if committed != content:
            yield f"{name}: stale at {_difference(committed, content)}; {repair}"
    for path in sorted(folder.glob("*.json")):
        if path.name not in wanted:
            yield f"{path.name}: generated from nothing any more; delete it, or put its model back"


def _broken(folder: Path, known: Mapping[str, Contract]) -> Iterator[str]:
    for contract in known.values():
        versions = released(folder, contract.name)
        if not versions:
            yield f"{contract.name}: never released; run 'python -m schemas.contracts release' and commit"
        for number, schema in sorted(versions.items()):
            for one in _RULES[contract.promise](schema, contract.schema):
                yield f"{contract.name}: breaks {contract.promise} with v{number} at {one}"
    for path in sorted((folder / "released").glob("*")):
        if path.name not in known:
            yield f"{path.name}: released, but gone; its readers remain: put its model back"


def _difference(one: Any, other: Any, at: str = "$") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            if one.get(key, _ABSENT) != other.get(key, _ABSENT):
                return _difference(one.get(key), other.get(key), f"{at}.{key}")
    return at


_ABSENT = object()


def _msgpack(struct: type[msgspec.Struct]) -> Schema:
    (schema,), definitions = msgspec.json.schema_components([struct], ref_template="#/$defs/{name}")
    for name, definition in definitions.items():
        if "prefixItems" in definition:  # rows are arrays: only their titles say what a position means
            fields = getattr(internal, name).__struct_fields__
            items = zip(fields, definition["prefixItems"], strict=True)
            definition["prefixItems"] = [{"title": field, **item} for field, item in items]
    # Through JSON, so that what is compared is what the files can hold.
    plain: Schema = json.loads(json.dumps({**schema, "$defs": definitions}))
    return plain


def _text(content: Schema) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
