"""`entrepot gateway`: the data plane over a world's folder, or behind a control plane."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from entrepot.config import Config
from entrepot.errors import Code, Error
from entrepot.gateway import enrolment
from entrepot.gateway.control import ControlSource
from entrepot.gateway.enrolment import AFRESH, CONTROL
from entrepot.gateway.own import Own
from entrepot.gateway.parent import Parent
from entrepot.gateway.shipping import Shipper
from entrepot.gateway.source import Source
from entrepot.gateway.watch import Folder
from entrepot.resources import values
from entrepot.resources.problems import WorldInvalid
from entrepot.resources.reading import Mistake, Sheet
from entrepot.telemetry.log import log_to_stderr

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False)

World = Annotated[
    Path | None, typer.Option(help="Folder of TOML files that declare everything.", exists=True, file_okay=False)
]
Control = Annotated[
    list[str] | None,
    typer.Option(help="Address of the control plane to follow, https://HOST:PORT; again for each other."),
]
Enrol = Annotated[
    str | None, typer.Option(help="With --control: the one-time token by which this gateway gets its keys.")
]
Data = Annotated[Path | None, typer.Option(help="Folder for what the gateway writes.")]


def _address(text: str | None) -> str | None:
    try:
        return None if text is None else values.listener(text, (), "", Sheet())
    except Mistake as mistake:
        raise typer.BadParameter(f"{mistake}; give one such as 127.0.0.1:8080 or [::1]:8080") from None


Workers = Annotated[int | None, typer.Option(min=1, help="Processes that serve; overrides `\\[gateway] workers`.")]
Listen = Annotated[
    str | None,
    typer.Option(callback=_address, help="Where calls arrive, HOST:PORT; overrides `\\[gateway] listen`."),
]
AdminListen = Annotated[
    str | None,
    typer.Option(callback=_address, help="Metrics and readiness, HOST:PORT; overrides `\\[gateway] admin_listen`."),
]


@app.command()
def gateway(  # noqa: PLR0913, PLR0917 - a command's options are its arguments
    world: World = None,
    control: Control = None,
    enrol: Enrol = None,
    data: Data = None,
    workers: Workers = None,
    listen: Listen = None,
    admin_listen: AdminListen = None,
) -> None:
    """Serve a world's folder, or what a control plane publishes. SIGHUP reloads; SIGTERM drains and ends."""
    if (world is None) is (not control):
        raise typer.BadParameter("give either --world DIR or --control URL")
    if enrol is not None and not control:
        raise typer.BadParameter("--enrol goes with --control URL")
    log_to_stderr()
    config = Config.load(data)
    own = {name: value for name, value in (("listen", listen), ("admin_listen", admin_listen)) if value is not None}
    served = str(world or ",".join(control or ()))

    def ready(data_url: str, admin_url: str) -> None:
        print(f"serving {served} on {data_url} (metrics and readiness on {admin_url})", flush=True)

    def parent(source: Source, shippers: Sequence[Shipper] = ()) -> Parent:
        return Parent(Own(source, own) if own else source, config, workers, shippers)

    if world is not None:
        running = parent(Folder(world, config)).run(ready)
    else:
        running = _follow(
            control or [], enrol, config.data, lambda source, shippers: parent(source, shippers).run(ready)
        )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(running)
    except WorldInvalid as invalid:
        for problem in invalid.problems:
            print(problem, file=sys.stderr)
        print(f"the world in {served} is invalid; nothing was started", file=sys.stderr)
        raise typer.Exit(1) from None
    except (Error, OSError, RuntimeError) as error:
        print(f"the gateway cannot start: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


Run = Callable[[Source, Sequence[Shipper]], Coroutine[object, object, None]]


async def _follow(urls: Sequence[str], token: str | None, data: Path, run: Run) -> None:
    known = await _enrolled(urls, token, data)
    async with _shipping(known, data, urls) as shippers:

        def believing(ca: str) -> None:
            for shipper in shippers:
                shipper.believe(ca)

        await _run(known, data, urls, lambda source: run(source, shippers), believing)


@asynccontextmanager
async def _shipping(known: enrolment.Enrolled, data: Path, urls: Sequence[str]) -> AsyncIterator[list[Shipper]]:
    """Meanwhile each control plane gets this gateway's ledger; at the end, what was signed last, if it answers."""
    shippers = [Shipper(known, data, url) for url in urls]
    tasks = [asyncio.create_task(shipper.run()) for shipper in shippers]
    try:
        yield shippers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(shipper.last() for shipper in shippers))


async def _run(
    known: enrolment.Enrolled,
    data: Path,
    urls: Sequence[str],
    run: Callable[[Source], Coroutine[object, object, None]],
    believing: Callable[[str], None],
) -> None:
    source = ControlSource(known, data, urls, believing=believing)
    try:
        await run(source)
    except WorldInvalid as invalid:  # raised before anything is opened
        if not source.passed_over:
            raise
        log.error(
            "what is published now cannot be served; starting with what ran",
            extra={"fields": {"problem": str(invalid)}},
        )
        await source.close()
        source = ControlSource(enrolment.enrolled(data) or known, data, urls, fresh=False, believing=believing)
        await run(source)
    finally:
        await source.close()


async def _enrolled(urls: Sequence[str], text: str | None, data: Path) -> enrolment.Enrolled:
    """A token that was used here already is none: the command line of a service may keep it. The first URL enrols."""
    known = enrolment.enrolled(data)
    token = None if text is None else enrolment.read_token(text)
    if token is not None and (known is None or known.token != token.digest):
        known = await enrolment.enrol(urls[0], token, data)
        print(f"enrolled as {known.gateway} at {known.url}; what this gateway holds is in {data}", flush=True)
    if known is None:
        raise Error(Code.NOT_READY, f"this gateway is not enrolled, there is no `{data / CONTROL}`: {AFRESH}")
    return known
