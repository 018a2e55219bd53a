"""The authority that Microsoft's clients log in at: cloud metadata, discovery, keys, and tokens for client secrets.

It looks like AD FS, so that clients ask nobody else, and answers Entra's paths too. Errors are OAuth's (RFC 6749 §5.2).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote_plus

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Error
from entrepot.identity.tokens import Verifier
from entrepot.management.authorize import Directory, Principal
from entrepot.management.http import answer, control_of, peer_of, route
from entrepot.management.issuing import (
    LIFETIME_S,
    TOKEN_KEY,
    Mint,
    issuer_of,
    management_audiences,
    public_keys,
)
from entrepot.management.recent import Mark, Marks
from entrepot.management.secret import matching
from entrepot.management.throttle import Throttle
from entrepot.resources.ids import SETTINGS, access_id
from entrepot.storage import EVERYTHING, Store
from entrepot.wire import arm

FORM_BYTES = 16_384
FIELDS = 64
_WRONG = "AADSTS7000215: Invalid client secret provided, or no such client: the client id and the secret do not match."
_PAUSE_S = 0.2
UNKNOWN_S: Final = 1.0

log = logging.getLogger(__name__)


class Site(msgspec.Struct, frozen=True):
    """Where this control plane is reached: `url` canonically, `others` by other names; `data_url` is the data plane."""

    url: str
    data_url: str
    tenant: str
    others: tuple[str, ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.url, *self.others)


class OAuthError(Exception):
    """OAuth's error, and how Entra words it."""

    def __init__(self, error: str, told: str, status: int = 400, retry_after_s: int | None = None) -> None:
        super().__init__(told)
        self.error = error
        self.told = told
        self.status = status
        self.retry_after_s = retry_after_s


class _Keys(NamedTuple):
    """`public` is the JWK set by which tokens are verified, those of the key before among them; `mint` has the newest.

    `verifier` is for the tokens of the management API itself. `at` is the mark of the settings that they are of.
    """

    at: Mark
    public: Mapping[str, Any]
    verifier: Verifier
    mint: Mint


class Authority:
    """Signs and verifies by the keys as they stand in the database, where any control plane over it may change them."""

    def __init__(self, store: Store, site: Site, directory: Directory, keys: _Keys) -> None:
        """Use `open`."""
        self.site = site
        self.throttle = Throttle()
        self._store = store
        self._directory = directory
        self._keys = keys
        self._reading = asyncio.Lock()
        self._asked_s = -math.inf  # when a token of an unknown key last made us look for new ones

    @classmethod
    async def open(cls, store: Store, site: Site, directory: Directory) -> Authority:
        """Raises Error where the instance has no signing key yet."""
        return cls(store, site, directory, await _read(store, site, await directory.recent.look()))

    async def keys(self) -> Mapping[str, Any]:
        """The JWK set by which tokens are verified."""
        return (await self._current(await self._directory.recent.look())).public

    async def principal(self, token: str) -> tuple[str, Marks]:
        """Whom a token of the management API is for, and as of when that was looked at. Raises Error UNAUTHENTICATED.

        For tokens of a key that is unknown here the database is asked once a second and not for each, since anybody can
        make such. A key that is no longer believed is so from the next request on.
        """
        if self._keys.verifier.is_of_another_key(token):
            now_s = time.monotonic()
            if now_s - self._asked_s >= UNKNOWN_S:
                self._asked_s = now_s
                await self.keys()
        known = self._keys
        found = known.verifier.principal(token, time.time())
        marks = await self._directory.recent.look()
        if (now := await self._current(marks)) is not known:
            found = now.verifier.principal(token, time.time())
        return found, marks

    async def _current(self, marks: Marks) -> _Keys:
        async with self._reading:
            if marks.settings != self._keys.at:
                self._keys = await _read(self._store, self.site, marks)
            return self._keys

    async def token(self, form: Mapping[str, str], client: tuple[str, str] | None, peer: str) -> dict[str, Any]:
        """The answer to a token request; `client` is from Basic authentication. Raises OAuthError."""
        if (grant := form.get("grant_type")) is None:
            raise OAuthError(
                "invalid_request", "AADSTS900144: The request body must contain the parameter 'grant_type'."
            )
        if grant != "client_credentials":
            raise OAuthError(
                "unsupported_grant_type", "AADSTS70003: This authority issues tokens for client credentials only."
            )
        if client is None:
            client = form.get("client_id", ""), form.get("client_secret", "")
        if not all(client):
            raise OAuthError(
                "invalid_client",
                "AADSTS7000216: 'client_id' and 'client_secret' are required for this grant.",
                status=401,
            )
        principal = await self._authenticated(client[0].lower(), client[1], peer)
        audience = self._audience(form)
        marks = await self._directory.recent.look()
        listing = await self._directory.listing(marks)
        expires_s = int(time.time()) + LIFETIME_S
        mint = (await self._current(marks)).mint
        return {
            "token_type": "Bearer",
            "expires_in": LIFETIME_S,
            "ext_expires_in": LIFETIME_S,
            "expires_on": expires_s,
            "resource": audience,
            "access_token": mint.token(principal.id, audience, listing.assignments.get(principal.id, ())),
        }

    async def _authenticated(self, client: str, secret: str, peer: str) -> Principal:
        if (wait_s := self.throttle.wait_s(client, peer)) > 0:
            raise OAuthError(
                "temporarily_unavailable",
                "AADSTS50196: Too many failed attempts from this address; try again later.",
                status=429,
                retry_after_s=int(wait_s) + 1,
            )
        principal = (await self._directory.listing()).principals.get(client)
        # INVARIANT: an unknown client costs the same steps as a known one, so that neither answer nor time tells.
        kept = await self._store.secret(
            f"{access_id('principal', principal.name if principal else '-').lower()}/secret"
        )
        known = matching(kept or b"[]", secret, wall_clock_ms())
        if principal is None or not known:
            # Counted before the pause: guesses made side by side are seen as many, too.
            self.throttle.failure(client, peer)
            log.warning(
                "a client secret was refused",
                extra={"fields": {"client": client[:64], "peer": peer, "failures": self.throttle.failed}},
            )
            await asyncio.sleep(_PAUSE_S)
            raise OAuthError("invalid_client", _WRONG, status=401)
        self.throttle.success(client, peer)
        if not principal.enabled:
            raise OAuthError("unauthorized_client", f"AADSTS7000112: Application '{client}' is disabled.", status=401)
        return principal

    def _audience(self, form: Mapping[str, str]) -> str:
        asked = form.get("resource")
        if asked is None:
            scopes = [
                each for each in form.get("scope", "").split() if each not in {"openid", "profile", "offline_access"}
            ]
            if len(scopes) > 1:
                raise OAuthError("invalid_scope", "AADSTS28000: The 'scope' names more than one resource.")
            asked = scopes[0].removesuffix("/.default") if scopes else f"{self.site.url}/"
        if (audience := self._keys.mint.audience(asked)) is None:
            raise OAuthError(
                "invalid_resource",
                f"AADSTS500011: The resource principal named {asked[:200]} was not found in the tenant named "
                f"{self.site.tenant}.",
            )
        return audience


