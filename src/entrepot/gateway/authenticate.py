"""Who calls: the account of the request's key, or the one that it names, if its token's principal may call there."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from entrepot.errors import Code, Error
from entrepot.gateway.call import Call
from entrepot.gateway.remembered import remember
from entrepot.gateway.routes import Route
from entrepot.http1.message import Headers
from entrepot.resources import model as declared
from entrepot.snapshot import Account, Snapshot
from entrepot.wire.problems import redact

EVERYWHERE = "/"
_DIGESTS: Final[dict[str, bytes]] = {}
_REMEMBERED_DIGESTS: Final = 1_024


def digest(key: str) -> bytes:
    """Of a credential, by which keys are found. Those of few are remembered; for many it is as quick to make them."""
    found = _DIGESTS.get(key)
    if found is None:
        found = remember(_DIGESTS, key, sha256(key.encode("latin-1")).digest(), _REMEMBERED_DIGESTS)
    return found


def authenticate(call: Call, route: Route) -> Account:
    """The account of the request's key or token. A path or host that names another account gets what a wrong key gets.

    Raises Error. Sets `call.key_name`: which key it was, or `oid:` and the principal's object id.
    """
    headers = call.exchange.request.headers
    key = credential(headers)
    if key is None:
        raise Error(Code.MISSING_KEY, "the request carries no key")
    snapshot = call.snapshot
    found = snapshot.keys.get(digest(key))
    named = route.account
    hosted = named_by_host(snapshot, headers) if snapshot.data_domain is not None else None
    if found is None:
        if snapshot.tokens is not None and key.count(".") == 2 and "authorization" in headers:
            return by_token(call, key, named, hosted)
        raise _wrong(key)
    account = found.account
    if (named is not None and named != account.name) or (hosted is not None and hosted != account.name):
        raise _wrong(key)
    if not account.takes_keys:
        raise Error(Code.KEYS_DISABLED, "the account takes no keys, only tokens")
    call.key_name = found.name
    return account


def by_token(call: Call, token: str, named: str | None, hosted: str | None) -> Account:
    """The account that path or host names, for a principal with a grant that covers it.

    An account that is not there, or that another operator has, is told apart from one without a grant by nothing.
    """
    snapshot = call.snapshot
    assert snapshot.tokens is not None
    principal = snapshot.tokens.principal(token, call.at_ms / 1_000)
    name = named or hosted
    if name is None:
        raise Error(Code.UNAUTHENTICATED, "with a token the account is named: use the base URL /accounts/NAME/…")
    account = snapshot.accounts.get(name) if hosted in {None, name} else None
    granted = snapshot.grants.get(principal, ())
    if account is None or frozenset(granted).isdisjoint(scopes(account.given)):
        raise Error(Code.PERMISSION_DENIED, "the principal has no role for calls to this account")
    call.key_name = f"oid:{principal}"
    return account


def scopes(account: declared.Account) -> tuple[str, ...]:
    """The account's id and what is above it, in lower case: a role in any of them covers the account."""
    subscription = f"/subscriptions/{account.subscription}".lower()
    group = f"{subscription}/resourcegroups/{account.resource_group}".lower()
    return (
        f"{group}/providers/microsoft.cognitiveservices/accounts/{account.name}".lower(),
        group,
        subscription,
        f"/providers/entrepot.access/operators/{account.operator}".lower(),
        EVERYWHERE,
    )


def credential(headers: Headers) -> str | None:
    """The key, from any of the three headers that SDKs use. Different ones are refused, never picked from.

    An empty header is no key: some clients send one beside the real one.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme == "Bearer" or scheme.lower() == "bearer" else ""
    for other in (headers.get("api-key"), headers.get("x-api-key")):
        if other:
            if key and other != key:
                raise Error(Code.CONFLICTING_CREDENTIALS, "the request carries two different keys; send one")
            key = other
    return key or None


def named_by_host(snapshot: Snapshot, headers: Headers) -> str | None:
    domain = snapshot.data_domain
    if domain is None:
        return None
    host = headers.get("host", "").lower()
    host = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return host.removesuffix(domain) if host.endswith(domain) else None


def _wrong(key: str) -> Error:
    return Error(Code.INVALID_KEY, "the key is not one of this account", subject=redact(key))
