"""The world as the control plane holds it: what rows declare, as structs; and what touched rows make of it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from entrepot.errors import Code, Detail, Error
from entrepot.management.authorize import Listing, concerns_access, listing_of
from entrepot.management.roles import data_scopes
from entrepot.resources import model as declared
from entrepot.resources.checking import check_world
from entrepot.resources.documents import Document, Reading, milliseconds
from entrepot.resources.ids import access_id, parent_account, part, subscription_id
from entrepot.resources.problems import Problem, WorldInvalid
from entrepot.resources.reading import Row as SheetRow
from entrepot.snapshot import Delta, Issuer, Published, Revision
from entrepot.snapshot.compiled import compile_policy
from entrepot.snapshot.published import Kind
from entrepot.storage import EVERYTHING, Row, Transaction

T = TypeVar("T")

CATALOGUE: Final = ("operator", "region", "provider", "model", "upstream", "site")
_FIELDS: Final = ("operators", "regions", "providers", "models", "upstreams", "sites")
_ACCESS: Final = "/providers/entrepot.access/"
_WHOLE: Final = tuple(
    f"{_ACCESS}{each}/" for each in ("operators", "regions", "providers", "models", "upstreams", "sites", "settings")
)
_USERS_SHOWN: Final = 5


def ref(id: str, name: str) -> str:  # noqa: A002
    """Where a secret of a resource stands: `key1` of an account, `credential` of an upstream, `secret` of a gateway."""
    return f"{id.lower()}/{name}"


class Gateway(msgspec.Struct, frozen=True):
    """A gateway's row as publication needs it. `secret` is the SHA-256 of what it shows, None before it enrolled."""

    given: declared.Gateway
    sealing: bytes | None
    secret: bytes | None


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


class Step(NamedTuple):
    """From one world to the next. Without a delta the whole is to be published."""

    world: World
    delta: Delta | None
    gateways: frozenset[str]


Touched = Mapping[str, Row | None]


async def load(transaction: Transaction) -> World:
    """All that the database holds. Raises Error when it holds what this release cannot serve."""
    rows = await transaction.all()
    secrets = await transaction.secrets()
    reading = Reading()
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    frame = _Frame.of(by_kind, secrets, reading)
    organizations = {row.name: reading.resource(_document(row)) for row in by_kind.get("organization", ())}
    subscriptions = {row.name.lower(): _subscription(row, reading) for row in by_kind.get("subscription", ())}
    deployments: dict[str, list[Row]] = {}
    for row in by_kind.get("deployment", ()):
        deployments.setdefault(parent_account(row.id.lower()), []).append(row)
    disabled = frozenset(row.name.lower() for row in by_kind.get("subscription", ()) if _is_disabled(row))
    accounts = {}
    for row in by_kind.get("account", ()):
        key, owner = row.id.lower(), (part(row.id, "subscriptions") or "").lower()
        account = _account(row, deployments.get(key, ()), subscriptions.get(owner), _keys(key, secrets), reading)
        if account is not None and owner in disabled:
            account = msgspec.structs.replace(account, state="suspended")
        accounts[row.name.lower()] = account
    _refuse(reading, Code.NOT_READY, "the database holds what this release cannot serve")
    principals = {row.id.lower(): row for row in by_kind.get("principal", ())}
    assignments = {row.id.lower(): row for row in by_kind.get("roleAssignment", ())}
    return World(
        frame.catalogue,
        organizations,
        _present(subscriptions),
        disabled,
        _present(accounts),
        frame.secrets,
        frame.issuer,
        principals,
        assignments,
        _grants(principals, assignments),
        frame.gateways,
        frame.releases,
    )


