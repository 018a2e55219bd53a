"""`entrepot sim`: a simulated upstream for tests and benchmarks."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
import uvloop

from entrepot.errors import Error
from entrepot.sim.server import Sim
from entrepot.sim.settings import Settings, load_script
from entrepot.telemetry.log import log_to_stderr

app = typer.Typer(add_completion=False)


@app.command()
def sim(  # noqa: PLR0913, PLR0917  one a setting
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.")] = "127.0.0.1:0",
    api: Annotated[Literal["openai", "azure"] | None, typer.Option(help="Serve one API only.")] = None,
    script: Annotated[Path | None, typer.Option(help="TOML file of scripted answers.", dir_okay=False)] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model served, any number; all, without.")] = None,
    key: Annotated[str | None, typer.Option(help="The only key accepted; any, without.")] = None,
    tokens: Annotated[int, typer.Option(min=0, help="Tokens of an answer.")] = 16,
    chunks: Annotated[int | None, typer.Option(min=1, help="At most so many content chunks in a stream.")] = None,
    ttft_ms: Annotated[float, typer.Option(min=0, help="Time to the first byte.")] = 0,
    pace_ms: Annotated[float, typer.Option(min=0, help="Time between chunks.")] = 0,
    status: Annotated[int, typer.Option(min=200, max=599, help="Answer every call with this status.")] = 200,
    fail_rate: Annotated[float, typer.Option(min=0, max=1, help="Share of calls answered with 500.")] = 0,
    seed: Annotated[int, typer.Option(help="Which calls those are.")] = 1,
    dimensions: Annotated[int, typer.Option(min=1, max=16_384, help="Of embeddings, unless asked for.")] = 256,
    idle_s: Annotated[float, typer.Option(min=0.1, help="Idle connections are closed after.")] = 3_600,
    keep: Annotated[int, typer.Option(min=0, help="So many requests are kept for GET /sim/requests.")] = 0,
    verbose: Annotated[bool, typer.Option(help="Log every connection.")] = False,
) -> None:
    """Serve OpenAI's and Azure's API with generated or scripted answers. Never give it a real key: it shows them."""
    log_to_stderr(logging.INFO if verbose else logging.WARNING)
    try:
        settings = Settings(
            api=api,
            models=tuple(model) if model else None,
            key=key,
            tokens=tokens,
            chunks=chunks,
            ttft_ms=ttft_ms,
            pace_ms=pace_ms,
            status=status,
            fail_rate=fail_rate,
            seed=seed,
            dimensions=dimensions,
            idle_s=idle_s,
            keep=keep,
            script=load_script(script) if script is not None else (),
        )
        host, port = _address(listen)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(Sim(settings), host, port))
    except (Error, OSError) as error:
        print(f"the simulated upstream cannot start: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


async def _run(sim: Sim, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    print(f"simulated upstream on {await sim.start(host, port)}", flush=True)
    await stop.wait()
    await sim.stop()


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise typer.BadParameter(f"`{listen}` is not HOST:PORT", param_hint="--listen")
    return host.strip("[]"), int(port)
