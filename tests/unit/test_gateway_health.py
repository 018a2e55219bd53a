"""Which target is tried first: health as arithmetic over time, and the order that follows from it."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, cast

import pytest

from entrepot.gateway import dispatch
from entrepot.gateway.dispatch import ATTEMPTS, in_order, retry_after_s
from entrepot.gateway.health import COOLDOWN_S, FAILURES, LONGEST_S, Health


def failing(times: int, now_s: float = 0.0) -> Health:
    health = Health()
    for _ in range(times):
        health.tried()
        health.left()
        health.failed(now_s)
    return health


def test_a_few_failures_change_nothing() -> None:
    health = failing(FAILURES - 1)
    assert health.ready(0.0)
    assert health.healthy
    health.succeeded()
    health.failed(0.0)
    assert health.ready(0.0)


def test_failures_in_a_row_begin_a_rest() -> None:
    health = failing(FAILURES, 100.0)
    assert not health.healthy
    assert not health.ready(100.0)
    assert not health.ready(100.0 + COOLDOWN_S - 0.001)
    assert health.ready(100.0 + COOLDOWN_S)


def test_after_it_there_is_one_probe_at_a_time() -> None:
    health = failing(FAILURES)
    health.tried()
    assert not health.ready(COOLDOWN_S)
    health.left()  # the client went: nothing is known
    assert health.ready(COOLDOWN_S)
    health.tried()
    health.succeeded()
    assert health.healthy
    assert health.ready(COOLDOWN_S)


def test_failed_probes_double_the_rest_up_to_the_longest() -> None:
    health, now_s = failing(FAILURES), 0.0
    rests = []
    for _ in range(8):
        rest_s = 0.0
        while not health.ready(now_s + rest_s):
            rest_s += 0.5
        rests.append(rest_s)
        now_s += rest_s
        health.tried()
        health.failed(now_s)
    assert rests == [5.0, 10.0, 20.0, 40.0, LONGEST_S, LONGEST_S, LONGEST_S, LONGEST_S]


def test_one_outage_under_many_calls_is_one_rest() -> None:
    """Calls that were on their way when it began fail one after the other, and say nothing new."""
    health = failing(200, 10.0)
    assert health.ready(10.0 + COOLDOWN_S)


def test_who_is_at_its_limit_rests_as_long_as_it_says() -> None:
    health = Health()
    health.asked_to_wait(0.0, 7.0)
    assert health.healthy
    assert not health.ready(6.9)
    assert health.ready(7.0)
    health.asked_to_wait(10.0, 0.0)
    assert not health.ready(10.9)
    health.asked_to_wait(20.0, float("inf"))
    assert health.ready(20.0 + LONGEST_S)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("", 1.0),
        ("1.5", 1.0),
        ("-1", 1.0),
        ("\xb2", 1.0),
        ("soon", 1.0),
        ("9" * 400, float("inf")),
    ],
)
def test_retry_after(value: str, seconds: float) -> None:
    assert retry_after_s(value) == seconds


class Target:
    """What `in_order` looks at in a candidate."""

    def __init__(self, upstream: str, priority: int = 1, weight: int = 100) -> None:
        self.upstream, self.priority, self.weight = upstream, priority, weight


class Line:
    def __init__(self, health: Health) -> None:
        self.health = health


def order(targets: list[Target], resting: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    lines = {
        t.upstream: Line(failing(FAILURES, dispatch.now_s()) if t.upstream in resting else Health()) for t in targets
    }
    return [c.upstream for c in in_order(cast("Any", tuple(targets)), cast("Any", lines))]


def test_lower_priority_comes_first_and_no_more_than_the_budget() -> None:
    targets = [Target(f"t{priority}", priority) for priority in (3, 1, 5, 2, 4)]
    assert order(targets) == ["t1", "t2", "t3"]
    assert ATTEMPTS == 3


def test_those_at_rest_come_last_but_they_come() -> None:
    targets = [Target("a", 1), Target("b", 2), Target("c", 3)]
    assert order(targets, {"a"}) == ["b", "c", "a"]
    assert order(targets, {"a", "b", "c"}) == ["a", "b", "c"]
    assert order(targets[:1], {"a"}) == ["a"]


def test_equals_share_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "random", random.Random(7))
    targets = [Target("a", weight=70), Target("b", weight=20), Target("c", weight=10)]
    first = Counter(order(targets)[0] for _ in range(4_000))
    assert {name: round(count / 400) for name, count in first.items()} == {"a": 7, "b": 2, "c": 1}
