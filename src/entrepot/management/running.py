"""The control plane as a process: folder, keys and certificates, the database, and the https listener over them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette

from entrepot.errors import Code, Error
from entrepot.http1.inherited import matching
from entrepot.identity import certificates
from entrepot.management.app import app
from entrepot.management.authority import Site
from entrepot.management.believed import Believed
from entrepot.management.changes import ITSELF
from entrepot.management.control import Control
from entrepot.management.enrol import make_token
from entrepot.management.first import GATEWAY, Begun, Place, begin, listen_at, renew_token_key
from entrepot.management.heard import Heard
from entrepot.management.shipping import followed
from entrepot.management.showing import show
from entrepot.projections.follower import Follower
from entrepot.resources.ids import access_id
from entrepot.resources.model import UNKNOWN
from entrepot.resources.territories import normalise_territory
from entrepot.storage import EVERYTHING, MasterKey, Row
from entrepot.storage.projected import Projected

CONTROL_FILE = "control.json"
TOKEN_FILE = "enrol.token"  # noqa: S105 - the name of a file
DRAIN_S = 5
OWN_PORTS = (20_000, 32_000)
"""Below those that Linux gives to outgoing connections (`ip_local_port_range`)."""
PORTS_TRIED = 20
DATABASE = "control.db"
_DATA_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
_ANY = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - recognised, not bound

log = logging.getLogger(__name__)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`data_listen` and `admin_listen` are the local gateway's; None leaves what was set before.

    `url` is the control plane's own where clients reach it by another name than this machine's. `given` are listening
    sockets that a supervisor holds.
    """

    data: Path
    listen: str = "127.0.0.1:8443"
    database: str | None = None
    url: str | None = None
    data_url: str | None = None
    data_listen: str | None = None
    admin_listen: str | None = None
    territory: str = UNKNOWN
    local_gateway: bool = False
    given: tuple[socket.socket, ...] = ()
    new_token_key: bool = False

    def option(self, field: str) -> str:
        """What the user typed for one of the addresses; `serve`, which has the local gateway, names two otherwise."""
        of_serve = {"listen": "--management", "data_listen": "--listen"} if self.local_gateway else {}
        return of_serve.get(field, f"--{field.replace('_', '-')}")


class Told(msgspec.Struct, frozen=True):
    """`control.json` in the data folder: where everything is, for `az-setup` and for the other commands."""

    url: str
    ca: str
    tenant: str
    client_id: str
    data_url: str


class _Server(uvicorn.Server):
    """Leaves signals alone, and tells when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def prepare(data: Path) -> None:
    """The data folder, which only its owner can enter. Raises Error."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Error(Code.NOT_READY, f"the folder `{data}` cannot be used: {error.strerror}") from error


async def run(options: Options, master: MasterKey, ready: Callable[[Told, Begun], None]) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends it at once. Raises Error where it cannot start."""
    os.umask(0o077)  # also for the files of the database
    _check(options)
    prepare(options.data)
    option = options.option("listen")
    listener = matching(options.given, *_split(options.listen, option)) or _listening(options.listen, option)
    site, hosts = _names(options, listener)
    issued = certificates.ensure(options.data / "ca", hosts)
    database = options.database or f"sqlite:///{(options.data / DATABASE).resolve()}"
    control = await Control.open(options.data, database, master)
    try:
        site = msgspec.structs.replace(site, tenant=await control.store.instance())
        begun = await begin(control, site, Place(territory=options.territory))
        if options.new_token_key:
            await renew_token_key(control, site)
        site = await _gateway(control, site, options)
        told = Told(site.url, str(issued.ca.resolve()), site.tenant, begun.client_id, site.data_url)
        _write(options.data / CONTROL_FILE, msgspec.json.format(msgspec.json.encode(told)) + b"\n")
        served = await app(control, site)
        config = uvicorn.Config(
            served,
            http=Heard,  # over h11, which bounds the head of a request; the other engine does not
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ssl_certfile=str(issued.certificate),
            ssl_keyfile=str(issued.key),
            timeout_graceful_shutdown=DRAIN_S,
        )
        config.load()
        assert config.ssl is not None
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        server = _Server(config, lambda: ready(told, begun))
        _until_signalled(server, control)
        believed = Believed(control, served.state.keyring)
        await believed.look()
        showing, telling = _meanwhile(show(config.ssl, issued)), _meanwhile(believed.watch())
        async with _following(control, options.data, served), showing, telling:
            await server.serve([listener])
    finally:
        await control.close()
        listener.close()


@contextlib.asynccontextmanager
async def _following(control: Control, data: Path, served: Starlette) -> AsyncIterator[None]:
    """Meanwhile the logs of gateways, of this machine or shipped to it, are read into projections."""
    follower = Follower(Projected(control.store), followed(data, control.publisher))
    served.state.follower = follower
    async with _meanwhile(follower.run()):
        yield


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """What runs for as long as the block does."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _until_signalled(server: uvicorn.Server, control: Control) -> None:
    def stop() -> None:
        control.publisher.release()  # gateways that wait for news would hold us up for as long as they may wait
        server.force_exit = server.should_exit
        server.should_exit = True

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop)


