"""The settings of the shop that a source describes: its time zone, unless another one is set."""

from __future__ import annotations

import sys

from streams.settings import Settings
from streams.sources.reader import Source


def with_shop_of(settings: Settings, source: Source) -> Settings:
    """Return the settings with the source's time zone where none was set, neither in a file nor in the environment."""
    if "timezone" in settings.shop.model_fields_set:
        return settings
    shop = settings.shop.model_copy(update={"timezone": source.timezone})
    return settings.model_copy(update={"shop": shop})


def warning_of(settings: Settings, source: Source) -> str | None:
    """Say in one line what of the settings does not fit the source, and the repair; None where all does.

    A source that names no time zone fits any; its currency fits where amounts are taken as they are, or have a rate.
    """
    found = []
    shop, name = settings.shop, source.name
    if source.names_timezone and source.timezone != shop.timezone:
        found.append(
            f"shop.timezone is {shop.timezone}, that of {name} is {source.timezone}: hours, days and holidays count by "
            f"the former; if that is not meant, set TIDECAST_SHOP__TIMEZONE={source.timezone} for all roles and "
            "commands"
        )
    if shop.currency is not None and source.currency not in (None, shop.currency, *shop.rates):
        found.append(
            f"shop.rates does not say what {source.currency} is worth in {shop.currency}: the prices of {name} count "
            f"as unknown; set TIDECAST_SHOP__RATES__{source.currency} for all roles and commands"
        )
    return f"warning: {'; '.join(found)}" if found else None


def warn_of_misfit(settings: Settings, source: Source) -> None:
    """Say on standard error what `warning_of` finds, if anything."""
    text = warning_of(settings, source)
    if text is not None:
        sys.stderr.write(f"{text}\n")