async def following(world: World, transaction: Transaction, touched: Touched, after: Revision, to: Revision) -> Step:
    """The world after a change that touched these ids, read in its transaction; only they are read and checked.

    Raises Error: INVALID_BODY for mistakes inside a resource, CONFLICT for those between resources.
    """
    reader = _Reader(world, transaction, touched)
    await reader.read()
    gone = [key for key, row in touched.items() if row is None]
    await _refuse_use(reader.world, transaction, gone)
    _refuse(reader.reading, Code.INVALID_BODY, "the resource is not valid")
    reader.close()
    check_world(reader.reading.sheet, reader.reading.place)
    _refuse(reader.reading, Code.CONFLICT, "the change does not fit what is there")
    delta = None
    if not reader.whole:
        delta = Delta(
            after,
            to,
            tuple(reader.organizations.values()),
            tuple(reader.subscriptions.values()),
            tuple(reader.accounts.values()),
            tuple(reader.gone),
            grants=reader.world.grants if reader.granted else None,
        )
    return Step(reader.world, delta, frozenset(reader.gateways))


class _Frame(NamedTuple):
    """All but the clients and who may do what."""

    catalogue: declared.World
    secrets: dict[str, str]
    issuer: Issuer | None
    gateways: dict[str, Gateway]
    releases: dict[str, int]

    @classmethod
    def of(cls, by_kind: Mapping[str, Sequence[Row]], secrets: Mapping[str, bytes], reading: Reading) -> _Frame:
        """`secrets` are at least those of upstreams and gateways."""
        held: dict[str, str] = {}
        found: dict[str, tuple[Any, ...]] = {}
        for kind, field in zip(CATALOGUE, _FIELDS, strict=True):
            structs = (_catalogued(row, secrets, held, reading) for row in by_kind.get(kind, ()))
            found[field] = tuple(each for each in structs if each is not None)
        settings = next(iter(by_kind.get("settings", ())), None)
        releases = by_kind.get("policyRelease", ())
        catalogue = declared.World(
            gateway=_gateway(settings, None, reading) or declared.Gateway(),
            packs=_packs_in_force(releases),
            warn_days=_properties(settings).get("warnDays", declared.World().warn_days),
            **found,
        )
        gateways = {row.name: _listed(row, settings, secrets, reading) for row in by_kind.get("gateway", ())}
        return cls(catalogue, held, _issuer(settings), gateways, _scheduled(releases))


