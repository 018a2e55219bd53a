"""Driving a handler without a Task: its first step runs at once, and each next one when what it waits for comes.

A Task begins, and goes on, in a later turn of the loop; each turn costs a call time and CPU. Hence these two classes on
the way of every call.

A handler that runs so has no current task: `asyncio.timeout` and what rests on it must go into a Task of their own,
which the handler may await like any future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Final


class Wait:
    """Something to come, awaited by one coroutine. `wake` resumes a `Run` within the call, a Task in the next turn.

    For a Task this is a future without a value: it has the methods that `asyncio.Task` calls on what it awaits.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_cancelled", "_context", "_done", "_loop", "run")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._done = False
        self._cancelled = False
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self.run: Run | None = None

    def __await__(self) -> Generator[Any, None, None]:
        if not self._done:
            self._asyncio_future_blocking = True
            yield self

    def wake(self) -> None:
        """It has come. Once is enough; later calls do nothing."""
        if self._done:
            return
        self._done = True
        run = self.run
        if run is not None:
            self.run = None
            run.step()
        elif self._callback is not None:
            self._loop.call_soon(self._callback, self, context=self._context)

    # What a Task calls.

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        self._callback, self._context = callback, context

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002 - asyncio's signature
        if self._done:
            return False
        self._cancelled = True
        self.wake()
        return True

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop


class _End:
    """Awaited in the place of a return: compiled, that is an exception with a traceback, which costs a call 1.5 µs."""

    def __await__(self) -> Generator[Any, None, None]:
        yield self


END: Final = _End()


class Run:
    """One coroutine, driven until it ends or awaits `END`. What it raises is its own affair: catch it inside.

    `cancel` raises CancelledError where the coroutine waits, and returns when it waits again or has ended. A future of
    asyncio that it waited for is cancelled too.
    """

    __slots__ = ("_cancelled", "_coroutine", "_running", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._waits_for: Wait | asyncio.Future[Any] | None = None
        self._running = False
        self._cancelled = False

    def step(self) -> None:
        """Start, or go on: only for whoever made it, and for what it waits for."""
        self._go(self._coroutine.send, None)

    def cancel(self) -> None:
        """Once: what the coroutine still awaits then, to clean up, is not disturbed again. Harmless after the end.

        A coroutine that is just running is told when it next waits.
        """
        if not self._cancelled:
            self._cancelled = True
            if not self._running:
                self._throw()

    def _throw(self) -> None:
        waits_for = self._waits_for
        if waits_for is None:
            return
        if isinstance(waits_for, Wait):
            waits_for.run = None
        else:
            waits_for.remove_done_callback(self._come)
            waits_for.cancel()
        self._go(self._coroutine.throw, asyncio.CancelledError())

    def _go(self, move: Callable[[Any], Any], value: BaseException | None) -> None:
        told = self._cancelled
        self._running = True
        try:
            waits_for = move(value)
        except (StopIteration, asyncio.CancelledError):
            self._waits_for = None
            return
        finally:
            self._running = False
        if waits_for is END:
            self._waits_for = None
            return
        if type(waits_for) is Wait:
            waits_for._asyncio_future_blocking = False
            waits_for.run = self
            self._waits_for = waits_for
        else:
            self._await(waits_for)
        if self._cancelled and not told:
            self._throw()

    def _await(self, future: asyncio.Future[Any] | None) -> None:
        if future is None:  # a bare yield, as of `asyncio.sleep(0)`
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            loop.call_soon(_finish, future)
        future._asyncio_future_blocking = False
        self._waits_for = future
        future.add_done_callback(self._come)

    def _come(self, future: asyncio.Future[Any]) -> None:
        # Called in a later turn of the loop: the coroutine may have been cancelled since, and be over or elsewhere.
        if self._waits_for is future:
            self.step()


def _finish(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
