"""The publishing side of the long poll: what each gateway runs, what it lacks, sealed for it alone."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Error
from entrepot.management.http import control_of, peer_of, route
from entrepot.management.keyring import Keyring, Keys
from entrepot.management.touched import Step
from entrepot.management.world import Gateway, World
from entrepot.resources.model import Account, Organization, Subscription
from entrepot.snapshot import Delta, Published, Revision, encode
from entrepot.snapshot.published import Kind, name_of
from entrepot.snapshot.sealed import seal

if TYPE_CHECKING:
    from entrepot.management.control import Control

KEPT: Final = 512
LARGEST: Final = 4_096
LONGEST_WAIT_S: Final = 55.0
_ETAG = re.compile(r'"(\d{1,9})\.(\d{1,15})"')

Client = TypeVar("Client", Organization, Subscription, Account)


class Seen(msgspec.Struct, frozen=True):
    """What a gateway last said of itself: the revision that all its workers run, and whether it is ready."""

    revision: Revision | None
    ready: bool
    at_ms: int
    peer: str
    trust: str = ""
    """The digest of what it believes."""
    at_s: float = msgspec.field(default_factory=time.monotonic)


class Publisher:
    """What is published now, and the way there. `publish` and `send` belong to one loop."""

    def __init__(self, signer: Ed25519PrivateKey) -> None:
        """`signer` signs what is sent unless `send` is told another one."""
        self._signer = signer
        self._world: World | None = None
        self._revision = Revision(0, 0)
        self._deltas: deque[Delta] = deque(maxlen=KEPT)
        self._wholes: dict[str, Revision] = {}  # gateways that need the whole if they run less than this
        self._published = asyncio.Event()
        self._seen: dict[str, Seen] = {}
        self._times: deque[tuple[Revision, int]] = deque(maxlen=KEPT)
        self._released = False
        self.begun_s = time.monotonic()
        self.trust = ""
        """The digest of what gateways are to believe."""

    @property
    def revision(self) -> Revision:
        return self._revision

    def seen(self, gateway: str) -> Seen | None:
        """As this control plane saw it; None when the gateway has not asked since the start."""
        return self._seen.get(gateway.lower())

    def behind_ms(self, seen: Seen) -> int:
        """Since when there is something that a gateway did not run when it asked; 0 if there is nothing."""
        if seen.revision == self._revision:
            return 0
        newer = (at_ms for revision, at_ms in self._times if seen.revision is None or revision > seen.revision)
        return max(0, wall_clock_ms() - next(newer, self._times[-1][1]))

    def publish(self, step: Step, revision: Revision) -> None:
        """From here on gateways get this; those that wait, at once."""
        self._world, self._revision = step.world, revision
        self._times.append((revision, wall_clock_ms()))
        if step.delta is None:
            self._deltas.clear()
        else:
            self._deltas.append(step.delta)
        for name in step.gateways:
            self._wholes[name] = revision
        published, self._published = self._published, asyncio.Event()
        published.set()

    def release(self) -> None:
        """Nobody is kept waiting any more: for the end of the process."""
        self._released = True
        self._published.set()

    def admit(self, name: str, secret: str) -> Gateway:
        """Raises Error UNAUTHENTICATED unless it is the secret of a gateway that is enrolled."""
        found = next((each for key, each in self.gateways.items() if key.lower() == name.lower()), None)
        shown = sha256(secret.encode()).digest()
        held = found.secret if found is not None else None
        if not hmac.compare_digest(shown, held or bytes(32)) or held is None or found is None:
            raise Error(Code.UNAUTHENTICATED, "no gateway of this name and secret is enrolled", name="NotEnrolled")
        return found

    @property
    def gateways(self) -> Mapping[str, Gateway]:
        """By name."""
        return self._world.gateways if self._world is not None else {}

    def tell(self, name: str, seen: Seen) -> None:
        """A gateway that asks for the whole says nothing of what it runs: that stays as it was told."""
        before = self._seen.get(name.lower())
        if seen.revision is None and before is not None:
            seen = msgspec.structs.replace(seen, revision=before.revision)
        self._seen[name.lower()] = seen

    async def send(
        self, name: str, secret: str, held: Revision | None, wait_s: float, signer: Ed25519PrivateKey | None = None
    ) -> tuple[Revision, bytes] | None:
        """What a gateway that runs `held` lacks, sealed to it; None when there is nothing for so long.

        Raises Error UNAUTHENTICATED, also where the gateway is removed while it waits.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            gateway = self.admit(name, secret)
            message = self._lacking(name, gateway, held)
            if message is not None:
                break
            if self._released:
                return None
            published = self._published
            try:
                async with asyncio.timeout_at(deadline):
                    await published.wait()
            except TimeoutError:
                return None
        sealing, signer = _sealing(gateway), signer or self._signer
        if isinstance(message, Published):
            return message.revision, await asyncio.to_thread(_sealed, name, sealing, message, signer)
        return message.revision, _sealed(name, sealing, message, signer)

    def _lacking(self, name: str, gateway: Gateway, held: Revision | None) -> Published | Delta | None:
        now, world = self._revision, self._world
        if world is None or held == now:
            return None
        merged = None if held is None or held < self._wholes.get(name.lower(), held) else self._since(held)
        return world.published(now, gateway) if merged is None else merged

    def _since(self, held: Revision) -> Delta | None:
        """One delta from `held` to now; None where that is not kept, or would be large."""
        deltas = [each for each in self._deltas if each.after >= held]
        if not deltas or deltas[0].after != held:
            return None
        if sum(len(each.accounts) + len(each.organizations) for each in deltas) > LARGEST:
            return None
        return deltas[0] if len(deltas) == 1 else merge(deltas)


