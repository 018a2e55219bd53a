"""`entrepot serve`: control plane and gateway on one machine."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from entrepot.config import Config
from entrepot.errors import Error
from entrepot.serve import Plan
from entrepot.serve import serve as supervise
from entrepot.telemetry.log import log_to_stderr

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    data: Annotated[Path | None, typer.Option(help="Folder for everything that is written.")] = None,
    world: Annotated[
        Path | None, typer.Option(help="A world to begin with, at the first start.", exists=True, file_okay=False)
    ] = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT of the data plane. \\[default: 127.0.0.1:8080]")] = None,
    admin_listen: Annotated[
        str | None, typer.Option(help="HOST:PORT of the gateway's metrics. \\[default: 127.0.0.1:9090]")
    ] = None,
    management: Annotated[str, typer.Option(help="HOST:PORT of the management API, https.")] = "127.0.0.1:8443",
    territory: Annotated[
        str | None, typer.Option(help="Where this machine is, such as `DE`, for the first start.")
    ] = None,
) -> None:
    """Run everything on this machine. The first start creates what is needed; Ctrl-C stops, a second one at once."""
    log_to_stderr()
    config = Config.load(data)
    plan = Plan(
        data=config.data,
        environ=config.environ,
        management=management,
        listen=listen,
        admin_listen=admin_listen,
        territory=territory,
        world=world,
    )
    try:
        asyncio.run(supervise(plan))
    except (Error, OSError) as error:
        print(f"nothing is served: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
