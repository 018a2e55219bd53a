"""What gateways ship of their ledgers: taken in by offset, in whole frames, and believed only under a signed root.

A shipped folder is a copy like any other: `entrepot ledger verify` and the follower read it. It has no personal data.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.errors import Code, Error
from entrepot.ledger.files import Files
from entrepot.ledger.shipped import Forked, Misplaced, Shipped
from entrepot.ledger.verify import Key, Unproved, folder_name, read_key
from entrepot.management.changes import Actor, gateway_id
from entrepot.management.http import answer, body, control_of, peer_of, route
from entrepot.management.publish import Publisher
from entrepot.projections.follower import Source, sources_in
from entrepot.storage import EVERYTHING

LARGEST: Final = 64 * 1024 * 1024
FOLDER: Final = "shipped"
_LOG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)
_FIRST: Final = re.compile(r"[0-9]{8,16}", re.ASCII)

T = TypeVar("T")

log = logging.getLogger(__name__)


class Shipments:
    """The shipped folders of this control plane: `DIR/shipped/GATEWAY/ledger`. For one event loop."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._held: dict[tuple[str, str], Shipped] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self.problems: dict[str, str] = {}
        """By gateway: why what it ships is not taken. Until it ships something that is."""

    def wanted(self, gateway: str) -> bool:
        """Not of a gateway whose own folder is here: the follower reads that."""
        return not (self._data / "gateways" / gateway / "ledger").is_dir()

    def folder(self, gateway: str) -> Path:
        return self._data / FOLDER / gateway / "ledger"

    def signed(self, gateway: str) -> dict[str, dict[str, object]]:
        """Of each log, what the last checkpoint that was taken covers. Blocks."""
        folder = self.folder(gateway)
        found = {}
        for each in sorted(folder.iterdir()) if folder.is_dir() else ():
            if each.is_dir() and (signed := Shipped.covered(each)) is not None:
                found[each.name] = {"size": signed.size, "root": signed.root.hex()}
        return found

    async def at(self, gateway: str, name: str, key: Key, work: Callable[[Shipped], T]) -> T:
        """`work` in a thread, for one request of a gateway at a time. Raises Error CONFLICT."""
        async with self._turns.setdefault(gateway, asyncio.Lock()):
            try:
                made = await asyncio.to_thread(self._work, (gateway, name), key, work)
            except Misplaced as wrong:
                raise Error(Code.CONFLICT, str(wrong), name="WrongOffset") from wrong
            except (Forked, Unproved) as wrong:
                raise self._refused(gateway, name, str(wrong)) from wrong
            except OSError as wrong:
                self._held.pop((gateway, name), None)
                raise Error(Code.NOT_READY, f"what was shipped cannot be kept: {wrong.strerror}") from wrong
        self.problems.pop(gateway, None)
        return made

    def _work(self, of: tuple[str, str], key: Key, work: Callable[[Shipped], T]) -> T:
        held = self._held.get(of)
        if held is None:
            folder = self.folder(of[0])
            _keep_key(folder.parent / "keys", key)
            held = self._held[of] = Shipped.open(folder / of[1], key)
        return work(held)

    def _refused(self, gateway: str, name: str, problem: str) -> Error:
        if self.problems.get(gateway) != problem:
            fields = {"gateway": gateway, "log": name, "problem": problem}
            log.error("a gateway ships what does not prove true", extra={"fields": fields})
        self.problems[gateway] = problem
        return Error(Code.CONFLICT, f"the log `{name}`: {problem}", name="LedgerForked")


def followed(data: Path, publisher: Publisher) -> Callable[[], list[Source]]:
    """All ledgers that a control plane reads: those of gateways' folders here, and those that are shipped.

    The keys of shipped ones are those of the gateways' rows. Called in a thread.
    """

    def sources() -> list[Source]:
        found = sources_in((data / "gateways").glob("*"))
        for name, gateway in publisher.gateways.items():
            folder = data / FOLDER / name / "ledger"
            if folder.is_dir():
                keys = [read_key(key) for key in gateway.ledger_keys]
                for key in keys:
                    _keep_key(folder.parent / "keys", key)
                found += [Source(folder, key, shipped=True) for key in keys]
        return found

    return sources


def _keep_key(folder: Path, key: Key) -> None:
    """Beside the copy, as beside any ledger: backups are verified by it, and by whoever has only the folder."""
    path = folder / f"{folder_name(key.name)}.vkey"
    if not path.exists():
        with contextlib.suppress(OSError):  # it is tried again with the next look
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            Files().replace(path, f"{key}\n".encode())


def routes() -> list[Route]:
    """`/entrepot/logs…`; wants no caller: a gateway shows its own secret."""
    return [
        route("GET", "/entrepot/logs", _state, public=True),
        route("PUT", "/entrepot/logs/keys", _key, public=True),
        route("PUT", "/entrepot/logs/list", _list, public=True),
        route("GET", "/entrepot/logs/{log}", _position, public=True),
        route("PUT", "/entrepot/logs/{log}/checkpoint", _checkpoint, public=True),
        route("PUT", "/entrepot/logs/{log}/{first}", _frames, public=True),
    ]


async def _state(request: Request) -> Response:
    """What is wanted, which keys are pinned, and how far each log is."""
    name, keys = _admitted(request)
    shipments = _shipments(request)
    logs = await asyncio.to_thread(shipments.signed, name)
    return answer({"ship": shipments.wanted(name), "keys": [str(key) for key in keys], "logs": logs})


