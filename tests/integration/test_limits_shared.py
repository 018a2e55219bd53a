"""Limits over a store: exact together, few round trips, and a share for each process while the store is away."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from entrepot.limits.rate import DAY_MS, Limit, budget, in_flight, requests_per_minute, tokens_per_minute
from entrepot.limits.reserve import Asked, Refusal, Short, StoreBusy, asked_of
from entrepot.limits.shared import Shared
from redises import Server, private

KEY = b"0123456789abcdef"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with private(tmp_path) as running:
        yield running


def now() -> int:
    return time.time_ns() // 1_000_000


async def reserve(store: Shared, asked: Asked) -> Refusal | None:
    try:
        return store.reserve(asked, now())
    except Short:
        return await store.reserve_there(asked, now())


async def patiently(store: Shared, asked: Asked) -> Refusal | None:
    """A store that is slow to answer is away for a moment."""
    end = time.monotonic() + 20
    while True:
        try:
            return await reserve(store, asked)
        except StoreBusy:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)


async def lose(server: Server, store: Shared) -> None:
    server.kill()
    end = time.monotonic() + 10
    while not store.degraded:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def with_stores(url: str, number: int, work: Callable[[list[Shared]], Awaitable[None]]) -> None:
    async def run() -> None:
        stores = [Shared(url, f"g/w{at}") for at in range(number)]
        for store in stores:
            await store.start()
        try:
            await work(stores)
        finally:
            for store in stores:
                await store.end()

    asyncio.run(run())


async def flood(store: Shared, limit: Limit, units: int, seconds: float) -> int:
    admitted, ends, want = 0, time.monotonic() + seconds, asked_of((KEY, limit, units))
    while time.monotonic() < ends:
        if await reserve(store, want) is None:
            admitted += units
            store.settle(want, [units], now())
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(0.002)
    return admitted


@pytest.mark.parametrize("limit", [tokens_per_minute(1_200_000, 1_000), requests_per_minute(6_000, 1_000)])
def test_processes_share_a_limit_exactly_with_few_round_trips(server: Server, limit: Limit) -> None:
    async def work(stores: list[Shared]) -> None:
        units, started = 20 if not limit.charged else 1, time.monotonic()
        admitted = await asyncio.gather(*(flood(store, limit, units, 2.0) for store in stores))
        took_ms = (time.monotonic() - started) * 1_000
        assert sum(admitted) <= limit.burst + limit.amount * took_ms / limit.period_ms
        assert sum(admitted) >= 0.9 * limit.amount * 2_000 / limit.period_ms
        assert all(admitted)

    with_stores(server.url, 4, work)


def test_a_large_limit_needs_no_round_trip_for_each_call(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        store, limit = stores[0], tokens_per_minute(600_000_000)
        want = asked_of((KEY, limit, 1_000))
        assert await reserve(store, want) is None
        store.settle(want, [1_000], now())
        await asyncio.sleep(0.3)
        before = store.trips
        for _ in range(2_000):
            assert store.reserve(want, now()) is None, "the lease holds two percent: 12 million tokens"
            store.settle(want, [1_000], now())
        assert store.trips - before <= 3

    with_stores(server.url, 2, work)


def test_calls_at_once_share_a_round(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        store, limit = stores[0], tokens_per_minute(600_000)
        before = store.trips
        calls = [asked_of((KEY, limit, 100), (b"f" * 16, in_flight(300), 1)) for _ in range(200)]
        assert await asyncio.gather(*(reserve(store, call) for call in calls)) == [None] * 200
        assert store.waited == 200
        assert store.trips - before <= 3, "200 calls are one question"

    with_stores(server.url, 1, work)


def test_a_lease_is_renewed_before_it_is_spent(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        store, limit = stores[0], tokens_per_minute(600_000, 60_000)
        want = asked_of((KEY, limit, 500))
        for _ in range(1_000):
            assert await reserve(store, want) is None
            store.settle(want, [500], now())
            await asyncio.sleep(0.001)
        assert store.waited <= 100, "a lease is 24 calls, and none but the first has to wait"
        assert store.trips <= 300

    with_stores(server.url, 1, work)


def test_of_a_limit_of_few_calls_the_next_one_is_leased_ahead(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        store, limit = stores[0], tokens_per_minute(10_000, 60_000)
        want = asked_of((KEY, limit, 1_200))
        assert await reserve(store, want) is None
        for _ in range(4):
            end = time.monotonic() + 10
            while store._parts.held[KEY].free < 1_200:
                assert time.monotonic() < end
                await asyncio.sleep(0.01)
            assert store.reserve(want, now()) is None
        assert store.waited == 1
        part = store._parts.held[KEY]
        assert part.free <= 1_200, "no more than a call lies idle: two percent are 200"

    with_stores(server.url, 1, work)


def test_what_a_process_holds_is_what_the_store_says_whoever_goes_away(server: Server) -> None:
    """Calls of many sizes at once, a third of which go away while they wait."""
    chance = random.Random(7)
    limits = [tokens_per_minute(60_000), in_flight(12), requests_per_minute(3_000), budget(10**14)]
    keys = [bytes([at]) * 16 for at in range(len(limits))]
    used = [0] * len(limits)

    async def call(store: Shared) -> None:
        units = [chance.randint(1, 900), 1, 1, chance.randint(0, 3) * 10**11 + 7]
        asked = asked_of(*zip(keys, limits, units, strict=True))
        if await reserve(store, asked) is None:
            real = [each * chance.randint(0, 100) // 100 for each in units]
            real[1] = 0
            used[3] += real[3]
            try:
                await asyncio.sleep(chance.random() / 50)
            finally:
                store.settle(asked, real, now())

    async def work(stores: list[Shared]) -> None:
        await asyncio.sleep(1.1)  # budgets are granted from now on
        for _ in range(40):
            calls = [asyncio.create_task(call(chance.choice(stores))) for _ in range(12)]
            await asyncio.sleep(chance.random() / 100)
            for each in calls[::3]:
                each.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.3)
        for store in stores:
            store._ended = True
            assert store._task is not None
            await store._task
        assert used[3] == sum(store.counted(keys[3], limits[3], now()) for store in stores) > 0
        with redis.Redis.from_url(server.url) as client:
            for store in stores:
                for key in keys:
                    part = store._parts.held[key]
                    there = client.hget(f"entrepot:limit:{key.hex()}", f"r:{store._pid}")
                    assert int(there or 0) == part.free + part.used
                    assert part.reserved == 0

    with_stores(server.url, 2, work)


def test_small_limits_go_to_the_store_and_are_never_exceeded(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        flights = asked_of((KEY, in_flight(3), 1))
        taken = [await reserve(stores[at % 2], flights) for at in range(5)]
        assert [each is None for each in taken] == [True, True, True, False, False]
        stores[0].settle(flights, [0], now())
        await asyncio.sleep(0.25)
        assert await reserve(stores[1], flights) is None, "it was given back"

    with_stores(server.url, 2, work)


def test_budgets_are_whole_and_each_process_puts_its_own_part_right(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        one, two = stores
        limit = budget(10_000_000_000_000, DAY_MS)
        one.restore(KEY, limit, 6_000_000_000_000, now())
        want = asked_of((KEY, limit, 1_000_000_000_000))
        assert await reserve(one, want) is None
        one.settle(want, [500_000_000_001], now())
        two.restore(KEY, limit, 2_000_000_000_000, now())
        await asyncio.sleep(0.3)
        assert await reserve(two, want) is None
        two.settle(want, [1_000_000_000_000], now())
        await asyncio.sleep(0.3)
        assert await reserve(one, want) is not None, "6 + 0.5 + 2 + 1 are spent of 10"
        one.restore(KEY, limit, 5_000_000_000_000, now())
        await asyncio.sleep(0.3)
        assert await reserve(two, want) is None

    with_stores(server.url, 2, work)


def test_without_the_store_each_admits_its_share_and_there_is_no_burst_when_it_is_back(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        limit = requests_per_minute(600, 6_000)
        want = asked_of((KEY, limit, 1))
        assert await reserve(stores[0], want) is None
        await asyncio.sleep(0.3)
        server.kill()
        await asyncio.sleep(0.3)
        alone = [0, 0]
        for at, store in enumerate(stores):
            while await reserve(store, want) is None:
                alone[at] += 1
                assert alone[at] < 100
        assert all(store.degraded for store in stores)
        assert all(25 <= number <= 40 for number in alone), "half of sixty each"
        with pytest.raises(StoreBusy):
            await reserve(stores[0], asked_of((b"b" * 16, budget(1_000_000), 1)))
        server.start()
        end = time.monotonic() + 10
        while any(store.degraded for store in stores):
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        more = 0
        for store in stores:
            while await reserve(store, want) is None:
                more += 1
                assert more < 100
        assert more <= 25, "what was used alone counts"

    with_stores(server.url, 2, work)


def test_first_calls_at_once_are_granted_nothing_that_the_store_forgets(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        store, ask = stores[0], stores[0]._round
        trips = itertools.count()

        async def first_is_late(*, keys: list[bytes], args: list[Any]) -> Any:
            if len(keys) > 4 and next(trips) == 0:
                await asyncio.sleep(0.2)
            return await ask(keys=keys, args=args)

        store._round = first_is_late  # type: ignore[assignment]
        limit = tokens_per_minute(600_000, 10_000)

        def want() -> Asked:
            return asked_of((KEY, limit, 1_000))

        assert await asyncio.gather(*(reserve(store, want()) for _ in range(3))) == [None] * 3
        store._ended = True
        assert store._task is not None
        await store._task
        with redis.Redis.from_url(server.url) as client:
            (there,) = client.hvals(b"entrepot:limit:" + KEY.hex().encode())[2:]
        part = store._parts.held[KEY]
        assert int(there) == part.free + part.reserved + part.used

    with_stores(server.url, 1, work)


def test_a_limit_that_was_used_up_does_not_begin_anew_without_the_store(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        limit = requests_per_minute(60, 60_000)
        want, taken = asked_of((KEY, limit, 1)), 0
        for store in stores:
            while await reserve(store, want) is None:
                taken += 1
            await asyncio.sleep(0.3)
        server.kill()
        await asyncio.sleep(0.3)
        for store in stores:
            for _ in range(30):
                taken += await reserve(store, want) is None
        assert all(store.degraded for store in stores)
        took_s = (now() - began) / 1_000
        assert 60 <= taken <= 60 + took_s + len(stores), "one leaks away in a second"

    began = now()
    with_stores(server.url, 2, work)


def test_what_a_dead_process_held_is_free_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrepot.limits.shared.ALIVE_MS", 400)

    async def work(stores: list[Shared]) -> None:
        dead = Shared(server.url, "g/dead")
        await dead.start()
        want = asked_of((KEY, in_flight(1), 1))
        assert await reserve(dead, want) is None
        assert await reserve(stores[0], want) is not None
        dead._ended = True
        assert dead._task is not None
        await dead._task
        await dead._redis.aclose()
        await asyncio.sleep(0.8)
        assert await reserve(stores[0], want) is None

    with_stores(server.url, 1, work)


def test_a_store_that_comes_back_empty_hears_of_budgets_again_before_it_grants_any(server: Server) -> None:
    """Also of what nobody has called on for a while, and of what was used while the store was away."""

    async def work(stores: list[Shared]) -> None:
        one, two = stores
        limit, million = budget(10_000_000_000_000, DAY_MS), 1_000_000_000_000
        want = asked_of((KEY, limit, million))
        one.restore(KEY, limit, 5 * million + 1, now())
        for _ in range(2):
            assert await reserve(two, want) is None
        two.settle(want, [million], now())
        await asyncio.sleep(1.5)
        assert KEY in one._parts.resting
        server.kill()
        await asyncio.sleep(0.3)
        two.settle(want, [million + 7], now())
        server.start()
        admitted = [await patiently(stores[at % 2], want) is None for at in range(5)]
        assert admitted == [True, True, False, False, False], "7.000000000008 of 10 are used, a lease lies idle"
        await one.tell_again()
        assert (one.counted(KEY, limit, now()), two.counted(KEY, limit, now())) == (5 * million + 1, 2 * million + 7)
        told, otherwise = one.put_right()
        assert told == ["the store of limits came back empty, and is told again of 1 budgets"]
        assert otherwise == {}
        assert two.put_right()[0]

    with_stores(server.url, 2, work)


def test_after_a_loss_budgets_wait_until_all_that_were_there_have_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, million = budget(10_000_000_000_000, DAY_MS), 1_000_000_000_000
    want = asked_of((KEY, limit, million))

    async def lose(stores: list[Shared], grace_ms: int) -> float:
        """How long a call waited then."""
        monkeypatch.setattr("entrepot.limits.shared.GRACE_MS", grace_ms)
        server.kill()
        server.start()
        began = time.monotonic()
        assert await patiently(stores[0], want) is None
        stores[0].settle(want, [0], now())
        return time.monotonic() - began

    async def work(stores: list[Shared]) -> None:
        one, two = stores
        one.restore(KEY, limit, 4 * million, now())
        assert await patiently(two, want) is None
        two.settle(want, [2 * million], now())
        await asyncio.sleep(0.3)
        assert await lose([two, one], 15_000) < 10
        calls = [asked_of((KEY, limit, million)) for _ in range(4)]
        admitted = [await patiently(stores[at % 2], call) is None for at, call in enumerate(calls)]
        assert admitted == [True, True, True, False], "6 of 10 are used, and leases lie idle"
        for at, call in enumerate(calls[:3]):
            stores[at % 2].settle(call, [0], now())
        dead = Shared(server.url, "g/dead")
        await dead.start()
        await asyncio.sleep(0.3)
        dead._ended = True
        assert dead._task is not None
        await dead._task
        await dead._redis.aclose()
        assert await lose(stores, 1_500) >= 1.4, "one that was there does not tell"

    with_stores(server.url, 2, work)


def test_what_the_store_has_of_a_budget_is_what_it_was_told_or_is_put_right(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        (one,) = stores
        limit, million = budget(10_000_000_000_000, DAY_MS), 1_000_000_000_000
        one.restore(KEY, limit, 5 * million, now())
        await asyncio.sleep(0.3)
        name = f"entrepot:limit:{KEY.hex()}"
        with redis.Redis.from_url(server.url) as client:
            for there in (4_000_000, 6_000_000, None):
                if there is None:
                    client.delete(name)
                else:
                    client.hset(name, "u:g/w0", str(there))
                await one.tell_again()
                told, otherwise = one.put_right()
                assert not told
                assert otherwise == {KEY: ((there or 0) * 1_000_000, 5 * million)}
                assert client.hget(name, "u:g/w0") == b"5000000"
            await one.tell_again()
            assert one.put_right() == ([], {})

    with_stores(server.url, 1, work)


def test_later_calls_wait_for_what_was_used_and_never_reserved(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        limit = tokens_per_minute(600_000)
        want = asked_of((KEY, limit, 10))
        for store in stores:
            assert await reserve(store, want) is None
            store.settle(want, [limit.burst], now())
        await asyncio.sleep(0.3)
        for at in range(20):  # more is admitted only when half a burst and more has leaked away
            assert await reserve(stores[at % 2], want) is not None
            await asyncio.sleep(0.06)

    with_stores(server.url, 2, work)


def test_without_the_store_calls_wait_as_well_for_what_was_never_reserved(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        (store,) = stores
        limit = tokens_per_minute(60_000, 60_000)
        want = asked_of((KEY, limit, 2_000))
        await lose(server, store)
        assert await reserve(store, want) is None
        store.settle(want, [30_000], now())
        assert await reserve(store, want) is None, "half of it is left"
        store.settle(want, [50_000], now())
        await asyncio.sleep(0.3)
        for _ in range(5):
            assert await reserve(store, want) == Refusal(0, 1_000)

    with_stores(server.url, 1, work)


def test_a_call_that_draws_nothing_from_a_limit_does_not_wait_for_it(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        (store,) = stores
        tokens, other = tokens_per_minute(600_000), b"o" * 16
        first = asked_of((KEY, in_flight(40), 1), (other, tokens, 100))
        then = asked_of((KEY, in_flight(40), 1), (other, tokens, 0))
        assert await reserve(store, first) is None
        await asyncio.sleep(0.3)
        store.settle(first, [0, 100_000], now())
        assert store.reserve(then, now()) is None
        store.settle(then, [0, 0], now())
        assert store._parts.held[KEY].reserved == 0

    with_stores(server.url, 1, work)


def test_what_is_held_is_told_again_to_a_store_that_took_the_process_for_dead(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrepot.limits.shared.ALIVE_MS", 400)

    async def work(stores: list[Shared]) -> None:
        one, two = stores
        flights = asked_of((KEY, in_flight(3), 1))
        assert [await reserve(one, flights) for _ in range(3)] == [None] * 3
        ask = one._round

        async def cut_off(**_: Any) -> Any:
            raise redis.ConnectionError

        one._round = cut_off  # type: ignore[assignment]
        end = time.monotonic() + 10
        while await reserve(two, flights) is not None:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        two.settle(flights, [0], now())
        one._round = ask
        while one.degraded or not one._parts.held[KEY].sure:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        assert await reserve(two, flights) is not None, "three calls are still under way"

    with_stores(server.url, 2, work)


def test_a_refusal_of_a_large_call_refuses_no_smaller_one(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        (store,) = stores
        limit = tokens_per_minute(10_000, 60_000)
        large, small = asked_of((KEY, limit, 9_000)), asked_of((KEY, limit, 3_000))
        assert await reserve(store, small) is None
        assert await reserve(store, large) is not None
        before = store.trips
        refusal = store.reserve(large, now())
        assert refusal is not None, "it is taken for its word"
        assert store.trips == before
        assert await reserve(store, small) is None

    with_stores(server.url, 1, work)


def test_what_was_leased_of_budgets_is_void_as_soon_as_the_store_is_away(server: Server) -> None:
    async def work(stores: list[Shared]) -> None:
        (store,) = stores
        want, none = asked_of((KEY, budget(10**15), 10**9)), asked_of((KEY, budget(10**15), 0))
        for _ in range(20):
            assert await patiently(store, want) is None
            await asyncio.sleep(0.1)
        free = store._parts.held[KEY].free
        assert free > 0
        store._lost(redis.ConnectionError())
        with pytest.raises(StoreBusy):
            store.reserve(want, now())
        assert store.reserve(none, now()) is None, "it draws nothing"

    with_stores(server.url, 1, work)


def test_what_a_store_had_in_another_window_is_no_difference() -> None:
    """A process whose clock is ahead tells of the next day before it begins in the store."""
    store, limit = Shared("redis://127.0.0.1:1", "g/w0"), budget(10**15)
    store.restore(KEY, limit, 3_000_000, now())
    part = store._parts.held[KEY]
    for before in (-1, 0, 3):
        store._compare(part, 3, before)
        part.told = True
    assert store.put_right() == ([], {})
    store._compare(part, 4, 2)
    assert store.put_right() == ([], {KEY: (2_000_000, 4_000_000)})
