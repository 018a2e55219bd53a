"""Passive health of one upstream: a cooldown after failures in a row, then one probe at a time until it answers again.

Pure arithmetic; time (seconds of a monotonic clock) is an argument.
"""

from __future__ import annotations

FAILURES = 3
COOLDOWN_S = 5.0
LONGEST_S = 60.0


class Health:
    """`FAILURES` in a row begin a cooldown, doubled with each further failure up to `LONGEST_S`."""

    __slots__ = ("_failures", "_probing", "_rests_until_s")

    def __init__(self) -> None:
        self._failures = 0
        self._rests_until_s = 0.0
        self._probing = False

    def ready(self, now_s: float) -> bool:
        """Whether a call may go there before targets at rest. After a cooldown that is one probe at a time."""
        if self._failures < FAILURES:
            return now_s >= self._rests_until_s
        return now_s >= self._rests_until_s and not self._probing

    @property
    def healthy(self) -> bool:
        return self._failures < FAILURES

    def tried(self) -> None:
        """A call is on its way there. While it is unhealthy, that call is the probe."""
        self._probing = True

    def left(self) -> None:
        """The call ended without saying anything about the upstream: the client went away."""
        self._probing = False

    def succeeded(self) -> None:
        self._failures = 0
        self._rests_until_s = 0.0
        self._probing = False

    def failed(self, now_s: float) -> None:
        self._probing = False
        if self._failures >= FAILURES and now_s < self._rests_until_s:
            return  # it was on its way when the rest began, or nobody else was left to try: nothing new
        self._failures += 1
        if self._failures >= FAILURES:
            rest_s = COOLDOWN_S * 2 ** min(self._failures - FAILURES, 8)
            self._rests_until_s = now_s + min(rest_s, LONGEST_S)

    def asked_to_wait(self, now_s: float, wait_s: float) -> None:
        """The upstream works but is at its limit (429): others first until then."""
        self._failures = 0
        self._probing = False
        self._rests_until_s = now_s + min(max(wait_s, 1.0), LONGEST_S)
