"""A handler's coroutine, driven without a Task: the same results, sooner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from entrepot.http1.run import END, Run, Wait


def with_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_steps_are_taken_at_once() -> None:
    async def test() -> None:
        wait, seen = Wait(asyncio.get_running_loop()), []

        async def handler() -> None:
            seen.append("began")
            await wait
            seen.append("went on")

        Run(handler()).step()
        assert seen == ["began"]
        wait.wake()
        assert seen == ["began", "went on"]
        wait.wake()

    with_loop(test)


def test_what_has_come_is_not_waited_for() -> None:
    async def test() -> None:
        wait, seen = Wait(asyncio.get_running_loop()), []
        wait.wake()

        async def handler() -> None:
            await wait
            seen.append("done")

        Run(handler()).step()
        assert seen == ["done"]

    with_loop(test)


def test_a_task_can_wait_too() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        wait = Wait(loop)

        async def waiting() -> str:
            await wait
            return "came"

        task = loop.create_task(waiting())
        loop.call_later(0.01, wait.wake)
        assert await task == "came"
        cancelled = loop.create_task(forever(Wait(loop)))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    with_loop(test)


async def forever(wait: Wait) -> None:
    await wait


@pytest.mark.parametrize("kind", ["wait", "future", "sleep"])
def test_cancelling_reaches_the_handler_before_it_returns_and_once(kind: str) -> None:
    async def test() -> None:
        loop, seen = asyncio.get_running_loop(), []
        awaited: dict[str, Callable[[], Any]] = {
            "wait": lambda: forever(Wait(loop)),
            "future": loop.create_future,
            "sleep": lambda: asyncio.sleep(60),
        }

        async def handler() -> None:
            try:
                await awaited[kind]()
            finally:
                seen.append("cancelled")
                await asyncio.sleep(0)
                seen.append("cleaned up")

        run = Run(handler())
        run.step()
        run.cancel()
        assert seen == ["cancelled"]
        run.cancel()
        await asyncio.sleep(0.01)
        assert seen == ["cancelled", "cleaned up"]
        run.cancel()

    with_loop(test)


def test_a_handler_that_cancels_itself_is_told_when_it_waits() -> None:
    async def test() -> None:
        seen = []

        async def handler() -> None:
            run.cancel()
            seen.append("still here")
            try:
                await Wait(asyncio.get_running_loop())
            except asyncio.CancelledError:
                seen.append("told")
                raise

        run = Run(handler())
        run.step()
        assert seen == ["still here", "told"]

    with_loop(test)


def test_futures_tasks_and_bare_yields() -> None:
    async def test() -> None:
        loop, seen = asyncio.get_running_loop(), []

        async def answer() -> int:
            async with asyncio.timeout(1):
                await asyncio.sleep(0)
            return 42

        async def handler() -> None:
            await asyncio.sleep(0)
            seen.append(await loop.create_task(answer()))
            with pytest.raises(RuntimeError, match="task"):
                async with asyncio.timeout(1):
                    await asyncio.sleep(0)

        Run(handler()).step()
        await asyncio.sleep(0.02)
        assert seen == [42]

    with_loop(test)


def test_what_came_just_before_the_handler_was_cancelled_moves_nothing() -> None:
    async def test() -> None:
        loop, seen = asyncio.get_running_loop(), []
        future = loop.create_future()
        loop.set_exception_handler(lambda _, context: seen.append(context["message"]))

        async def handler() -> None:
            await future

        run = Run(handler())
        run.step()
        future.set_result(None)
        run.cancel()
        await asyncio.sleep(0.01)
        assert seen == []

    with_loop(test)


def test_one_that_awaits_the_end_is_over() -> None:
    async def test() -> None:
        wait, seen = Wait(asyncio.get_running_loop()), []

        async def handler() -> None:
            await wait
            try:
                await END
            except asyncio.CancelledError:
                seen.append("cancelled")

        run = Run(handler())
        run.step()
        wait.wake()
        run.cancel()
        assert seen == []

    with_loop(test)
