"""The table of levels: what a death between any two of its stores leaves, and what calls are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from entrepot.limits.rate import DAY_MS, Limit, budget, in_flight, requests_per_minute, tokens_per_minute
from entrepot.limits.reserve import Asked, State, StoreBusy, asked_of
from entrepot.limits.table import WAYS, Table

KEY = b"k" * 16
WATCHING, DYING = 0, 1


class Killed(BaseException):
    """Before a store to the table."""


class Words:
    """The table's words; the process that writes them is killed after so many stores."""

    def __init__(self, words: Any, stores: int) -> None:
        self._words, self._left = words, stores

    def __getitem__(self, at: Any) -> Any:
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        if self._left == 0:
            raise Killed
        self._left -= 1
        self._words[at] = value

    def release(self) -> None:
        self._words.release()


def deaths(folder: Path, before: Callable[[Table], None], work: Callable[[Table], object]) -> Iterator[Table]:
    """The table as it stands when a process was killed after each number of stores of its work, and was released."""
    for stores in range(100):
        watching, dying = (Table(folder / f"{stores}", number, 3, slots=64) for number in (WATCHING, DYING))
        before(dying)
        dying._words = Words(dying._words, stores)  # type: ignore[assignment]
        try:
            work(dying)
        except Killed:
            watching.release(DYING)
            yield watching
            continue
        finally:
            dying.close()
        assert stores > 1, "it was killed somewhere"
        watching.close()
        return
    raise AssertionError("it never ends")


def taken(store: Table, limit: Limit, now_ms: int) -> int:
    left = store.state(KEY, limit, now_ms).remaining
    assert store.reserve(asked_of((b"another key.....", in_flight(9), 1)), now_ms) is None, "no lock is left"
    return limit.burst - left


def used(store: Table, limit: Limit, units: int, now_ms: int) -> None:
    asked = asked_of((KEY, limit, units))
    assert store.reserve(asked, now_ms) is None
    store.settle(asked, [units], now_ms)


@pytest.mark.parametrize("limit", [tokens_per_minute(60_000), requests_per_minute(60_000)])
def test_a_death_between_two_stores_loses_nothing_that_was_used(tmp_path: Path, limit: Limit) -> None:
    """5,000 were used and 2,000 of them leaked away when a process that reserves and uses 400 more is killed."""
    for table in deaths(tmp_path, lambda dying: used(dying, limit, 5_000, 0), lambda it: used(it, limit, 400, 2_000)):
        assert 3_000 <= taken(table, limit, 2_000) <= 5_400
        table.close()


def test_a_death_within_a_budget_is_mended_by_what_the_ledgers_say(tmp_path: Path) -> None:
    limit = budget(10_000)
    all_deaths = deaths(tmp_path, lambda it: used(it, limit, 500, 0), lambda it: used(it, limit, 70, 5))
    for stores, table in enumerate(all_deaths):
        assert 500 <= taken(table, limit, 5) <= 570
        successor = Table(tmp_path / f"{stores}", DYING, 3, slots=64)
        successor.restore(KEY, limit, 570, 6)
        assert taken(table, limit, 6) == 570
        table.restore(KEY, limit, 30, 7)
        assert taken(table, limit, 7) == 600
        successor.close()
        table.close()


def test_a_death_at_the_beginning_of_a_day_charges_nobody_for_the_day_before(tmp_path: Path) -> None:
    limit = budget(10_000)
    for table in deaths(tmp_path, lambda it: used(it, limit, 500, 0), lambda it: used(it, limit, 70, DAY_MS)):
        assert taken(table, limit, DAY_MS) in {0, 70}
        table.restore(KEY, limit, 30, DAY_MS)
        assert taken(table, limit, DAY_MS) in {30, 100}
        table.close()


