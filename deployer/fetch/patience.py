"""How long to wait for a server that is busy, and when to give up."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping

BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers after which the same question makes sense
ATTEMPTS = 5  # in a row without one new byte
LONGEST_S = 900.0  # a server that asks for more is taken at its word: the command ends and says until when
_STEP_S, _MOST_S = 0.5, 8.0


def wait_of(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a server asks to wait, in Retry-After as a number or a date; None when it does not."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - (now or time.time()))
    except (TypeError, ValueError):
        return None


def pause(failures: int) -> float:
    """Seconds before the next attempt when the server does not say: 0.5, 1, 2, 4, 8 and no more."""
    return min(_STEP_S * 2.0**failures, _MOST_S)


def clock(seconds: float) -> str:
    """The time of day in so many seconds, as this machine's clocks show it."""
    return time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
