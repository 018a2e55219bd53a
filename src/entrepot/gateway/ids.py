"""Request ids: unique per process by a random prefix, then counted, so that making one costs next to nothing."""

from __future__ import annotations

import secrets
from itertools import count


class Ids:
    """Yields GUIDs (RFC 9562 version 8). They identify and do not authorise: nothing may rest on guessing one."""

    def __init__(self) -> None:
        random = secrets.token_hex(9)
        self._prefix = f"{random[:8]}-{random[8:12]}-8{random[12:15]}-8{random[15:18]}-"
        self._count = count(1)

    def next(self) -> str:
        return self._prefix + format(next(self._count), "012x")


def as_openai(guid: str) -> str:
    """The same id in the spelling of OpenAI's `x-request-id`: `req_` and 32 hexadecimal digits."""
    return "req_" + guid.replace("-", "")
