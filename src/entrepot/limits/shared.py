"""Levels shared by machines: Redis or Valkey. A process leases a part of each limit and spends it with no round trip.

The store holds, for each limit, its level and what each process holds of it in bulk; `round.lua` changes both at once.
What a process holds counts as taken, so a limit is never exceeded; what it holds and does not use is the error, at most
a fiftieth of the limit or one call (docs/limits.md derives it). While the store cannot be reached each process admits
its share.

One round at a time: it says for all limits what was used, asks for what calls wait for, and fills leases. Calls that
come while one is under way wait for it and then share the next.

Of a budget each process tells the whole of what it used in the window, as its ledger has it, not what is new: telling
it twice changes nothing, and a store that lost it all hears it again. Until all have done that, or had time for it, it
grants none.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Literal, NamedTuple, cast

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from entrepot.limits.rate import Limit, wait_ms
from entrepot.limits.reserve import Asked, Memory, Part, Parts, Refusal, Short, State, StoreBusy, asked_of, low_of

log = logging.getLogger(__name__)

TICK_S = 0.1
QUIET_S = 0.25
"""So seldom at least a round is made where there is nothing to say: a store that came back empty is to be noticed."""
ALIVE_MS = 5_000
ANSWER_S = 0.5
REFUSED_MS = (10, 100)
"""So long, at least and at most, a refusal of the store is taken for its word: calls over the limit are no rounds."""
GRACE_MS = 1_000
"""So long at most a store that came back empty grants nothing of budgets, so that all processes can tell it of theirs.

Where all have told that were alive at somebody's last word of it before, it grants at once. A new one knows of none.
"""
AT_ONCE = 256

Budgets = Literal["closed", "open"]


class Early(StoreBusy):
    """The store does not know yet what was used of budgets."""


class Answer(msgspec.Struct, array_like=True):
    """Of `round.lua`: who is alive, and since when there is anything.

    A limit's: granted to its lease, its level, what others hold, what the store had of ours, or -1. A call's: 0, the
    number of the need that could not be met, or -1 while budgets wait.
    """

    alive: list[str]
    born: int
    limits: list[tuple[int, int, int, int]]
    calls: list[int]


class _Asking:
    """A call that waits for a round. `here` is what was free of each limit, and is set aside; `needs` is the rest."""

    __slots__ = ("answer", "asked", "here", "needs", "now_ms", "taken")

    def __init__(self, asked: Asked, now_ms: int) -> None:
        self.asked = asked
        self.now_ms = now_ms
        self.answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        self.taken = False
        self.here: list[int] = []
        self.needs: list[tuple[int, Part, int]] = []

    def is_answered(self, refusal: Refusal | None) -> None:
        self.taken = refusal is None
        self.answer.set_result(refusal)


def _met(asked: Asked) -> list[tuple[Part, int]]:
    """What was found here of each limit that a call asks for, and how much it asks for in the store's units."""
    met = [cast(Part, each) for each in asked.met]
    return [(part, part.units(units)) for part, units in zip(met, asked.units, strict=True)]


class _Told(NamedTuple):
    """What a round says of one limit, should it have to be said again."""

    part: Part
    used: int
    total: int
    instead: bool
    debt: int


