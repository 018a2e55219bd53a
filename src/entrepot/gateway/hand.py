"""The parent's hold on one worker: its socket, its process through restarts, and what it last reported."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable, Sequence

from entrepot.gateway.channel import Ask, Channel, Drain, Load, Loaded, Rejected, Status

log = logging.getLogger(__name__)

RESTART_FIRST_S = 0.1
RESTART_LAST_S = 5.0
ANSWER_S = 2.0
KILL_S = 2.0


class Hand:
    """`changed` is called after each message that alters `revision` or `problem`.

    The listening socket stays open here while a worker restarts: calls that arrive meanwhile wait instead of failing.
    """

    def __init__(self, listener: socket.socket, arguments: Sequence[str], changed: Callable[[], None]) -> None:
        """`arguments` follow the sockets on the worker's command line."""
        self.revision = 0
        self.problem: str | None = None
        self.restarts = 0
        self._listener = listener
        self._arguments = arguments
        self._changed = changed
        self._channel: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._answer: asyncio.Future[Status] | None = None

    async def keep(self, current: Callable[[], Load]) -> None:
        """Run the worker until `stop`, starting it again with back-off when it ends unasked."""
        wait_s = RESTART_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            channel = await self._start()
            try:
                await self.load(current())
                await self._listen(channel)
            finally:
                channel.close()
            if self._stopping:
                return
            self.restarts += 1
            wait_s = RESTART_FIRST_S if loop.time() - started > RESTART_LAST_S else min(wait_s * 2, RESTART_LAST_S)
            log.error("worker ended unasked", extra={"fields": {"again_in_s": wait_s}})
            await asyncio.sleep(wait_s)

    async def load(self, message: Load) -> None:
        if self._channel is not None:
            with contextlib.suppress(ConnectionError):  # it has just ended; its successor begins with the same files
                await self._channel.send(message)

    async def status(self) -> Status | None:
        """The worker's report, None when it does not answer within `ANSWER_S`."""
        if self._channel is None:
            return None
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            with contextlib.suppress(ConnectionError):
                await self._channel.send(Ask())
        try:
            return await asyncio.wait_for(asyncio.shield(self._answer), ANSWER_S)
        except TimeoutError:
            return None

    async def stop(self, drain_s: float) -> None:
        """Let it finish what is in flight for `drain_s`, then end it."""
        self._stopping = True
        if self._process is None:
            return
        with contextlib.suppress(ConnectionError):
            if self._channel is not None:
                await self._channel.send(Drain(drain_s))
        try:
            await asyncio.wait_for(self._process.wait(), drain_s + KILL_S)
        except TimeoutError:
            log.error("worker did not end in time and is killed")
            self.kill()

    def kill(self) -> None:
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _start(self) -> Channel:
        ours, theirs = socket.socketpair()
        fds = (theirs.fileno(), self._listener.fileno())
        command = [sys.executable, "-m", "entrepot.gateway.worker", *map(str, fds), *self._arguments]
        self._process = await asyncio.create_subprocess_exec(*command, pass_fds=fds)
        theirs.close()
        self._channel = await Channel.over(ours)
        return self._channel

    async def _listen(self, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            match message:
                case Loaded():
                    self.revision, self.problem = message.revision, None
                case Rejected():
                    self.problem = message.problem
                    log.error(
                        "worker rejects the world; the one before stays", extra={"fields": {"problem": self.problem}}
                    )
                case Status():
                    if self._answer is not None and not self._answer.done():
                        self._answer.set_result(message)
                    self._answer = None
                    continue
                case _:
                    raise RuntimeError(f"a parent has no use for {type(message).__name__}")
            self._changed()
        self._channel = self._answer = None
        self.revision = 0
        if self._process is not None:
            await self._process.wait()
        self._changed()
