"""The parent's hold on one worker: its socket, its process through restarts, and what it last reported."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence

from entrepot.gateway.channel import Ask, Behind, Channel, Drain, Load, Loaded, Reckon, Reckoned, Rejected, Status
from entrepot.gateway.metrics import CATALOGUE
from entrepot.snapshot import Revision
from entrepot.telemetry.metrics import Report, lasting

log = logging.getLogger(__name__)

RESTART_FIRST_S = 0.1
RESTART_LAST_S = 5.0
ANSWER_S = 2.0
LOOK_S = 2.0  # how often a worker is looked after
STUCK_S = 20.0  # a worker that does not answer for so long never will
KILL_S = 2.0
RECKON_S = 60.0  # a worker with a month of calls to read for the first time takes some seconds


class Hand:
    """`changed` is called after each message that alters `revision` or `problem`.

    The listening socket stays open here while a worker restarts: calls that arrive meanwhile wait instead of failing.
    """

    def __init__(
        self,
        listener: socket.socket,
        arguments: Sequence[str],
        current: Callable[[], Awaitable[Load]],
        changed: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        """`arguments` follow the sockets on the worker's command line; `current` gives the whole as it is now.

        `ended` is called when a worker has ended, before another is started.
        """
        self._ended = ended
        self.revision: Revision | None = None
        self.problem: str | None = None
        self.restarts = 0
        self._listener = listener
        self._arguments = arguments
        self._current = current
        self._changed = changed
        self._fed = False
        self._waiting: list[Load] = []  # what came while the whole was on its way
        self._feeding: asyncio.Task[None] | None = None
        self._channel: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._answer: asyncio.Future[Status] | None = None
        self._reckoned: asyncio.Future[Reckoned] | None = None
        self._last: Status | None = None
        self._unanswered_s = 0.0
        self.ended = Report({}, {})
        """What workers that are gone had counted."""

    async def keep(self) -> None:
        """Run the worker until `stop`, starting it again with back-off when it ends unasked."""
        wait_s = RESTART_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                channel = await self._start()
            except OSError as error:
                if not self.restarts:
                    raise
                # No process, memory or file to be had now: the workers beside it serve on.
                wait_s = min(wait_s * 2, RESTART_LAST_S)
                log.error("worker cannot be started", extra={"fields": {"problem": str(error), "again_in_s": wait_s}})
                await asyncio.sleep(wait_s)
                continue
            looking = asyncio.create_task(self._look_after())
            try:
                self._feed_soon()
                await self._listen(channel)
            finally:
                looking.cancel()
                self._stop_feeding()
                channel.close()
            self._ended()
            if self._stopping:
                return
            self.restarts += 1
            wait_s = RESTART_FIRST_S if loop.time() - started > RESTART_LAST_S else min(wait_s * 2, RESTART_LAST_S)
            log.error("worker ended unasked", extra={"fields": {"again_in_s": wait_s}})
            await asyncio.sleep(wait_s)

    @property
    def available(self) -> bool:
        """The worker serves, and by what it last said it can record what it decides."""
        return self.revision is not None and (self._last is None or self._last.ledger_problem is None)

    async def load(self, message: Load) -> None:
        """Hand on what is new, behind the whole if that is still on its way."""
        if self._fed:
            await self._tell(message)
        else:
            self._waiting.append(message)

    def _feed_soon(self) -> None:
        if self._feeding is None:
            self._fed = False
            self._feeding = asyncio.create_task(self._feed())

    def _stop_feeding(self) -> None:
        self._fed = False
        self._waiting.clear()
        if self._feeding is not None:
            self._feeding.cancel()
            self._feeding = None

    async def _feed(self) -> None:
        """The whole first, then what came meanwhile and is not in it."""
        whole = await self._current()
        await self._tell(whole)
        while self._waiting:
            message = self._waiting.pop(0)
            if message.whole or message.revision > whole.revision:
                await self._tell(message)
        self._fed, self._feeding = True, None

    async def status(self) -> Status | None:
        """The worker's report, or its last one while it is too busy to answer; None when it does not serve."""
        if self._channel is None:
            return None
        answer = self._answer
        if answer is None:
            answer = self._answer = asyncio.get_running_loop().create_future()
            await self._tell(Ask())
        try:
            return await asyncio.wait_for(asyncio.shield(answer), ANSWER_S)
        except TimeoutError:
            return self._last
        except asyncio.CancelledError:
            if answer.cancelled():  # the worker has ended
                return None
            raise

    async def reckon(self) -> Reckoned:
        """The worker's budgets against its ledger. Whoever asks meanwhile gets the same answer."""
        if self._channel is None:
            return Reckoned(problem="the worker does not run")
        answer = self._reckoned
        if answer is None:
            answer = self._reckoned = asyncio.get_running_loop().create_future()
            await self._tell(Reckon())
        try:
            return await asyncio.wait_for(asyncio.shield(answer), RECKON_S)
        except TimeoutError:
            return Reckoned(problem="the worker does not answer")

    async def stop(self, drain_s: float) -> None:
        """Let it finish what is in flight for `drain_s`, then end it."""
        self._stopping = True
        if self._process is None:
            return
        try:
            async with asyncio.timeout(drain_s + KILL_S):
                await self._tell(Drain(drain_s))
                await self._process.wait()
        except TimeoutError:
            log.error("worker did not end in time and is killed")
            self.kill()
            await self._process.wait()

    async def _tell(self, message: Ask | Drain | Load | Reckon) -> None:
        """A worker that takes nothing for `STUCK_S` is ended; its successor begins with the files as they are then."""
        if self._channel is None:
            return
        try:
            with contextlib.suppress(ConnectionError):  # it has just ended
                channel = self._channel
                send = channel.load(message) if isinstance(message, Load) else channel.send(message)
                await asyncio.wait_for(send, STUCK_S)
        except TimeoutError:
            self._end_stuck()

    async def _look_after(self) -> None:
        """Ask now and then: what was counted outlives the worker by that, and one that is stuck is found."""
        while True:
            await asyncio.sleep(LOOK_S)
            answer = self._answer
            await self.status()
            if answer is not None and answer is self._answer and not answer.done():
                self._unanswered_s += LOOK_S
                if self._unanswered_s >= STUCK_S:
                    self._end_stuck()
            else:
                self._unanswered_s = 0.0

    def _end_stuck(self) -> None:
        log.error("worker is stuck and is killed", extra={"fields": {"for_s": STUCK_S}})
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _forget(self) -> None:
        if self._last is not None:
            self.ended = lasting(CATALOGUE, [self.ended, self._last.report])
            self._last = None
        if self._answer is not None and not self._answer.done():
            self._answer.cancel()
        self._answer = None
        self._take_reckoned(Reckoned(problem="the worker has ended"))
        self._unanswered_s = 0.0

    def _take_reckoned(self, answer: Reckoned) -> None:
        if self._reckoned is not None and not self._reckoned.done():
            self._reckoned.set_result(answer)
        self._reckoned = None

    def kill(self) -> None:
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _start(self) -> Channel:
        ours, theirs = socket.socketpair()
        fds = (theirs.fileno(), self._listener.fileno())
        command = [sys.executable, "-m", "entrepot.gateway.worker", *map(str, fds), *self._arguments]
        try:
            self._process = await asyncio.create_subprocess_exec(*command, pass_fds=fds)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = await Channel.over(ours)
        return self._channel

    async def _listen(self, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            match message:
                case Loaded():
                    self.revision, self.problem = message.revision, None
                    log.info("worker serves the world", extra={"fields": {"revision": message.revision.number()}})
                case Behind():
                    self._feed_soon()
                    continue
                case Rejected():
                    self.problem = message.problem
                    log.error("worker rejects the world", extra={"fields": {"problem": self.problem}})
                case Reckoned():
                    self._take_reckoned(message)
                    continue
                case Status():
                    self._last, self._unanswered_s = message, 0.0
                    if self._answer is not None and not self._answer.done():
                        self._answer.set_result(message)
                    self._answer = None
                    continue
                case _:
                    raise RuntimeError(f"a parent has no use for {type(message).__name__}")
            self._changed()
        self._channel = None
        self._forget()
        self.revision = None
        if self._process is not None:
            await self._process.wait()
        self._changed()
