"""Who is asking, and whether they may. Routes call `require`; nothing else on the management plane decides on access.

A scope is a lower-case id or `/`; the chain of a resource is its own id, what it lies in, its operator, and `/`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request

from entrepot.errors import Code, Error
from entrepot.management.changes import Actor
from entrepot.management.recent import Mark, Marks, Recent
from entrepot.management.roles import BY_ID, Assignment, find_role
from entrepot.storage import EVERYTHING, Row, Store, Tenancy

if TYPE_CHECKING:
    from entrepot.management.authority import Authority
    from entrepot.management.control import Control

INSTANCE = "/"
OPERATORS = "/providers/entrepot.access/operators/"
PRINCIPALS = "/providers/Entrepot.Access/principals/"
_SUBSCRIPTIONS = "/subscriptions/"
_OWN = "entrepot.access/"

# What is the instance's and concerns everyone: whoever has a token may read it.
_CATALOGUE = frozenset(
    f"entrepot.access/{kind}/read" for kind in ("regions", "providers", "models", "sites", "settings", "policyreleases")
)

# INVARIANT: what the policy reads, a tenant cannot write. Actions of Entrepot.Access count only where they were given
# at an operator or at the instance; whatever role somebody has on a subscription or below, Owner included, gives
# none of them but these: to read what was proposed for it, and to propose its own egress networks and residency.
_TENANTS_OWN = frozenset({"entrepot.access/proposals/read", "entrepot.access/proposals/tenant/action"})


class Caller(msgspec.Struct, frozen=True):
    """One request's principal. `tenancy` bounds every query that is made for it; `require` decides within it."""

    actor: Actor
    assignments: tuple[Assignment, ...]
    tenancy: Tenancy


class Principal(msgspec.Struct, frozen=True):
    """`id` is the object id and the client id at once; `name` is the last part of its resource id."""

    id: str
    name: str
    display_name: str
    enabled: bool


class Listing(msgspec.Struct, frozen=True):
    """All principals by their id, and their assignments."""

    principals: Mapping[str, Principal]
    assignments: Mapping[str, tuple[Assignment, ...]]

    def live(self) -> list[Assignment]:
        """The assignments of principals that are enabled."""
        return [
            each
            for oid, found in self.assignments.items()
            if (principal := self.principals.get(oid)) is not None and principal.enabled
            for each in found
        ]


class Directory:
    """Principals and role assignments as the store holds them, read anew when one of them has changed."""

    def __init__(self, store: Store) -> None:
        self.recent = Recent(store)
        self._store = store
        self._mark: Mark | None = None
        self._listing = Listing({}, {})
        self._reading = asyncio.Lock()

    async def listing(self, marks: Marks | None = None) -> Listing:
        """As of `marks`, by default of now: a principal that was disabled or an assignment that was removed is gone."""
        mark = (marks or await self.recent.look()).access
        async with self._reading:
            if mark != self._mark:
                self._listing = listing_of(
                    await self._store.list(EVERYTHING, "principal"),
                    await self._store.list(EVERYTHING, "roleAssignment"),
                )
                self._mark = mark
            return self._listing


def listing_of(principals: Sequence[Row], assignments: Sequence[Row]) -> Listing:
    found: dict[str, list[Assignment]] = {}
    for row in assignments:
        one = assignment_of(row)
        found.setdefault(one.principal, []).append(one)
    listed = (principal_of(row) for row in principals)
    return Listing({each.id: each for each in listed}, {oid: tuple(each) for oid, each in found.items()})


def principal_of(row: Row) -> Principal:
    properties = row.body["properties"]
    return Principal(
        id=properties["appId"],
        name=row.name,
        display_name=properties.get("displayName") or row.name,
        enabled=properties.get("state", "Enabled") == "Enabled",
    )


def assignment_of(row: Row) -> Assignment:
    properties = row.body["properties"]
    role = find_role(properties["roleDefinitionId"])
    scope = properties["scope"].lower()
    return Assignment(properties["principalId"].lower(), role.id if role else "", scope.rstrip("/") or INSTANCE)


def caller(request: Request) -> Caller:
    """Set by `authenticate`, before any route that needs it."""
    found: Caller = request.state.caller
    return found


