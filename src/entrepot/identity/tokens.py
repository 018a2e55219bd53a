"""Verifies the data plane's bearer tokens (JWT, RFC 7519) with the issuer's keys as published. No call home, no I/O."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Callable, Collection
from hashlib import sha256
from typing import Any, Final

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, KeySet, RSAKey

from entrepot.errors import Code, Error

LONGEST: Final = 8_192
"""Characters of a token; ours have under a thousand."""
LEEWAY_S: Final = 60
"""How far the clocks of issuer and gateway may be apart."""
REMEMBERED: Final = 16_384
_ALGORITHMS: Final = {"EC": "ES256", "RSA": "RS256"}
LEAST_RSA_BITS: Final = 2_048


class _Head(msgspec.Struct):
    kid: str = ""


class Verifier:
    """The tokens of one issuer: ES256, and RS256 where it has such keys; what a token names itself decides nothing.

    A verified token is remembered by its digest until it expires, so that the next call with it costs no signature.
    """

    def __init__(self, issuer: str, keys: bytes, audiences: Collection[str]) -> None:
        """`keys` is a JWK set in JSON (RFC 7517 §5). Raises ValueError if there is none in it that could verify."""
        self._issuer = issuer
        self._audiences = frozenset(audiences)
        self._keys = _usable(keys)
        self._known: dict[bytes, tuple[str, float]] = {}

    def principal(self, token: str, now_s: float) -> str:
        """The object id of who the token is for. Raises Error UNAUTHENTICATED; its message says why, for the log."""
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is None:
            known = self._verify(token, now_s)
            if len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[digest] = known
        elif now_s >= known[1]:
            del self._known[digest]
            raise _refused("it has expired")
        return known[0]

    def is_of_another_key(self, token: str) -> bool:
        """Whether a token names a key that is not among the issuer's: it may have a new one since. Proves nothing."""
        head = token[:LONGEST].partition(".")[0].encode("utf-8", "surrogatepass")
        try:
            named = msgspec.json.decode(urlsafe_b64decode(head + b"=" * (-len(head) % 4)), type=_Head)
        except (ValueError, msgspec.DecodeError):
            return False
        return named.kid not in {"", *self._keys}

    def _verify(self, token: str, now_s: float) -> tuple[str, float]:
        """The principal, and the instant (seconds, leeway included) from which the token is no longer taken."""
        if len(token) > LONGEST:
            raise _refused(f"it is longer than {LONGEST} characters")
        try:
            decoded = jwt.decode(token, _choose(self._keys), list(_ALGORITHMS.values()))
        # What hands on bytes that are no text, or numbers that are none, is not all of joserfc's own kind.
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise _refused("its form or its signature is not valid") from error
        claims = decoded.claims
        if claims.get("iss") != self._issuer:
            raise _refused("it is of another issuer")
        if self._audiences.isdisjoint(_texts(claims.get("aud"))):
            raise _refused("it is for another audience")
        until_s = _instant(claims, "exp") + LEEWAY_S
        if now_s >= until_s:
            raise _refused("it has expired")
        if "nbf" in claims and _instant(claims, "nbf") - LEEWAY_S > now_s:
            raise _refused("it is not valid yet")
        principal = claims.get("oid")
        if not isinstance(principal, str) or not principal:
            raise _refused("it names no principal")
        return principal, until_s


def _choose(keys: dict[str, Key]) -> Callable[[Any], Key]:
    # INVARIANT: the key decides the algorithm. joserfc takes ES256 with a P-256 key and RS256 with an RSA key only,
    # and no other name is in the list that it is given: no `none`, no HS256 with a public key as its secret.
    def choose(signed: Any) -> Key:
        kid = signed.headers().get("kid")
        key = keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise _refused("its key is not one of the issuer's")
        return key

    return choose


def _usable(keys: bytes) -> dict[str, Key]:
    """By `kid`. Keys without one, for encryption, or of another kind are passed over."""
    try:
        found = KeySet.import_key_set(msgspec.json.decode(keys))
    except (JoseError, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError("the issuer's keys are not a JWK set") from error
    usable: dict[str, Key] = {}
    for key in found:
        algorithm = _ALGORITHMS.get(key.key_type)
        if (
            not isinstance(key, ECKey | RSAKey)
            or key.get("alg", algorithm) != algorithm
            or key.get("use", "sig") != "sig"
        ):
            continue
        if isinstance(key, ECKey) and key.curve_name != "P-256":
            continue
        if isinstance(key, RSAKey) and key.public_key.key_size < LEAST_RSA_BITS:
            continue
        if key.kid:
            usable[key.kid] = key
    if not usable:
        raise ValueError("the issuer has no key for ES256 or RS256")
    return usable


def _texts(value: object) -> set[str]:
    values = value if isinstance(value, list) else [value]
    return {each for each in values if isinstance(each, str)}


def _instant(claims: dict[str, Any], name: str) -> float:
    """Seconds since 1970. A truth value is an int to Python, and JSON's reader takes NaN."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise _refused(f"its `{name}` is no instant")
    return value


def _refused(why: str) -> Error:
    return Error(Code.UNAUTHENTICATED, f"the token is not valid: {why}")