class _Reader:
    """Reads what a change touched, and what that needs."""

    def __init__(self, world: World, transaction: Transaction, touched: Touched) -> None:
        self.world = world
        self.reading = Reading()
        self.organizations: dict[str, declared.Organization] = {}
        self.subscriptions: dict[str, declared.Subscription] = {}
        self.accounts: dict[str, declared.Account] = {}
        self.gone: list[tuple[Kind, str]] = []
        self.gateways: set[str] = set()
        self.whole = False
        self.granted = False
        self._transaction = transaction
        self._touched = touched
        self._disabled = set(world.disabled)

    async def read(self) -> None:
        touched = self._touched
        self.whole = any(key.startswith(_WHOLE) for key in touched)
        releases = [key for key in touched if key.startswith(f"{_ACCESS}policyreleases/")]
        gateways = [key for key in touched if key.startswith(f"{_ACCESS}gateways/")]
        self.gateways = {key.rpartition("/")[2] for key in gateways}
        if self.whole or releases or gateways:
            await self._frame(releases)
        if any(map(concerns_access, touched)):
            self._access()
        await self._clients()

    def close(self) -> None:
        """Put beside what was read whatever it refers to, for the checks between resources."""
        rows = self.reading.sheet.rows
        if not self.whole:
            for kind, field in zip(CATALOGUE[:-1], _FIELDS, strict=False):
                rows[kind] = [_sheet_row(kind, each) for each in getattr(self.world.catalogue, field)]
        for kind, known in (("organization", self.world.organizations), ("subscription", self.world.subscriptions)):
            there = {each.values.get("name") or each.values.get("id") for each in rows.get(kind, ())}
            wanted = {each.name for each in self.reading.sheet.references if each.kind == kind}
            found = (known[name] for name in sorted(wanted - there) if name in known)
            rows.setdefault(kind, []).extend(_sheet_row(kind, each) for each in found)

    async def _frame(self, releases: Sequence[str]) -> None:
        """The catalogue anew. It is small, and nothing of it is in a delta."""
        by_kind = {
            kind: await self._transaction.list(EVERYTHING, kind)
            for kind in (*CATALOGUE, "settings", "policyRelease", "gateway")
        }
        secrets: dict[str, bytes] = {}
        for collection in ("upstreams", "gateways"):
            secrets |= await self._transaction.secrets(f"{_ACCESS}{collection}/")
        reading = self.reading if self.whole or self.gateways else Reading()
        frame = _Frame.of(by_kind, secrets, reading)
        if not self.whole:
            reading.sheet.rows.clear()
        for row in by_kind["policyRelease"]:
            if row.id.lower() in releases:
                _check_policy(row)
        self.whole = self.whole or frame.catalogue.packs != self.world.catalogue.packs
        self.world = msgspec.structs.replace(self.world, **frame._asdict())

    def _access(self) -> None:
        principals, assignments = {**self.world.principals}, {**self.world.assignments}
        for key, row in self._touched.items():
            for kind, known in (("principal", principals), ("roleAssignment", assignments)):
                if row is None:
                    known.pop(key, None)
                elif row.kind == kind:
                    known[key] = row
        grants = _grants(principals, assignments)
        self.granted = grants != self.world.grants
        self.world = msgspec.structs.replace(
            self.world,
            principals=principals,
            assignments=assignments,
            grants=grants if self.granted else self.world.grants,
        )

    async def _clients(self) -> None:
        organizations, subscriptions = {**self.world.organizations}, {**self.world.subscriptions}
        accounts, touched_accounts = {**self.world.accounts}, set[str]()
        for key, row in self._touched.items():
            if key.startswith(f"{_ACCESS}organizations/"):
                self._organization(key, row, organizations)
            elif not key.startswith("/subscriptions/") or "/microsoft.authorization/" in key:
                continue
            elif key.count("/") == 2:
                self._contract(key, row, subscriptions)
                touched_accounts |= {each.id.lower() for each in await self._all("account", key)} if row else set()
            elif "/accounts/" in key:
                touched_accounts.add(parent_account(key) if "/deployments/" in key else key)
        for key in sorted(touched_accounts):
            await self._client(key, subscriptions, accounts)
        self.world = msgspec.structs.replace(
            self.world,
            organizations=organizations,
            subscriptions=subscriptions,
            disabled=frozenset(self._disabled),
            accounts=accounts,
        )

    def _organization(self, key: str, row: Row | None, known: dict[str, declared.Organization]) -> None:
        if row is None:
            name = next((name for name in known if name.lower() == key.rpartition("/")[2]), None)
            if name is not None:
                del known[name]
                self.gone.append(("organization", name))
            return
        found = self.reading.resource(_document(row))
        if found is not None:
            known[found.name] = self.organizations[found.name] = found

    def _contract(self, key: str, row: Row | None, known: dict[str, declared.Subscription]) -> None:
        name = key.rpartition("/")[2]
        self._disabled.discard(name)
        if row is None:
            if known.pop(name, None) is not None:
                self.gone.append(("subscription", name))
            return
        if _is_disabled(row):
            self._disabled.add(name)
        found = _subscription(row, self.reading)
        if found is not None:
            known[name] = self.subscriptions[name] = found

    async def _client(
        self, key: str, subscriptions: Mapping[str, declared.Subscription], known: dict[str, declared.Account]
    ) -> None:
        name = key.rpartition("/")[2]
        row = self._touched.get(key) or await self._transaction.get(EVERYTHING, key)
        if row is None:
            before = known.get(name)
            if before is not None and _is(before, key):
                del known[name]
                self.gone.append(("account", name))
            return
        subscription = subscriptions.get(part(key, "subscriptions") or "")
        secrets = {at: kept for at in (ref(key, "key1"), ref(key, "key2")) if (kept := await self._secret(at))}
        deployments = await self._all("deployment", key)
        found = _account(row, deployments, subscription, _keys(key, secrets), self.reading)
        if found is not None:
            if subscription is not None and subscription.id in self._disabled:
                found = msgspec.structs.replace(found, state="suspended")
            known[name] = self.accounts[name] = found

    async def _all(self, kind: str, under: str) -> list[Row]:
        return await self._transaction.list(EVERYTHING, kind, under=under)

    async def _secret(self, at: str) -> bytes | None:
        return await self._transaction.secret(at)


