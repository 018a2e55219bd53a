"""`entrepot serve`: the control plane and one gateway as child processes of one supervisor, on one machine.

The children know nothing of each other but a URL and a folder, so each can be run alone and elsewhere instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from entrepot.errors import Code, Error
from entrepot.lifeline import ends_with_parent

RESTART_FIRST_S = 0.5
RESTART_LAST_S = 30.0
STEADY_S = 60.0  # a child that ran for so long starts its back-off anew
START_S = 60.0
GATEWAY = "gateway-1"

log = logging.getLogger(__name__)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`world` is put into the control plane at a first start. None leaves a listener where it was."""

    data: Path
    environ: Mapping[str, str]
    management: str = "127.0.0.1:8443"
    listen: str | None = None
    admin_listen: str | None = None
    territory: str | None = None
    world: Path | None = None


class Child:
    """One process, started again when it ends, until `stop`. `told` is called with every line of its output."""

    def __init__(self, name: str, command: Callable[[], Sequence[str]], environ: Mapping[str, str]) -> None:
        """`command` is asked at each start."""
        self.name = name
        self.restarts = 0
        self.lines: list[str] = []
        self._command = command
        self._environ = dict(environ)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()

    async def start(self, sign: str) -> asyncio.Task[None]:
        """Returns once the child prints a line that begins with `sign`. Raises Error if its first run ends before."""
        task = asyncio.create_task(self._keep(sign), name=self.name)
        waits = [asyncio.create_task(event.wait()) for event in (self._ready, self._ended)]
        try:
            await asyncio.wait(waits, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        if not self._ready.is_set():
            self.stop()
            await task
            raise Error(Code.NOT_READY, f"the {self.name} did not start; its messages are above")
        return task

    def stop(self) -> None:
        """Let it end in good order. Told once: a second signal would end it at once."""
        if not self._stopping:
            self._stopping = True
            self._ended.set()
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and what it started, at once."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _signal(self, signum: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signum)

    async def _keep(self, sign: str) -> None:
        pause_s = RESTART_FIRST_S
        while True:
            begun = time.monotonic()
            status: int | str
            try:
                status = await self._run(sign)
            except OSError as error:
                if not self._ready.is_set():
                    self._ended.set()
                    raise
                status = str(error)  # no process to be had now
            if self._stopping or not self._ready.is_set():
                break
            if time.monotonic() - begun >= STEADY_S:
                pause_s = RESTART_FIRST_S
            self.restarts += 1
            fields = {"process": self.name, "status": status, "again_in_s": pause_s}
            log.error("a process ended and is started again", extra={"fields": fields})
            self._ended.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), pause_s)
                break
            pause_s = min(pause_s * 2, RESTART_LAST_S)
        self._ended.set()

    async def _run(self, sign: str) -> int:
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command(),
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            process_group=0,  # a Ctrl-C at the terminal is ours alone: we end them in order
            preexec_fn=ends_with_parent(),
        )
        if self._stopping:  # asked between two runs
            self._signal(signal.SIGTERM)
        assert process.stdout is not None
        while line := await process.stdout.readline():
            text = line.decode("utf-8", "replace").rstrip("\n")
            if not self._ready.is_set():
                self.lines.append(text)
            if text.startswith(sign):
                self._ready.set()
        return await process.wait()


async def serve(plan: Plan) -> None:
    """Until SIGTERM or SIGINT; a second one ends everything at once. Raises Error where it cannot start."""
    control = Child("control plane", lambda: _control(plan), plan.environ)
    gateway = Child("gateway", lambda: _gateway(plan), plan.environ)
    stopped = _on_signals([gateway, control])
    tasks: list[asyncio.Task[None]] = []
    try:
        tasks.append(await control.start("managing on "))
        fresh = any(line.startswith("the administrator's secret") for line in control.lines)
        if fresh and plan.world is not None:
            await _apply(plan, plan.world)
        tasks.append(await gateway.start("serving "))
        (plan.data / "gateways" / GATEWAY / "enrol.token").unlink(missing_ok=True)  # it worked once, and will not again
        _tell(plan, control.lines[-1], gateway.lines[-1], fresh=fresh)
        await stopped.wait()
    except Error:
        if not stopped.is_set():
            raise
    finally:
        # The gateway first and the control plane with it: calls go on to their end without it.
        for child in (gateway, control):
            child.stop()
        await asyncio.gather(*tasks)


def _on_signals(children: Sequence[Child]) -> asyncio.Event:
    stopped = asyncio.Event()

    def stop() -> None:
        for child in children:
            if stopped.is_set():
                child.kill()
            else:
                child.stop()
        stopped.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop)
    return stopped


def _entrepot(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "entrepot", *arguments]


def _control(plan: Plan) -> list[str]:
    command = _entrepot("control", "--data", str(plan.data), "--listen", plan.management, "--local-gateway")
    for option, value in (
        ("--data-listen", plan.listen),
        ("--admin-listen", plan.admin_listen),
        ("--territory", plan.territory),
    ):
        if value is not None:
            command += [option, value]
    return command


def _gateway(plan: Plan) -> list[str]:
    """Enrolled at its first start, with the token that the control plane left in its folder."""
    folder = plan.data / "gateways" / GATEWAY
    told = msgspec.json.decode((plan.data / "control.json").read_bytes())
    command = _entrepot("gateway", "--control", told["url"], "--data", str(folder))
    token = folder / "enrol.token"
    if not (folder / "control.json").exists() and token.exists():
        command += ["--enrol", token.read_text(encoding="utf-8")]
    return command


async def _apply(plan: Plan, world: Path) -> None:
    """What the world declares, through `entrepot apply`, as its user would. Raises Error.

    There is nobody yet but the administrator, so no second person can approve: the ledger tells why.
    """
    process = await asyncio.create_subprocess_exec(
        *_entrepot("apply", str(world), "--data", str(plan.data), "--yes", "--break-glass", "first start"),
        env=dict(plan.environ),
        stdin=asyncio.subprocess.DEVNULL,
    )
    if await process.wait() not in {0, 3}:  # 3: the policy forbids something in it, which is told and stays out
        raise Error(Code.NOT_READY, f"the world in `{world}` was not applied; its messages are above")


def _tell(plan: Plan, managing: str, serving: str, *, fresh: bool) -> None:
    """What is where, and what to type next."""
    management = managing.split()[2]
    urls = [word.strip("(),") for word in serving.partition(" on ")[2].split() if word.startswith("http")]
    print(f"management   {management}")  # noqa: T201
    print(f"data plane   {urls[0] if urls else serving}")  # noqa: T201
    if len(urls) > 1:
        print(f"metrics      {urls[1]}/metrics")  # noqa: T201
    secret = plan.data / "admin.secret"
    if fresh:
        # To a person only: what a supervisor is told stands in its log for good.
        shown = f"{secret.read_text(encoding='utf-8')} " if sys.stdout.isatty() else ""
        print(f"secret       {shown}(administrator; kept in {secret})")  # noqa: T201
    print(f'next         eval "$(entrepot az-setup --data {plan.data})"', flush=True)  # noqa: T201
