"""Client secrets: 256 random bits, of which only the SHA-256 is kept.

A slow hash (scrypt) is for secrets that people choose. Nobody guesses 256 random bits, from a stolen hash neither, so
a fast one loses nothing, and the token endpoint cannot be made to burn CPU by whoever sends it nonsense.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256

import msgspec

KEPT = 2
LIFETIME_MS = 730 * 86_400_000


class Kept(msgspec.Struct, frozen=True):
    """What is known of a secret; `digest` is hexadecimal."""

    digest: str
    made_ms: int
    expires_ms: int


def generate() -> str:
    return f"ep-{secrets.token_urlsafe(32)}"


def kept(secret: str, now_ms: int, before: bytes | None = None, *, alone: bool = False) -> bytes:
    """What to keep of a new secret, beside at most one that was there `before` unless it shall stand `alone`."""
    older = [] if alone or before is None else _read(before)[-(KEPT - 1) :]
    return msgspec.json.encode([*older, Kept(digest(secret), now_ms, now_ms + LIFETIME_MS)])


def matching(stored: bytes, secret: str, now_ms: int) -> bool:
    """Whether `secret` is one of those kept and has not expired; each is compared, in constant time."""
    given = digest(secret)
    found = [hmac.compare_digest(each.digest, given) and now_ms < each.expires_ms for each in _read(stored)]
    return any(found)


def digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _read(stored: bytes) -> list[Kept]:
    return msgspec.json.decode(stored, type=list[Kept])
