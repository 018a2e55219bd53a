"""What a process holds of limits that machines share: taken, settled and given back without a word to the store."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from entrepot.limits.rate import Limit, budget, in_flight, requests_per_minute, tokens_per_minute
from entrepot.limits.reserve import IDLE_MS, MICRO, Asked, Parts, asked_of

KEYS = [bytes([at]) * 16 for at in range(4)]
LIMITS = [tokens_per_minute(60_000), in_flight(10), requests_per_minute(600), budget(10**13)]
UNITS = st.tuples(st.integers(0, 700), st.just(1), st.just(1), st.integers(0, 10**11))
# (what a call asks for, how much of it is used in percent, how many calls later it ends or goes away, which of both)
CALLS = st.lists(st.tuples(UNITS, st.integers(0, 150), st.integers(0, 4), st.booleans()), max_size=30)


@given(st.lists(st.integers(0, 2_000), min_size=4, max_size=4), CALLS)
def test_a_call_moves_units_and_changes_no_sum(
    free: list[int], calls: list[tuple[tuple[int, ...], int, int, bool]]
) -> None:
    parts, under_way, counted = Parts(), [], 0
    held = [parts.of(key, limit) for key, limit in zip(KEYS, LIMITS, strict=True)]
    for part, units in zip(held, free, strict=True):
        part.free = units * (MICRO if part.windowed else 1)
    before = [part.free for part in held]
    for number, (units, percent, lasts, goes_away) in enumerate(calls):
        for each in [each for each in under_way if each[0] <= number]:
            under_way.remove(each)
            counted += end(parts, *each[1:])
        asked = asked_of(*zip(KEYS, LIMITS, units, strict=True))
        fits = all(part.free >= part.units(each) for part, each in zip(held, units, strict=True) if each)
        assert parts.take(asked, number) == fits
        if fits:
            under_way.append((number + lasts, asked, percent, goes_away))
        assert [part.free + part.reserved + part.used for part in held] == before
    for each in under_way:
        counted += end(parts, *each[1:])
    assert [part.free + part.used for part in held] == before
    assert [part.reserved for part in held] == [0] * 4
    assert held[3].total * MICRO + held[3].fraction == counted


def end(parts: Parts, asked: Asked, percent: int, goes_away: bool) -> int:
    """What was used of the budget."""
    if goes_away:
        parts.give_back(asked)
        return 0
    used = [units * percent // 100 for units in asked.units]
    parts.settle(asked, used, 1)
    return used[3]


def test_a_lease_is_two_percent_or_a_call_and_a_quarter_of_the_burst_at_most() -> None:
    def leased(limit: Limit, units: int, processes: int = 1, *, away: bool = False, later_ms: int = 0) -> int:
        parts = Parts()
        part = parts.of(KEYS[0], limit)
        part.free = part.units(units)
        parts.processes, parts.away = processes, away
        assert parts.take(asked_of((KEYS[0], limit, units)), 10_000)
        return parts.lease_of(part, 10_000 + later_ms)

    minute = tokens_per_minute(60_000, 60_000)
    assert leased(minute, 100) == 1_200
    assert leased(minute, 5_000) == 5_000
    assert leased(minute, 20_000) == 15_000
    assert leased(minute, 5_000, 10) == 1_500
    assert leased(minute, 5_000, later_ms=IDLE_MS + 1) == 0
    assert leased(in_flight(3), 1) == 0
    assert leased(in_flight(8), 1, 2) == 1
    assert leased(budget(10**13), 10**12) == 200_000, "of money it is two percent only"
    assert leased(budget(10**13), 10**12, away=True) == 0


def test_what_gets_low_is_renewed_once_and_what_nobody_calls_on_goes() -> None:
    parts, limit = Parts(), tokens_per_minute(60_000, 60_000)
    part = parts.of(KEYS[0], limit)
    part.free, part.low, part.sure = 1_200, 600, True
    calls = [asked_of((KEYS[0], limit, 100)) for _ in range(9)]
    assert all(parts.take(call, 0) for call in calls)
    assert parts.renewed() == [part]
    assert parts.renewed() == []
    for call in calls:
        parts.settle(call, [100], 0)
    assert parts.due(0) == [part], "something was used"
    part.used = part.free = 0
    assert parts.due(IDLE_MS + 1) == []
    assert parts.held == {}


def test_what_a_long_call_reserves_is_said_again() -> None:
    parts, limit = Parts(), in_flight(3)
    part = parts.of(KEYS[1], limit)
    part.free, part.sure = 1, True
    assert parts.take(asked_of((KEYS[1], limit, 1)), 0)
    found = [parts.due(at * 100) for at in range(1, 6_001)]
    assert 1 <= sum(bool(each) for each in found) <= 10, "the store forgets what nobody speaks of for ten minutes"


def test_a_call_of_before_a_limit_was_changed_ends_and_changes_nothing_of_it() -> None:
    before, after = tokens_per_minute(60_000), tokens_per_minute(600)
    parts, calls = Parts(), [asked_of((KEYS[0], before, 100)) for _ in range(2)]
    part = parts.of(KEYS[0], before)
    part.free = 200
    assert all(parts.take(call, 0) for call in calls)
    assert parts.of(KEYS[0], after).limit is after
    parts.settle(calls[0], [40], 0)
    assert part.limit is after
    parts.give_back(calls[1])
    assert part.limit is after
    assert (part.free, part.reserved, part.used) == (160, 0, 40)


def test_nothing_is_taken_of_a_limit_with_a_window_while_it_is_shut() -> None:
    parts, limit = Parts(), budget(10**13)
    part = parts.of(KEYS[0], limit)
    part.free = 10 * MICRO
    parts.shut = True
    assert not parts.take(asked_of((KEYS[0], limit, MICRO)), 0)
    assert parts.take(asked_of((KEYS[0], limit, 0)), 0)


def test_what_is_used_of_a_budget_counts_though_nothing_was_reserved_of_it_and_nobody_held_it_any_more() -> None:
    parts, limit = Parts(), budget(10**13)
    call = asked_of((KEYS[0], limit, 0))
    assert parts.take(call, 0)
    parts.held[KEYS[0]].sure = True
    assert parts.due(IDLE_MS + 1) == []
    assert parts.held == {}
    parts.settle(call, [3 * MICRO + 7], IDLE_MS + 2)
    assert (parts.held[KEYS[0]].total, parts.held[KEYS[0]].fraction) == (3, 7)