class Shared:
    """`name` is what the ledger calls this process: its part of budgets is kept by it. `start` begins the rounds."""

    def __init__(self, url: str, name: str, budgets: Budgets = "closed") -> None:
        retry = Retry(NoBackoff(), 0)
        self._redis = Redis.from_url(url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S, retry=retry)
        self._round = self._redis.register_script(files(__package__).joinpath("round.lua").read_text())
        self._pack = msgspec.msgpack.Encoder().encode
        self._unpack = msgspec.msgpack.Decoder(Answer).decode
        self._name = name
        self._pid = f"{name}:{os.getpid()}:{time.time_ns():x}"
        self._budgets = budgets
        self._parts = Parts()
        self._waiting: list[_Asking] = []
        self._due: list[Part] = []
        """Of which the round has something to say. Those of a tick, a few at a time."""
        self._due_s = 0.0
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._born = 0
        self._alive: list[str] = []
        self._knew: set[str] = set()
        """Who was alive when the store was lost, for as long as that may matter."""
        self._knew_until_s = 0.0
        self._told: list[str] = []
        self._otherwise: dict[bytes, tuple[int, int]] = {}
        self._local = Memory()
        self._away_ms = 0
        self._heard_s = 0.0
        """When the store answered last."""
        self._asked_s = 0.0
        """When the last round that was answered began."""
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self.trips = 0
        self.waited = 0
        """Calls that waited for a round."""
        self._problem: str | None = None

    async def start(self) -> None:
        """Returns when the store has answered once, or could not be reached."""
        await self._trip([], [])
        self._task = asyncio.create_task(self._keep())

    async def end(self) -> None:
        """Give back all that is held and not reserved, and report what was used."""
        self._ended = True
        self._wake.set()
        if self._task is not None:
            await self._task  # not cancelled: a client that is interrupted may not let go
        await self._tell(self._parts.held.values(), give_back=True)
        await self._redis.aclose()

    def reserve(self, asked: Asked, now_ms: int) -> Refusal | None:
        """Raises Short where the store has to be asked: `reserve_there`."""
        if not self._parts.take(asked, now_ms):
            return self._short(asked, now_ms)
        if self._parts.low:
            self._wake.set()
        return None

    def _short(self, asked: Asked, now_ms: int) -> Refusal | None:
        short = False
        for index, (part, units) in enumerate(_met(asked)):
            part.asked_ms = now_ms
            part.largest = max(part.largest, units)
            if not units or (part.free >= units and not (part.windowed and self._parts.shut)):
                continue
            if self._away_ms:
                if not self._take_locally(part, units, now_ms):
                    return Refusal(index, 1_000)
            elif units >= part.refused and 0 < part.refused_until_ms - now_ms <= REFUSED_MS[1]:
                return self._refusal(index, part, units, now_ms)
            else:
                short = True
        if short or not self._parts.take(asked, now_ms):
            raise Short
        return None

    async def reserve_there(self, asked: Asked, now_ms: int) -> Refusal | None:
        """The same with a round trip, for all that the leases do not hold."""
        ends_ms = now_ms + 2 * GRACE_MS
        while True:
            if self._ended:
                raise StoreBusy("the store of limits is not asked any more")
            asking = _Asking(asked, now_ms)
            self._waiting.append(asking)
            self._wake.set()
            self.waited += 1
            try:
                return await asking.answer
            except Early:
                if time.time_ns() // 1_000_000 > ends_ms:
                    raise
            except asyncio.CancelledError:
                if asking.taken:
                    self._parts.give_back(asked)
                elif asking.answer.done() and not asking.answer.cancelled():
                    asking.answer.exception()  # nobody else is told
                raise
            await asyncio.sleep(TICK_S)

    def settle(self, asked: Asked, used: list[int], now_ms: int) -> None:
        self._parts.settle(asked, used, now_ms)

    def restore(self, key: bytes, limit: Limit, units: int, now_ms: int) -> int:
        """The store hears of it with the next round. What it was told before it tells itself (`put_right`)."""
        part = self._parts.of(key, limit)
        before = self.counted(key, limit, now_ms)
        part.total, part.fraction = divmod(units, part.scale)
        part.instead = True
        return before

    def counted(self, key: bytes, limit: Limit, now_ms: int) -> int:
        part = self._parts.held.get(key) or self._parts.resting.get(key)
        if part is None:
            return 0
        if part.limit is not limit:
            part.adopt(limit)
        part.roll(now_ms)
        return part.total * part.scale + part.fraction

    async def tell_again(self) -> None:
        """Tell the store of all that was used in windows, once more; `put_right` says what it had otherwise."""
        now_ms = time.time_ns() // 1_000_000
        parts = self._parts
        for part in list(parts.resting.values()):
            del parts.resting[part.key]
            parts.rest(part, now_ms)
        there = [*parts.resting.values(), *(part for part in parts.held.values() if part.windowed)]
        for part in there:
            part.instead = True
        await self._tell(there)

    def put_right(self) -> tuple[list[str], dict[bytes, tuple[int, int]]]:
        told, otherwise = self._told, self._otherwise
        self._told, self._otherwise = [], {}
        return told, otherwise

    def state(self, key: bytes, limit: Limit, now_ms: int) -> State:
        """By what the store said last, and what was taken here since."""
        return self._parts.of(key, limit).state(now_ms)

    def forget(self, now_ms: int) -> None:
        """A tick does."""
        self._local.forget(now_ms)

    @property
    def degraded(self) -> bool:
        return self._away_ms > 0

    @property
    def problem(self) -> str | None:
        return self._problem

    def _refusal(self, index: int, part: Part, units: int, now_ms: int) -> Refusal:
        limit, level = part.limit, part.level_now(now_ms)
        if part.scale != 1:
            limit = limit._replace(burst=part.burst)
        return Refusal(index, wait_ms(limit, level, part.others + part.reserved, units, now_ms) or 1)

    def _take_locally(self, part: Part, units: int, now_ms: int) -> bool:
        """A fair share of the limit, while the store is away. Raises StoreBusy for budgets that fail closed."""
        limit, debt = part.limit, max(0, -part.free)
        if limit.window_ms:
            if self._budgets == "closed":
                raise StoreBusy("the store of limits cannot be reached, and budgets wait for it")
            part.free += debt
        elif limit.amount == 0:
            if part.reserved + units > max(1, limit.burst // self._parts.processes):
                return False
        else:
            share = Limit(
                max(1, limit.amount // self._parts.processes),
                limit.period_ms,
                max(1, limit.burst // self._parts.processes),
                True,
            )
            part.free += debt
            if part.alone_ms != self._away_ms:
                part.alone_ms = self._away_ms
                self._begin_alone(part, share, now_ms)
            elif debt:
                taken = self._local.counted(part.key, share, now_ms) + debt
                self._local.restore(part.key, share, taken, now_ms)
            if self._local.reserve(asked_of((part.key, share, units)), now_ms) is not None:
                return False
        part.free += units
        part.sure = False
        return True

    def _begin_alone(self, part: Part, share: Limit, now_ms: int) -> None:
        """With its share of what was taken at last sight: a limit that was used up does not begin anew."""
        taken = -(-part.level_now(now_ms) // share.period_ms) + part.others + part.free + part.reserved + part.used
        here = share.burst - self._local.state(part.key, share, now_ms).remaining
        self._local.restore(part.key, share, max(here, -(-taken // self._parts.processes)), now_ms)

    async def _keep(self) -> None:
        """Rounds, one after the other: when a call waits, when a lease gets low, and each tick."""
        loop = asyncio.get_running_loop()
        while not self._ended:
            if not self._due:
                timer = loop.call_at(self._due_s, self._wake.set)
                await self._wake.wait()
                timer.cancel()
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            try:
                if not self._due and loop.time() >= self._due_s:
                    self._due_s = loop.time() + TICK_S
                    self._due = self._parts.due(time.time_ns() // 1_000_000)
                await self._answer(waiting)
            except Exception:  # an edge: the rounds go on, whatever one of them met
                log.exception("a round with the store of limits failed")
                self._due = []
            finally:
                self._let_go(waiting)
        self._let_go(self._waiting)

    def _let_go(self, waiting: Iterable[_Asking]) -> None:
        for each in waiting:
            if not each.answer.done():
                each.answer.set_exception(StoreBusy("the store of limits could not be asked"))

    async def _answer(self, waiting: Sequence[_Asking]) -> None:
        """A round for the calls that the leases do not serve now, and for what else there is to say."""
        now_ms = time.time_ns() // 1_000_000
        asking = [each for each in waiting if not self._is_served(each, now_ms)]
        due, self._due = self._due[:AT_ONCE], self._due[AT_ONCE:]
        for each in asking:
            self._set_aside(each)
        needed = [part for each in asking for _, part, _ in each.needs]
        parts = list(dict.fromkeys([*needed, *self._parts.renewed(), *due]))
        if (
            not parts
            and not asking
            and not self._away_ms
            and asyncio.get_running_loop().time() < self._heard_s + QUIET_S
        ):
            return
        calls: list[int] | None = None
        try:
            async with self._turn:
                calls = await self._trip(parts, asking)
        finally:
            for number, each in enumerate(asking):
                self._conclude(each, None if calls is None else calls[number])
        if calls is None:
            self._due = []
            for each in asking:
                self._is_served(each, now_ms)  # as it is while the store is away

    def _is_served(self, each: _Asking, now_ms: int) -> bool:
        """Whether no round is needed for a call any more."""
        if each.answer.done():  # who asked has gone
            return True
        try:
            each.is_answered(self.reserve(each.asked, max(now_ms, each.now_ms)))
        except Short:
            return False
        except StoreBusy as busy:
            each.answer.set_exception(busy)
        return True

    def _set_aside(self, each: _Asking) -> None:
        for index, (part, units) in enumerate(_met(each.asked)):
            here = max(0, min(part.free, units))
            part.free -= here
            part.reserved += here
            each.here.append(here)
            if here < units:
                each.needs.append((index, part, units - here))

    def _conclude(self, each: _Asking, failed: int | None) -> None:
        """Without an answer what was set aside is free again, and that is all."""
        granted = failed == 0
        if granted:
            for _, part, units in each.needs:
                part.reserved += units
        for (part, units), here in zip(_met(each.asked), each.here, strict=True):
            if not granted:
                part.reserved -= here
                part.free += here
            elif part.charged:
                part.reserved -= units
                part.used += units
        if failed is None:
            return
        if each.answer.done():  # who asked has gone
            if granted:
                self._parts.give_back(each.asked)
        elif granted:
            each.is_answered(None)
        elif failed < 0:
            each.answer.set_exception(Early("the store of limits came back empty, and budgets wait until it has heard"))
        else:
            index, part, _ = each.needs[failed - 1]
            now_ms, units = part.at_ms, part.units(each.asked.units[index])
            refusal = self._refusal(index, part, units, now_ms)
            if units <= part.refused or now_ms >= part.refused_until_ms:
                least_ms, most_ms = REFUSED_MS
                part.refused, part.refused_until_ms = units, now_ms + min(most_ms, max(least_ms, refusal.wait_ms))
            each.is_answered(refusal)

    async def _tell(self, parts: Iterable[Part], *, give_back: bool = False) -> None:
        """Besides the rounds of `_keep`, between two of them."""
        there = list(parts)
        for at in range(0, max(1, len(there)), AT_ONCE):
            async with self._turn:
                await self._trip(there[at : at + AT_ONCE], [], give_back=give_back)

    async def _trip(
        self, parts: Sequence[Part], asking: Sequence[_Asking], *, give_back: bool = False
    ) -> list[int] | None:
        """What `Answer.calls` says; None without an answer. One at a time."""
        began_ms, began_s = time.time_ns() // 1_000_000, asyncio.get_running_loop().time()
        keys = [b"entrepot:limits:" + each for each in (b"alive", b"since", b"told", b"knew")]
        keys += [b"entrepot:limit:" + part.key.hex().encode() for part in parts]
        told, limits, knew = [], [], self._knew_if_all_is_told(parts)
        for part in parts:
            if part.windowed:
                part.roll(began_ms)
            lease = 0 if give_back else self._parts.lease_of(part, began_ms)
            # Less than nothing is what was used and never reserved. While the store is away it stays in sight of calls.
            back = max(0 if self._away_ms else min(0, part.free), part.free - lease)
            part.free -= back
            said = _Told(part, part.used, part.total, part.instead, min(0, back))
            part.used, part.instead = 0, False
            told.append(said)
            limits.append(
                (
                    *(part.amount, part.period_ms, part.burst, part.window_ms, said.used, back),
                    *(part.reserved + part.free, max(0, lease - part.free), int(not part.sure)),
                    *(said.total, part.number, int(said.instead)),
                )
            )
        places = {part.key: number for number, part in enumerate(parts, 1)}
        calls = [[n for _, part, units in each.needs for n in (places[part.key], units)] for each in asking]
        try:
            packed = self._pack((self._pid, self._name, ALIVE_MS, GRACE_MS, knew, limits, calls))
            answer = self._unpack(await self._round(keys=keys, args=[packed]))
        except (TimeoutError, RedisError, OSError) as error:
            self._undone(told)
            self._lost(error)
            return None
        except BaseException:
            self._undone(told)
            raise
        self._hear(answer, told, began_s)
        return answer.calls

    def _hear(self, answer: Answer, told: Sequence[_Told], began_s: float) -> None:
        now_ms, self._heard_s = time.time_ns() // 1_000_000, asyncio.get_running_loop().time()
        if self._heard_s - self._asked_s > ALIVE_MS / 1_000:
            self._taken_for_dead(told)
        self._asked_s = began_s
        self.trips += 1
        self._parts.processes = max(1, len(answer.alive))
        self._bear(answer.born)
        self._alive = answer.alive
        for said, (granted, level, others, before) in zip(told, answer.limits, strict=True):
            part = said.part
            part.sure = True
            if part.windowed:
                self._compare(part, said.total, before)
            part.told = True
            part.free += granted
            part.level, part.at_ms, part.others = level, now_ms, others
            low = low_of(part, self._parts.lease_of(part, now_ms))
            part.low = low if part.free >= low else 0
        if self._away_ms:
            fields = {"for_ms": now_ms - self._away_ms}
            self._away_ms, self._problem = 0, None
            self._parts.away = self._parts.shut = False
            log.warning("the store of limits answers again", extra={"fields": fields})

    def _taken_for_dead(self, told: Sequence[_Told]) -> None:
        """The store may have let go of all that is held here: it is told again. What is free of money is given up."""
        now = {said.part.key for said in told}
        for part in self._parts.held.values():
            part.sure = False
            if part.windowed and part.key not in now:
                part.free = min(0, part.free)

    def _compare(self, part: Part, total: int, before: int) -> None:
        """The store has what was told; `before` is what it had of it, -1 where that was in another window."""
        if part.heard >= 0:
            otherwise = before not in {-1, part.heard}
        else:  # the first word of a process that comes back
            otherwise = not part.told and before not in {-1, 0, total}
        if otherwise:
            self._otherwise[part.key] = (before * part.scale, total * part.scale)
        part.heard = -1 if before < 0 else total

    def _bear(self, born: int) -> None:
        """If the store is another than it was, or has lost everything, it is told of everything again."""
        before, self._born = self._born, born
        if before in {0, born}:
            return
        parts = self._parts
        parts.held |= parts.resting
        parts.resting = {}
        for part in parts.held.values():
            part.sure, part.heard = False, -1
        self._due_s = 0.0
        self._knew |= {*self._alive}
        self._knew_until_s = self._heard_s + 2 * GRACE_MS / 1_000
        budgets = sum(bool(part.total) for part in parts.held.values() if part.windowed)
        self._told.append(f"the store of limits came back empty, and is told again of {budgets} budgets")
        log.error("the store of limits came back empty", extra={"fields": {"budgets": budgets}})

    def _knew_if_all_is_told(self, parts: Sequence[Part]) -> list[str]:
        """`parts` are those of a round: with it the store has heard of all that was used of budgets here, or not."""
        if self._knew and asyncio.get_running_loop().time() > self._knew_until_s:
            self._knew = set()
        if not self._knew:
            return []
        now = {part.key for part in parts}
        held = self._parts.held.values()
        return [] if any(p.total and p.heard < 0 and p.key not in now for p in held) else [*self._knew]

    def _undone(self, told: Sequence[_Told]) -> None:
        """Whether the store took it is not known: it is reported once more, which errs to the safe side."""
        for said in told:
            part = said.part
            part.used += said.used
            part.free += said.debt
            part.sure, part.heard = False, -1
            part.instead = part.instead or said.instead

    def _lost(self, error: BaseException) -> None:
        if not self._away_ms:
            self._away_ms = time.time_ns() // 1_000_000
            self._parts.away, self._parts.shut = True, self._budgets == "closed"
            self._problem = f"the store of limits cannot be reached: {type(error).__name__}"
            fields = {"problem": type(error).__name__}
            log.error("the store of limits cannot be reached; local limits hold", extra={"fields": fields})
