"""A call's reservations: all or none, settled once. What every store of levels offers, and its plainest form."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol, cast, final

from entrepot.limits.rate import Level, Limit, empty_at_ms, fits, same_window, wait_ms, window_end_ms, window_of

FORGOTTEN = 4096
"""So many levels, or an eighth of them, are looked at each time whether they can be forgotten."""


class Refusal(NamedTuple):
    """The first of what was asked for that does not fit. `wait_ms` is -1 where waiting does not help."""

    which: int
    wait_ms: int


class StoreBusy(Exception):  # noqa: N818 - not an error of anybody's
    """The store cannot be asked now. Nothing was changed, and it may be tried again."""


class Short(Exception):  # noqa: N818 - not an error of anybody's
    """What this process holds does not suffice: `reserve_there` asks for more. Nothing was reserved."""


class State(NamedTuple):
    """What is left of a limit, in whole units, and when it is whole again if nothing comes."""

    remaining: int
    reset_ms: int


class Bucket:
    """A level with its limit, what is reserved of it, and what of the limit every call looks at.

    `level` is that of `at_ms`; `burst` and `reserved` are in units.
    """

    __slots__ = (
        *("amount", "at_ms", "burst", "charged", "level", "limit", "period_ms", "reserved", "window_ms", "windowed"),
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
        self.burst = limit.burst
        self.charged = limit.charged
        self.window_ms = limit.window_ms
        self.windowed = limit.window_ms > 0

    def pass_to(self, now_ms: int) -> None:
        """Bring the level to now. An instant that was before changes nothing."""
        passed_ms = now_ms - self.at_ms
        if passed_ms <= 0:
            return
        if self.level:
            if not self.windowed:
                left = self.level - passed_ms * self.amount
                self.level = left if left > 0 else 0
            elif not same_window(self.window_ms, self.at_ms, now_ms):
                self.level = 0
        self.at_ms = now_ms

    def pour(self, units: int) -> None:
        """So much is used, at a level of now."""
        # Money is too large for a product of machine words.
        self.level += units if self.period_ms == 1 else units * self.period_ms

    def room(self) -> int:
        """The units that may be taken, at a level of now; negative where more was used than fits."""
        room = self.burst - self.reserved
        if self.level:
            room += -self.level // self.period_ms
        return room

    def has_room(self, units: int) -> bool:
        """As `rate.fits` has it, at a level of now."""
        return units <= self.room() or fits(self.limit, self.level, self.reserved, units)

    def refusal(self, which: int, units: int, now_ms: int) -> Refusal:
        """Of so much, at a level of now."""
        return Refusal(which, wait_ms(self.limit, self.level, self.reserved, units, now_ms))

    def left(self, now_ms: int) -> int:  # noqa: ARG002 - a part's level is older than now
        """What remains in whole units of the limit, at a level of now."""
        room = self.room()
        return room if room > 0 else 0

    def reset_ms(self, now_ms: int) -> int:
        """How long until all of it remains if nothing comes, at a level of now."""
        if self.windowed:
            return window_end_ms(self.window_ms, now_ms) - now_ms
        return -(-self.level // self.amount) if self.amount else 0

    def state(self, now_ms: int) -> State:
        return State(self.left(now_ms), self.reset_ms(now_ms))


@final
class Asked:
    """What a call asks for: `units` of `limits` that `keys` name, 16 bytes each, the same in every process.

    Limits past the last of the units are not asked for. A store that took or refused it notes in `met` where all that
    is asked for stands, at the level of then.
    """

    __slots__ = ("keys", "limits", "met", "units")

    def __init__(self, keys: tuple[bytes, ...], limits: list[Limit], units: list[int]) -> None:
        self.keys = keys
        self.limits = limits
        self.units = units
        self.met: list[Bucket] = []


def asked_of(*each: tuple[bytes, Limit, int]) -> Asked:
    """Of some limits: key, limit and units of each."""
    return Asked(tuple([key for key, _, _ in each]), [limit for _, limit, _ in each], [units for _, _, units in each])


class Store(Protocol):
    """Levels by key. `reserve` takes all that is asked for or nothing; `settle` must follow exactly once if it did.

    Neither waits for anything but other processes of this machine, for microseconds. All may raise StoreBusy.
    `degraded`: the processes of other machines are not heard of now, and this one admits a share of each limit.
    """

    @property
    def degraded(self) -> bool: ...

    @property
    def problem(self) -> str | None:
        """Why it is degraded."""
        ...

    def reserve(self, asked: Asked, now_ms: int) -> Refusal | None:
        """May raise Short; then `reserve_there` is to be awaited."""
        ...

    async def reserve_there(self, asked: Asked, now_ms: int) -> Refusal | None: ...

    def settle(self, asked: Asked, used: list[int], now_ms: int) -> None:
        """`used` units of each limit that was asked for; those of charged limits are not looked at.

        A limit that was declared otherwise since it was taken from stays so.
        """

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

    def state(self, key: bytes, limit: Limit, now_ms: int) -> State:
        """Of a limit as it is now."""
        ...

    def forget(self, now_ms: int) -> None:
        """Let go of what is whole again, if that is this process's to do."""

    async def end(self) -> None:
        """Give back what is held; nothing may be asked of it any more."""