async def _key(request: Request) -> Response:
    """The gateway's key, shown for the first time, is the one that its logs have to be signed with from now on."""
    name, keys = _admitted(request)
    try:
        key = read_key(str((await body(request)).get("key", "")))
    except Unproved as wrong:
        raise Error(Code.INVALID_BODY, str(wrong), param="key") from wrong
    if key not in keys:
        _fits(request, name, key)
        await _pin(request, name, key)
    return answer({"keys": [str(each) for each in {*keys, key}]})


def _fits(request: Request, name: str, key: Key) -> None:
    """Raises Error CONFLICT for a key by which a gateway could speak for others, or otherwise than it did before."""
    gateways = control_of(request).publisher.gateways
    gateway = gateways[name]
    if key.name != gateway.given.log_name:
        what = f"the key is that of `{key.name}`, but this gateway's `logName` is `{gateway.given.log_name}`"
        raise Error(Code.CONFLICT, what, name="LedgerKeyRefused")
    for other, each in gateways.items():
        for known in map(read_key, each.ledger_keys):
            if known.name == key.name or (other != name and _overlap(known.name, key.name)):
                fields = {"gateway": name, "key": str(key), "known": str(known), "of": other}
                log.error("a gateway shows another key for its ledger", extra={"fields": fields})
                what = (
                    f"logs of `{known.name}` are signed by another key of gateway `{other}`; if its folder was lost, "
                    "give the gateway another `logName`"
                )
                raise Error(Code.CONFLICT, what, name="LedgerKeyRefused")


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


async def _pin(request: Request, name: str, key: Key) -> None:
    control = control_of(request)
    actor = Actor(f"gateway:{name}", name, "", peer_of(request))
    async with control.change(actor, "Entrepot.Access/gateways/ledgerKey") as change:
        row = await change.get(EVERYTHING, gateway_id(name))
        if row is None:
            raise Error(Code.NOT_FOUND, f"there is no gateway `{name}`", name="ResourceNotFound")
        properties = row.body.get("properties", {})
        pinned = [each for each in properties.get("ledgerKeys", ()) if read_key(each).name != key.name]
        made = {**row.body, "properties": {**properties, "ledgerKeys": [*pinned, str(key)]}}
        await change.put(change.draft(row.id, row.kind, made, operator=row.operator, subscription=row.subscription))


async def _list(request: Request) -> Response:
    name, keys = _admitted(request)
    note = await _body(request)
    shipments = _shipments(request)
    for key in keys:
        folder = shipments.folder(name)
        try:
            await asyncio.to_thread(Shipped.enlist, folder, note, key)
        except (Forked, Unproved) as wrong:
            problem = wrong
            continue
        except OSError as error:
            raise Error(Code.NOT_READY, f"the list cannot be kept: {error.strerror}") from error
        return answer({})
    raise Error(Code.CONFLICT, f"the list of logs: {problem if keys else 'no key is known'}", name="LedgerForked")


async def _position(request: Request) -> Response:
    name, log_name, key = _of_log(request)
    held = await _shipments(request).at(name, log_name, key, Shipped.position)
    return answer(held)


async def _frames(request: Request) -> Response:
    name, log_name, key = _of_log(request)
    first, offset = request.path_params["first"], request.query_params.get("offset", "")
    if not _FIRST.fullmatch(first) or not (offset.isascii() and offset.isdecimal() and len(offset) < 16):
        raise Error(Code.BAD_REQUEST, "give a segment by its first entry, and `offset`")
    data = await _body(request)

    def add(held: Shipped) -> dict[str, int]:
        held.add(int(first), int(offset), data)
        return held.position()

    return answer(await _shipments(request).at(name, log_name, key, add))


async def _checkpoint(request: Request) -> Response:
    name, log_name, key = _of_log(request)
    note = await _body(request)
    return answer(await _shipments(request).at(name, log_name, key, lambda held: held.sign(note)))


def _shipments(request: Request) -> Shipments:
    found: Shipments = request.app.state.shipments
    return found


def _admitted(request: Request) -> tuple[str, list[Key]]:
    """The gateway's name as its row spells it, and its keys. Raises Error UNAUTHENTICATED."""
    publisher = control_of(request).publisher
    shown = request.headers.get("x-entrepot-gateway", "")
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    publisher.admit(shown, secret if scheme.lower() == "bearer" else "")
    name = next(each for each in publisher.gateways if each.lower() == shown.lower())
    return name, [read_key(key) for key in publisher.gateways[name].ledger_keys]


def _of_log(request: Request) -> tuple[str, str, Key]:
    """Raises Error for a log that is not the gateway's."""
    name, keys = _admitted(request)
    log_name = str(request.path_params["log"])
    for key in keys:
        if _LOG.fullmatch(log_name) and log_name.startswith(folder_name(f"{key.name}/")):
            return name, log_name, key
    raise Error(Code.CONFLICT, "no key of this gateway signs a log of this name", name="LedgerKeyRefused")


async def _body(request: Request) -> bytes:
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > LARGEST:
                raise Error(Code.BODY_TOO_LARGE, f"the body is larger than {LARGEST} bytes")
            chunks.append(chunk)
    except ClientDisconnect:
        raise Error(Code.BAD_REQUEST, "the request ended early") from None
    return b"".join(chunks)
