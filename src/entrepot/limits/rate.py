"""The arithmetic of every limit, pure: a leaky bucket in whole numbers (GCRA in its level form), and reservations.

A limit holds a *level*, what was used and has not leaked away yet, and what calls in flight have *reserved*. A call is
admitted if both and what it asks for fit into the bucket. What it reserved does not leak while it is in flight; when it
ends, the reservation goes and what it really used is poured in. So nothing is ever given back twice, and over any
stretch of t milliseconds at most `burst + amount * t / period_ms` units are used (docs/limits.md derives it).

Levels are in units times `period_ms`, so that a millisecond leaks exactly `amount`. Time is an argument, in
milliseconds; one that goes backwards leaks nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

DAY_MS: Final = 86_400_000
MINUTE_MS: Final = 60_000
MONTH_MS: Final = 31 * DAY_MS
"""As a window: not so many milliseconds, but the calendar month in UTC."""
_NEVER: Final = -1


class Limit(NamedTuple):
    """What may be used. All kinds are this one form; make them with the functions below.

    `burst` units fit into the bucket, which leaks `amount` a `period_ms`. `charged`: what is asked for counts as used
    at once and is not settled. `window_ms`: the bucket does not leak but is emptied at each whole multiple of it (UTC),
    or at the beginning of each calendar month (`MONTH_MS`).
    """

    amount: int
    period_ms: int
    burst: int
    charged: bool = False
    window_ms: int = 0

    @property
    def capacity(self) -> int:
        """Of the bucket, in the level's unit."""
        return self.burst * self.period_ms


def requests_per_minute(amount: int, window_ms: int = 10_000) -> Limit:
    """Judged over `window_ms`: as many as that may come at once."""
    return Limit(amount, MINUTE_MS, max(1, amount * window_ms // MINUTE_MS), charged=True)


def tokens_per_minute(amount: int, window_ms: int = 10_000) -> Limit:
    return Limit(amount, MINUTE_MS, max(1, amount * window_ms // MINUTE_MS))


def in_flight(amount: int) -> Limit:
    """Calls at one time: each reserves one and settles with nothing."""
    return Limit(0, 1, amount)


def budget(amount: int, window_ms: int = DAY_MS) -> Limit:
    """Money in a window, in the unit of its prices."""
    return Limit(0, 1, amount, window_ms=window_ms)


class Level(NamedTuple):
    """`level` as it was at `at_ms`."""

    level: int = 0
    at_ms: int = 0


EMPTY = Level()


def window_of(window_ms: int, at_ms: int) -> int:
    """The number of the window that holds an instant."""
    if window_ms != MONTH_MS:
        return at_ms // window_ms
    # The proleptic Gregorian calendar in eras of 400 years that begin in March: the leap day is an era's last.
    era, day = divmod(at_ms // DAY_MS + _TO_EPOCH_DAYS, _ERA_DAYS)
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    return (era * 400 + year) * 12 + (5 * day + 2) // 153


def same_window(window_ms: int, at_ms: int, other_ms: int) -> bool:
    """Whether two instants are in one window: of months only those of different days are looked at more closely."""
    if window_ms == MONTH_MS and at_ms // DAY_MS == other_ms // DAY_MS:
        return True
    return window_of(window_ms, at_ms) == window_of(window_ms, other_ms)


def window_start_ms(window_ms: int, number: int) -> int:
    if window_ms != MONTH_MS:
        return number * window_ms
    year, month = divmod(number, 12)
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5
    return (days - _TO_EPOCH_DAYS) * DAY_MS


def window_end_ms(window_ms: int, at_ms: int) -> int:
    """When the window that holds an instant is over."""
    return window_start_ms(window_ms, window_of(window_ms, at_ms) + 1)


_TO_EPOCH_DAYS: Final = 719_468  # from 1 March of the year 0 to 1 January 1970
_ERA_DAYS: Final = 146_097


def leaked(limit: Limit, held: Level, now_ms: int) -> Level:
    """The level now."""
    level, at_ms = held
    if now_ms <= at_ms:
        return held
    return Level(level_at(limit, level, at_ms, now_ms), now_ms)


def level_at(limit: Limit, level: int, at_ms: int, now_ms: int) -> int:
    """What a level of `at_ms` has become."""
    if limit.window_ms:
        return 0 if level and window_of(limit.window_ms, now_ms) > window_of(limit.window_ms, at_ms) else level
    return max(0, level - (now_ms - at_ms) * limit.amount) if now_ms > at_ms else level


def fits(limit: Limit, level: int, reserved: int, units: int) -> bool:
    """Whether `units` may be taken at a level of now, with `reserved` units in flight.

    A call that is larger than the bucket, but not than a whole period's amount, fits into an empty one: what it takes
    leaks away before the next is admitted, so the long run stays exact and no large call is refused forever. One that
    takes nothing fits always, as into a budget in another currency.
    """
    if units == 0 or level + (reserved + units) * limit.period_ms <= limit.capacity:
        return True
    return level == 0 and reserved == 0 and units <= limit.amount


def ever(limit: Limit, units: int) -> bool:
    """Whether `units` can fit at any time."""
    return units <= max(limit.burst, limit.amount)


def wait_ms(limit: Limit, level: int, reserved: int, units: int, now_ms: int) -> int:
    """How long until `units` fit if nothing else comes, calls in flight taken as ended and unused; -1: never.

    A refusal for what is only reserved waits for calls to end, of which nobody knows when: it says one second.
    """
    if not ever(limit, units):
        return _NEVER
    if limit.window_ms:
        return window_end_ms(limit.window_ms, now_ms) - now_ms
    if limit.amount == 0:
        return 1_000
    room = max(0, limit.capacity - units * limit.period_ms)
    over = level - room
    if over > 0:
        return -(-over // limit.amount)
    return 1_000 if reserved else 0


def empty_at_ms(limit: Limit, held: Level) -> int:
    """When the level will be zero if nothing else comes; nothing needs to remember it after that."""
    if held.level == 0:
        return held.at_ms
    if limit.window_ms:
        return window_end_ms(limit.window_ms, held.at_ms)
    return held.at_ms + -(-held.level // limit.amount) if limit.amount else held.at_ms


def poured(limit: Limit, held: Level, units: int, now_ms: int) -> Level:
    """`units` were used; the level may rise above the bucket, as real use cannot be refused any more."""
    level, at_ms = leaked(limit, held, now_ms)
    return Level(level + units * limit.period_ms, at_ms)
