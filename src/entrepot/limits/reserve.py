"""A call's reservations: all or none, settled once. What every store of levels offers, and its plainest form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, final

from entrepot.limits.rate import Level, Limit, empty_at_ms, fits, level_at, wait_ms, window_end_ms, window_of

FORGOTTEN = 4096
"""So many levels, or an eighth of them, are looked at each time whether they can be forgotten."""


@final
class Want:
    """`units` of the limit that `key` names: 16 bytes, the same in every process. It is never changed."""

    __slots__ = ("key", "limit", "units")

    def __init__(self, key: bytes, limit: Limit, units: int) -> None:
        self.key = key
        self.limit = limit
        self.units = units


class Refusal(NamedTuple):
    """The first of the wants that does not fit. `wait_ms` is -1 where waiting does not help."""

    which: int
    wait_ms: int


class StoreBusy(Exception):  # noqa: N818 - not an error of anybody's
    """The store cannot be asked now. Nothing was changed, and it may be tried again."""


class Short(Exception):  # noqa: N818 - not an error of anybody's
    """What this process holds does not suffice: `reserve_there` asks for more. Nothing was reserved."""


@final
class State:
    """What is left of a limit, in whole units, and when it is whole again if nothing comes."""

    __slots__ = ("remaining", "reset_ms")

    def __init__(self, remaining: int, reset_ms: int) -> None:
        self.remaining = remaining
        self.reset_ms = reset_ms


class Store(Protocol):
    """Levels by key. `reserve` takes all wants or none; `settle` must follow exactly once for each that was taken.

    Neither waits for anything but other processes of this machine, for microseconds. All may raise StoreBusy.
    `degraded`: the processes of other machines are not heard of now, and this one admits a share of each limit.
    """

    @property
    def degraded(self) -> bool: ...

    @property
    def problem(self) -> str | None:
        """Why it is degraded."""
        ...

    def reserve(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        """May raise Short; then `reserve_there` is to be awaited."""
        ...

    async def reserve_there(self, wants: Sequence[Want], now_ms: int) -> Refusal | None: ...

    def settle(self, wants: Sequence[Want], used: Sequence[int], now_ms: int) -> None:
        """`used` units of each want, in their order; those of charged limits are not looked at."""

    def restore(self, key: bytes, limit: Limit, units: int, now_ms: int) -> int:
        """Of a limit with a window: what this process has used in it, as its ledger says. Gives back what was held."""
        ...

    def counted(self, key: bytes, limit: Limit, now_ms: int) -> int:
        """Of a limit with a window: what this process is held to have used in it, in the limit's unit."""
        ...

    async def tell_again(self) -> None:
        """Tell whoever else keeps what this process used of limits with a window; nobody, in one machine."""

    def put_right(self) -> tuple[list[str], dict[bytes, tuple[int, int]]]:
        """Since the last time: what happened to whoever else keeps it, and which parts it had otherwise: was and is."""
        ...

    def states(self, wants: Sequence[Want], now_ms: int) -> list[State]:
        """Of each want's limit as it is now; the units are not looked at."""
        ...

    def forget(self, now_ms: int) -> None:
        """Let go of what is whole again, if that is this process's to do."""

    async def end(self) -> None:
        """Give back what is held; nothing may be asked of it any more."""


