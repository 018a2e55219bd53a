"""`entrepot gateway`: the data plane over a world's folder."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from entrepot.config import Config
from entrepot.errors import Error
from entrepot.gateway.parent import Parent
from entrepot.gateway.watch import Folder
from entrepot.resources.problems import WorldInvalid
from entrepot.telemetry.log import log_to_stderr

app = typer.Typer(add_completion=False)


@app.command()
def gateway(
    world: Annotated[
        Path, typer.Option(help="Folder of TOML files that declare everything.", exists=True, file_okay=False)
    ],
    data: Annotated[Path | None, typer.Option(help="Folder for what the gateway writes.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that serve; overrides [gateway].workers.")
    ] = None,
) -> None:
    """Serve the world in a folder. Edits are served within a second; SIGHUP reloads; SIGTERM drains and ends."""
    log_to_stderr()

    def ready(data_url: str, admin_url: str) -> None:
        print(f"serving {world} on {data_url} (metrics and readiness on {admin_url})", flush=True)

    config = Config.load(data)
    parent = Parent(Folder(world, config), config, workers)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(parent.run(ready))
    except WorldInvalid as invalid:
        for problem in invalid.problems:
            print(problem, file=sys.stderr)
        print(f"the world in {world} is invalid; nothing was started", file=sys.stderr)
        raise typer.Exit(1) from None
    except (Error, OSError, RuntimeError) as error:
        print(f"the gateway cannot start: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
