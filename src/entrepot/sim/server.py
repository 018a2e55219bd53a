"""The simulated upstream itself: a server on loopback that answers as planned and counts what it served."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import threading
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from fnmatch import fnmatchcase

import msgspec
import uvloop

from entrepot.errors import Code, Error
from entrepot.http1.connection import Connection
from entrepot.http1.message import Headers, Request
from entrepot.http1.server import Exchange, Server
from entrepot.resources.model import Limits
from entrepot.sim.asked import Asked, Place, asked_of, place_of
from entrepot.sim.counters import Counters
from entrepot.sim.plan import Plan, failed, planned
from entrepot.sim.play import connection_of, play
from entrepot.sim.settings import Rule, Settings
from entrepot.wire.forms import form_of
from entrepot.wire.problems import redact, render_status

log = logging.getLogger(__name__)

_PLANS_KEPT = 256
_JSON = b"content-type: application/json\r\n"
_NO_RULE = Rule()


class Seen(msgspec.Struct, frozen=True):
    """A request as it arrived."""

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes


class _Behaviour:
    """Settings with what they accumulate: plans for requests seen before, and how often each rule was used."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.plans: dict[tuple[str, str, str, bytes], Plan] = {}
        self.used: Counter[int] = Counter()
        self.chance = random.Random(settings.seed)  # noqa: S311  repeatable on purpose
        self.repeatable = not settings.script and not settings.fail_rate


class _Doors:
    """Each connection counted and logged, whether or not a request ever comes over it."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._open: set[Connection] = set()
        self._observers: set[Connection] = set()

    @property
    def served(self) -> int:
        """Open connections, without those that only look at counters."""
        return len(self._open) - len(self._observers)

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)
        self._counters.opened += 1
        log.info("connection opened", extra={"fields": {"number": self._counters.opened, "open": len(self._open)}})

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._observers.discard(connection)
        log.info("connection closed", extra={"fields": {"open": len(self._open)}})

    def observes(self, connection: Connection) -> None:
        if connection not in self._observers:
            self._observers.add(connection)
            self._counters.observers += 1


class Sim:
    """Start it in a running loop, or use `simulated` from anywhere. `counters` and `seen` may be read at any time."""

    def __init__(self, settings: Settings = Settings()) -> None:  # noqa: B008  frozen
        self.counters = Counters()
        self.seen: deque[Seen] = deque(maxlen=settings.keep)
        self.base_url = ""
        self._behaviour = _Behaviour(settings)
        self._server: Server | None = None
        self._doors = _Doors(self.counters)

    def use(self, settings: Settings) -> None:
        """Answer by other settings from the next request on. Limits of the listener stay."""
        self._behaviour = _Behaviour(settings)

    @property
    def connections(self) -> int:
        """Open now, without those that only look at counters."""
        return self._doors.served

    async def start(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> str:
        """Listen; returns the base URL, without `/v1`. Raises OSError when the address cannot be had."""
        sock = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        port = sock.getsockname()[1]
        limits = Limits(idle_s=self._behaviour.settings.idle_s, write_stall_s=3_600.0)
        self._server = Server(self._serve, render_status, limits, self._doors)
        await self._server.start(sock, tls)
        shown = f"[{host}]" if ":" in host else host
        self.base_url = f"{'http' if tls is None else 'https'}://{shown}:{port}"
        return self.base_url

    async def stop(self, drain_s: float = 0.2) -> None:
        """Close the listener; answers still running after `drain_s` seconds are cut."""
        server, self._server = self._server, None
        if server is not None:
            await server.drain(drain_s)

    async def _serve(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.path.startswith("/sim/"):
            self._observe(exchange)
            return
        counters, behaviour = self.counters, self._behaviour
        key = request.headers.get("api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.seen.maxlen:
            self.seen.append(Seen(request.method, request.path, request.query, request.headers, request.body))
        plan = self._plan(request, key, behaviour)
        counters.requests += 1
        counters.keys[key] += 1
        counters.models[plan.model] += 1
        counters.statuses[plan.status] += 1
        try:
            await play(exchange, plan, counters)
        except asyncio.CancelledError:
            counters.abandoned += 1
            log.info("client gone", extra={"fields": {"path": request.path, "abandoned": counters.abandoned}})
            raise

    def _plan(self, request: Request, key: str, behaviour: _Behaviour) -> Plan:
        settings = behaviour.settings
        if settings.key is not None and key != settings.key:
            error = Error(Code.INVALID_KEY if key else Code.MISSING_KEY, "unknown key", subject=redact(key))
            return failed(error, form_of(request.path))
        asking = (request.method, request.path, request.query, request.body)
        if behaviour.repeatable and (plan := behaviour.plans.get(asking)) is not None:
            return plan
        try:
            place = place_of(request, settings.api)
            asked = asked_of(request.body) if request.method == "POST" else Asked()
            if settings.fail_rate and behaviour.chance.random() < settings.fail_rate:
                rule = Rule(status=500)
            else:
                rule = _rule(request, behaviour, place, asked)
            plan = planned(request, settings, rule, place, asked)
        except Error as error:
            plan = failed(error, form_of(request.path))
        if behaviour.repeatable and len(behaviour.plans) < _PLANS_KEPT:
            behaviour.plans[asking] = plan
        return plan

    def _observe(self, exchange: Exchange) -> None:
        request = exchange.request
        connection = connection_of(exchange)
        if connection is not None:
            self._doors.observes(connection)
        if (request.method, request.path) == ("GET", "/sim/counters"):
            exchange.respond(200, _JSON, msgspec.json.encode({**self.counters.as_json(), "open": self.connections}))
        elif (request.method, request.path) == ("GET", "/sim/requests"):
            exchange.respond(200, _JSON, msgspec.json.encode([_shown(seen) for seen in self.seen]))
        else:
            head, body = render_status("", 404, "there are GET /sim/counters and GET /sim/requests")
            exchange.respond(404, head, body)


@contextmanager
def simulated(settings: Settings = Settings(), tls: ssl.SSLContext | None = None) -> Iterator[Sim]:  # noqa: B008  frozen
    """A simulated upstream on a port of its own, in a thread with its own loop, until the block ends."""
    sim = Sim(settings)
    started: Future[asyncio.AbstractEventLoop] = Future()
    ended = asyncio.Event()

    async def serve() -> None:
        try:
            await sim.start(tls=tls)
        except OSError as exc:
            started.set_exception(exc)
            return
        started.set_result(asyncio.get_running_loop())
        await ended.wait()
        await sim.stop()

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="entrepot-sim")
    thread.start()
    try:
        loop = started.result()
        try:
            yield sim
        finally:
            loop.call_soon_threadsafe(ended.set)
    finally:
        thread.join()


def _rule(request: Request, behaviour: _Behaviour, place: Place, asked: Asked) -> Rule:
    model = place.deployment or asked.model
    for number, rule in enumerate(behaviour.settings.script):
        match = rule.match
        if (
            fnmatchcase(request.path, match.path)
            and (match.model is None or match.model == model)
            and all(request.headers.get(name.lower()) == value for name, value in match.header.items())
            and (rule.times is None or behaviour.used[number] < rule.times)
        ):
            behaviour.used[number] += 1
            return rule
    return _NO_RULE


def _shown(seen: Seen) -> dict[str, object]:
    return {**msgspec.structs.asdict(seen), "body": seen.body.decode(errors="replace")}
