"""Levels shared by machines: Redis or Valkey. A process leases a part of each limit and spends it with no round trip.

The store holds, for each limit, its level and what each process holds of it in bulk; `round.lua` changes both at once.
What a process holds counts as taken, so a limit is never exceeded; what it holds and does not use is the error, at most
a fiftieth of the limit (docs/limits.md derives it). While the store cannot be reached each process admits its share.

INVARIANT: what a process holds of a limit is `lease + reserved + used`; a call moves units between the three, and only
a round changes the sum. `used` is what the store has not heard of yet.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from entrepot.limits.rate import Level, Limit, leaked, wait_ms
from entrepot.limits.reserve import Memory, Refusal, Short, State, StoreBusy, Want, state_of

log = logging.getLogger(__name__)

TICK_S = 0.1
ALIVE_MS = 5_000
ANSWER_S = 0.5
IDLE_MS = 1_000
REFUSED_MS = 100
"""So long a refusal of the store is taken for its word, so that calls over the limit do not become rounds."""
LEASED_PERCENT = 2
AT_ONCE = 256
TRIES = 4
MICRO = 1_000_000
"""Money is in micros there: numbers stay whole in a double. What is below a micro stays here until it is one."""

Budgets = Literal["closed", "open"]


class _Held:
    """What this process holds of one limit, in the store's units."""

    __slots__ = (
        "asked_ms",
        "at_ms",
        "fraction",
        "lease",
        "level",
        "limit",
        "others",
        "refused_until_ms",
        "reserved",
        "restore",
        "rounds",
        "scale",
        "sure",
        "used",
    )

    def __init__(self, limit: Limit) -> None:
        self.scale = MICRO if limit.window_ms else 1
        self.limit = limit
        self.lease = self.reserved = self.used = self.fraction = 0
        self.level = self.others = self.at_ms = self.asked_ms = self.refused_until_ms = self.rounds = 0
        self.restore = -1
        self.sure = False
        """The store has answered since what it holds of ours was last in doubt."""

    @property
    def capacity(self) -> int:
        return self.limit.burst // self.scale


class _Ask(NamedTuple):
    key: bytes
    held: _Held
    least: int
    most: int
    back: int = 0


