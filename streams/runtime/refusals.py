"""What a task refused at its door, by source and reason: how its tallies name it, and how they are read.

``rejected_late`` counts a reason over all inputs, ``rejected_late_orders`` those of one topic; ``duplicates`` and
``duplicates_orders`` count repeated ids, which go to no dead letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

DUPLICATE = "duplicate"
"""The reason of a repeated id: the one refusal that is no dead letter."""

_REJECTED, _DUPLICATES = "rejected_", "duplicates"


def tallies_of(topic: str, reason: str) -> tuple[str, str]:
    """Return the two tallies that a refused record of `topic` (without the prefix) counts in: of all, of its topic.

    >>> tallies_of("orders", "late"), tallies_of("orders", DUPLICATE)
    (('rejected_late', 'rejected_late_orders'), ('duplicates', 'duplicates_orders'))
    """
    of_all = _DUPLICATES if reason == DUPLICATE else _REJECTED + reason
    return of_all, f"{of_all}_{topic}"


def refusals(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return how many records were refused, by topic and reason, from a task's tallies.

    >>> refusals({"clicks_predicted": 7, "rejected_late": 2, "rejected_late_orders": 2, "duplicates_clickstream": 1})
    {'clickstream': {'duplicate': 1}, 'orders': {'late': 2}}
    """
    found: dict[str, dict[str, int]] = {}
    for name, count in sorted(counts.items()):
        topic, reason = _parsed(name)
        if topic:
            found.setdefault(topic, {})[reason] = count
    return found


def without_refusals(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the tallies that `refusals` does not tell by topic.

    >>> without_refusals({"clicks_predicted": 7, "rejected_late": 2, "rejected_late_orders": 2})
    {'clicks_predicted': 7}
    """
    told = {tallies_of(topic, reason)[0] for topic, reasons in refusals(counts).items() for reason in reasons}
    return {name: count for name, count in counts.items() if name not in told and not _parsed(name)[0]}


def total(tallies: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sum of the tallies of some tasks.

    >>> total([{"duplicates": 1}, {"duplicates": 2, "markers": 1}])
    {'duplicates': 3, 'markers': 1}
    """
    summed: dict[str, int] = {}
    for counts in tallies:
        for name, count in counts.items():
            summed[name] = summed.get(name, 0) + count
    return summed


def in_words(counts: Mapping[str, int]) -> str:
    """Return the refusals of a task's tallies as a line, "" where there are none.

    >>> in_words({"rejected_late_orders": 1200, "duplicates_clickstream": 1, "duplicates_orders": 3})
    'clickstream: duplicate 1; orders: duplicate 3, late 1,200'
    """
    return "; ".join(
        f"{topic}: " + ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
        for topic, reasons in refusals(counts).items()
    )


def _parsed(name: str) -> tuple[str, str]:
    """Return topic and reason of a tally of one topic, ("", "") of any other. No reason has an underscore in it."""
    if name.startswith(_REJECTED):
        reason, _, topic = name.removeprefix(_REJECTED).partition("_")
        return (topic, reason) if topic else ("", "")
    if name.startswith(f"{_DUPLICATES}_"):
        return name.removeprefix(f"{_DUPLICATES}_"), DUPLICATE
    return "", ""
