"""Instants as the API writes them: RFC 3339 in UTC."""

from __future__ import annotations

import math
from typing import Final

from entrepot.resources import documents

NEVER: Final = math.inf

iso = documents.timestamp


def milliseconds(text: object) -> int:
    """The instant of an RFC 3339 string; a date alone is 00:00 UTC of it. Raises ValueError, saying how to write it."""
    found = documents.milliseconds(text)
    if found is None:
        raise ValueError("expected an instant; write RFC 3339 such as `2027-01-31T00:00:00Z`")
    return found