class Memory:
    """Levels of one process, gone with it. `forget` keeps it small.

    INVARIANT: a bucket of which something is reserved is not forgotten, so a call settles with those that it met.
    """

    degraded = False
    problem: str | None = None

    def __init__(self) -> None:
        self._held: dict[bytes, Bucket] = {}
        self._to_look_at: list[bytes] = []
        """What `forget` has still to look at before it begins anew."""

    def reserve(self, asked: Asked, now_ms: int) -> Refusal | None:
        keys, limits, all_units = asked.keys, asked.limits, asked.units
        refusal: Refusal | None = None
        met: list[Bucket] = []
        for index in range(len(all_units)):
            held = self._now(keys[index], limits[index], now_ms)
            met.append(held)
            if refusal is None and not held.has_room(all_units[index]):
                refusal = held.refusal(index, all_units[index], now_ms)
        asked.met = met
        if refusal is not None:
            return refusal
        for index, held in enumerate(met):
            if held.charged:
                held.pour(all_units[index])
            else:
                held.reserved += all_units[index]
        return None

    async def reserve_there(self, asked: Asked, now_ms: int) -> Refusal | None:
        return self.reserve(asked, now_ms)

    def settle(self, asked: Asked, used: list[int], now_ms: int) -> None:
        all_units = asked.units
        for index, held in enumerate(asked.met):
            if held.charged:
                continue
            units, real = all_units[index], used[index]
            if not (units or real):
                continue
            if not units:  # it may be forgotten by now
                held = self._held.setdefault(asked.keys[index], held)  # noqa: PLW2901
            held.pass_to(now_ms)
            held.pour(real)
            held.reserved -= units

    def restore(self, key: bytes, limit: Limit, units: int, now_ms: int) -> int:
        held = self._now(key, limit, now_ms)
        before, held.level = held.level, units * limit.period_ms
        return before // limit.period_ms

    def counted(self, key: bytes, limit: Limit, now_ms: int) -> int:
        return self._now(key, limit, now_ms).level // limit.period_ms

    async def tell_again(self) -> None:
        """There is nobody."""

    def put_right(self) -> tuple[list[str], dict[bytes, tuple[int, int]]]:
        return [], {}

    def state(self, key: bytes, limit: Limit, now_ms: int) -> State:
        return self._now(key, limit, now_ms).state(now_ms)

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

    def _now(self, key: bytes, limit: Limit, now_ms: int) -> Bucket:
        """What is held, with its level brought to now, under the limit as it is declared now."""
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = Bucket(limit, now_ms)
        elif held.limit is not limit:
            held.adopt(limit)
        held.pass_to(now_ms)
        return held


MICRO: Final = 1_000_000
"""Money is in micros in a store: numbers stay whole in a double. What is below a micro stays here until it is one."""
IDLE_MS: Final = 1_000
"""A limit that nobody calls on for so long needs no lease."""
LEASED_PERCENT: Final = 2
REMEMBERED: Final = 20
"""Ticks, twice at most, for which the largest call of a limit is."""
SAID_AGAIN: Final = 1_000
"""Ticks. The store forgets after ten minutes what nobody speaks of, and calls may take longer."""


