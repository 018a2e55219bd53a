"""Slows down whoever guesses secrets, in bounded memory, without locking out whoever knows the secret elsewhere.

A guess costs its own pair of client and peer, and the peer as a whole. Who knows the secret is held up only if the
guesses came from the very same address, and for 30 seconds at the most.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

FREE = 5
FREE_OF_A_PEER = 50
LONGEST_S = 30.0
FORGOTTEN_S = 900.0
REMEMBERED = 4_096


class Throttle:
    """`failed` counts all failures since the start."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.failed = 0
        self._clock = clock
        self._pairs: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._peers: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, client: str, peer: str) -> float:
        """How long this client at this peer has to wait before its secret is looked at; 0 mostly."""
        pair = self._left(self._pairs, _pair(client, peer), FREE)
        return max(pair, self._left(self._peers, peer, FREE_OF_A_PEER))

    def failure(self, client: str, peer: str) -> None:
        self.failed += 1
        self._count(self._pairs, _pair(client, peer))
        self._count(self._peers, peer)

    def success(self, client: str, peer: str) -> None:
        """The pair starts anew; the peer does not, or one good secret would pay for guesses at others."""
        self._pairs.pop(_pair(client, peer), None)

    def _left(self, table: OrderedDict[str, tuple[int, float]], key: str, free: int) -> float:
        count, last_s = table.get(key, (0, 0.0))
        age_s = self._clock() - last_s
        if count < free or age_s >= FORGOTTEN_S:
            return 0.0
        pause_s = min(LONGEST_S, 2.0 ** min(count - free, 10))
        return max(0.0, pause_s - age_s)

    def _count(self, table: OrderedDict[str, tuple[int, float]], key: str) -> None:
        now_s = self._clock()
        count, last_s = table.pop(key, (0, now_s))
        table[key] = (1 if now_s - last_s >= FORGOTTEN_S else count + 1, now_s)
        while len(table) > REMEMBERED:
            table.popitem(last=False)


def _pair(client: str, peer: str) -> str:
    return f"{peer} {client[:64]}"
