"""Times as options name them."""

from __future__ import annotations

from streams.errors import ConfigurationError
from streams.sources.values import BadValue, time_reader


def time_of(text: str | None, timezone: str, option: str) -> int | None:
    """Return the time (UTC ms) that `text` names, in `timezone` where it names none itself; None for None.

    Raises ConfigurationError, which names the option.

    >>> time_of("2014-07-01T02:00:00", "Europe/Berlin", "--from")
    1404172800000
    """
    if text is None:
        return None
    try:
        return time_reader(None, None, timezone)(text)
    except BadValue:
        raise ConfigurationError(
            f"{option} {text}: is no time from 1970 to 2099; give ISO 8601, such as 2014-07-01T00:00:00Z"
        ) from None