class Memory:
    """Levels of one process, gone with it. `forget` keeps it small."""

    degraded = False
    problem: str | None = None

    def __init__(self) -> None:
        self._held: dict[bytes, Bucket] = {}
        self._to_look_at: list[bytes] = []
        """What `forget` has still to look at before it begins anew."""

    def reserve(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        taken = []
        for index, want in enumerate(wants):
            held, units = self._now(want, now_ms), want.units
            # The common case of `fits`, written out: this runs for every call.
            if held.level + (held.reserved + units) * held.period_ms > held.capacity:
                limit = held.limit
                if not fits(limit, held.level, held.reserved, units):
                    return Refusal(index, wait_ms(limit, held.level, held.reserved, units, now_ms))
            taken.append(held)
        for held, want in zip(taken, wants, strict=True):
            if held.charged:
                held.level += want.units * held.period_ms
            else:
                held.reserved += want.units
        return None

    async def reserve_there(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        return self.reserve(wants, now_ms)

    def settle(self, wants: Sequence[Want], used: Sequence[int], now_ms: int) -> None:
        for want, real in zip(wants, used, strict=True):
            held = self._now(want, now_ms)
            if not held.charged:
                held.level += real * held.period_ms
                held.reserved -= want.units

    def restore(self, key: bytes, limit: Limit, units: int, now_ms: int) -> int:
        held = self._now(Want(key, limit, 0), now_ms)
        before, held.level = held.level, units * limit.period_ms
        return before // limit.period_ms

    def counted(self, key: bytes, limit: Limit, now_ms: int) -> int:
        return self._now(Want(key, limit, 0), now_ms).level // limit.period_ms

    async def tell_again(self) -> None:
        """There is nobody."""

    def put_right(self) -> tuple[list[str], dict[bytes, tuple[int, int]]]:
        return [], {}

    def states(self, wants: Sequence[Want], now_ms: int) -> list[State]:
        found = []
        for want in wants:
            held = self._held.get(want.key)
            if held is None or held.at_ms < now_ms:
                held = self._now(want, now_ms)
            found.append(held.state(held.level, held.reserved, now_ms))
        return found

    async def end(self) -> None:
        self._held.clear()

    def forget(self, now_ms: int) -> None:
        """Drop what is empty again: a key that comes back begins with nothing, as it would have been.

        Of many a part each time: all at once they would hold up a call.
        """
        if not self._to_look_at:
            self._to_look_at = list(self._held)
        looked_at = max(FORGOTTEN, len(self._held) // 8)
        for key in self._to_look_at[-looked_at:]:
            held = self._held.get(key)
            if held is None or held.reserved:
                continue
            if empty_at_ms(held.limit, Level(held.level, held.at_ms)) <= now_ms:
                del self._held[key]
        del self._to_look_at[-looked_at:]

    def _now(self, want: Want, now_ms: int) -> Bucket:
        """What is held, with its level brought to now, under the limit as it is declared now."""
        held = self._held.get(want.key)
        if held is None:
            held = self._held[want.key] = Bucket(want.limit, now_ms)
        elif held.limit is not want.limit:
            held.adopt(want.limit)
        passed_ms = now_ms - held.at_ms
        if passed_ms > 0:
            if held.level:
                if held.windowed:
                    if now_ms >= held.ends_ms:
                        held.level = level_at(held.limit, held.level, held.at_ms, now_ms)
                else:  # the common case of `level_at`, written out
                    level = held.level - passed_ms * held.amount
                    held.level = level if level > 0 else 0
            held.at_ms = now_ms
        return held


class Bucket:
    """A level with its limit, what is reserved of it, and what of the limit every call looks at."""

    __slots__ = (
        *("amount", "at_ms", "burst", "capacity", "charged", "ends_ms", "level", "limit", "period_ms", "reserved"),
        *("window_ms", "windowed"),
    )

    def __init__(self, limit: Limit, at_ms: int) -> None:
        self.level = 0
        self.at_ms = at_ms
        self.reserved = 0
        self.adopt(limit)

    def adopt(self, limit: Limit) -> None:
        self.limit = limit
        self.amount = limit.amount
        self.period_ms = limit.period_ms
        self.capacity = limit.capacity
        self.burst = limit.burst
        self.charged = limit.charged
        self.window_ms = limit.window_ms
        self.windowed = limit.window_ms > 0
        self.ends_ms = 0
        """Of the window that the last state was of: it is not reckoned for each call."""

    def state(self, level: int, reserved: int, now_ms: int) -> State:
        """As `state_of` has it. `level` is that of now."""
        if self.windowed:
            if now_ms >= self.ends_ms:
                self.ends_ms = window_end_ms(self.window_ms, now_ms)
            reset_ms = self.ends_ms - now_ms
        else:
            reset_ms = -(-level // self.amount) if self.amount else 0
        left = self.burst - reserved - (-(-level // self.period_ms) if level else 0)
        return State(left if left > 0 else 0, reset_ms)


def state_of(limit: Limit, level: int, reserved: int, now_ms: int) -> State:
    """`level` is that of now."""
    amount, period_ms, burst, _, window_ms = limit
    reset_ms = -(-level // amount) if amount else 0
    if window_ms:
        reset_ms = window_end_ms(window_ms, now_ms) - now_ms
    left = burst - reserved - (-(-level // period_ms))
    return State(left if left > 0 else 0, reset_ms)


MICRO = 1_000_000
"""Money is in micros in a store: numbers stay whole in a double. What is below a micro stays here until it is one."""
IDLE_MS = 1_000
"""A limit that nobody calls on for so long needs no lease."""
LEASED_PERCENT = 2
REMEMBERED = 20
"""Ticks, twice at most, for which the largest call of a limit is."""
SAID_AGAIN = 1_000
"""Ticks. The store forgets after ten minutes what nobody speaks of, and calls may take longer."""


class Part:
    """What this process holds of one limit that it shares with other machines, in the store's units.

    Of a limit with a window `total` and `fraction` are all that this process used in the window `number`, `heard` is
    what the store is known to have of that, or -1. `instead`: the store is to take `total` even if it has more.
    `level`, `at_ms` and `others` are what the store said last: used, and held by other processes.

    INVARIANT: what is held is `free + reserved + used`; a call moves units between the three, and only a round with the
    store changes the sum. `used` is what the store has not heard of yet.
    """

    __slots__ = (
        *("alone_ms", "amount", "asked_ms", "at_ms", "capacity", "charged", "ends_ms", "fraction", "free", "heard"),
        *("instead", "key", "largest", "largest_before", "level", "limit", "low", "number", "others", "period_ms"),
        *("refused", "refused_until_ms", "reserved", "scale", "sure", "told", "total", "used", "window_ms", "windowed"),
    )

    def __init__(self, key: bytes, limit: Limit) -> None:
        self.key = key
        self.free = self.reserved = self.used = self.fraction = 0
        self.level = self.others = self.at_ms = self.asked_ms = self.refused_until_ms = self.alone_ms = 0
        self.low = self.largest = self.largest_before = self.refused = 0
        """With less than `low` free more is asked for ahead. `largest` is what a call asked for at most, of late.

        Calls of at least `refused` units are refused until `refused_until_ms`, without asking.
        """
        self.total = self.number = self.ends_ms = 0
        self.heard = -1
        self.told = self.instead = False
        self.sure = False
        """The store has answered since what it holds of ours was last in doubt."""
        self.adopt(limit)

    def adopt(self, limit: Limit) -> None:
        self.limit = limit
        self.window_ms = limit.window_ms
        self.windowed = limit.window_ms > 0
        self.scale = MICRO if self.windowed else 1
        self.capacity = limit.burst // self.scale
        self.amount = limit.amount
        self.period_ms = limit.period_ms
        self.charged = limit.charged
        self.ends_ms = 0

    def units(self, units: int) -> int:
        """What a call asks for, in the store's units."""
        return units if self.scale == 1 else -(-units // self.scale)

    def spend(self, real: int, now_ms: int) -> int:
        """Add to what was used in the window. `real` is in the limit's unit; what of it is whole in the store's."""
        self.roll(now_ms)
        real += self.fraction
        whole = real // self.scale
        self.fraction = real - whole * self.scale
        self.total += whole
        return whole

    def roll(self, now_ms: int) -> None:
        """With a new window nobody has used anything."""
        if now_ms < self.ends_ms:
            return
        number = window_of(self.window_ms, now_ms)
        self.ends_ms = window_end_ms(self.window_ms, now_ms)
        if number > self.number:
            self.number, self.heard = number, -1
            self.total = self.fraction = self.level = 0

    def level_now(self, now_ms: int) -> int:
        """By what the store said last."""
        return level_at(self.limit, self.level, self.at_ms, now_ms) if self.at_ms and self.level else 0

    def state(self, now_ms: int) -> State:
        """By what the store said last, and what was taken here since; in the limit's unit."""
        level = self.level
        if self.windowed:
            self.roll(now_ms)
            level = self.level
            reset_ms = self.ends_ms - now_ms
        else:
            passed_ms = now_ms - self.at_ms
            if level and passed_ms > 0:
                level = max(0, level - passed_ms * self.amount)
            reset_ms = -(-level // self.amount) if level and self.amount else 0
        left = self.capacity - self.others - self.reserved - self.used
        if level:
            left -= -(-level // self.period_ms)
        return State(left * self.scale if left > 0 else 0, reset_ms)


class Parts:
    """All that this process holds of such limits. A call takes from what is free, with no word to anybody.

    `processes` share them, at the last word of the store; `away`: there is none now. `shut`: of limits with a window
    nothing is taken.
    """

    __slots__ = ("_ticks", "away", "held", "low", "processes", "resting", "shut")

    def __init__(self) -> None:
        self._ticks = 0
        self.processes = 1
        self.away = self.shut = False
        self.held: dict[bytes, Part] = {}
        self.resting: dict[bytes, Part] = {}
        """Of limits with a window that nobody calls on now: what was used of them."""
        self.low: list[Part] = []
        """Those of which there is little left to take; `renewed` takes them."""

    def of(self, want: Want) -> Part:
        part = self.held.get(want.key)
        if part is None:
            resting = self.resting.pop(want.key, None)
            part = self.held[want.key] = Part(want.key, want.limit) if resting is None else resting
        if part.limit is not want.limit:
            part.adopt(want.limit)
        return part

    def held_of(self, want: Want) -> Part:
        """Of a want that was taken: the limit may have been declared otherwise since then, and stays so."""
        part = self.held.get(want.key)
        return self.of(want) if part is None else part

    def take(self, wants: Sequence[Want], now_ms: int) -> bool:
        """All of the wants, or nothing if that is not free."""
        met: list[Part] = []
        for want in wants:
            part, units = self.of(want), want.units
            if part.windowed:
                units = -(-units // part.scale)
                if self.shut and units:
                    return False
            if part.free < units and units:
                return False
            met.append(part)
        for part, want in zip(met, wants, strict=True):
            units = want.units
            if part.windowed:
                units = -(-units // part.scale)
            part.asked_ms = now_ms
            left = part.free - units
            part.free = left
            if part.charged:
                part.used += units
            else:
                part.reserved += units
            part.largest = max(part.largest, units)
            if left < part.low:
                part.low = 0
                self.low.append(part)
        return True

    def give_back(self, wants: Sequence[Want]) -> None:
        """What was taken for a call that went away before it knew. A request stays one."""
        for want in wants:
            part = self.held_of(want)
            if not part.charged:
                units = part.units(want.units)
                part.reserved -= units
                part.free += units

    def settle(self, wants: Sequence[Want], used: Sequence[int], now_ms: int) -> None:
        for want, real in zip(wants, used, strict=True):
            part, units = self.held_of(want), want.units
            if part.charged:
                continue
            if part.windowed:
                units = -(-units // part.scale)
                real = part.spend(real, now_ms)  # noqa: PLW2901 - in the store's unit from here on
            part.reserved -= units
            part.used += real
            part.free += units - real

    def states(self, wants: Sequence[Want], now_ms: int) -> list[State]:
        return [self.of(want).state(now_ms) for want in wants]

    def renewed(self) -> list[Part]:
        low = self.low
        self.low = []
        return low

    def lease_of(self, part: Part, now_ms: int) -> int:
        """What may lie free: a fiftieth of the amount, or what one call takes; of money the former only.

        Of money nothing while the store is away: it may have given to others what it does not hear of.
        """
        if now_ms - part.asked_ms > IDLE_MS or (part.windowed and self.away):
            return 0
        lease = (part.amount or part.capacity) * LEASED_PERCENT // 100
        if not part.windowed:
            lease = max(lease, part.largest, part.largest_before)
        return min(lease, part.capacity // (4 * self.processes))

    def due(self, now_ms: int) -> list[Part]:
        """Once a tick: of which something was used, or too little or too much is free. What holds nothing goes."""
        found, gone = [], []
        self._ticks += 1
        later, again = self._ticks % REMEMBERED == 0, self._ticks % SAID_AGAIN == 0
        for part in self.held.values():
            free, lease = part.free, self.lease_of(part, now_ms)
            told = not (part.used or part.instead or (again and part.reserved)) and part.sure
            if not told or free > lease or free < low_of(part, lease):
                found.append(part)
            elif not (free or part.reserved) and now_ms - part.asked_ms > IDLE_MS:
                gone.append(part)
            if later:
                part.largest_before, part.largest = part.largest, 0
        for part in gone:
            del self.held[part.key]
            self.rest(part, now_ms)
        return found

    def rest(self, part: Part, now_ms: int) -> None:
        if part.windowed:
            part.roll(now_ms)
            if part.total or part.fraction:
                self.resting[part.key] = part


def low_of(part: Part, lease: int) -> int:
    """With so much free, half of the lease and a call, no more is needed."""
    return max(lease // 2, min(lease, max(part.largest, part.largest_before)))
