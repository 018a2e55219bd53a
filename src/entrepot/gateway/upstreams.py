"""The connection pools and the health of upstreams, kept across snapshots wherever an upstream stays what it was."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from entrepot.gateway.health import Health
from entrepot.http1.client import Endpoint, Pool, client_tls
from entrepot.resources.model import Timeouts
from entrepot.snapshot import Snapshot
from entrepot.wire.headers import RELAYED

_monotonic: Final = time.monotonic
READ = RELAYED | {"content-encoding"}


class Line(msgspec.Struct, frozen=True):
    """The way to one upstream: its connections and what is known of its health."""

    endpoint: Endpoint
    timeouts: Timeouts
    pool: Pool
    health: Health


Lines = Mapping[str, Line]


class Upstreams:
    """Owns every pool of this worker. Calls in flight keep the lines of the snapshot that they began with."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._retired: set[Pool] = set()
        self._tls: ssl.SSLContext | None = None

    def adopt(self, snapshot: Snapshot) -> Lines:
        """Lines for all upstreams of `snapshot`. A line no longer used closes once no call can still be on it."""
        lines = {}
        for name, (endpoint, timeouts) in snapshot.endpoints.items():
            line = self._lines.get(name)
            if line is None or (line.endpoint, line.timeouts) != (endpoint, timeouts):
                line = Line(
                    endpoint, timeouts, Pool(endpoint, timeouts, self._tls_for(endpoint), wanted=READ), Health()
                )
            lines[name] = line
        for name, line in self._lines.items():
            if lines.get(name) is not line:
                self._retire(line)
        self._lines = lines
        return lines

    def healthy(self) -> dict[str, bool]:
        return {name: line.health.healthy for name, line in self._lines.items()}

    async def close(self) -> None:
        for pool in [*self._retired, *(line.pool for line in self._lines.values())]:
            await pool.close()

    def _retire(self, line: Line) -> None:
        loop = asyncio.get_running_loop()
        self._retired.add(line.pool)
        loop.call_later(line.timeouts.total_s + 1.0, lambda: loop.create_task(self._end(line.pool)))

    async def _end(self, pool: Pool) -> None:
        await pool.close()
        self._retired.discard(pool)

    def _tls_for(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        if endpoint.scheme != "https":
            return None
        if self._tls is None:
            self._tls = client_tls(None)
        return self._tls


def now_s() -> float:
    """The clock of cooldowns and durations: monotonic, not the time of day."""
    return _monotonic()
