"""The parent of a gateway: owns the listening sockets, compiles what is published, feeds and stops the workers."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial

from entrepot.config import Config
from entrepot.errors import Error
from entrepot.gateway.admin import Admin, Readiness
from entrepot.gateway.channel import Load
from entrepot.gateway.hand import Hand
from entrepot.gateway.metrics import CATALOGUE
from entrepot.gateway.reckoning import Reckoning, merged
from entrepot.gateway.shipping import Shipper
from entrepot.gateway.source import Source
from entrepot.gateway.stores import fresh_table, released
from entrepot.gateway.tls import server_tls
from entrepot.http1.inherited import inherited, matching
from entrepot.resources.model import Gateway
from entrepot.resources.problems import WorldInvalid
from entrepot.snapshot import Compiled, Delta, Published, encode
from entrepot.telemetry.metrics import Metrics, Report

log = logging.getLogger(__name__)

# Of `[gateway]`: what a reload cannot change.
AT_START = ("listen", "admin_listen", "workers", "log_name", "limits", "limit_store")


class Parent:
    """Runs a gateway over a source until SIGTERM or Ctrl-C. Construct, then `run` once."""

    def __init__(
        self, source: Source, config: Config, workers: int | None = None, shippers: Sequence[Shipper] = ()
    ) -> None:
        """`shippers` are run by somebody else; here they are reported on."""
        self._source = source
        self._shippers = shippers
        self._config = config
        self._workers = workers
        self._metrics = Metrics(CATALOGUE)
        self._hands: list[Hand] = []
        self._compiled: Compiled | None = None
        self._whole: Load | None = None
        self._encoding = asyncio.Lock()
        self._problem: str | None = None
        self._started: Gateway | None = None
        self._stopping = asyncio.Event()
        self._progress = asyncio.Event()

    async def run(self, ready: Callable[[str, str], None]) -> None:
        """Raises WorldInvalid before anything is opened. `ready` gets the data and admin URLs once calls are served."""
        allow_open_files()
        self._compiled = await asyncio.to_thread(self._compile, await self._source.first())
        gateway = self._started = self._compiled.snapshot.gateway
        given = inherited(self._config.environ)
        listeners = listening(gateway.listen, self._workers or gateway.workers, "listen", given)
        admin_listener = listening(gateway.admin_listen, 1, "admin_listen", given)[0]
        data = str(self._config.data)
        table = fresh_table(self._config.data, len(listeners)) if len(listeners) > 1 else None
        self._hands = [
            Hand(
                listener,
                (data, str(number), str(len(listeners))),
                self._current,
                self._heard,
                (lambda: None) if table is None else partial(released, table, number),
            )
            for number, listener in enumerate(listeners)
        ]
        self._tell()
        self._signals()
        admin = Admin(self.readiness, self.reports, self.reckoning, self._config.data)
        await admin.start(admin_listener)
        tasks = [asyncio.create_task(hand.keep()) for hand in self._hands]
        tasks.append(asyncio.create_task(self._follow()))
        try:
            await self._until_served()
            if not self._stopping.is_set():
                scheme = "https" if gateway.tls else "http"
                ready(f"{scheme}://{address(listeners[0])}", f"http://{address(admin_listener)}")
            await self._until_stopped(tasks)
        finally:
            for listener in listeners:
                listener.close()
            await asyncio.gather(*(hand.stop(gateway.limits.drain_s) for hand in self._hands))
            for task in tasks:
                task.cancel()
            await admin.stop()

    async def readiness(self) -> Readiness:
        statuses = await asyncio.gather(*(hand.status() for hand in self._hands))
        serving = [status for status in statuses if status is not None and status.revision is not None]
        ledger_problem = next((status.ledger_problem for status in serving if status.ledger_problem), None)
        return Readiness(
            ready=len(serving) == len(self._hands) and ledger_problem is None and not self._stopping.is_set(),
            revision=min((status.revision.number() for status in serving if status.revision), default=0),
            workers=len(serving),
            problem=self._first_problem(),
            ledger_problem=ledger_problem,
            limits_problem=next((status.limits_problem for status in serving if status.limits_problem), None),
            geo_problem=next((status.geo_problem for status in serving if status.geo_problem), None),
            unhealthy_upstreams=tuple(sorted({name for status in serving for name in status.unhealthy})),
        )

    async def reports(self) -> list[Report]:
        """The counts of all workers, those that are gone included, and of the parent itself."""
        answers = await asyncio.gather(*(hand.status() for hand in self._hands))
        statuses = [status for status in answers if status is not None]
        revisions = [0 if status.revision is None else status.revision.number() for status in statuses]
        metrics = self._metrics
        metrics.set("entrepot_workers", len(statuses))
        metrics.set("entrepot_world_revision", min(revisions, default=0))
        metrics.set("entrepot_world_invalid", self._first_problem() is not None)
        if self._shippers:
            metrics.set("entrepot_shipping_behind", max(shipper.behind for shipper in self._shippers))
            metrics.set("entrepot_shipping_failing", sum(shipper.problem is not None for shipper in self._shippers))
        metrics.set("entrepot_worker_restarts_total", sum(hand.restarts for hand in self._hands))
        return [metrics.report(), *(hand.ended for hand in self._hands), *(status.report for status in statuses)]

    async def reckoning(self) -> Reckoning:
        """Budgets against the ledgers of all workers."""
        return merged(await asyncio.gather(*(hand.reckon() for hand in self._hands)))

    def _first_problem(self) -> str | None:
        return (
            self._problem or self._source.problem or next((hand.problem for hand in self._hands if hand.problem), None)
        )

    async def _follow(self) -> None:
        async for message in self._source.changes():
            await self._take_over(message)
            self._tell()

    async def _take_over(self, message: Published | Delta) -> None:
        """Compile and hand on; what does not compile changes nothing but `problem`."""
        try:
            self._compiled = await asyncio.to_thread(self._compile, message)
            data = await asyncio.to_thread(encode, message)
        except (WorldInvalid, Error, OSError) as error:
            self._problem = str(error)
            log.error("world is invalid; the one before stays", extra={"fields": {"problem": str(error)}})
            return
        except Exception:  # an edge: whatever is wrong with a change, the world before goes on
            self._problem = "the world could not be compiled; the log says more"
            log.exception("world could not be compiled; the one before stays")
            return
        self._problem = self._whole = None
        log.info("world compiled", extra={"fields": {"revision": message.revision.number()}})
        load = Load(message.revision, isinstance(message, Published), data)
        await asyncio.gather(*(hand.load(load) for hand in self._hands))

    def _compile(self, message: Published | Delta) -> Compiled:
        """Here first, so that no worker ever sees a world that does not compile."""
        if isinstance(message, Published):
            compiled = Compiled.whole(message, self._compiled)
        else:
            assert self._compiled is not None
            compiled = self._compiled.changed(message)
        gateway, started = compiled.snapshot.gateway, self._started
        if gateway.tls is not None:
            server_tls(gateway.tls)
        late = [key for key in AT_START if started is not None and getattr(gateway, key) != getattr(started, key)]
        if late:
            log.warning("some keys of [gateway] take effect at the next start", extra={"fields": {"keys": late}})
        return compiled

    async def _current(self) -> Load:
        """The whole as it is now, for a worker that starts. Kept only until all of them serve."""
        async with self._encoding:  # workers that start at once share one
            if self._whole is None:
                assert self._compiled is not None
                published = await asyncio.to_thread(self._compiled.published)
                self._whole = Load(published.revision, whole=True, data=await asyncio.to_thread(encode, published))
            return self._whole

    def _heard(self) -> None:
        """A worker began or ceased to serve, took something over or could not."""
        self._progress.set()
        if self._whole is not None and all(hand.revision == self._whole.revision for hand in self._hands):
            self._whole = None
        self._tell()

    def _tell(self) -> None:
        assert self._compiled is not None
        ready = not self._stopping.is_set() and all(hand.available for hand in self._hands)
        self._source.running(self._compiled.revision, ready)

    async def _until_served(self) -> None:
        while not self._stopping.is_set() and any(hand.revision is None for hand in self._hands):
            self._progress.clear()
            problem = next((hand.problem for hand in self._hands if hand.problem), None)
            if problem is not None:
                raise RuntimeError(f"a worker cannot serve this world: {problem}")
            await self._progress.wait()

    async def _until_stopped(self, tasks: list[asyncio.Task[None]]) -> None:
        stopped = asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # a background task ends only by failing; that must be seen
        stopped.cancel()

    def _signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._source.look)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop)

    def _stop(self) -> None:
        if self._stopping.is_set():  # asked twice: at once
            for hand in self._hands:
                hand.kill()
        self._stopping.set()
        self._progress.set()


def allow_open_files() -> None:
    """As many connections as the system allows, not as few as a shell defaults to; workers inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def listening(where: str, count: int, key: str = "listen", given: Sequence[socket.socket] = ()) -> list[socket.socket]:
    """`count` sockets on one address; with several, the kernel spreads connections over them (SO_REUSEPORT).

    One that was `given` is used instead where it has that address, by all alike. Raises OSError that names the address
    and the option that gives another one.
    """
    host, _, port = where.rpartition(":")
    host = host.strip("[]")
    ours = [each for _ in range(count) if (each := matching(given, host, int(port))) is not None]
    if ours:
        for each in ours:
            each.setblocking(False)
        return ours
    sockets: list[socket.socket] = []
    try:
        if count > 1:
            # Shared with nobody first: another gateway there would get a part of the connections, unseen.
            _bound(host, int(port), shared=False).close()
        for _ in range(count):
            sockets.append(_bound(host, sockets[0].getsockname()[1] if sockets else int(port), shared=count > 1))
    except OSError as error:
        option = f"--{key.replace('_', '-')}"  # of `serve` and `gateway` alike; it overrides `[gateway]`
        raise OSError(
            f"{where} cannot be listened on: {error.strerror}; end what listens there, or give another address "
            f"with `{option} HOST:PORT`"
        ) from error
    for sock in sockets:
        sock.listen(1024)
        sock.setblocking(False)
    return sockets


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