async def _read(store: Store, site: Site, marks: Marks) -> _Keys:
    key = await store.secret(TOKEN_KEY)
    if key is None:
        raise Error(Code.NOT_READY, "the control plane has no signing key: start it with `entrepot serve` once")
    settings = await store.get(EVERYTHING, SETTINGS)
    keys: Mapping[str, Any] = (settings.body["properties"] if settings is not None else {}).get("issuer", {})
    keys = keys.get("keys", {})
    own = public_keys(key)
    public = keys if own["keys"][0] in keys.get("keys", ()) else own
    verifier = Verifier(issuer_of(site.url), msgspec.json.encode(public), management_audiences(site.urls))
    return _Keys(marks.settings, public, verifier, Mint(key, site.urls, site.tenant))


def authority_of(request: Request) -> Authority:
    found: Authority = request.app.state.authority
    return found


def _base(request: Request) -> str:
    """The URL that the client knows us by, if it is one of ours; what a `Host` says otherwise is not repeated."""
    asked = f"{request.url.scheme}://{request.url.netloc}".lower()
    site = authority_of(request).site
    return asked if asked in site.urls else site.url


async def _metadata(request: Request) -> Response:
    base = _base(request)
    version = request.query_params.get("api-version", "2022-09-01")
    audiences = [f"{base}/", base]
    if version in {"1.0", "2015-01-01"}:  # Azure Stack's first form
        authentication: dict[str, Any] = {"loginEndpoint": f"{base}/adfs", "audiences": audiences}
        return answer(
            {"galleryEndpoint": "", "graphEndpoint": "", "portalEndpoint": "", "authentication": authentication}
        )
    cloud = {
        "name": "Entrepot",
        "resourceManager": base,
        "portal": base,
        "graph": f"{base}/",
        "graphAudience": f"{base}/",
        "batch": base,
        "gallery": base,
        "media": base,
        "sqlManagement": base,
        "microsoftGraphResourceId": f"{base}/",
        "vmImageAliasDoc": "",
        "authentication": {
            "loginEndpoint": f"{base}/adfs",
            "audiences": audiences,
            "tenant": authority_of(request).site.tenant,
            "identityProvider": "ADFS",
        },
        "suffixes": {},
    }
    return answer([cloud] if version < "2022" else cloud)  # 2019's form is a list, as `ARM_CLOUD_METADATA_URL` wants it


def _discovery(issuer: str, token: str, keys: str) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "token_endpoint": token,
        "authorization_endpoint": token.replace("/token", "/authorize"),
        "device_authorization_endpoint": token.replace("/token", "/devicecode"),
        "jwks_uri": keys,
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "response_types_supported": ["token"],
        "subject_types_supported": ["public"],
        "scopes_supported": ["openid"],
    }


async def _adfs(request: Request) -> Response:
    issuer = f"{_base(request)}/adfs"
    return answer(_discovery(issuer, f"{issuer}/oauth2/token", f"{issuer}/discovery/keys"))


