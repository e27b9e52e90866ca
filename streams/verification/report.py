"""What a verification found: counts, rates, and a few of the differences in full."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from features.sets import SCORE_FEATURES

By = Literal["engine", "oracle"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that was served otherwise than the log says."""

    example: str
    feature: str
    served: float
    recomputed: float


@dataclass(slots=True)
class Report:
    """The counts of a verification.

    `accepted`: clicks that must have an example; `examples`: those in the topic; `compared`: recomputed and held
    against what was served, of which `mismatched` differ in some feature and `misplaced` in user, time or offsets.
    `missing`: accepted clicks without an example; `extra`: examples without an accepted click. `unverifiable`: the log
    no longer holds what they need; `other_definition`: made by another feature schema.

    >>> report = Report("engine", "25742257dc119004")
    >>> report.compared, report.clean
    (0, True)
    """

    by: By
    schema: str
    accepted: int = 0
    examples: int = 0
    compared: int = 0
    mismatched: int = 0
    misplaced: int = 0
    missing: int = 0
    extra: int = 0
    unverifiable: int = 0
    other_definition: int = 0
    mismatches: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    """Ids of some examples that are missing, extra or misplaced."""
    why_unverifiable: str | None = None

    @property
    def clean(self) -> bool:
        """Whether nothing differs, is missing or extra."""
        return not (self.mismatched or self.misplaced or self.missing or self.extra)

    def rate(self, feature: str) -> float:
        """Return the share of compared examples whose value of `feature` differs."""
        return self.mismatches[feature] / self.compared if self.compared else 0.0

    @property
    def missing_rate(self) -> float:
        """Share of the accepted clicks that have no example."""
        return self.missing / self.accepted if self.accepted else 0.0

    @property
    def extra_rate(self) -> float:
        """Share of the examples that have no accepted click."""
        return self.extra / self.examples if self.examples else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, as `tidecast verify features --json` prints it; what is no number is null."""
        return {
            "by": self.by,
            "schema_hash": self.schema,
            "clean": self.clean,
            "accepted": self.accepted,
            "examples": self.examples,
            "compared": self.compared,
            "mismatched": {"count": self.mismatched, "rate": self.mismatched / self.compared if self.compared else 0.0},
            "misplaced": {"count": self.misplaced, "rate": self.misplaced / self.compared if self.compared else 0.0},
            "missing": {"count": self.missing, "rate": self.missing_rate},
            "extra": {"count": self.extra, "rate": self.extra_rate},
            "unverifiable": {"count": self.unverifiable, "why": self.why_unverifiable},
            "other_definition": self.other_definition,
            "features": {name: {"count": self.mismatches[name], "rate": self.rate(name)} for name in SCORE_FEATURES},
            "differences": [
                {
                    "example": one.example,
                    "feature": one.feature,
                    "served": _number(one.served),
                    "recomputed": _number(one.recomputed),
                }
                for one in self.differences
            ],
            "strays": self.strays,
        }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
