"""`entrepot export`: what a control plane holds, as a world's folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from entrepot.cli.remote.connection import Address, Authority, Data, Json, connected, fail
from entrepot.cli.remote.held import State
from entrepot.cli.remote.output import count, print_json
from entrepot.policy import shipped, shipped_names
from entrepot.policy.shipped import PREFIX
from entrepot.resources.folder import inside
from entrepot.resources.model import PackSource, World
from entrepot.resources.problems import WorldInvalid
from entrepot.resources.writing import files_of

app = typer.Typer(add_completion=False)


@app.command()
def export(  # noqa: PLR0913, PLR0917
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it: a new or empty folder.")],
    gateway: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose `\\[gateway]` it has. Default: the first by name.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
    data: Data = None,
    control: Address = None,
    ca: Authority = None,
    json: Json = False,
) -> None:
    """Write what a control plane holds as a world's folder, which `apply` puts back and `gateway --world` serves.

    Keys are written as their hashes, upstreams' credentials as `env:NAME`: set these before the folder is served.
    Roles, principals and proposals are no part of a world.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
        fail(f"`{folder}` is not empty: name another, or add --force", 2)
    with connected(data, control, ca) as connection:
        state = State.of(connection)
    names = sorted(state.gateways())
    if gateway is not None and gateway not in names:
        fail(f"there is no gateway `{gateway}`; there are {', '.join(names) or 'none'}")
    try:
        world, variables = portable(state.world(gateway or next(iter(names), None)))
    except WorldInvalid as invalid:
        fail("\n".join(map(str, invalid.problems)))
    files = files_of(world)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if json:
        print_json({"folder": str(folder), "files": sorted(files), "secrets": variables})
        return
    told = (count(len(world.organizations), "organization"), count(len(world.accounts), "account"))
    print(f"{', '.join(told)}, {count(len(world.packs), 'policy pack')} in {', '.join(sorted(files))}")
    for variable, upstream in variables.items():
        print(f"set `{variable}` to the credential of upstream `{upstream}` before you serve it")


def portable(world: World) -> tuple[World, dict[str, str]]:
    """The world with references for secrets and files for packs; and which variable is which upstream's."""
    variables: dict[str, str] = {}
    upstreams = []
    for each in world.upstreams:
        if each.credential == "none":
            upstreams.append(each)
            continue
        base = variable = "ENTREPOT_UPSTREAM_" + re.sub(r"[^A-Z0-9]", "_", each.name.upper())
        number = 2
        while variable in variables:
            variable, number = f"{base}_{number}", number + 1
        variables[variable] = each.name
        upstreams.append(msgspec.structs.replace(each, credential=f"env:{variable}"))
    packs: list[PackSource] = []
    for pack in world.packs:
        packs.append(_pack(pack, {each.name for each in packs}))
    found = msgspec.structs.replace(world, upstreams=tuple(upstreams), packs=tuple(packs))
    return found, variables


def _pack(pack: PackSource, taken: set[str]) -> PackSource:
    """A shipped pack by its name while it is what is shipped; any other as a file."""
    if pack.name in shipped_names() and shipped(pack.name).data == pack.data:
        return pack
    name = pack.name.removeprefix(PREFIX)
    if pack.name.startswith(PREFIX) or not inside(name) or "/" not in name or not name.endswith(".toml"):
        name = f"packs/{re.sub(r'[^A-Za-z0-9._-]', '-', name.rpartition('/')[2]).removesuffix('.toml')}.toml"
    stem, number = name.removesuffix(".toml"), 2
    while name in taken:
        name, number = f"{stem}-{number}.toml", number + 1
    return PackSource(name, pack.data)