async def authenticate(request: Request, peer: str) -> Caller:
    """Raises Error UNAUTHENTICATED. The token is verified with the pinned algorithm of our own keys, nothing else."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Error(
            Code.UNAUTHENTICATED,
            "Authentication failed. The 'Authorization' header is missing or is no bearer token.",
            name="AuthenticationFailed",
        )
    authority: Authority = request.app.state.authority
    try:
        oid, marks = await authority.principal(token.strip())
    except Error as error:
        if error.code is not Code.UNAUTHENTICATED:
            raise
        raise Error(Code.UNAUTHENTICATED, error.message, name="InvalidAuthenticationToken") from error
    directory: Directory = request.app.state.directory
    listing = await directory.listing(marks)
    principal = listing.principals.get(oid)
    if principal is None or not principal.enabled:
        raise Error(
            Code.UNAUTHENTICATED,
            "the principal of this token does not exist or is disabled",
            name="AuthenticationFailed",
        )
    assignments = listing.assignments.get(oid, ())
    actor = Actor(principal=oid, name=principal.name, request=request.state.request_id, peer=peer)
    return Caller(actor, assignments, tenancy_of(assignments))


def tenancy_of(assignments: Sequence[Assignment]) -> Tenancy:
    """The rows that can concern somebody with these assignments; whoever has none still sees the catalogue."""
    scopes = {each.scope for each in assignments}
    return Tenancy(
        everything=INSTANCE in scopes,
        operators=frozenset(scope.split("/")[4] for scope in scopes if is_operator(scope)),
        subscriptions=frozenset(scope.split("/")[2] for scope in scopes if scope.startswith(_SUBSCRIPTIONS)),
    )


def may(caller: Caller, action: str, chain: Sequence[str]) -> bool:
    """Whether one of the caller's roles at a scope of `chain` allows `action`."""
    lower = action.lower()
    if lower in _CATALOGUE:
        return True
    scopes = frozenset(chain)
    return any(
        each.scope in scopes
        and (role := BY_ID.get(each.role)) is not None
        and _effective(lower, each.scope)
        and role.allows(lower)
        for each in caller.assignments
    )


def _effective(action: str, scope: str) -> bool:
    return not action.startswith(_OWN) or scope == INSTANCE or is_operator(scope) or action in _TENANTS_OWN


def require(caller: Caller, action: str, chain: Sequence[str]) -> None:
    """Raises Error: ACCESS_DENIED where the caller may at least read, else NOT_FOUND, so that nothing is given away."""
    if may(caller, action, chain):
        return
    if not may(caller, reading(action), chain):
        raise not_found(chain[0])
    actor = caller.actor
    raise Error(
        Code.ACCESS_DENIED,
        f"The client '{actor.name}' with object id '{actor.principal}' does not have authorization to perform action "
        f"'{action}' over scope '{chain[0]}' or the scope is invalid. If access was recently granted, please refresh "
        "your credentials.",
        name="AuthorizationFailed",
    )


def not_found(resource: str) -> Error:
    return Error(Code.NOT_FOUND, f"The resource '{resource}' was not found.", name="ResourceNotFound")


def reading(action: str) -> str:
    """`A/b/write` → `A/b/read`; `A/b/doIt/action` → `A/b/read`."""
    parts = action.split("/")
    return "/".join([*parts[: -2 if parts[-1].lower() == "action" else -1], "read"])


def chain_of(row: Row, operator: str | None = None) -> tuple[str, ...]:
    """The scopes that a resource lies in, its own first. `operator` where the row does not name it itself."""
    return chain_from(row.id, operator or row.operator)


def chain_from(resource: str, operator: str | None) -> tuple[str, ...]:
    """The same for an id at which there is nothing yet. Rows of the instance alone have the operator ``""``."""
    found = ancestors(resource)
    if operator and (scope := OPERATORS + operator.lower()) not in found:
        found.append(scope)
    return (*found, INSTANCE)


async def chain(control: Control, resource: str) -> tuple[str, ...]:
    """The same where only the id is known: the operator is that of the resource, or of the subscription it is in."""
    parts = resource.split("/")
    owner = "/".join(parts[:3]) if resource.lower().startswith(_SUBSCRIPTIONS) else resource
    row = await control.store.get(EVERYTHING, owner)
    return chain_from(resource, row.operator if row is not None else None)


def ancestors(resource: str) -> list[str]:
    """An id and those that it lies in, in lower case; ids are pairs, of which `providers/NAMESPACE` is no resource."""
    parts = resource.lower().strip("/").split("/")
    found = []
    while len(parts) >= 2:
        if parts[-2] != "providers":
            found.append("/" + "/".join(parts))
        parts = parts[:-2]
    return found


def is_operator(scope: str) -> bool:
    return scope.startswith(OPERATORS) and scope.count("/") == 4