async def declared_account(transaction: Transaction, world: World, key: str) -> declared.Account | None:
    """An account as the transaction has it; None where there is none. Raises Error when it is not valid."""
    reader = _Reader(world, transaction, {key: None})
    row = await transaction.get(EVERYTHING, key)
    if row is None:
        return None
    owner = await transaction.get(EVERYTHING, subscription_id(part(key, "subscriptions") or ""))
    known = {**world.subscriptions}
    if owner is not None:
        reader._contract(owner.id.lower(), owner, known)
    await reader._client(key, known, {})
    _refuse(reader.reading, Code.INVALID_BODY, "the account is not valid")
    return next(iter(reader.accounts.values()), None)


def _document(row: Row) -> Document:
    return Document(row.kind, row.id, row.name, row.body)


def _properties(row: Row | None) -> Mapping[str, Any]:
    found = row.body.get("properties") if row is not None else None
    return found if isinstance(found, dict) else {}


def _present(found: Mapping[str, T | None]) -> dict[str, T]:
    return {name: each for name, each in found.items() if each is not None}


def _is_disabled(subscription: Row) -> bool:
    """A subscription that is not in use suspends its accounts."""
    return bool(_properties(subscription).get("state", "Enabled") != "Enabled")


def _subscription(row: Row, reading: Reading) -> declared.Subscription | None:
    return reading.subscription(_document(row))


def _account(
    row: Row,
    deployments: Sequence[Row],
    subscription: declared.Subscription | None,
    keys: declared.Keys | None,
    reading: Reading,
) -> declared.Account | None:
    return reading.account(_document(row), [_document(each) for each in deployments], subscription, keys)


def _keys(account: str, secrets: Mapping[str, bytes]) -> declared.Keys | None:
    """INVARIANT: no client's key leaves the control plane's memory but as its hash."""
    key1, key2 = secrets.get(ref(account, "key1")), secrets.get(ref(account, "key2"))
    if key1 is None:
        return None
    return declared.Keys(_hashed(key1), None if key2 is None else _hashed(key2))


def _hashed(key: bytes) -> str:
    return f"sha256:{sha256(key).hexdigest()}"


def _is(account: declared.Account, key: str) -> bool:
    """Whether the account of that name is the one of that id: another may have taken its name."""
    return part(key, "subscriptions") == account.subscription and (
        (part(key, "resourceGroups") or "").lower() == account.resource_group.lower()
    )


def _catalogued(row: Row, secrets: Mapping[str, bytes], held: dict[str, str], reading: Reading) -> Any:
    found = reading.resource(_document(row))
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
    given = [None if row is None else _document(row) for row in (settings, gateway)]
    return reading.gateway(given[0], given[1])


