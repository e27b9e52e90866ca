"""docs/sources.md says all that streams/sources/description.py takes, and nothing that it refuses."""

from __future__ import annotations

import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel

from streams.sources.description import (
    CatalogSpec,
    ClicksSpec,
    FieldSpec,
    FilterSpec,
    OrdersSpec,
    PlanSpec,
    SourceSpec,
)

PAGE = (Path(__file__).parents[1] / "docs" / "sources.md").read_text(encoding="utf-8")
HEADINGS = {
    SourceSpec: "The source",
    ClicksSpec: "`[clicks]`",
    OrdersSpec: "`[orders]`",
    CatalogSpec: "`[catalog]`",
    PlanSpec: "`[plan]`",
    FilterSpec: "`[[filter]]`",
    FieldSpec: "How a field is read",
}


def _named_under(heading: str) -> set[str]:
    """The keys in the first column of the tables under a heading."""
    section = next(part for part in PAGE.split("\n## ") if part.startswith(heading))
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("model", HEADINGS, ids=lambda model: model.__name__)
def test_every_key_is_named_where_it_belongs(model: type[BaseModel]) -> None:
    """The tables name each key that a description may have, and no other."""
    keys = {field.alias or name for name, field in model.model_fields.items()}
    shared = {"path", "time", "sorted"} & keys
    assert _named_under(HEADINGS[model]) == keys - shared
    assert shared <= _named_under("Every table")


def test_the_example_is_a_description() -> None:
    """What the page shows as a whole is taken as it stands."""
    [example] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    spec = SourceSpec.model_validate(tomllib.loads(example, parse_float=Decimal))
    assert len(spec.tables()) == 4
