"""A call's reservations: all or none, settled once. What every store of levels offers, and its plainest form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from entrepot.limits.rate import EMPTY, Level, Limit, empty_at_ms, fits, leaked, poured, remaining, wait_ms


class Want(NamedTuple):
    """`units` of the limit that `key` names: 16 bytes, the same in every process."""

    key: bytes
    limit: Limit
    units: int


class Refusal(NamedTuple):
    """The first of the wants that does not fit. `wait_ms` is -1 where waiting does not help."""

    which: int
    wait_ms: int


class State(NamedTuple):
    """What is left of a limit, in whole units, and when it is whole again if nothing comes."""

    remaining: int
    reset_ms: int


class Store(Protocol):
    """Levels by key. `reserve` takes all wants or none; `settle` must follow exactly once for each that was taken.

    Neither waits for anything but other processes of this machine, for microseconds.
    """

    def reserve(self, wants: Sequence[Want], now_ms: int) -> Refusal | None: ...

    def settle(self, wants: Sequence[Want], used: Sequence[int], now_ms: int) -> None:
        """`used` units of each want, in their order; those of charged limits are not looked at."""

    def state(self, key: bytes, limit: Limit, now_ms: int) -> State: ...


class Memory:
    """Levels of one process, gone with it. `forget` keeps it small."""

    def __init__(self) -> None:
        self._held: dict[bytes, _Held] = {}

    def reserve(self, wants: Sequence[Want], now_ms: int) -> Refusal | None:
        taken: list[_Held] = []
        for index, (key, limit, units) in enumerate(wants):
            held = self._held.get(key, _NOTHING)
            level, reserved = leaked(limit, held.level, now_ms), held.reserved
            if not fits(limit, level.level, reserved, units):
                return Refusal(index, wait_ms(limit, level.level, reserved, units, now_ms))
            if limit.charged:
                taken.append(_Held(limit, poured(limit, level, units, now_ms), reserved))
            else:
                taken.append(_Held(limit, level, reserved + units))
        for want, held in zip(wants, taken, strict=True):
            self._held[want.key] = held
        return None

    def settle(self, wants: Sequence[Want], used: Sequence[int], now_ms: int) -> None:
        for (key, limit, units), real in zip(wants, used, strict=True):
            if not limit.charged:
                held = self._held[key]
                self._held[key] = _Held(limit, poured(limit, held.level, real, now_ms), held.reserved - units)

    def state(self, key: bytes, limit: Limit, now_ms: int) -> State:
        held = self._held.get(key, _NOTHING)
        return state_of(limit, leaked(limit, held.level, now_ms), held.reserved, now_ms)

    def forget(self, now_ms: int) -> None:
        """Drop what is empty again: a key that comes back begins with nothing, as it would have been."""
        self._held = {
            key: held
            for key, held in self._held.items()
            if held.reserved or empty_at_ms(held.limit, held.level) > now_ms
        }


class _Held(NamedTuple):
    limit: Limit
    level: Level
    reserved: int


_NOTHING = _Held(Limit(0, 1, 0), EMPTY, 0)


def state_of(limit: Limit, held: Level, reserved: int, now_ms: int) -> State:
    """`held` is the level of now."""
    if limit.window_ms:
        reset_ms = limit.window_ms - now_ms % limit.window_ms
    else:
        reset_ms = -(-held.level // limit.amount) if limit.amount else 0
    return State(remaining(limit, held.level, reserved), reset_ms)
