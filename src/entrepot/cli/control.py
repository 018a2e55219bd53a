"""`entrepot control`: the control plane alone."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from entrepot.config import Config
from entrepot.errors import Code, Error
from entrepot.http1.inherited import inherited
from entrepot.ledger.faults import LedgerRefused
from entrepot.management.first import SECRET_FILE, Begun
from entrepot.management.running import Options, Told, prepare, run
from entrepot.resources.model import UNKNOWN
from entrepot.resources.problems import WorldInvalid
from entrepot.storage import MasterKey
from entrepot.storage.master import VARIABLE
from entrepot.telemetry.log import log_to_stderr

app = typer.Typer(add_completion=False)

DATABASE_VARIABLE = "ENTREPOT_DATABASE"


@app.command()
def control(  # noqa: PLR0913, PLR0917
    data: Annotated[Path | None, typer.Option(help="Folder for what the control plane writes.")] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT of the management API, https.")] = "127.0.0.1:8443",
    database: Annotated[
        str | None, typer.Option(help="`postgresql://…`; `ENTREPOT_DATABASE` keeps it out of process lists.")
    ] = None,
    master_key_command: Annotated[
        str | None, typer.Option(help="Program that prints the master key, in base64.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="https URL under which clients reach the management API.")] = None,
    data_url: Annotated[str | None, typer.Option(help="URL under which clients reach the data plane.")] = None,
    data_listen: Annotated[str | None, typer.Option(help="HOST:PORT of the local gateway.")] = None,
    admin_listen: Annotated[str | None, typer.Option(help="HOST:PORT of the local gateway's metrics.")] = None,
    territory: Annotated[str, typer.Option(help="Where this machine is, for the first start.")] = UNKNOWN,
    local_gateway: Annotated[
        bool, typer.Option("--local-gateway", help="Leave a token for the gateway beside it; `serve` says so.")
    ] = False,
    new_token_key: Annotated[
        bool, typer.Option("--new-token-key", help="Sign tokens by a new key; those that are out stay valid.")
    ] = False,
) -> None:
    """Run the management API. SIGTERM lets requests end; a second one does not."""
    log_to_stderr()
    config = Config.load(data)
    options = Options(
        data=config.data,
        listen=listen,
        database=database or config.environ.get(DATABASE_VARIABLE),
        url=url,
        data_url=data_url,
        data_listen=data_listen,
        admin_listen=admin_listen,
        territory=territory,
        local_gateway=local_gateway,
        given=tuple(inherited(config.environ)),
        new_token_key=new_token_key,
    )

    def ready(told: Told, begun: Begun) -> None:
        if begun.fresh:
            print(f"the administrator's secret is in {config.data / SECRET_FILE}", flush=True)
        print(f"managing on {told.url} (data plane {told.data_url})", flush=True)

    try:
        asyncio.run(run(options, master_key(config, master_key_command), ready))
    except WorldInvalid as invalid:
        for problem in invalid.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(1) from None
    except (Error, LedgerRefused, OSError) as error:
        print(f"the control plane cannot start: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def master_key(config: Config, command: str | None) -> MasterKey:
    """From a command, the environment, or the data folder, in this order. Raises Error."""
    if command is not None:
        try:
            return MasterKey.from_command(shlex.split(command))
        except ValueError as error:
            raise Error(Code.BAD_REQUEST, f"`--master-key-command` cannot be read: {error}") from error
    if VARIABLE in config.environ:
        return MasterKey.from_env(config.environ)
    prepare(config.data)
    return MasterKey.from_file(config.data / "master.key")