async def _entra(request: Request) -> Response:
    try:
        base, tenant = _base(request), _tenant(request)
    except OAuthError as refused:
        return _refusal(request, refused)
    found = _discovery(f"{base}/{tenant}/v2.0", f"{base}/{tenant}/oauth2/v2.0/token", f"{base}/adfs/discovery/keys")
    return answer(found)


async def _instances(request: Request) -> Response:
    """What MSAL asks an Entra-style authority for before it trusts it."""
    base = _base(request)
    host = base.partition("://")[2]
    tenant = authority_of(request).site.tenant
    alias = {"preferred_network": host, "preferred_cache": host, "aliases": [host]}
    return answer(
        {
            "tenant_discovery_endpoint": f"{base}/{tenant}/v2.0/.well-known/openid-configuration",
            "api-version": "1.1",
            "metadata": [alias],
        }
    )


def _tenant(request: Request) -> str:
    asked = str(request.path_params["tenant"]).lower()
    known = authority_of(request).site.tenant
    if asked not in {known, "common", "organizations"}:
        raise OAuthError("invalid_request", f"AADSTS90002: Tenant '{asked[:64]}' not found.")
    return known


async def _keys(request: Request) -> Response:
    return answer(await authority_of(request).keys(), headers={"cache-control": "public, max-age=3600"})


async def _token(request: Request) -> Response:
    try:
        if "tenant" in request.path_params:
            _tenant(request)
        form = await _form(request)
        found = await authority_of(request).token(form, _basic(request), peer_of(request))
    except OAuthError as refused:
        return _refusal(request, refused)
    return answer(found, headers={"cache-control": "no-store", "pragma": "no-cache"})


async def _form(request: Request) -> dict[str, str]:
    """RFC 6749 §3.2: form-encoded, and no parameter twice. Raises OAuthError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "AADSTS900144: The request body must be application/x-www-form-urlencoded.")
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > FORM_BYTES:
                raise OAuthError("invalid_request", f"The request body is larger than {FORM_BYTES} bytes.", status=413)
        pairs = parse_qsl(data.decode("ascii"), keep_blank_values=True, max_num_fields=FIELDS, errors="strict")
    except (ValueError, ClientDisconnect):
        raise OAuthError("invalid_request", "The request body is not a form.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise OAuthError("invalid_request", "AADSTS90014: A parameter of the request body stands there twice.")
    if any("\0" in value for value in form.values()):
        raise OAuthError("invalid_request", "The request body holds a NUL character.")
    return form


def _basic(request: Request) -> tuple[str, str] | None:
    """The client's id and secret by HTTP Basic, as RFC 6749 §2.3.1 spells them. Raises OAuthError."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client, colon, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        raise OAuthError("invalid_client", "The header 'Authorization' is no Basic authentication.", status=401)
    return unquote_plus(client), unquote_plus(secret)


def _refusal(request: Request, refused: OAuthError) -> Response:
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    trace, correlation = request.state.request_id, request.state.correlation_id
    found: dict[str, Any] = {
        "error": refused.error,
        "error_description": f"{refused.told} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {at}",
        "timestamp": at,
        "trace_id": trace,
        "correlation_id": correlation,
    }
    if refused.told.startswith("AADSTS"):
        found["error_codes"] = [int(refused.told[len("AADSTS") :].partition(":")[0])]
    headers = {"cache-control": "no-store"}
    if refused.status == 401:
        headers["www-authenticate"] = "Basic"
    if refused.retry_after_s is not None:
        headers["retry-after"] = str(refused.retry_after_s)
    return answer(found, refused.status, headers)


async def _tenants(request: Request) -> Response:
    tenant = authority_of(request).site.tenant
    one = {
        "id": f"/tenants/{tenant}",
        "tenantId": tenant,
        "displayName": "Entrepot",
        "tenantCategory": "Home",
        "defaultDomain": "",
        "domains": [],
    }
    return answer(arm.page([one]))


async def _health(request: Request) -> Response:
    """Whether the database answers. Raises Error NOT_READY."""
    epoch, n = await control_of(request).store.revision()
    return answer({"status": "ok", "revision": f"{epoch}.{n}"})


def routes() -> list[Route]:
    return [
        route("GET", "/healthz", _health, public=True),
        route("GET", "/metadata/endpoints", _metadata, public=True),
        route("GET", "/adfs/.well-known/openid-configuration", _adfs, public=True),
        route("GET", "/adfs/discovery/keys", _keys, public=True),
        route("POST", "/adfs/oauth2/token", _token, public=True),
        route("POST", "/adfs/oauth2/v2.0/token", _token, public=True),
        route("GET", "/common/discovery/instance", _instances, public=True),
        route("GET", "/{tenant}/v2.0/.well-known/openid-configuration", _entra, public=True),
        route("POST", "/{tenant}/oauth2/v2.0/token", _token, public=True),
        route("POST", "/{tenant}/oauth2/token", _token, public=True),
        route("GET", "/tenants", _tenants),
    ]
