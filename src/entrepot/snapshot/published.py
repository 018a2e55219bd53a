"""What is published to a gateway: a whole world, or what changed since. As MessagePack it is in pieces: a large world

decoded at one go would hold the interpreter, and with it every call of the process, for a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal, TypeVar

import msgspec

from entrepot.resources.model import Account, Organization, Subscription, World
from entrepot.resources.problems import Problem, WorldInvalid
from entrepot.snapshot.revision import Revision
from entrepot.snapshot.sharing import Sharing

PIECE = 128

Kind = Literal["organization", "subscription", "account"]


class Issuer(msgspec.Struct, frozen=True):
    """Whose tokens open the data plane. `keys` is a JWK set in JSON (RFC 7517 §5), public halves only."""

    url: str
    keys: bytes
    audiences: tuple[str, ...]


class Published(msgspec.Struct, frozen=True):
    """All that a gateway decides by.

    `secrets` holds the value of every reference in the world (`env:…`, `file:…`, `secret:…`); clients' keys come as
    `sha256:HEX` and need none. `grants`: a principal's object id → scopes (ids in lower case) where it may call models.
    """

    revision: Revision
    world: World
    secrets: dict[str, str] = {}
    issuer: Issuer | None = None
    grants: dict[str, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        return f"Published({self.revision})"


class Delta(msgspec.Struct, frozen=True):
    """What leads from the revision `after` to `revision`: clients in full as they are now, and the names of those gone.

    A client that is both in `gone` and given is given. `secrets` are new ones; none that is known gets another value.
    `grants` replaces all of them; None leaves them.
    """

    after: Revision
    revision: Revision
    organizations: tuple[Organization, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    accounts: tuple[Account, ...] = ()
    gone: tuple[tuple[Kind, str], ...] = ()
    secrets: dict[str, str] = {}
    grants: dict[str, tuple[str, ...]] | None = None

    def __repr__(self) -> str:
        return f"Delta({self.after} to {self.revision})"


class _Pieces(msgspec.Struct, frozen=True):
    """The clients, each piece a MessagePack array of at most `PIECE` of them."""

    organizations: list[memoryview]
    subscriptions: list[memoryview]
    accounts: list[memoryview]


class _Whole(msgspec.Struct, frozen=True, tag="published"):
    published: Published  # its world without clients
    clients: _Pieces


class _Changed(msgspec.Struct, frozen=True, tag="delta"):
    delta: Delta  # without clients
    clients: _Pieces


_decoder = msgspec.msgpack.Decoder(_Whole | _Changed)
_organizations = msgspec.msgpack.Decoder(tuple[Organization, ...])
_subscriptions = msgspec.msgpack.Decoder(tuple[Subscription, ...])
_accounts = msgspec.msgpack.Decoder(tuple[Account, ...])


def encode(message: Published | Delta) -> bytes:
    """For `decode`, here or in a gateway of another release: fields that one of them does not know are passed over."""
    of: World | Delta = message.world if isinstance(message, Published) else message
    clients = _Pieces(*([*_pieces(each)] for each in (of.organizations, of.subscriptions, of.accounts)))
    bare: Any = msgspec.structs.replace(of, organizations=(), subscriptions=(), accounts=())
    if isinstance(message, Published):
        return msgspec.msgpack.encode(_Whole(msgspec.structs.replace(message, world=bare), clients))
    return msgspec.msgpack.encode(_Changed(bare, clients))


def decode(data: bytes) -> Published | Delta:
    """Raises WorldInvalid for what `encode` did not make. Other threads run meanwhile."""
    try:
        wire, sharing = _decoder.decode(data), Sharing()
        clients: dict[str, Any] = {
            "organizations": _joined(
                wire.clients.organizations, lambda piece: sharing.organizations(_organizations.decode(piece))
            ),
            "subscriptions": _joined(
                wire.clients.subscriptions, lambda piece: sharing.subscriptions(_subscriptions.decode(piece))
            ),
            "accounts": _joined(wire.clients.accounts, lambda piece: sharing.accounts(_accounts.decode(piece))),
        }
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise unfit(
            f"the publication cannot be read: {error}", "bring gateway and control plane to one release"
        ) from error
    if isinstance(wire, _Changed):
        delta: Delta = msgspec.structs.replace(wire.delta, **clients)
        return delta
    world = msgspec.structs.replace(wire.published.world, **clients)
    published: Published = msgspec.structs.replace(wire.published, world=world)
    return published


def _pieces(items: Sequence[object]) -> Iterator[memoryview]:
    for at in range(0, len(items), PIECE):
        yield memoryview(msgspec.msgpack.encode(items[at : at + PIECE]))


Item = TypeVar("Item")


def _joined(pieces: Iterable[memoryview], read: Callable[[memoryview], tuple[Item, ...]]) -> tuple[Item, ...]:
    return tuple(chain.from_iterable([read(piece) for piece in pieces]))


def applied(published: Published, delta: Delta) -> Published:
    """The whole after the delta. Raises WorldInvalid if the delta is not one to `published`; checks nothing else."""
    must_follow(published.revision, delta)
    gone, world = frozenset(delta.gone), published.world
    world = msgspec.structs.replace(
        world,
        organizations=_merged(world.organizations, delta.organizations, gone, "organization"),
        subscriptions=_merged(world.subscriptions, delta.subscriptions, gone, "subscription"),
        accounts=_merged(world.accounts, delta.accounts, gone, "account"),
    )
    return Published(
        delta.revision,
        world,
        {**published.secrets, **delta.secrets},
        published.issuer,
        published.grants if delta.grants is None else delta.grants,
    )


def must_follow(revision: Revision, delta: Delta) -> None:
    if delta.after != revision:
        what = f"the change is one to revision {delta.after}, and this is {revision}"
        raise unfit(what, "publish the whole")


def difference(before: Published, after: Published) -> Delta | None:
    """What leads from one to the other; None where more than clients, their keys and grants changed."""
    if bare(before.world) != bare(after.world) or before.issuer != after.issuer or before.secrets != after.secrets:
        return None
    gone: list[tuple[Kind, str]] = []

    def changed(kind: Kind, old: Iterable[Any], new: Iterable[Any]) -> tuple[Any, ...]:
        known = {name_of(each): each for each in old}
        found = tuple(each for each in new if known.pop(name_of(each), None) != each)
        gone.extend((kind, name) for name in known)
        return found

    old, new = before.world, after.world
    return Delta(
        before.revision,
        after.revision,
        changed("organization", old.organizations, new.organizations),
        changed("subscription", old.subscriptions, new.subscriptions),
        changed("account", old.accounts, new.accounts),
        tuple(gone),
        grants=None if before.grants == after.grants else after.grants,
    )


def bare(world: World) -> World:
    """The world without clients: its catalogue, policy and settings."""
    return msgspec.structs.replace(world, organizations=(), subscriptions=(), accounts=())


def name_of(client: Organization | Subscription | Account) -> str:
    return client.id if isinstance(client, Subscription) else client.name


def _merged(old: Iterable[Any], new: Iterable[Any], gone: frozenset[tuple[Kind, str]], kind: Kind) -> tuple[Any, ...]:
    found = {name_of(each): each for each in old}
    for named, name in gone:
        if named == kind:
            found.pop(name, None)
    found.update((name_of(each), each) for each in new)
    return tuple(found.values())


def unfit(what: str, fix: str, key: str = "") -> WorldInvalid:
    """One mistake of a world that does not come from a file."""
    return WorldInvalid([Problem("world", None, key, what, fix)])
