"""A worker: one event loop that serves one listening socket, told by its parent what to serve and when to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvloop

from entrepot.clock import wall_clock_ms
from entrepot.config import Config
from entrepot.errors import Error
from entrepot.gateway.budgets import Budgets
from entrepot.gateway.channel import (
    Ask,
    Behind,
    Channel,
    Drain,
    Load,
    Loaded,
    Part,
    Reckon,
    Reckoned,
    Rejected,
    Status,
)
from entrepot.gateway.left import close_left
from entrepot.gateway.metrics import CATALOGUE
from entrepot.gateway.reckoning import Reckoner
from entrepot.gateway.retired import Retired
from entrepot.gateway.serve import Gateway
from entrepot.gateway.stores import store_for
from entrepot.gateway.tls import load_certificate, pair_mark, server_tls
from entrepot.http1.server import Server
from entrepot.ledger.entries import Degraded, encode
from entrepot.ledger.faults import LedgerRefused, LedgerUnavailable
from entrepot.ledger.ledger import Ledger
from entrepot.limits.reserve import Store, StoreBusy
from entrepot.resources import model as declared
from entrepot.resources.model import Tls
from entrepot.resources.problems import WorldInvalid
from entrepot.snapshot import Compiled, Delta, Revision, Snapshot, decode
from entrepot.telemetry.log import log_to_stderr
from entrepot.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

REST_S = 1.0  # how long idle connections stay open at the end, for calls that are on their way
AGE_S = 60.0  # how often what grows old is looked at
NOTE_S = 5.0  # how soon after its minute a count of refusals is an entry
SWITCH_S = 0.0005  # how long calls wait for the interpreter while a snapshot is compiled beside them


class Worker:
    """Serves from the first `Load` on; ends on `Drain`, or when the parent has gone."""

    def __init__(self, channel: Channel, listener: socket.socket, config: Config, number: int, workers: int) -> None:
        """`number` tells the `workers` of one gateway apart, in the names of their logs."""
        self._number = number
        self._workers = workers
        self._channel = channel
        self._listener = listener
        self._config = config
        self._gateway: Gateway | None = None
        self._ledger: Ledger | None = None
        self._budgets: Budgets | None = None
        self._reckoner: Reckoner | None = None
        self._counting = asyncio.Lock()  # what was counted is read and set by one at a time
        self._answers: set[asyncio.Task[None]] = set()
        self._limits: Store | None = None
        self._server: Server | None = None
        self._tls: ssl.SSLContext | None = None
        self._certified: object = None
        self._compiled: Compiled | None = None
        self._retired = Retired()
        self._parts: list[bytes] = []
        self._loads: asyncio.Queue[tuple[Load, list[bytes]]] = asyncio.Queue()
        self._drain_s = 0.0

    async def run(self) -> None:
        chores = (every(AGE_S, self._age), every(NOTE_S, self._note), self._take_loads())
        tasks = [asyncio.create_task(each) for each in chores]
        while (message := await self._channel.receive()) is not None:
            match message:
                case Part():
                    self._parts.append(message.data)
                case Load():
                    self._loads.put_nowait((message, [*self._parts, message.data]))
                    self._parts.clear()
                case Ask():
                    await self._channel.send(self._status())
                case Reckon():
                    answer = asyncio.create_task(self._answer_reckoned())
                    self._answers.add(answer)
                    answer.add_done_callback(self._answers.discard)
                case Drain():
                    self._drain_s = message.timeout_s
                    break
                case _:
                    raise RuntimeError(f"a worker has no use for {type(message).__name__}")
        if self._server is None:
            self._listener.close()
        else:
            await self._server.drain(self._drain_s, min(REST_S, self._drain_s))
        for task in (*tasks, *self._answers):
            task.cancel()
        if self._gateway is not None:
            await self._gateway.close()
        if self._limits is not None:
            await self._limits.end()
        if self._ledger is not None:
            await self._ledger.close()
        self._channel.close()

    async def _take_loads(self) -> None:
        """One after the other, from the last whole that waits; the parent's questions are answered meanwhile."""
        while True:
            waiting = [await self._loads.get()]
            while not self._loads.empty():
                waiting.append(self._loads.get_nowait())
                if waiting[-1][0].whole:
                    del waiting[:-1]
            for message, parts in waiting:
                await self._load(message, parts)

    async def _age(self) -> None:
        if self._gateway is not None:
            self._gateway.age()
        problem = (await self._reckon()).problem
        if problem is not None:
            log.warning("budgets are not compared with the ledger now", extra={"fields": {"problem": problem}})

    async def _reckon(self) -> Reckoned:
        """Budgets against the ledger. What keeps it from being done passes, or is told elsewhere as well."""
        async with self._counting:
            if self._reckoner is None or self._compiled is None:
                return Reckoned(problem="the worker does not serve yet")
            try:
                return Reckoned(tuple(await self._reckoner.reckon(self._compiled.snapshot)))
            except (StoreBusy, LedgerUnavailable, ValueError, OSError) as error:
                return Reckoned(problem=str(error))

    async def _answer_reckoned(self) -> None:
        answer = await self._reckon()
        with contextlib.suppress(ConnectionError):  # the parent has gone
            await self._channel.send(answer)

    async def _note(self) -> None:
        if self._gateway is not None:
            self._gateway.note()
        if self._reckoner is not None:
            self._reckoner.note()

    async def _load(self, message: Load, parts: list[bytes]) -> None:
        before = self._compiled
        try:
            # Compiled beside the loop: calls go on meanwhile, under the snapshot before.
            with undisturbed(lasting=message.whole):
                compiled = await asyncio.to_thread(compile_next, before, parts)
            if compiled is None:
                await self._channel.send(Behind())
                return
            if self._ledger is None:
                await self._open_ledger(compiled.snapshot.gateway)
            async with self._counting:
                await self._restore(compiled.snapshot)
            await self._serve(compiled.snapshot)
            self._compiled = compiled
            if message.whole and before is not None:
                self._retired.retire(before)
            self._retired.track(compiled.snapshot)
        except (WorldInvalid, LedgerRefused, Error, OSError, ValueError) as error:
            await self._channel.send(Rejected(message.revision, str(error)))
            return
        except Exception as error:  # an edge: the world before goes on, and the parent must hear of it
            log.exception("world could not be taken over")
            await self._channel.send(Rejected(message.revision, f"{type(error).__name__}; the log says more"))
            return
        await self._channel.send(Loaded(message.revision))

    async def _open_ledger(self, gateway: declared.Gateway) -> None:
        name = gateway.log_name
        log_name = f"{name}/w{self._number}"
        self._ledger = await asyncio.to_thread(Ledger.open, self._config.data, key_name=name, name=log_name)
        self._ledger.start()
        left: list[str] = []
        if self._number == 0:
            left = await asyncio.to_thread(close_left, self._config.data, name, self._workers)
        store = await store_for(self._config, gateway, log_name, self._number, self._workers)
        self._limits = store
        # A shared store remembers what each worker spent, of those too that there are no more.
        self._budgets = Budgets(self._config.data, log_name, store, left if gateway.limit_store is None else ())
        self._gateway = Gateway(self._ledger, limits=store)
        self._reckoner = Reckoner(self._ledger, store, self._budgets, self._gateway.settled, wall_clock_ms)

    async def _restore(self, snapshot: Snapshot) -> None:
        """Budgets that are new here begin with what the ledger says was spent; where that was otherwise, it is told."""
        assert self._budgets is not None
        assert self._ledger is not None
        now_ms = wall_clock_ms()
        spent = await asyncio.to_thread(self._budgets.spent, snapshot, now_ms)
        for told in self._budgets.restore(spent, now_ms) if spent is not None else ():
            log.warning("a budget is put right by the ledger", extra={"fields": {"budget": told}})
            self._ledger.outcome(encode(Degraded(now_ms, told, 0, now_ms, "budget")))

    async def _serve(self, snapshot: Snapshot) -> None:
        assert self._gateway is not None
        await self._certify(snapshot.gateway.tls)
        self._gateway.adopt(snapshot)
        self._drain_s = snapshot.gateway.limits.drain_s  # should the parent die, calls end as they do at a stop
        if self._server is None:
            self._server = Server(self._gateway.serve, self._gateway.render_error, snapshot.gateway.limits)
            await self._server.start(self._listener, self._tls)

    async def _certify(self, tls: Tls | None) -> None:
        """Take the certificate as it is now, if it is another: reading one takes milliseconds."""
        if tls is None or (mark := pair_mark(tls)) == self._certified:
            return
        fresh = await asyncio.to_thread(server_tls, tls)  # a pair that does not fit must not reach the context in use
        if self._tls is None:
            self._tls = fresh
        else:
            load_certificate(self._tls, tls)
        self._certified = mark

    def _status(self) -> Status:
        metrics = Metrics(CATALOGUE)
        connections = self._server.connections if self._server else 0
        metrics.set("entrepot_connections", connections)
        if self._gateway is None or self._ledger is None:
            return Status(None, connections, (), None, None, None, metrics.report())
        self._gateway.report(metrics)
        metrics.set("entrepot_ledger_available", self._ledger.available)
        metrics.set("entrepot_ledger_signs", self._ledger.signs)
        unhealthy = tuple(name for name, good in self._gateway.healthy().items() if not good)
        geo_problem = self._gateway.geo_problem()
        revision: Revision | None = None if self._compiled is None else self._compiled.revision
        limits_problem = None if self._limits is None else self._limits.problem
        return Status(
            revision, connections, unhealthy, geo_problem, self._ledger.problem, limits_problem, metrics.report()
        )


