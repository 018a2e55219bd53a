"""`entrepot demo`: the main job on real inference."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from entrepot.errors import Error
from entrepot.resources.problems import WorldInvalid
from entrepot.telemetry.log import log_to_stderr

app = typer.Typer(add_completion=False)


@app.command()
def demo(  # noqa: PLR0913, PLR0917 - one for each option
    once: Annotated[bool, typer.Option("--once", help="End after the walk.")] = False,
    upstream: Annotated[
        Literal["local", "openai", "azure"],
        typer.Option(help="What answers: a local model, or a real API with its key in the environment."),
    ] = "local",
    model: Annotated[Path | None, typer.Option(help="A GGUF file for the local engine.", exists=True)] = None,
    upstream_model: Annotated[
        str | None, typer.Option(help="What the real API calls the model. \\[default: gpt-4o-mini]")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the data plane; another one if it is taken.")] = 8080,
    management_port: Annotated[int, typer.Option(help="Port of the management API, likewise.")] = 8443,
    data: Annotated[
        Path | None, typer.Option(help="An empty folder to keep everything in; without, all is removed at the end.")
    ] = None,
) -> None:
    """Start a real engine and `entrepot serve`, and walk through who is served, who is refused, and why."""
    if find_spec("openai") is None:
        print("the demo drives the stock SDK; run `pip install 'entrepot[demo]'`", file=sys.stderr)
        raise typer.Exit(1)
    import openai

    from entrepot.demo.walk import Choice
    from entrepot.demo.walk import demo as walk
    from entrepot.engine import DEMO_MODEL

    log_to_stderr(logging.WARNING)
    choice = Choice(
        upstream, model or DEMO_MODEL, upstream_model, port=port, management_port=management_port, data=data
    )
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(walk(choice, once=once))
    except (Error, WorldInvalid, openai.OpenAIError) as error:
        print(f"the demo cannot run: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
