"""The world as the control plane holds it: what rows declare, as structs; and what touched rows make of it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from entrepot.errors import Code, Detail, Error
from entrepot.management.authorize import Listing, listing_of
from entrepot.management.roles import data_scopes
from entrepot.resources import model as declared
from entrepot.resources import values
from entrepot.resources.documents import Document, Reading, milliseconds
from entrepot.resources.ids import parent_account, part
from entrepot.resources.problems import Problem
from entrepot.resources.reading import Mistake
from entrepot.snapshot import Issuer, Published, Revision
from entrepot.storage import Row, Transaction

T = TypeVar("T")

CATALOGUE: Final = ("operator", "region", "provider", "model", "upstream", "site")
# A key of which only its hash was given, in the place of the key itself.
HASHED_KEY: Final = re.compile(r"sha256:[0-9a-f]{64}")
FIELDS: Final = ("operators", "regions", "providers", "models", "upstreams", "sites")


def ref(id: str, name: str) -> str:  # noqa: A002
    """Where a secret of a resource stands: `key1` of an account, `credential` of an upstream, `secret` of a gateway."""
    return f"{id.lower()}/{name}"


class Gateway(msgspec.Struct, frozen=True):
    """A gateway's row as publication needs it. `secret` is the SHA-256 of what it shows, None before it enrolled.

    `ledger_keys` are the verifier keys of its logs, the first of each name for good.
    """

    given: declared.Gateway
    sealing: bytes | None
    secret: bytes | None
    ledger_keys: tuple[str, ...] = ()


class _Issuer(msgspec.Struct, frozen=True):
    """As it stands in the settings."""

    url: str
    keys: dict[str, Any]
    audiences: list[str]


class World(msgspec.Struct, frozen=True):
    """Immutable. `catalogue` has no clients; its gateway is what the settings give to all.

    `disabled` are subscriptions whose accounts are suspended with them;
    `releases` are the instants at which policy releases are to take effect, by their ids.
    """

    catalogue: declared.World
    organizations: dict[str, declared.Organization]
    subscriptions: dict[str, declared.Subscription]
    disabled: frozenset[str]
    accounts: dict[str, declared.Account]
    secrets: dict[str, str]
    issuer: Issuer | None
    principals: dict[str, Row]
    assignments: dict[str, Row]
    grants: dict[str, tuple[str, ...]]
    gateways: dict[str, Gateway]
    releases: dict[str, int]

    def published(self, revision: Revision, gateway: Gateway | None = None) -> Published:
        """The whole, for a gateway, or as the control plane decides by it."""
        world = msgspec.structs.replace(
            self.catalogue,
            organizations=tuple(self.organizations.values()),
            subscriptions=tuple(self.subscriptions.values()),
            accounts=tuple(self.accounts.values()),
        )
        if gateway is not None:
            world = msgspec.structs.replace(world, gateway=gateway.given)
        return Published(revision, world, self.secrets, self.issuer, self.grants)


async def load(transaction: Transaction) -> World:
    """All that the database holds. Raises Error when it holds what this release cannot serve."""
    rows = await transaction.all()
    secrets = await transaction.secrets()
    reading = Reading()
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    frame = Frame.of(by_kind, secrets, reading)
    organizations = [reading.resource(document_of(row)) for row in by_kind.get("organization", ())]
    subscriptions = {row.name.lower(): contract_of(row, reading) for row in by_kind.get("subscription", ())}
    deployments: dict[str, list[Row]] = {}
    for row in by_kind.get("deployment", ()):
        deployments.setdefault(parent_account(row.id.lower()), []).append(row)
    disabled = frozenset(row.name.lower() for row in by_kind.get("subscription", ()) if is_disabled(row))
    accounts = {}
    for row in by_kind.get("account", ()):
        key, owner = row.id.lower(), (part(row.id, "subscriptions") or "").lower()
        account = account_of(row, deployments.get(key, ()), subscriptions.get(owner), keys_of(key, secrets), reading)
        if account is not None and owner in disabled:
            account = msgspec.structs.replace(account, state="suspended")
        accounts[row.name.lower()] = account
    refuse(reading, Code.NOT_READY, "the database holds what this release cannot serve")
    principals = {row.id.lower(): row for row in by_kind.get("principal", ())}
    assignments = {row.id.lower(): row for row in by_kind.get("roleAssignment", ())}
    return World(
        frame.catalogue,
        {each.name: each for each in organizations},
        _present(subscriptions),
        disabled,
        _present(accounts),
        frame.secrets,
        frame.issuer,
        principals,
        assignments,
        grants_of(principals, assignments),
        frame.gateways,
        frame.releases,
    )


class Frame(NamedTuple):
    """All but the clients and who may do what."""

    catalogue: declared.World
    secrets: dict[str, str]
    issuer: Issuer | None
    gateways: dict[str, Gateway]
    releases: dict[str, int]

    @classmethod
    def of(cls, by_kind: Mapping[str, Sequence[Row]], secrets: Mapping[str, bytes], reading: Reading) -> Frame:
        """`secrets` are at least those of upstreams and gateways."""
        held: dict[str, str] = {}
        found: dict[str, tuple[Any, ...]] = {}
        for kind, field in zip(CATALOGUE, FIELDS, strict=True):
            structs = (_catalogued(row, secrets, held, reading) for row in by_kind.get(kind, ()))
            found[field] = tuple(each for each in structs if each is not None)
        settings = next(iter(by_kind.get("settings", ())), None)
        releases = by_kind.get("policyRelease", ())
        catalogue = declared.World(
            gateway=_gateway(settings, None, reading) or declared.Gateway(),
            packs=_packs_in_force(releases),
            warn_days=_warn_days(settings, reading),
            **found,
        )
        gateways = {
            document_of(row).name: _listed(row, settings, secrets, reading) for row in by_kind.get("gateway", ())
        }
        return cls(catalogue, held, _issuer(settings, reading), gateways, _scheduled(releases))


def document_of(row: Row) -> Document:
    # The id keeps the spelling that it was first written with; whoever writes it again may spell it in another way.
    return Document(row.kind, row.id, row.id.rpartition("/")[2], row.body)


def _properties(row: Row | None) -> Mapping[str, Any]:
    found = row.body.get("properties") if row is not None else None
    return found if isinstance(found, dict) else {}


def _present(found: Mapping[str, T | None]) -> dict[str, T]:
    return {name: each for name, each in found.items() if each is not None}


def is_disabled(subscription: Row) -> bool:
    """A subscription that is not in use suspends its accounts."""
    return bool(_properties(subscription).get("state", "Enabled") != "Enabled")


def contract_of(row: Row, reading: Reading) -> declared.Subscription | None:
    return reading.subscription(document_of(row))


def account_of(
    row: Row,
    deployments: Sequence[Row],
    subscription: declared.Subscription | None,
    keys: declared.Keys | None,
    reading: Reading,
) -> declared.Account | None:
    return reading.account(document_of(row), [document_of(each) for each in deployments], subscription, keys)


def keys_of(account: str, secrets: Mapping[str, bytes]) -> declared.Keys | None:
    """INVARIANT: no client's key leaves the control plane's memory but as its hash."""
    key1, key2 = secrets.get(ref(account, "key1")), secrets.get(ref(account, "key2"))
    if key1 is None:
        return None
    return declared.Keys(_hashed(key1), None if key2 is None else _hashed(key2))


def _hashed(key: bytes) -> str:
    if key.startswith(b"sha256:") and HASHED_KEY.fullmatch(text := key.decode()):
        return text
    return f"sha256:{sha256(key).hexdigest()}"


def _catalogued(row: Row, secrets: Mapping[str, bytes], held: dict[str, str], reading: Reading) -> Any:
    found = reading.resource(document_of(row))
    if not isinstance(found, declared.Upstream) or found.credential == "none":
        return found
    at = ref(row.id, "credential")
    kept = secrets.get(at)
    if kept is None:
        reading.sheet.mistake(
            ("upstream", 0, "credential"), "no secret was given", "write it to `credentialValue`", row.id
        )
        return None
    held[f"secret:{at}"] = kept.decode()
    return msgspec.structs.replace(found, credential=f"secret:{at}")


def _gateway(settings: Row | None, gateway: Row | None, reading: Reading) -> declared.Gateway | None:
    given = [None if row is None else document_of(row) for row in (settings, gateway)]
    return reading.gateway(given[0], given[1])


def _listed(row: Row, settings: Row | None, secrets: Mapping[str, bytes], reading: Reading) -> Gateway:
    try:
        sealing = base64.b64decode(_properties(row).get("sealingKey") or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        sealing = b""
    secret = secrets.get(ref(row.id, "secret"))
    given = _gateway(settings, row, reading) or declared.Gateway()
    keys = _properties(row).get("ledgerKeys")
    pinned = tuple(keys) if isinstance(keys, list) else ()
    return Gateway(given, sealing or None, None if secret is None else bytes.fromhex(secret.decode()), pinned)


def _warn_days(settings: Row | None, reading: Reading) -> int:
    given = _properties(settings).get("warnDays")
    if settings is None or given is None:
        return declared.World().warn_days
    try:
        days: int = values.integer(0, 3_650)(given, (), "warnDays", reading.sheet)
    except Mistake as mistake:
        reading.sheet.mistake(("settings", 0, "warnDays"), mistake.what, mistake.fix, settings.id)
        return 0
    return days


def _issuer(settings: Row | None, reading: Reading) -> Issuer | None:
    given = _properties(settings).get("issuer")
    if settings is None or given is None:
        return None
    try:
        found = msgspec.convert(given, _Issuer)
    except msgspec.ValidationError as error:
        reading.sheet.mistake(("settings", 0, "issuer"), f"not an issuer: {error}", "leave it as it was", settings.id)
        return None
    return Issuer(found.url, msgspec.json.encode(found.keys), tuple(found.audiences))


def packs_of(row: Row) -> tuple[declared.PackSource, ...]:
    return tuple(declared.PackSource(each["name"], each["text"].encode()) for each in _properties(row).get("packs", ()))


def _packs_in_force(releases: Iterable[Row]) -> tuple[declared.PackSource, ...]:
    now = next((row for row in releases if _properties(row).get("state") == "inForce"), None)
    return () if now is None else packs_of(now)


def _scheduled(releases: Iterable[Row]) -> dict[str, int]:
    due = {row.id: milliseconds(_properties(row).get("effectiveAt")) for row in releases if is_scheduled(row)}
    return {id_: at_ms for id_, at_ms in due.items() if at_ms is not None}


def is_scheduled(row: Row) -> bool:
    return _properties(row).get("state") == "scheduled"


def grants_of(principals: Mapping[str, Row], assignments: Mapping[str, Row]) -> dict[str, tuple[str, ...]]:
    listing: Listing = listing_of(list(principals.values()), list(assignments.values()))
    return data_scopes(listing.live())


def refused(problems: Iterable[Problem], code: Code, what: str) -> Error:
    """Every mistake, each with its field; the first one is the message's."""
    errors = [each for each in problems if each.level == "error"]
    name = {Code.CONFLICT: "Conflict", Code.INVALID_BODY: "InvalidResource"}.get(code)
    details = tuple(Detail(name or "Invalid", f"{each.what}: {each.fix}", each.key or each.file) for each in errors)
    first = f": {errors[0].key or errors[0].file}: {errors[0].what}" if errors else ""
    param = (errors[0].key or None) if errors else None
    return Error(code, f"{what}{first}", name=name, param=param, details=details)


def refuse(reading: Reading, code: Code, what: str) -> None:
    if reading.sheet.errors:
        raise refused(reading.problems(), code, what)
