"""Levels shared by machines: Redis or Valkey. A process leases a part of each limit and spends it with no round trip.

The store holds, for each limit, its level and what each process holds of it in bulk; `round.lua` changes both at once.
What a process holds counts as taken, so a limit is never exceeded; what it holds and does not use is the error, at most
a fiftieth of the limit (docs/limits.md derives it). While the store cannot be reached each process admits its share.

Of a budget each process tells the whole of what it used in the window, as its ledger has it, not what is new: telling
it twice changes nothing, and a store that lost it all hears it again. Until all had time for that it grants none.

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

from entrepot.limits.rate import Level, Limit, leaked, wait_ms, window_of
from entrepot.limits.reserve import Memory, Refusal, Short, State, StoreBusy, Want, state_of

log = logging.getLogger(__name__)

TICK_S = 0.1
ALIVE_MS = 5_000
ANSWER_S = 0.5
IDLE_MS = 1_000
REFUSED_MS = 100
"""So long a refusal of the store is taken for its word, so that calls over the limit do not become rounds."""
GRACE_MS = 1_000
"""So long a store that came back empty grants nothing of budgets, so that all processes can tell it of theirs."""
LEASED_PERCENT = 2
AT_ONCE = 256
TRIES = 4
MICRO = 1_000_000
"""Money is in micros there: numbers stay whole in a double. What is below a micro stays here until it is one."""

Budgets = Literal["closed", "open"]


class Early(StoreBusy):
    """The store does not know yet what was used of budgets."""


class _Held:
    """What this process holds of one limit, in the store's units.

    Of a limit with a window `total` and `fraction` are all that it used in the window `number`, `heard` is what the
    store is known to have of that, or -1. `instead`: the store is to take `total` even if it has more.
    """

    __slots__ = (
        "alone_ms",
        "asked_ms",
        "at_ms",
        "first",
        "fraction",
        "heard",
        "instead",
        "lease",
        "level",
        "limit",
        "number",
        "others",
        "refused_until_ms",
        "reserved",
        "rounds",
        "scale",
        "sent",
        "sure",
        "total",
        "used",
    )

    def __init__(self, limit: Limit) -> None:
        self.scale = MICRO if limit.window_ms else 1
        self.limit = limit
        self.lease = self.reserved = self.used = self.fraction = 0
        self.level = self.others = self.at_ms = self.asked_ms = self.refused_until_ms = self.rounds = 0
        self.alone_ms = 0
        self.total = self.number = self.sent = 0
        self.heard = -1
        self.instead = False
        self.sure = False
        """The store has answered since what it holds of ours was last in doubt."""
        self.first: asyncio.Task[int | None] | None = None

    def first_trip(self) -> asyncio.Task[int | None] | None:
        """While it is under way no other may be: it says all that is held, and the store forgets what it had of it."""
        return self.first if self.first is not None and not self.first.done() else None

    @property
    def capacity(self) -> int:
        return self.limit.burst // self.scale

    def spend(self, real: int, now_ms: int) -> int:
        """Add to what was used in the window. `real` is in the limit's unit; what of it is whole in the store's."""
        self.roll(now_ms)
        whole, self.fraction = divmod(real + self.fraction, self.scale)
        self.total += whole
        return whole

    def roll(self, now_ms: int) -> None:
        """With a new window nobody has used anything."""
        number = window_of(self.limit.window_ms, now_ms)
        if number > self.number:
            self.number, self.heard = number, -1
            self.total = self.fraction = 0


class _Sent(NamedTuple):
    """What a round told of one limit. `turn` numbers the limit's rounds, `alone` is one with no other beside it."""

    used: int
    total: int
    turn: int
    alone: bool
    instead: bool


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
        self._resting: dict[bytes, _Held] = {}
        """Of budgets that nobody calls on now: what was used of them."""
        self._born = 0
        self._told: list[str] = []
        self._otherwise: dict[bytes, tuple[int, int]] = {}
        self._local = Memory()
        self._away_ms = 0
        self._heard_ms = 0
        """When the store answered last."""
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
            if held.lease >= self._units(held, want.units):
                continue
            if self._away_ms:
                if not self._take_locally(want, held, now_ms):
                    return Refusal(index, 1_000)
            elif now_ms < held.refused_until_ms:
                return self._refusal(index, want, held, now_ms)
            else:
                raise Short
        self._take(wants)
        return None

    async def reserve_there(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        """The same with a round trip, for all of the wants that the leases do not hold."""
        tries, ends_ms = TRIES, now_ms + 2 * GRACE_MS
        while True:
            try:
                refusal = await self._reserve_there(wants, now_ms)
            except Early:
                if time.time_ns() // 1_000_000 > ends_ms:
                    raise
                await asyncio.sleep(TICK_S)
                continue
            except Short:  # the store went away and came back meanwhile
                refusal = Refusal(0, 0)
            tries -= 1
            if refusal is None or refusal.wait_ms != 0 or not tries:
                return refusal

    async def _reserve_there(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        """Without anything to wait for: another call took what was here while the store was asked for the rest."""
        first = [trip for want in wants if (trip := self._of(want).first_trip())]
        if first:
            await asyncio.wait(first)
            return self.reserve(wants, now_ms)
        asks = []
        for want in wants:
            held = self._of(want)
            least = max(0, self._units(held, want.units) - max(0, held.lease))
            asks.append(_Ask(want.key, held, least, least + self._lease_of(held) if least else 0))
        failed = await asyncio.shield(self._begin(asks))
        if failed is None:  # nobody was there to ask
            return self.reserve(wants, now_ms)
        if failed < 0:
            raise Early("the store of limits came back empty, and budgets wait until it has heard of them again")
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

    def settle(self, wants: Sequence[Want], used: Sequence[int], now_ms: int) -> None:
        for index, want in enumerate(wants):
            if want.limit.charged:
                continue
            held = self._of(want)
            units, real = self._units(held, want.units), used[index]
            if held.limit.window_ms:
                real = held.spend(real, now_ms)
            held.reserved -= units
            held.used += real
            held.lease += units - real

    def restore(self, key: bytes, limit: Limit, units: int, now_ms: int) -> int:
        """The store hears of it with the next round. What it was told before it tells itself (`put_right`)."""
        held = self._of(Want(key, limit, 0))
        before = self.counted(key, limit, now_ms)
        held.total, held.fraction = divmod(units, held.scale)
        held.instead = True
        return before

    def counted(self, key: bytes, limit: Limit, now_ms: int) -> int:
        held = self._held.get(key) or self._resting.get(key)
        if held is None:
            return 0
        held.limit = limit
        held.roll(now_ms)
        return held.total * held.scale + held.fraction

    async def tell_again(self) -> None:
        """Tell the store of all that was used in windows, once more; `put_right` says what it had otherwise."""
        now_ms = time.time_ns() // 1_000_000
        for key, held in list(self._resting.items()):
            del self._resting[key]
            self._rest(key, held, now_ms)
        there = [*self._resting.items(), *((key, held) for key, held in self._held.items() if held.limit.window_ms)]
        for at in range(0, len(there), AT_ONCE):
            asks = [_Ask(key, held, 0, 0) for key, held in there[at : at + AT_ONCE] if not held.rounds]
            for each in asks:
                each.held.instead = True
            await self._trip(asks)

    def put_right(self) -> tuple[list[str], dict[bytes, tuple[int, int]]]:
        told, otherwise = self._told, self._otherwise
        self._told, self._otherwise = [], {}
        return told, otherwise

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
            held = self._resting.pop(want.key) if want.key in self._resting else _Held(want.limit)
            self._held[want.key] = held
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
            if held.alone_ms != self._away_ms:
                held.alone_ms = self._away_ms
                self._begin_alone(want.key, held, part, now_ms)
            if self._local.reserve([Want(want.key, part, units)], now_ms) is not None:
                return False
        held.lease += units
        held.sure = False
        return True

    def _begin_alone(self, key: bytes, held: _Held, part: Limit, now_ms: int) -> None:
        """With its share of what was taken at last sight: a limit that was used up does not begin anew."""
        level = leaked(held.limit, Level(held.level, held.at_ms), now_ms).level
        taken = -(-level // part.period_ms) + held.others + held.lease + held.reserved + held.used
        here = part.burst - self._local.states([Want(key, part, 0)], now_ms)[0].remaining
        self._local.restore(key, part, max(here, -(-taken // self._processes)), now_ms)

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
            if held.rounds or held.first_trip():
                continue
            idle = give_back or now_ms - held.asked_ms > IDLE_MS
            target = 0 if idle else self._lease_of(held)
            if idle and held.sure and not (held.lease or held.used or held.reserved or held.instead):
                del self._held[key]
                self._rest(key, held, now_ms)
                continue
            if not held.used and not held.instead and held.sure and target // 2 <= held.lease <= target:
                continue
            back = max(0, held.lease - target)
            held.lease -= back
            asks.append(_Ask(key, held, 0, max(0, target - held.lease) if not idle else 0, back))
        for at in range(0, max(1, len(asks)), AT_ONCE):
            await self._begin(asks[at : at + AT_ONCE])

    def _rest(self, key: bytes, held: _Held, now_ms: int) -> None:
        if held.limit.window_ms:
            held.roll(now_ms)
            if held.total or held.fraction:
                self._resting[key] = held

    def _begin(self, asks: Sequence[_Ask]) -> asyncio.Task[int | None]:
        """A task of its own: the client needs one, and whoever asks may go away while the store answers."""
        trip = asyncio.create_task(self._trip(asks))
        self._trips.add(trip)
        trip.add_done_callback(self._trips.discard)
        for each in asks:
            if not each.held.sure:
                each.held.first = trip
        return trip

    async def _trip(self, asks: Sequence[_Ask]) -> int | None:
        """The number of the first ask whose least was not to be had, 0 if there is none; None without an answer.

        -1: the store came back empty and does not grant of budgets yet.
        """
        began_ms = time.time_ns() // 1_000_000
        keys: list[bytes] = [b"entrepot:limits:alive", b"entrepot:limits:since"]
        keys += [b"entrepot:limit:" + each.key.hex().encode() for each in asks]
        arguments: list[Any] = [self._pid, self._name, ALIVE_MS, GRACE_MS]
        sent = []
        for each in asks:
            held, limit = each.held, each.held.limit
            if limit.window_ms:
                held.roll(began_ms)
            told = self._sent(held)
            sent.append(told)
            arguments += [limit.amount, limit.period_ms, held.capacity, limit.window_ms, told.used, each.back]
            arguments += [held.reserved + held.lease, each.least, each.most, int(told.alone and not held.sure)]
            arguments += [told.total, held.number, int(told.instead)]
        try:
            answer = await self._round(keys=keys, args=arguments)
        except (TimeoutError, RedisError, OSError) as error:
            self._undone(asks, sent)
            if began_ms >= self._heard_ms:  # else it has answered since
                self._lost(error)
            return None
        now_ms = self._heard_ms = time.time_ns() // 1_000_000
        self.trips += 1
        self._processes = max(1, int(answer[1]))
        self._bear(int(answer[2]))
        for at, each in enumerate(asks):
            held, (granted, level, taken, before) = each.held, map(int, answer[3 + 4 * at : 7 + 4 * at])
            held.rounds -= 1
            held.sure = held.sure or not held.rounds
            if held.limit.window_ms:
                self._hear(each.key, held, sent[at], before)
            held.lease += granted
            held.level, held.at_ms = level, now_ms
            held.others = max(0, taken - held.lease - held.reserved)
        if self._away_ms:
            fields = {"for_ms": now_ms - self._away_ms}
            self._away_ms, self._problem = 0, None
            log.warning("the store of limits answers again", extra={"fields": fields})
        return int(answer[0])

    def _sent(self, held: _Held) -> _Sent:
        alone = not held.rounds
        used, held.used = held.used, 0
        held.rounds += 1
        held.sent += 1
        instead = alone and held.instead
        if instead:
            held.instead = False
        return _Sent(used, held.total, held.sent, alone, instead)

    def _hear(self, key: bytes, held: _Held, sent: _Sent, before: int) -> None:
        """The store has what was told; `before` is what it had of it, -1 where that was in another window."""
        undisturbed = sent.alone and held.sent == sent.turn
        if held.heard >= 0:
            otherwise = before not in {-1, held.heard}
        else:  # the first word of a process that comes back
            otherwise = sent.turn == 1 and before not in {-1, 0, sent.total}
        if undisturbed and otherwise:
            self._otherwise[key] = (before * held.scale, sent.total * held.scale)
        if sent.instead and not undisturbed:  # the round beside it may have told what was before
            held.sure = False
        held.heard = sent.total if undisturbed else -1

    def _bear(self, born: int) -> None:
        """If the store is another than it was, or has lost everything, it is told of everything again."""
        before, self._born = self._born, born
        if before in {0, born}:
            return
        self._held |= self._resting
        self._resting = {}
        for held in self._held.values():
            held.sure, held.heard = False, -1
        budgets = sum(bool(held.total) for held in self._held.values() if held.limit.window_ms)
        self._told.append(f"the store of limits came back empty, and is told again of {budgets} budgets")
        log.error("the store of limits came back empty", extra={"fields": {"budgets": budgets}})

    def _undone(self, asks: Sequence[_Ask], sent: Sequence[_Sent]) -> None:
        """Whether the store took it is not known: it is reported once more, which errs to the safe side."""
        for each, told in zip(asks, sent, strict=True):
            held = each.held
            held.rounds -= 1
            held.used += told.used
            held.sure, held.heard = False, -1
            held.instead = held.instead or told.instead

    def _lost(self, error: BaseException) -> None:
        if not self._away_ms:
            self._away_ms = time.time_ns() // 1_000_000
            self._problem = f"the store of limits cannot be reached: {type(error).__name__}"
            fields = {"problem": type(error).__name__}
            log.error("the store of limits cannot be reached; local limits hold", extra={"fields": fields})
