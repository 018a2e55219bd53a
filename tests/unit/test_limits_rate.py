"""The limits' arithmetic against a slow exact model, and the bound that docs/limits.md derives."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.limits import reserve
from entrepot.limits.rate import (
    DAY_MS,
    EMPTY,
    MONTH_MS,
    Level,
    Limit,
    budget,
    empty_at_ms,
    ever,
    fits,
    in_flight,
    leaked,
    poured,
    requests_per_minute,
    same_window,
    tokens_per_minute,
    wait_ms,
    window_end_ms,
    window_of,
    window_start_ms,
)
from entrepot.limits.reserve import Asked, Memory, Store, asked_of
from entrepot.limits.table import Table

KEY = b"k" * 16
LIMITS = st.one_of(
    st.builds(tokens_per_minute, st.integers(1, 10_000), st.integers(100, 60_000)),
    st.builds(requests_per_minute, st.integers(1, 1_000), st.integers(100, 60_000)),
    st.builds(in_flight, st.integers(1, 5)),
    st.builds(budget, st.integers(1, 5_000), st.sampled_from([1_000, 60_000])),
)
# (milliseconds that pass, units asked for, how much of them is used, in percent, how many calls later it ends)
CALLS = st.lists(
    st.tuples(st.integers(0, 800), st.integers(1, 2_000), st.integers(0, 100), st.integers(0, 5)), max_size=40
)


class Slow:
    """The bucket with fractions, leaked millisecond by millisecond where it matters: nothing is scaled or skipped."""

    def __init__(self, limit: Limit) -> None:
        self.limit, self.level, self.at, self.reserved = limit, Fraction(0), 0, 0

    def pass_to(self, now_ms: int) -> None:
        for at in range(self.at, now_ms):
            if self.limit.window_ms:
                if (at + 1) % self.limit.window_ms == 0:
                    self.level = Fraction(0)
            else:
                self.level = max(Fraction(0), self.level - Fraction(self.limit.amount, self.limit.period_ms))
        self.at = max(self.at, now_ms)

    def take(self, units: int) -> bool:
        if self.level + self.reserved + units > self.limit.burst and not (
            self.level == 0 and self.reserved == 0 and units <= self.limit.amount
        ):
            return False
        if self.limit.charged:
            self.level += units
        else:
            self.reserved += units
        return True

    def left(self) -> int:
        return max(0, math.floor(self.limit.burst - self.level - self.reserved))

    def settle(self, units: int, used: int) -> None:
        if not self.limit.charged:
            self.reserved -= units
            self.level += used


def stores(folder: Path) -> list[Store]:
    return [Memory(), Table(folder / "limits", 1, 3, slots=64)]


@settings(deadline=None)
@given(LIMITS, CALLS)
def test_every_store_admits_what_the_slow_model_admits(
    tmp_path_factory: pytest.TempPathFactory, limit: Limit, calls: list[tuple[int, int, int, int]]
) -> None:
    for store in stores(tmp_path_factory.mktemp("limits")):
        slow, now, open_calls = Slow(limit), 0, []
        for number, (passes, units, percent, lasts) in enumerate(calls):
            now += passes
            slow.pass_to(now)
            for call in [call for call in open_calls if call[0] <= number]:
                open_calls.remove(call)
                _, asked, used = call
                slow.settle(asked.units[0], used)
                store.settle(asked, [used], now)
            asked = asked_of((KEY, limit, units))
            refusal = store.reserve(asked, now)
            assert (refusal is None) == slow.take(units)
            assert asked.met[0].left(now) == slow.left()
            if refusal is None:
                open_calls.append((number + lasts, asked, units * percent // 100))


@given(LIMITS, CALLS)
def test_no_stretch_of_time_sees_more_than_the_bound(limit: Limit, calls: list[tuple[int, int, int, int]]) -> None:
    store, now, used, largest = Memory(), 0, [], limit.burst
    for passes, units, _, _ in calls:
        now += passes
        asked = asked_of((KEY, limit, units))
        if store.reserve(asked, now) is None:
            store.settle(asked, [units], now)
            used.append((now, units))
            largest = max(largest, units)
    if not limit.window_ms and limit.amount:
        for i, (start, _) in enumerate(used):
            for j in range(i, len(used)):
                total = sum(units for _, units in used[i : j + 1])
                assert total * limit.period_ms <= largest * limit.period_ms + limit.amount * (used[j][0] - start)


@given(LIMITS, st.integers(0, 100_000), st.integers(1, 20_000), st.integers(0, 10_000))
def test_a_refusal_says_when_it_will_fit(limit: Limit, level: int, units: int, now: int) -> None:
    held = leaked(limit, Level(level, now), now)
    if fits(limit, held.level, 0, units):
        return
    wait = wait_ms(limit, held.level, 0, units, now)
    if not ever(limit, units):
        assert wait == -1
        return
    if limit.amount or limit.window_ms:
        then = leaked(limit, held, now + wait)
        assert fits(limit, then.level, 0, units)
        if wait > 1 and not limit.window_ms and units <= limit.burst:
            assert not fits(limit, leaked(limit, held, now + wait - 1).level, 0, units)


def test_a_clock_that_goes_backwards_leaks_nothing() -> None:
    limit = tokens_per_minute(60_000)
    held = poured(limit, EMPTY, 10_000, 1_000_000)
    assert leaked(limit, held, 10) == held
    assert poured(limit, held, 1, 10).at_ms == 1_000_000


def test_a_budget_begins_anew_with_its_window() -> None:
    limit = budget(100)
    held = poured(limit, EMPTY, 100, DAY_MS - 1)
    assert not fits(limit, leaked(limit, held, DAY_MS - 1).level, 0, 1)
    assert fits(limit, leaked(limit, held, DAY_MS - 1).level, 0, 0), "a call that takes nothing of it"
    assert leaked(limit, held, DAY_MS).level == 0
    assert empty_at_ms(limit, held) == DAY_MS


@given(st.integers(0, 13_569_465_600).map(lambda at_s: datetime.fromtimestamp(at_s, UTC)))
def test_months_are_the_calendars(at: datetime) -> None:
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = (first + timedelta(days=32)).replace(day=1)
    at_ms, start_ms, end_ms = (int(each.timestamp() * 1_000) for each in (at, first, after))
    number = window_of(MONTH_MS, at_ms)
    assert window_start_ms(MONTH_MS, number) == start_ms
    assert window_end_ms(MONTH_MS, at_ms) == end_ms
    assert (window_of(MONTH_MS, start_ms), window_of(MONTH_MS, end_ms - 1)) == (number, number)
    held = poured(budget(100, MONTH_MS), EMPTY, 100, end_ms - 1)
    assert leaked(budget(100, MONTH_MS), held, end_ms - 1).level == 100
    assert leaked(budget(100, MONTH_MS), held, end_ms).level == 0


@given(
    st.sampled_from([1_000, DAY_MS, MONTH_MS]),
    st.integers(0, 4_102_444_800_000),
    st.one_of(st.integers(-2_000, 2_000), st.integers(-40 * DAY_MS, 40 * DAY_MS)),
)
def test_instants_of_one_window_have_its_number(window_ms: int, at_ms: int, later_ms: int) -> None:
    other_ms = max(0, at_ms + later_ms)
    assert same_window(window_ms, at_ms, other_ms) == (window_of(window_ms, at_ms) == window_of(window_ms, other_ms))


def test_all_wants_or_none(tmp_path: Path) -> None:
    for store in stores(tmp_path):
        wide, narrow = in_flight(10), in_flight(1)
        assert store.reserve(asked_of((b"n" * 16, narrow, 1)), 0) is None
        refusal = store.reserve(asked_of((b"w" * 16, wide, 4), (b"n" * 16, narrow, 1)), 0)
        assert refusal is not None
        assert refusal.which == 1
        assert store.state(b"w" * 16, wide, 0).remaining == 10


def test_a_call_ends_by_what_it_took_whatever_a_limit_is_by_then(tmp_path: Path) -> None:
    before, after = tokens_per_minute(60_000), tokens_per_minute(600)
    for store in stores(tmp_path):
        asked = asked_of((KEY, before, 100))
        assert store.reserve(asked, 0) is None
        assert store.state(KEY, after, 0).remaining == 0
        store.settle(asked, [40], 0)
        assert asked.met[0].limit is after
        assert store.state(KEY, after, 0).remaining == after.burst - 40


def test_what_is_used_counts_though_nothing_was_reserved_and_all_was_forgotten(tmp_path: Path) -> None:
    for store in stores(tmp_path):
        asked = asked_of((KEY, budget(1_000), 0))
        assert store.reserve(asked, 0) is None
        store.forget(10)
        store.settle(asked, [70], 20)
        assert store.counted(KEY, budget(1_000), 20) == 70


def test_a_refusal_leaves_what_each_limit_has_left(tmp_path: Path) -> None:
    for store in stores(tmp_path):
        asked = asked_of((b"n" * 16, in_flight(1), 2), (b"w" * 16, in_flight(10), 4))
        assert store.reserve(asked, 0) is not None
        assert [each.left(0) for each in asked.met] == [1, 10]


def test_only_as_many_limits_are_asked_for_as_there_are_units(tmp_path: Path) -> None:
    for store in stores(tmp_path):
        asked = Asked((b"a" * 16, b"b" * 16), [in_flight(3), in_flight(3)], [1])
        assert store.reserve(asked, 0) is None
        assert len(asked.met) == 1
        assert store.state(b"b" * 16, in_flight(3), 0).remaining == 3


def test_memory_forgets_what_is_empty_again() -> None:
    store, limit = Memory(), tokens_per_minute(60_000)
    asked = asked_of((KEY, limit, 600))
    store.reserve(asked, 0)
    store.forget(10**9)
    assert store.state(KEY, limit, 0).remaining == 10_000 - 600, "what is in flight is kept"
    store.settle(asked, [600], 0)
    store.forget(599)
    assert store.state(KEY, limit, 0).remaining == 10_000 - 600
    store.forget(600)
    assert store.state(KEY, limit, 0).remaining == 10_000


def test_memory_forgets_many_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve, "FORGOTTEN", 10)
    store, limit = Memory(), tokens_per_minute(60_000)
    for number in range(25):
        store.restore(number.to_bytes(16, "big"), limit, 1, 0)
    left = []
    for _ in range(3):
        store.forget(10)
        left.append(sum(store.counted(number.to_bytes(16, "big"), limit, 0) for number in range(25)))
    assert left == [15, 5, 0]


def test_a_process_puts_its_own_part_of_a_window_right(tmp_path: Path) -> None:
    limit = budget(1_000)
    mine, other = (Table(tmp_path / "limits", number, 2, slots=64) for number in range(2))
    for store, used in ((mine, 100), (other, 300)):
        asked = asked_of((KEY, limit, used))
        store.reserve(asked, 0)
        store.settle(asked, [used], 0)
    assert mine.restore(KEY, limit, 150, 1) == 100
    assert other.state(KEY, limit, 1).remaining == 1_000 - 450
    assert mine.restore(KEY, limit, 0, DAY_MS) == 0, "nobody has used anything of a new day"
    assert other.state(KEY, limit, DAY_MS).remaining == 1_000
    memory = Memory()
    memory.restore(KEY, limit, 150, 1)
    assert memory.state(KEY, limit, 1).remaining == 850
    for store in (mine, other):
        store.close()