def _check(options: Options) -> None:
    """What would only be found out when something was written already. Raises Error."""
    territory, url = options.territory, options.data_url
    for field in ("data_listen", "admin_listen"):
        if (where := getattr(options, field)) is not None:
            _split(where, options.option(field))
    if territory != UNKNOWN and normalise_territory(territory) is None:
        fix = f"write an ISO 3166-1 code such as `JP`, or `{UNKNOWN}`"
        raise Error(Code.BAD_REQUEST, f"`--territory`: `{territory}` is no territory; {fix}")
    if url is not None and not _DATA_URL.fullmatch(url):
        fix = "write such as `https://api.example`"
        raise Error(Code.BAD_REQUEST, f"`--data-url`: `{url}` is no `http://` or `https://` URL; {fix}")


async def _gateway(control: Control, site: Site, options: Options) -> Site:
    """Where calls are sent to; with `local_gateway` also a token for the gateway beside us, if it needs one."""
    row: Row | None
    if options.local_gateway or options.data_listen or options.admin_listen:
        data, admin = (_settled(options, field) for field in ("data_listen", "admin_listen"))
        row = await listen_at(control, data, admin)
    else:
        row = await control.store.get(EVERYTHING, access_id("gateway", GATEWAY))
    listen = (row.body["properties"] if row is not None else {}).get("listen", "127.0.0.1:8080")
    folder = options.data / "gateways" / GATEWAY
    if options.local_gateway:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (folder / "control.json").exists():
            token, _ = await make_token(control, ITSELF, GATEWAY)
            _write(folder / TOKEN_FILE, token.encode())
    return msgspec.structs.replace(
        site, data_url=(options.data_url or "").rstrip("/") or f"http://{_reachable(listen)}"
    )


def _settled(options: Options, field: str) -> str | None:
    """Port 0 is one that is free now: accounts' endpoints name it, so it has to be the same at every start."""
    where: str | None = getattr(options, field)
    if where is None:
        return None
    host, port = _split(where, options.option(field))
    if port != 0:
        return where
    # Not one of those that the system gives to outgoing connections: one of these could come before it is listened on.
    for _ in range(PORTS_TRIED):
        found = f"{_bracketed(host)}:{random.randrange(*OWN_PORTS)}"  # noqa: S311 - nothing rests on guessing it
        with contextlib.suppress(Error), _listening(found, options.option(field)):
            return found
    with _listening(where, options.option(field)) as probe:
        return f"{_bracketed(host)}:{probe.getsockname()[1]}"


def _listening(where: str, option: str) -> socket.socket:
    """Raises Error, which names the option that gives another address."""
    host, port = _split(where, option)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(256)
    except OSError as error:
        sock.close()
        mend = f"end what listens there, or give another address with `{option} HOST:PORT`"
        raise Error(Code.NOT_READY, f"cannot listen on `{where}`: {error.strerror or error}; {mend}") from error
    return sock


def _names(options: Options, listener: socket.socket) -> tuple[Site, list[str]]:
    """The URLs under which clients may know this control plane, and the names in its certificate."""
    host, _ = _split(options.listen, options.option("listen"))
    port = listener.getsockname()[1]
    machine = socket.gethostname().lower()
    hosts = ["localhost", "127.0.0.1", "::1", machine]
    if host not in hosts and host not in _ANY:
        hosts.insert(0, host)
    first = machine if host in _ANY else host
    own = f"https://{_bracketed(first)}:{port}"
    url = (options.url or own).rstrip("/").lower()
    if not url.startswith("https://") or "/" in url[8:]:
        raise Error(
            Code.BAD_REQUEST, f"`{url}` is no `https://HOST[:PORT]`; clients take the control plane over https only"
        )
    name = url[8:].rpartition(":")[0] if url[8:].rpartition(":")[2].isdigit() else url[8:]
    if name.strip("[]") not in hosts:
        hosts.insert(0, name.strip("[]"))
    others = tuple(dict.fromkeys(each for each in (own, *(f"https://{_bracketed(h)}:{port}" for h in hosts))))
    return Site(url, "", "", tuple(each for each in others if each != url)), hosts


def _split(where: str, option: str) -> tuple[str, int]:
    host, colon, port = where.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise Error(Code.BAD_REQUEST, f"`{option}`: `{where}` is no `HOST:PORT`")
    return host.strip("[]"), int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reachable(listen: str) -> str:
    host, _, port = listen.rpartition(":")
    return f"{'127.0.0.1' if host.strip('[]') in _ANY else host}:{port}"


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, for its owner only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
