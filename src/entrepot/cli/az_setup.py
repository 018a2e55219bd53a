"""`entrepot az-setup`: what points the stock Azure CLI at a control plane, as a shell script."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from entrepot.config import Config

app = typer.Typer(add_completion=False)

CLOUD = "Entrepot"


class Told(msgspec.Struct, frozen=True):
    url: str
    ca: str
    tenant: str
    client_id: str


@app.command("az-setup")
def az_setup(
    data: Annotated[Path | None, typer.Option(help="Folder of a control plane on this machine.")] = None,
    name: Annotated[str, typer.Option(help="What the Azure CLI shall call this cloud.")] = CLOUD,
) -> None:
    """Print a POSIX shell script: `eval "$(entrepot az-setup)"`, not in a pipe. Nothing is run here.

    It exports REQUESTS_CA_BUNDLE, which the Azure CLI needs later as well, so it has to run in your own shell.
    """
    folder = Config.load(data).data
    secret = (folder / "admin.secret").resolve()
    try:
        told = msgspec.json.decode((folder / "control.json").read_bytes(), type=Told)
    except (OSError, msgspec.DecodeError):
        print(
            f"`{folder}` is no control plane's folder; start one with `entrepot serve --data {folder}`", file=sys.stderr
        )
        raise typer.Exit(1) from None
    if not secret.exists():
        print(
            f"`{secret}` is gone: give the administrator a new secret, or log in as another principal", file=sys.stderr
        )
        raise typer.Exit(1)
    print(script(told, secret, name), end="")


def script(told: Told, secret: Path, name: str = CLOUD) -> str:
    """The caller's `AZURE_CONFIG_DIR` stays as it is. Run twice, it updates the cloud and logs in again."""
    cloud, endpoint = shlex.quote(name), shlex.quote(told.url)
    user, password = told.client_id, shlex.quote(f"@{secret}")
    lines = (
        f"export REQUESTS_CA_BUNDLE={shlex.quote(told.ca)}",
        f"if az cloud show --name {cloud} --output none 2>/dev/null; then",
        f"  az cloud update --name {cloud} --endpoint-resource-manager {endpoint} --output none",
        "else",
        f"  az cloud register --name {cloud} --endpoint-resource-manager {endpoint} --output none",
        "fi &&",
        f"az cloud set --name {cloud} --output none --only-show-errors &&",
        f"az login --service-principal --username {user} --password {password} --tenant {told.tenant} --output none",
    )
    return "\n".join(lines) + "\n"
