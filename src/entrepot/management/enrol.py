"""How a gateway becomes known: a token that works once and for a day, then a secret of its own."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import re
import secrets
import ssl
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Error
from entrepot.management.changes import Actor, gateway_id
from entrepot.management.http import answer, body, control_of, peer_of, route
from entrepot.management.publish import keys_of
from entrepot.management.world import ref
from entrepot.resources.documents import timestamp
from entrepot.storage import EVERYTHING

if TYPE_CHECKING:
    from entrepot.management.control import Control

LASTS_MS: Final = 24 * 3_600_000
_TOKEN: Final = re.compile(r"enrol-(?P<name>[A-Za-z0-9][\w.-]{0,127})-[0-9a-f]{48}-[0-9a-f]{32}", re.ASCII)


class Kept(msgspec.Struct, frozen=True):
    """What the control plane holds of a token: its SHA-256, never the token."""

    digest: str
    expires_ms: int


async def make_token(control: Control, actor: Actor, gateway: str) -> tuple[str, int]:
    """The token's text, once, and when it expires (ms). One made before works no more.

    Raises Error NOT_FOUND when there is no such gateway.
    """
    at = gateway_id(gateway)
    fingerprint = await asyncio.to_thread(_fingerprint, control.authority)
    async with control.change(actor, "Entrepot.Access/gateways/enrol/action") as change:
        row = await change.get(EVERYTHING, at)
        if row is None:
            raise Error(Code.NOT_FOUND, f"there is no gateway `{gateway}`", name="ResourceNotFound", param=at)
        token = f"enrol-{row.name}-{secrets.token_hex(24)}-{fingerprint}"
        kept = Kept(sha256(token.encode()).hexdigest(), wall_clock_ms() + LASTS_MS)
        await change.put_secret(ref(at, "enrolment"), msgspec.json.encode(kept))
    return token, kept.expires_ms


def _fingerprint(authority: Path) -> str:
    try:
        der = ssl.PEM_cert_to_DER_cert(authority.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        what = f"the certificate authority `{authority}` cannot be read, so no gateway can enrol"
        raise Error(Code.NOT_READY, what) from error
    return sha256(der).hexdigest()[:32]


async def enrol(control: Control, token: str, sealing: bytes, version: str, peer: str) -> dict[str, object]:
    """Use a token up. Raises Error UNAUTHENTICATED, with the same text whatever is wrong with it."""
    parsed = _TOKEN.fullmatch(token)
    at = gateway_id(parsed["name"] if parsed else "-")
    refused = Error(
        Code.UNAUTHENTICATED, "the enrolment token is not valid, was used, or is too old: make another", name="NoToken"
    )
    # Looked at before a change is begun, so that whoever guesses does not keep administrators waiting.
    if parsed is None or not _fits(await control.store.secret(ref(at, "enrolment")), token):
        raise refused
    secret = secrets.token_urlsafe(32)
    actor = Actor(f"gateway:{parsed['name']}", parsed["name"], "", peer)
    async with control.change(actor, "Entrepot.Access/gateways/enrolled") as change:
        row = await change.get(EVERYTHING, at)
        if row is None or not _fits(await change.secret(ref(at, "enrolment")), token):
            raise refused
        await change.forget_secret(ref(at, "enrolment"))
        await change.put_secret(ref(at, "secret"), sha256(secret.encode()).hexdigest().encode())
        properties = {
            **row.body.get("properties", {}),
            "sealingKey": base64.b64encode(sealing).decode(),
            "enrolledAt": timestamp(change.at_ms),
            "version": version,
        }
        made = change.draft(
            row.id,
            row.kind,
            {**row.body, "properties": properties},
            operator=row.operator,
            subscription=row.subscription,
        )
        await change.put(made)
    return {
        "gateway": row.name,
        "secret": secret,
        "epoch": control.revision.epoch,
    }


def _fits(kept: bytes | None, token: str) -> bool:
    if kept is None:
        return False
    held = msgspec.json.decode(kept, type=Kept)
    return hmac.compare_digest(held.digest, sha256(token.encode()).hexdigest()) and wall_clock_ms() < held.expires_ms


def routes() -> list[Route]:
    """`POST /entrepot/enrol` and `GET /entrepot/ca.pem`; neither wants a caller."""
    return [
        route("POST", "/entrepot/enrol", _enrol, public=True),
        route("GET", "/entrepot/ca.pem", _authority, public=True),
    ]


class _Asked(msgspec.Struct, frozen=True):
    token: str
    name: str
    sealing_key: str
    version: str = ""


async def _enrol(request: Request) -> Response:
    try:
        asked = msgspec.convert(await body(request), _Asked)
        sealing = base64.b64decode(asked.sealing_key, validate=True)
    except (msgspec.ValidationError, binascii.Error, ValueError) as error:
        raise Error(Code.INVALID_BODY, f"the enrolment cannot be read: {error}") from error
    if len(sealing) != 32 or len(asked.version) > 100:
        raise Error(Code.INVALID_BODY, "the enrolment has no X25519 key of 32 bytes", param="sealing_key")
    control = control_of(request)
    verifier = base64.b64encode((await keys_of(request)).trust.verifier).decode()
    granted = await enrol(control, asked.token, sealing, asked.version, peer_of(request))
    return answer({**granted, "verifier": verifier})


async def _authority(request: Request) -> Response:
    try:
        found = await asyncio.to_thread(control_of(request).authority.read_bytes)
    except OSError as error:
        raise Error(Code.NOT_FOUND, "this control plane has no certificate authority of its own") from error
    return Response(found, media_type="application/x-pem-file")
