"""What is the same in the decisions on equal calls, cut out of an entry without decoding it.

INVARIANT: entries are canonical (RFC 8785): their fields stand in the order of the names, and no quote stands unescaped
in a string. So the cuts below are the same fields in every decision, and equal bytes are equal parts.
"""

from __future__ import annotations

import re

import msgspec

from entrepot.ledger.verify import ADMITTED, REFUSED

# So many of them are kept in mind; they are some two kilobytes each.
REMEMBERED = 32_768

_CLIENT = re.compile(rb'"client":\{"account":("(?:[^"\\]|\\.)*")').search
_COMMITMENT = b',"commitment":"'
_REQUEST = b',"request":"'
_AT = len(b'"at_ms":')

# Whether it was admitted; candidates, client and code; deployment, operation, origin and release.
Key = tuple[bool, bytes, bytes]


def is_decision(entry: bytes) -> bool:
    return entry.startswith((ADMITTED, REFUSED))


def account_of(entry: bytes) -> str:
    """Whose call a decision is about. Raises msgspec.ValidationError for a decision that does not say."""
    found = _CLIENT(entry)
    if found is None:
        raise msgspec.ValidationError("a decision names no client")
    return msgspec.json.decode(found[1], type=str)


def split(entry: bytes) -> tuple[int, Key]:
    """When it was decided, and all else that a decision says but for the ids of the call and its personal data.

    Raises msgspec.ValidationError for a decision that lacks one of its fields.
    """
    admitted = entry.startswith(ADMITTED)
    start = len(ADMITTED) if admitted else len(REFUSED)
    try:
        comma = entry.index(b",", start)
        at_ms = int(entry[start + _AT : comma])
        stop = entry.rindex(_REQUEST, comma)
        end = entry.rindex(_COMMITMENT, comma, stop)
        begin = entry.index(b'"', end + len(_COMMITMENT), stop)
        return at_ms, (admitted, entry[comma:end], entry[begin:stop])
    except ValueError:
        start_of_it = entry[:60].decode("utf-8", "replace")
        raise msgspec.ValidationError(f"no decision has this form: `{start_of_it}…`") from None