def _listed(row: Row, settings: Row | None, secrets: Mapping[str, bytes], reading: Reading) -> Gateway:
    try:
        sealing = base64.b64decode(_properties(row).get("sealingKey") or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        sealing = b""
    secret = secrets.get(ref(row.id, "secret"))
    given = _gateway(settings, row, reading) or declared.Gateway()
    return Gateway(given, sealing or None, None if secret is None else bytes.fromhex(secret.decode()))


def _issuer(settings: Row | None) -> Issuer | None:
    given = _properties(settings).get("issuer")
    if not isinstance(given, dict):
        return None
    return Issuer(str(given["url"]), msgspec.json.encode(given["keys"]), tuple(map(str, given.get("audiences", ()))))


def _packs(row: Row) -> tuple[declared.PackSource, ...]:
    return tuple(declared.PackSource(each["name"], each["text"].encode()) for each in _properties(row).get("packs", ()))


def _packs_in_force(releases: Iterable[Row]) -> tuple[declared.PackSource, ...]:
    now = next((row for row in releases if _properties(row).get("state") == "inForce"), None)
    return () if now is None else _packs(now)


def _scheduled(releases: Iterable[Row]) -> dict[str, int]:
    due = {row.id: milliseconds(_properties(row).get("effectiveAt")) for row in releases if _is_scheduled(row)}
    return {id_: at_ms for id_, at_ms in due.items() if at_ms is not None}


def _is_scheduled(row: Row) -> bool:
    return _properties(row).get("state") == "scheduled"


def _check_policy(row: Row) -> None:
    """A release that is to take effect must be one that can."""
    if _is_scheduled(row):
        try:
            compile_policy(_packs(row))
        except WorldInvalid as invalid:
            raise refused(invalid.problems, Code.INVALID_BODY, "the policy release cannot take effect") from invalid


def _grants(principals: Mapping[str, Row], assignments: Mapping[str, Row]) -> dict[str, tuple[str, ...]]:
    listing: Listing = listing_of(list(principals.values()), list(assignments.values()))
    return data_scopes(listing.live())


def _sheet_row(kind: str, struct: msgspec.Struct) -> SheetRow:
    name = str(getattr(struct, "name", None) or getattr(struct, "id", ""))
    at = subscription_id(name) if kind == "subscription" else access_id(kind, name)
    return SheetRow(at, (kind, 0), {field: getattr(struct, field) for field in struct.__struct_fields__}, struct)


def refused(problems: Iterable[Problem], code: Code, what: str) -> Error:
    """Every mistake, each with its field; the first one is the message's."""
    errors = [each for each in problems if each.level == "error"]
    name = {Code.CONFLICT: "Conflict", Code.INVALID_BODY: "InvalidResource"}.get(code)
    details = tuple(Detail(name or "Invalid", f"{each.what}: {each.fix}", each.key or each.file) for each in errors)
    first = f": {errors[0].key or errors[0].file}: {errors[0].what}" if errors else ""
    param = (errors[0].key or None) if errors else None
    return Error(code, f"{what}{first}", name=name, param=param, details=details)


def _refuse(reading: Reading, code: Code, what: str) -> None:
    if reading.sheet.errors:
        raise refused(reading.problems(), code, what)


async def _refuse_use(world: World, transaction: Transaction, gone: Iterable[str]) -> None:
    """Raises Error CONFLICT where something that is gone is still needed; it names some of what needs it."""
    for key in gone:
        if key.startswith(_ACCESS):
            collection, _, name = key.removeprefix(_ACCESS).partition("/")
            users = _users(world, collection, name)
            if collection == "operators":
                rows = await transaction.list(EVERYTHING, "organization")
                users += [f"the organization `{row.name}`" for row in rows if (row.operator or "").lower() == name]
            if users:
                more = f" and {len(users) - _USERS_SHOWN} more" if len(users) > _USERS_SHOWN else ""
                told = ", ".join(users[:_USERS_SHOWN])
                raise Error(Code.CONFLICT, f"`{name}` is in use by {told}{more}", name="ResourceInUse", param=key)


def _users(world: World, collection: str, name: str) -> list[str]:
    """What refers to a resource of the catalogue or an organization, in words."""

    def named(what: str, many: Iterable[Any], field: str) -> list[str]:
        return [f"the {what} `{getattr(each, 'name', None) or each.id}`" for each in many if lower(each, field) == name]

    def lower(each: Any, field: str) -> str:
        return (getattr(each, field) or "").lower()

    catalogue, accounts, contracts = world.catalogue, world.accounts.values(), world.subscriptions.values()
    if collection == "operators":
        return named("region", catalogue.regions, "operator") + named("subscription", contracts, "operator")
    if collection == "regions":
        return named("upstream", catalogue.upstreams, "region") + named("account", accounts, "location")
    if collection == "providers":
        return named("upstream", catalogue.upstreams, "provider") + named("model", catalogue.models, "provider")
    if collection == "models":
        return [f"the upstream `{each.name}`" for each in catalogue.upstreams if name in map(str.lower, each.models)]
    if collection == "organizations":
        return named("subscription", contracts, "organization")
    return []
