"""Deadlines come due once, never early, and cost nothing until then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from entrepot.http1.clock import NEVER, STEP_S, Clock

if TYPE_CHECKING:
    from collections.abc import Iterator


class Loop(asyncio.AbstractEventLoop):
    """Only what the clock asks of a loop: time, and a timer that the test fires."""

    def __init__(self) -> None:
        self.instant = 1_000.0
        self.tick = lambda: None

    def time(self) -> float:
        return self.instant

    def call_later(self, delay: float, callback: object, *args: object, **options: object) -> asyncio.TimerHandle:
        self.tick = callback  # type: ignore[assignment]
        return asyncio.TimerHandle(self.instant + delay, lambda: None, (), self)

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def advance(self, seconds: float) -> None:
        end = self.instant + seconds
        while self.instant < end:
            self.instant += STEP_S
            self.tick()


class Timed:
    def __init__(self, loop: Loop) -> None:
        self.deadline = NEVER
        self.slot = 0
        self.loop = loop
        self.expired: list[float] = []

    def expire(self) -> None:
        self.expired.append(self.loop.instant)


@pytest.fixture
def loop() -> Iterator[Loop]:
    return Loop()


def test_a_deadline_comes_due_once_and_not_early(loop: Loop) -> None:
    clock, timed = Clock(loop), Timed(loop)
    clock.watch(timed, 1_000.75)
    loop.advance(5)
    assert len(timed.expired) == 1
    assert 1_000.75 <= timed.expired[0] <= 1_000.75 + 2 * STEP_S


def test_one_that_moves_later_is_seen_to_later(loop: Loop) -> None:
    clock, timed = Clock(loop), Timed(loop)
    clock.watch(timed, 1_001)
    timed.deadline = 1_003.0
    loop.advance(2.5)
    assert timed.expired == []
    loop.advance(1)
    assert len(timed.expired) == 1


def test_one_that_moves_earlier_is_seen_to_earlier(loop: Loop) -> None:
    clock, timed = Clock(loop), Timed(loop)
    clock.watch(timed, 1_060)
    clock.watch(timed, 1_001)
    loop.advance(1.5)
    assert len(timed.expired) == 1
    loop.advance(100)
    assert len(timed.expired) == 1


def test_one_that_has_passed_comes_due_at_the_next_step(loop: Loop) -> None:
    clock, timed = Clock(loop), Timed(loop)
    clock.watch(timed, 900)
    loop.advance(2 * STEP_S)
    assert len(timed.expired) == 1


def test_forgotten_and_lifted_ones_do_not_come_due(loop: Loop) -> None:
    clock, forgotten, lifted = Clock(loop), Timed(loop), Timed(loop)
    clock.watch(forgotten, 1_001)
    clock.watch(lifted, 1_001)
    clock.forget(forgotten)
    lifted.deadline = NEVER
    loop.advance(5)
    assert forgotten.expired == lifted.expired == []
    assert forgotten.slot == lifted.slot == 0


def test_one_may_be_forgotten_while_it_is_due(loop: Loop) -> None:
    clock, first, second = Clock(loop), Timed(loop), Timed(loop)
    first.expire = lambda: clock.forget(second)  # type: ignore[method-assign]
    second.expire = lambda: clock.forget(first)  # type: ignore[method-assign]
    clock.watch(first, 1_001)
    clock.watch(second, 1_001)
    loop.advance(2)
    assert first.deadline == second.deadline == NEVER


def test_a_step_that_comes_late_sees_to_everything(loop: Loop) -> None:
    clock = Clock(loop)
    all_timed = [Timed(loop) for _ in range(50)]
    for n, timed in enumerate(all_timed):
        clock.watch(timed, 1_000 + n / 10)
    loop.instant += 60
    loop.tick()
    assert all(len(timed.expired) == 1 for timed in all_timed)
    assert clock.now == loop.instant


def test_the_date_line(loop: Loop) -> None:
    assert Clock(loop).date.startswith(b"date: ")
    assert Clock(loop).date.endswith(b" GMT\r\n")