class Shared:
    """`name` is what the ledger calls this process: its part of budgets is kept by it. `start` begins the rounds."""

    def __init__(self, url: str, name: str, budgets: Budgets = "closed") -> None:
        retry = Retry(NoBackoff(), 0)
        self._redis = Redis.from_url(url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S, retry=retry)
        self._round = self._redis.register_script(files(__package__).joinpath("round.lua").read_text())
        self._name = name
        self._pid = f"{name}:{os.getpid()}:{time.time_ns():x}"
        self._budgets = budgets
        self._held: dict[bytes, _Held] = {}
        self._local = Memory()
        self._away_ms = 0
        self._processes = 1
        self._task: asyncio.Task[None] | None = None
        self._trips: set[asyncio.Task[int | None]] = set()
        self._ended = False
        self.trips = 0
        self._problem: str | None = None

    async def start(self) -> None:
        """Returns when the store has answered once, or could not be reached."""
        await self._trip([])
        self._task = asyncio.create_task(self._keep())

    async def end(self) -> None:
        """Give back all that is held and not reserved, and report what was used."""
        self._ended = True
        if self._task is not None:
            await self._task  # not cancelled: a client that is interrupted may not let go
        while self._trips:
            await asyncio.wait(self._trips)
        await self._refill(give_back=True)
        await self._redis.aclose()

    def reserve(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        """Raises Short where the store has to be asked: `reserve_there`."""
        for index, want in enumerate(wants):
            held = self._of(want)
            held.asked_ms = now_ms
            if held.restore < 0 and held.lease >= self._units(held, want.units):
                continue
            if self._away_ms:
                if not self._take_locally(want, held, now_ms):
                    return Refusal(index, 1_000)
            elif held.restore < 0 and now_ms < held.refused_until_ms:
                return self._refusal(index, want, held, now_ms)
            else:
                raise Short
        self._take(wants)
        return None

    async def reserve_there(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        """The same with a round trip, for all of the wants that the leases do not hold."""
        for _ in range(TRIES):
            refusal = await self._reserve_there(wants, now_ms)
            if refusal is None or refusal.wait_ms != 0:
                return refusal
        return refusal

    async def _reserve_there(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        """Without anything to wait for: another call took what was here while the store was asked for the rest."""
        asks = []
        for want in wants:
            held = self._of(want)
            least = max(0, self._units(held, want.units) - max(0, held.lease))
            asks.append(_Ask(want.key, held, least, least + self._lease_of(held) if least else 0))
        # A task of its own: the client needs one, and whoever asks may go away while the store answers.
        trip = asyncio.create_task(self._trip(asks))
        self._trips.add(trip)
        trip.add_done_callback(self._trips.discard)
        failed = await asyncio.shield(trip)
        if failed is None:  # nobody was there to ask
            return self.reserve(wants, now_ms)
        if failed:
            held = asks[failed - 1].held
            refusal = self._refusal(failed - 1, wants[failed - 1], held, now_ms)
            held.refused_until_ms = now_ms + min(REFUSED_MS, max(1, refusal.wait_ms))
            return refusal
        for index, want in enumerate(wants):
            if self._of(want).lease < self._units(self._of(want), want.units):
                return Refusal(index, 0)
        self._take(wants)
        return None

    def settle(self, wants: Sequence[Want], used: Sequence[int], now_ms: int) -> None:  # noqa: ARG002 - it is the store's
        for index, want in enumerate(wants):
            if want.limit.charged:
                continue
            held = self._of(want)
            units, real = self._units(held, want.units), used[index]
            if held.scale != 1:
                real, held.fraction = divmod(real + held.fraction, held.scale)
            held.reserved -= units
            held.used += real
            held.lease += units - real

    def restore(self, key: bytes, limit: Limit, units: int, now_ms: int) -> int:  # noqa: ARG002 - it is the store's
        """The store hears of it with the next round; until then calls ask it."""
        held = self._of(Want(key, limit, 0))
        held.restore, held.fraction = divmod(units, held.scale)
        held.used = 0
        return 0

    def states(self, wants: Sequence[Want], now_ms: int) -> list[State]:
        """By what the store said last, and what was taken here since."""
        found = []
        for want in wants:
            held = self._of(want)
            level = leaked(held.limit, Level(held.level, held.at_ms), now_ms).level if held.at_ms else 0
            state = state_of(self._there(held), level, held.others + held.reserved + held.used, now_ms)
            found.append(State(state.remaining * held.scale, state.reset_ms))
        return found

    def forget(self, now_ms: int) -> None:
        """`_refill` does."""
        self._local.forget(now_ms)

    @property
    def degraded(self) -> bool:
        return self._away_ms > 0

    @property
    def problem(self) -> str | None:
        return self._problem

    def _of(self, want: Want) -> _Held:
        held = self._held.get(want.key)
        if held is None:
            held = self._held[want.key] = _Held(want.limit)
        held.limit = want.limit
        return held

    def _units(self, held: _Held, units: int) -> int:
        return units if held.scale == 1 else -(-units // held.scale)

    def _there(self, held: _Held) -> Limit:
        limit = held.limit
        return limit if held.scale == 1 else limit._replace(burst=held.capacity)

    def _take(self, wants: Sequence[Want]) -> None:
        for want in wants:
            held = self._of(want)
            units = self._units(held, want.units)
            held.lease -= units
            if want.limit.charged:
                held.used += units
            else:
                held.reserved += units

    def _lease_of(self, held: _Held) -> int:
        amount = held.limit.amount or held.capacity
        return min(amount * LEASED_PERCENT // 100, held.capacity // (4 * self._processes))

    def _refusal(self, index: int, want: Want, held: _Held, now_ms: int) -> Refusal:
        level = leaked(held.limit, Level(held.level, held.at_ms), now_ms).level
        units = self._units(held, want.units)
        return Refusal(index, wait_ms(self._there(held), level, held.others + held.reserved, units, now_ms) or 1)

    def _take_locally(self, want: Want, held: _Held, now_ms: int) -> bool:
        """A fair share of the limit, while the store is away. Raises StoreBusy for budgets that fail closed."""
        limit, units = held.limit, self._units(held, want.units)
        if limit.window_ms:
            if self._budgets == "closed":
                raise StoreBusy("the store of limits cannot be reached, and budgets wait for it")
        elif limit.amount == 0:
            if held.reserved + units > max(1, limit.burst // self._processes):
                return False
        else:
            part = Limit(
                max(1, limit.amount // self._processes), limit.period_ms, max(1, limit.burst // self._processes), True
            )
            if self._local.reserve([Want(want.key, part, units)], now_ms) is not None:
                return False
        held.lease += units
        held.sure = False
        return True

    async def _keep(self) -> None:
        while not self._ended:
            await asyncio.sleep(TICK_S)
            try:
                await self._refill()
            except Exception:  # an edge: the rounds go on, whatever one of them met
                log.exception("a round with the store of limits failed")

    async def _refill(self, *, give_back: bool = False) -> None:
        """Report what was used, fill the leases of limits that calls ask for, give back those of the others."""
        now_ms = time.time_ns() // 1_000_000
        asks = []
        for key, held in list(self._held.items()):
            if held.rounds:
                continue
            idle = give_back or now_ms - held.asked_ms > IDLE_MS
            target = 0 if idle else self._lease_of(held)
            if idle and held.sure and not (held.lease or held.used or held.reserved or held.restore >= 0):
                if not held.fraction:
                    del self._held[key]
                continue
            if not held.used and held.restore < 0 and held.sure and target // 2 <= held.lease <= target:
                continue
            back = max(0, held.lease - target)
            held.lease -= back
            asks.append(_Ask(key, held, 0, max(0, target - held.lease) if not idle else 0, back))
        for at in range(0, max(1, len(asks)), AT_ONCE):
            await self._trip(asks[at : at + AT_ONCE])

    async def _trip(self, asks: Sequence[_Ask]) -> int | None:
        """The number of the first ask whose least was not to be had, 0 if there is none; None without an answer."""
        keys: list[bytes] = [b"entrepot:limits:alive", *(b"entrepot:limit:" + each.key.hex().encode() for each in asks)]
        arguments: list[Any] = [self._pid, self._name, ALIVE_MS]
        sent = []
        for each in asks:
            held, limit = each.held, each.held.limit
            alone = not held.rounds
            used, held.used = held.used, 0
            restore, held.restore = held.restore, -1
            held.rounds += 1
            sent.append((used, restore))
            arguments += [limit.amount, limit.period_ms, held.capacity, limit.window_ms, used, each.back]
            arguments += [held.reserved + held.lease, each.least, each.most, int(alone and not held.sure), restore]
        try:
            answer = await self._round(keys=keys, args=arguments)
        except (TimeoutError, RedisError, OSError) as error:
            self._lost(asks, sent, error)
            return None
        now_ms = time.time_ns() // 1_000_000
        self.trips += 1
        self._processes = max(1, int(answer[1]))
        for at, each in enumerate(asks):
            held, (granted, level, taken) = each.held, map(int, answer[2 + 3 * at : 5 + 3 * at])
            held.rounds -= 1
            held.sure = held.sure or not held.rounds
            held.lease += granted
            held.level, held.at_ms = level, now_ms
            held.others = max(0, taken - held.lease - held.reserved)
        if self._away_ms:
            fields = {"for_ms": now_ms - self._away_ms}
            self._away_ms, self._problem = 0, None
            log.warning("the store of limits answers again", extra={"fields": fields})
        return int(answer[0])

    def _undone(self, asks: Sequence[_Ask], sent: Sequence[tuple[int, int]]) -> None:
        """Whether the store took it is not known: it is reported once more, which errs to the safe side."""
        for each, (used, restore) in zip(asks, sent, strict=True):
            held = each.held
            held.rounds -= 1
            held.used += used
            held.sure = False
            if held.restore < 0:
                held.restore = restore

    def _lost(self, asks: Sequence[_Ask], sent: Sequence[tuple[int, int]], error: BaseException) -> None:
        self._undone(asks, sent)
        if not self._away_ms:
            self._away_ms = time.time_ns() // 1_000_000
            self._problem = f"the store of limits cannot be reached: {type(error).__name__}"
            fields = {"problem": type(error).__name__}
            log.error("the store of limits cannot be reached; local limits hold", extra={"fields": fields})
