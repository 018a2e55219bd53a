"""ETags as requests name them (RFC 9110 §8.8.3, §13.1), for every path of the management plane."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request

from entrepot.errors import Code, Error

# Quotes may be missing: some clients take them off.
_ONE: Final = r'(W/)?("[!#-)+-~]{0,64}"|[0-9A-Za-z._-]{1,64})'
PATTERN: Final = rf"\*|{_ONE}( *, *{_ONE})*"
_ALL: Final = re.compile(PATTERN)
_EACH: Final = re.compile(_ONE)


def named(request: Request, header: str) -> frozenset[str] | None:
    """Without quotes and `W/`; `*` alone stands for any. None without the header.

    Raises Error (400) for what is no ETag: whoever sends it wants a condition, and gets none that could hold by chance.
    """
    given = request.headers.getlist(header)
    if not given:
        return None
    value = ", ".join(given).strip(" \t")
    if not _ALL.fullmatch(value):
        message = f"`{header}` is no ETag; write `*`, or an ETag as an answer gave it"
        raise Error(Code.BAD_REQUEST, message, name="InvalidHeaderValue", param=header)
    if value == "*":
        return frozenset("*")
    return frozenset(each[2].strip('"') for each in _EACH.finditer(value))
