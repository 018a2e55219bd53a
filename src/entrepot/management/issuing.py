"""Makes access tokens: ES256 with the instance's own key, which stands in the database and is encrypted there."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.jwk import ECKey

from entrepot.management.roles import BY_ID, Assignment
from entrepot.resources.ids import SETTINGS

LIFETIME_S = 3_600
TOKEN_KEY = f"{SETTINGS.lower()}/token-key"

# What Microsoft's clients ask a token for when they mean the management API, in the public and in the China cloud.
_MANAGEMENT = (
    "https://management.azure.com",
    "https://management.core.windows.net",
    "https://management.chinacloudapi.cn",
    "https://management.core.chinacloudapi.cn",
)
DATA = ("https://cognitiveservices.azure.com", "https://ai.azure.com")


def generate_key() -> bytes:
    """A fresh signing key as a JWK (RFC 7517) in JSON; whoever has it can be anyone."""
    key = ECKey.generate_key("P-256", private=True)
    key.ensure_kid()
    return msgspec.json.encode(key.as_dict(private=True))


def public_keys(key: bytes) -> dict[str, Any]:
    """The JWK set of a signing key's public half, as it is published."""
    return {"keys": [_loaded(key).as_dict(private=False, use="sig", alg="ES256")]}


def issuer_of(url: str) -> str:
    return f"{url}/adfs"


def data_audiences() -> list[str]:
    """What a token for calling models may be for; clients ask with and without the final slash."""
    return [*DATA, *(f"{each}/" for each in DATA)]


def management_audiences(urls: Iterable[str]) -> list[str]:
    """What a token for this management API may be for; `urls` are its own."""
    known = [*urls, *_MANAGEMENT]
    return [*known, *(f"{each}/" for each in known)]


class Mint:
    """`urls` are the management API's own, the first of them the canonical one."""

    def __init__(self, key: bytes, urls: tuple[str, ...], tenant: str) -> None:
        self._key = _loaded(key)
        self._tenant = tenant
        self._issuer = issuer_of(urls[0])
        self._audiences = frozenset((*management_audiences(urls), *data_audiences()))

    def audience(self, asked: str) -> str | None:
        """The audience that `resource`, or `scope` without its `/.default`, asks for; None when there is no such."""
        return asked if asked in self._audiences else None

    def token(self, principal: str, audience: str, assignments: Iterable[Assignment]) -> str:
        """A JWT (RFC 7519) that is valid for an hour from now."""
        now_s = int(time.time())
        claims = {
            "iss": self._issuer,
            "aud": audience,
            "sub": principal,
            "oid": principal,
            "appid": principal,
            "idtyp": "app",
            "tid": self._tenant,
            "iat": now_s,
            "nbf": now_s,
            "exp": now_s + LIFETIME_S,
            "roles": sorted({BY_ID[each.role].name for each in assignments if each.role in BY_ID}),
            "uti": secrets.token_urlsafe(16),
            "ver": "1.0",
        }
        return jwt.encode({"alg": "ES256", "kid": self._key.kid}, claims, self._key, ["ES256"])


def published(settings: Mapping[str, Any]) -> tuple[str, bytes] | None:
    """The issuer's URL and its JWK set in JSON, as the settings' properties hold them."""
    issuer = settings.get("issuer")
    return (issuer["url"], msgspec.json.encode(issuer["keys"])) if issuer else None


def _loaded(key: bytes) -> ECKey:
    return ECKey.import_key(msgspec.json.decode(key))
