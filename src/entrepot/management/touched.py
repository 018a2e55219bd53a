"""What touched rows make of the world: only they are read and checked, with what they need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from entrepot.errors import Code, Error
from entrepot.management.recent import concerns_access
from entrepot.management.world import (
    CATALOGUE,
    FIELDS,
    Frame,
    World,
    account_of,
    contract_of,
    document_of,
    grants_of,
    is_disabled,
    is_scheduled,
    keys_of,
    packs_of,
    ref,
    refuse,
    refused,
)
from entrepot.resources import model as declared
from entrepot.resources.checking import check_world
from entrepot.resources.documents import Reading
from entrepot.resources.ids import COGNITIVE, access_id, part, subscription_id
from entrepot.resources.problems import WorldInvalid
from entrepot.resources.reading import Row as SheetRow
from entrepot.snapshot import Delta, Revision
from entrepot.snapshot.compiled import compile_policy
from entrepot.snapshot.published import Kind
from entrepot.storage import EVERYTHING, Row, Tenancy, Transaction

_ACCESS: Final = "/providers/entrepot.access/"
_WHOLE: Final = tuple(
    f"{_ACCESS}{each}/" for each in ("operators", "regions", "providers", "models", "upstreams", "sites", "settings")
)
_ASSIGNED: Final = "/providers/microsoft.authorization/"
_ACCOUNTS: Final = f"/providers/{COGNITIVE}/accounts/".lower()
_USERS_SHOWN: Final = 5


class Step(NamedTuple):
    """From one world to the next. Without a delta the whole is to be published."""

    world: World
    delta: Delta | None
    gateways: frozenset[str]


Touched = Mapping[str, Row | None]


async def following(world: World, transaction: Transaction, touched: Touched, after: Revision, to: Revision) -> Step:
    """The world after a change that touched these ids, read in its transaction; only they are read and checked.

    Raises Error: INVALID_BODY for mistakes inside a resource, CONFLICT for those between resources.
    """
    reader = _Reader(world, transaction, touched)
    await reader.read()
    gone = [key for key, row in touched.items() if row is None]
    await _refuse_use(reader.world, transaction, gone)
    refuse(reader.reading, Code.INVALID_BODY, "the resource is not valid")
    reader.close()
    check_world(reader.reading.sheet, reader.reading.place)
    if reader.whole:
        _check_zones(world, reader)
    refuse(reader.reading, Code.CONFLICT, "the change does not fit what is there")
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
        # What is assigned at a resource has an id below it, and is none of its kind.
        touched = [key for key in self._touched if _ASSIGNED not in key]
        self.whole = any(key.startswith(_WHOLE) for key in touched)
        releases = [key for key in touched if key.startswith(f"{_ACCESS}policyreleases/")]
        gateways = [key for key in touched if key.startswith(f"{_ACCESS}gateways/")]
        self.gateways = {key.rpartition("/")[2] for key in gateways}
        if self.whole or releases or gateways:
            await self._frame(releases)
        if any(map(concerns_access, self._touched)):
            self._access()
        await self._clients()

    def close(self) -> None:
        """Put beside what was read whatever it refers to, for the checks between resources."""
        rows = self.reading.sheet.rows
        if not self.whole:
            for kind, field in zip(CATALOGUE[:-1], FIELDS, strict=False):
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
        frame = Frame.of(by_kind, secrets, reading)
        if not self.whole:
            reading.sheet.rows.clear()
        for row in by_kind["policyRelease"]:
            if row.id.lower() in releases:
                check_policy(row)
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
        grants = grants_of(principals, assignments)
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
            if _ASSIGNED in key:
                continue
            if key.startswith(f"{_ACCESS}organizations/"):
                self._organization(key, row, organizations)
            elif not key.startswith("/subscriptions/"):
                continue
            elif key.count("/") == 2:
                self._contract(key, row, subscriptions)
                touched_accounts |= {each.id.lower() for each in await self._all("account", key)} if row else set()
            elif _ACCOUNTS in key:
                group, _, inside = key.partition(_ACCOUNTS)
                touched_accounts.add(group + _ACCOUNTS + inside.partition("/")[0])
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
        found = self.reading.resource(document_of(row))
        if found is not None:
            known[found.name] = self.organizations[found.name] = found

    def _contract(self, key: str, row: Row | None, known: dict[str, declared.Subscription]) -> None:
        name = key.rpartition("/")[2]
        self._disabled.discard(name)
        if row is None:
            if known.pop(name, None) is not None:
                self.gone.append(("subscription", name))
            return
        if is_disabled(row):
            self._disabled.add(name)
        found = contract_of(row, self.reading)
        if found is not None:
            known[name] = self.subscriptions[name] = found

    async def _client(
        self, key: str, subscriptions: Mapping[str, declared.Subscription], known: dict[str, declared.Account]
    ) -> None:
        name = key.rpartition("/")[2]
        row = self._touched.get(key) or await self._transaction.get(EVERYTHING, key)
        if row is None:
            before = known.get(name)
            if before is not None and is_account(before, key):
                del known[name]
                self.gone.append(("account", name))
            return
        subscription = subscriptions.get(part(key, "subscriptions") or "")
        secrets = {at: kept for at in (ref(key, "key1"), ref(key, "key2")) if (kept := await self._secret(at))}
        deployments = await self._all("deployment", key)
        found = account_of(row, deployments, subscription, keys_of(key, secrets), self.reading)
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
    refuse(reader.reading, Code.INVALID_BODY, "the account is not valid")
    return next(iter(reader.accounts.values()), None)


def is_account(account: declared.Account, key: str) -> bool:
    """Whether the account of that name is the one of that id: another may have taken its name."""
    return part(key, "subscriptions") == account.subscription and (
        (part(key, "resourceGroups") or "").lower() == account.resource_group.lower()
    )


def check_policy(row: Row) -> None:
    """A release that is to take effect must be one that can."""
    if is_scheduled(row):
        try:
            compile_policy(packs_of(row))
        except WorldInvalid as invalid:
            raise refused(invalid.problems, Code.INVALID_BODY, "the policy release cannot take effect") from invalid


def _check_zones(before: World, reader: _Reader) -> None:
    """A zone that no region has any more must not stand in a client's residency."""
    now = {zone for region in reader.world.catalogue.regions for zone in region.zones}
    gone = {zone for region in before.catalogue.regions for zone in region.zones} - now
    users = [each for each in reader.world.accounts.values() if not gone.isdisjoint(each.residency)] if gone else []
    for account in users[:_USERS_SHOWN]:
        zone = next(each for each in account.residency if each in gone)
        what, fix = f"the zone `{zone}` is in the residency of the account `{account.name}`", "change that first"
        region = next((each.name for each in before.catalogue.regions if zone in each.zones), "")
        reader.reading.sheet.mistake(("region", 0, "zones"), what, fix, access_id("region", region))


def _sheet_row(kind: str, struct: msgspec.Struct) -> SheetRow:
    name = str(getattr(struct, "name", None) or getattr(struct, "id", ""))
    at = subscription_id(name) if kind == "subscription" else access_id(kind, name)
    return SheetRow(at, (kind, 0), {field: getattr(struct, field) for field in struct.__struct_fields__}, struct)


async def _refuse_use(world: World, transaction: Transaction, gone: Iterable[str]) -> None:
    """Raises Error CONFLICT where something that is gone is still needed; it names some of what needs it."""
    for key in gone:
        if key.startswith(_ACCESS):
            collection, _, name = key.removeprefix(_ACCESS).partition("/")
            users = _users(world, collection, name)
            if collection == "operators":
                rows = await transaction.list(Tenancy(operators=frozenset({name})), "organization")
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