class Part(Bucket):
    """What this process holds of one limit that it shares with other machines. All of it is in the store's units.

    Of a limit with a window `total` and `fraction` are all that this process used in the window `number`, `heard` is
    what the store is known to have of that, or -1. `instead`: the store is to take `total` even if it has more.
    `level`, `at_ms` and `others` are what the store said last: used, and held by other processes.

    INVARIANT: what is held is `free + reserved + used`; a call moves units between the three, and only a round with the
    store changes the sum. `used` is what the store has not heard of yet.
    """

    __slots__ = (
        *("alone_ms", "asked_ms", "ends_ms", "fraction", "free", "heard", "instead", "key", "largest"),
        *("largest_before", "low", "number", "others", "refused", "refused_until_ms", "scale", "sure", "told", "total"),
        "used",
    )

    def __init__(self, key: bytes, limit: Limit) -> None:
        super().__init__(limit, 0)
        self.key = key
        self.free = self.used = self.fraction = 0
        self.others = self.asked_ms = self.refused_until_ms = self.alone_ms = 0
        self.low = self.largest = self.largest_before = self.refused = 0
        """With less than `low` free more is asked for ahead. `largest` is what a call asked for at most, of late.

        Calls of at least `refused` units are refused until `refused_until_ms`, without asking.
        """
        self.total = self.number = 0
        self.heard = -1
        self.told = self.instead = False
        self.sure = False
        """The store has answered since what it holds of ours was last in doubt."""

    def adopt(self, limit: Limit) -> None:
        super().adopt(limit)
        self.scale = MICRO if self.windowed else 1
        self.burst = limit.burst // self.scale
        self.ends_ms = 0
        """Of the window `number`."""

    def units(self, units: int) -> int:
        """What a call asks for, in the store's units."""
        return -(-units // self.scale) if self.windowed else units

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
        if self.windowed:
            self.roll(now_ms)
            return self.level
        if not self.level:
            return 0
        passed_ms = now_ms - self.at_ms
        left = self.level - passed_ms * self.amount if passed_ms > 0 else self.level
        return left if left > 0 else 0

    def left(self, now_ms: int) -> int:
        """By what the store said last, and what was taken here since."""
        left = self.burst - self.others - self.reserved - self.used
        level = self.level_now(now_ms)
        if level:
            left += -level // self.period_ms
        return left * self.scale if left > 0 else 0

    def reset_ms(self, now_ms: int) -> int:
        if self.windowed:
            return window_end_ms(self.window_ms, now_ms) - now_ms
        return -(-self.level_now(now_ms) // self.amount) if self.amount else 0


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

    def of(self, key: bytes, limit: Limit) -> Part:
        part = self.held.get(key)
        if part is None:
            resting = self.resting.pop(key, None)
            part = self.held[key] = Part(key, limit) if resting is None else resting
        if part.limit is not limit:
            part.adopt(limit)
        return part

    def take(self, asked: Asked, now_ms: int) -> bool:
        """All that is asked for, or nothing if that is not free."""
        keys, limits, all_units = asked.keys, asked.limits, asked.units
        free = True
        met: list[Bucket] = []
        for index in range(len(all_units)):
            part = self.of(keys[index], limits[index])
            met.append(part)
            units = part.units(all_units[index])
            if units and (part.free < units or (self.shut and part.windowed)):
                free = False
        asked.met = met
        if not free:
            return False
        for index, bucket in enumerate(met):
            part = cast(Part, bucket)
            units = part.units(all_units[index])
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

    def give_back(self, asked: Asked) -> None:
        """What was taken for a call that went away before it knew. A request stays one."""
        for index, bucket in enumerate(asked.met):
            part = cast(Part, bucket)
            if not part.charged:
                units = part.units(asked.units[index])
                part.reserved -= units
                part.free += units

    def settle(self, asked: Asked, used: list[int], now_ms: int) -> None:
        for index, bucket in enumerate(asked.met):
            part, units, real = cast(Part, bucket), asked.units[index], used[index]
            if part.charged or not (units or real):
                continue
            if not units:  # nobody may hold it by now
                part = self.held.get(part.key) or self.of(part.key, part.limit)
            if part.windowed:
                units = part.units(units)
                real = part.spend(real, now_ms)
            part.reserved -= units
            part.used += real
            part.free += units - real

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
        lease = (part.amount or part.burst) * LEASED_PERCENT // 100
        if not part.windowed:
            lease = max(lease, part.largest, part.largest_before)
        return min(lease, part.burst // (4 * self.processes))

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