def _sealing(gateway: Gateway) -> bytes:
    if gateway.sealing is None:
        raise Error(Code.UNAUTHENTICATED, "this gateway has no sealing key: enrol it anew", name="NotEnrolled")
    return gateway.sealing


def _sealed(name: str, sealing: bytes, message: Published | Delta, signer: Ed25519PrivateKey) -> bytes:
    kind: Any = "published" if isinstance(message, Published) else "delta"
    return seal(encode(message), to=sealing, signer=signer, gateway=name, kind=kind, revision=message.revision)


def merge(deltas: list[Delta]) -> Delta:
    """One delta that does what these do, one after the other."""
    grants = [each.grants for each in deltas if each.grants is not None]
    organizations = _last((each.organizations, each.gone) for each in deltas)
    subscriptions = _last((each.subscriptions, each.gone) for each in deltas)
    accounts = _last((each.accounts, each.gone) for each in deltas)
    return Delta(
        deltas[0].after,
        deltas[-1].revision,
        _given(organizations, "organization"),
        _given(subscriptions, "subscription"),
        _given(accounts, "account"),
        tuple(
            (kind, name)
            for kind, found in (
                ("organization", organizations),
                ("subscription", subscriptions),
                ("account", accounts),
            )
            for (of, name), each in found.items()
            if each is None and of == kind
        ),
        {ref: value for each in deltas for ref, value in each.secrets.items()},
        grants[-1] if grants else None,
    )


_KINDS: Final[Mapping[type, Kind]] = {Organization: "organization", Subscription: "subscription", Account: "account"}
Last = dict[tuple[Kind, str], Any]


def _last(steps: Iterable[tuple[Iterable[Any], Iterable[tuple[Kind, str]]]]) -> Last:
    """What became of each client: as it was given last, or None where it is gone."""
    found: Last = {}
    for given, gone in steps:
        found |= dict.fromkeys(gone)
        found |= {(_KINDS[type(each)], name_of(each)): each for each in given}
    return found


def _given(found: Last, kind: Kind) -> tuple[Any, ...]:
    return tuple(each for (of, _), each in found.items() if of == kind and each is not None)


def routes() -> list[Route]:
    """`GET /entrepot/snapshot` and `…/trust`; they want no caller: a gateway shows its own secret."""
    return [
        route("GET", "/entrepot/snapshot", _snapshot, public=True),
        route("GET", "/entrepot/trust", _trust, public=True),
    ]


async def _asked(request: Request) -> tuple[str, str, Gateway, Keys]:
    """The gateway's name and secret, its row, and the keys, those that it believes among them. Raises Error."""
    control: Control = control_of(request)
    name = request.headers.get("x-entrepot-gateway", "")
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    secret = secret if scheme.lower() == "bearer" else ""
    gateway = control.publisher.admit(name, secret)
    return name, secret, gateway, await keys_of(request, request.headers.get("x-entrepot-believes", ""))


async def keys_of(request: Request, believed: str = "") -> Keys:
    """As they are now; the publisher knows them from here on. Raises Error while they cannot be read."""
    keyring: Keyring = request.app.state.keyring
    keys = await keyring.keys(believed)
    control_of(request).publisher.trust = keys.trust.digest()
    return keys


async def _trust(request: Request) -> Response:
    """What a gateway is to believe from here on, under a key that it believes now."""
    control: Control = control_of(request)
    name, _, gateway, keys = await _asked(request)
    data = seal(
        msgspec.json.encode(keys.trust),
        to=_sealing(gateway),
        signer=keys.signer(request.headers.get("x-entrepot-believes", "")),
        gateway=name,
        kind="trust",
        revision=control.publisher.revision,
    )
    return Response(data, media_type="application/octet-stream", headers={"cache-control": "no-store"})


async def _snapshot(request: Request) -> Response:
    control: Control = control_of(request)
    name, secret, _, keys = await _asked(request)
    held = _held(request.headers.get("if-none-match"))
    ready = request.headers.get("x-entrepot-ready", "").lower() == "true"
    trust = request.headers.get("x-entrepot-trust", "")[:64]
    control.publisher.tell(name, Seen(held, ready, wall_clock_ms(), peer_of(request), trust))
    signer = keys.signer(request.headers.get("x-entrepot-believes", ""))
    wait_s = 0.0 if trust not in {"", keys.trust.digest()} else _wait_s(request.query_params.get("wait", ""))
    sent = await control.publisher.send(name, secret, held, wait_s, signer)
    told = {"x-entrepot-trust": keys.trust.digest()}
    if sent is None:
        return Response(status_code=304, headers=told | {"etag": f'"{control.publisher.revision}"'})
    revision, data = sent
    headers = told | {"etag": f'"{revision}"', "cache-control": "no-store"}
    return Response(data, media_type="application/octet-stream", headers=headers)


def _held(etag: str | None) -> Revision | None:
    found = _ETAG.fullmatch(etag) if etag else None
    return Revision(int(found[1]), int(found[2])) if found else None


def _wait_s(text: str) -> float:
    return min(float(text), LONGEST_WAIT_S) if text.isascii() and text.isdecimal() and len(text) < 6 else 0.0