async def every(pause_s: float, chore: Callable[[], Awaitable[None]]) -> None:
    """Until it is cancelled: calls go on without it, so nobody would see that it had ended."""
    while True:
        await asyncio.sleep(pause_s)
        try:
            await chore()
        except Exception:  # an edge: it is due again
            log.exception("what is due now and then failed; it is tried again")


def compile_next(before: Compiled | None, parts: list[bytes]) -> Compiled | None:
    """None for a change that is not one to what was before. Raises WorldInvalid."""
    message = decode(b"".join(parts))
    if not isinstance(message, Delta):
        return Compiled.whole(message, before)
    if before is None or before.revision != message.after:
        return None
    return before.changed(message)


@contextlib.contextmanager
def undisturbed(*, lasting: bool) -> Iterator[None]:
    """For a compilation in another thread: calls get the interpreter soon, and nothing is searched for garbage.

    What is `lasting`, a whole snapshot, is never searched: it has no cycles, and walking it would be a pause.
    """
    interval = sys.getswitchinterval()
    if lasting:
        gc.collect()  # little to walk: the snapshot before is not searched either
    gc.disable()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if lasting:
            gc.freeze()
        gc.enable()


async def work(control: socket.socket, listener: socket.socket, config: Config, number: int, workers: int) -> None:
    loop = asyncio.get_running_loop()
    # Ctrl-C and a reload reach the whole process group; the parent decides what they mean for its workers.
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        loop.add_signal_handler(signum, lambda: None)
    await Worker(await Channel.over(control), listener, config, number, workers).run()


def main() -> None:
    """`python -m entrepot.gateway.worker CONTROL_FD LISTENER_FD DATA NUMBER WORKERS`: started by the parent only."""
    log_to_stderr()
    control, listener = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(control, listener, Config.load(Path(sys.argv[3])), *map(int, sys.argv[4:6])))


if __name__ == "__main__":
    main()