def test_a_death_while_a_slot_changes_hands_leaves_a_limit_that_is_whole(tmp_path: Path) -> None:
    limit, old = tokens_per_minute(60_000), b"K" + KEY[1:]
    one = asked_of((old, limit, 100))

    def leave(store: Table) -> None:
        store.reserve(one, 0)
        store.settle(one, [100], 0)

    for table in deaths(tmp_path, leave, lambda it: [it._new(KEY, at, 1_000) for at in places(it, old)]):
        assert taken(table, limit, 1_000) == 0
        assert table.state(old, limit, 1_000).remaining == limit.burst
        table.close()


def places(table: Table, key: bytes) -> list[int]:
    return [table._places[key].place]


def test_what_a_reservation_met_is_what_the_table_says(tmp_path: Path) -> None:
    mine, other = (Table(tmp_path / "limits", number, 2, slots=64) for number in range(2))
    limits = {
        b"r" * 16: requests_per_minute(600),
        b"f" * 16: in_flight(10),
        KEY: tokens_per_minute(60_000),
        b"b" * 16: budget(10_000),
    }

    def asked() -> Asked:
        return Asked(tuple(limits), list(limits.values()), [1, 1, 700, 800])

    def states(table: Table, now_ms: int) -> list[State]:
        return [table.state(*each, now_ms) for each in limits.items()]

    for now_ms in (0, 40, 1_000):
        call = asked()
        assert mine.reserve(call, now_ms) is None
        assert [each.state(now_ms) for each in call.met] == states(mine, now_ms) == states(other, now_ms)
        mine.settle(call, [0, 0, 300, 500], now_ms)
        assert states(mine, now_ms) == states(other, now_ms)
    assert other.reserve(asked(), 1_000) is None
    assert states(mine, 1_000)[1].remaining == 9, "what another process reserved is seen"
    for store in (mine, other):
        store.close()


def test_more_limits_at_once_than_a_key_has_slots_for_are_refused_until_one_is_whole_again(tmp_path: Path) -> None:
    table, limit = Table(tmp_path / "limits", 0, 1, slots=64), tokens_per_minute(60_000)
    keys = [bytes(8) + number.to_bytes(8, "little") for number in range(1, WAYS + 2)]
    for key in keys[:-1]:
        used_by = asked_of((key, limit, 100))
        table.reserve(used_by, 0)
        table.settle(used_by, [100], 0)
    with pytest.raises(StoreBusy):
        table.reserve(asked_of((keys[-1], limit, 1)), 99)
    assert table.reserve(asked_of((keys[-1], limit, 1)), 100) is None
    assert table.reserve(asked_of((keys[0], limit, 1)), 100) is None, "the first gave up its slot and finds another"
    table.close()


def test_a_call_of_which_nothing_was_reserved_ends_though_its_slot_is_another_limit_s_by_now(tmp_path: Path) -> None:
    table, limit = Table(tmp_path / "limits", 0, 1, slots=64), budget(10_000)
    keys = [bytes(8) + number.to_bytes(8, "little") for number in range(1, WAYS + 2)]
    call = asked_of((keys[0], limit, 0))
    assert table.reserve(call, 0) is None
    for key in keys[1:]:
        assert table.reserve(asked_of((key, in_flight(9), 2)), 1) is None
    table.release(0)
    table.settle(call, [70], 2)
    assert table.counted(keys[0], limit, 2) == 70
    assert [table.state(key, in_flight(9), 2).remaining for key in keys[2:]] == [9] * (WAYS - 1)
    table.close()


def test_limits_that_a_call_meets_at_once_take_no_slot_from_each_other(tmp_path: Path) -> None:
    table, limit = Table(tmp_path / "limits", 0, 1, slots=64), in_flight(9)
    keys = [bytes(8) + number.to_bytes(8, "little") for number in range(1, 5)]
    for now_ms in (0, 1):
        call = asked_of(*((key, limit, 1) for key in keys))
        assert table.reserve(call, now_ms) is None
        assert [table.state(key, limit, now_ms).remaining for key in keys] == [8] * 4
        table.settle(call, [0] * 4, now_ms)
        assert [table.state(key, limit, now_ms).remaining for key in keys] == [9] * 4
    table.close()
