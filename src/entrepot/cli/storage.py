"""`entrepot storage`: what is done by hand to what a control plane keeps: its database, keys and certificates."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from entrepot.config import Config
from entrepot.errors import Code, Error
from entrepot.identity.certificates import prepare, renew, take
from entrepot.ledger.copied import copy_ledger
from entrepot.ledger.verify import Unproved
from entrepot.management.keyring import renew_signer
from entrepot.storage.backup import copy_sqlite
from entrepot.storage.master import VARIABLE, MasterKey
from entrepot.storage.rotation import restored, rotate, rotate_file

app = typer.Typer(add_completion=False)
T = TypeVar("T")

DATABASE_VARIABLE = "ENTREPOT_DATABASE"
NEW_VARIABLE = "ENTREPOT_NEW_MASTER_KEY"

Data = Annotated[Path | None, typer.Option(help="The control plane's data folder.", file_okay=False)]
Database = Annotated[
    str | None, typer.Option(help="`postgresql://…`; `ENTREPOT_DATABASE` keeps it out of process lists.")
]
KeyCommand = Annotated[str | None, typer.Option(help="Program that prints the master key, in base64.")]


@app.command()
def rotate_key(
    data: Data = None,
    database: Database = None,
    master_key_command: KeyCommand = None,
    new_key_command: Annotated[
        str | None, typer.Option(help="Program that prints the new master key, in base64.")
    ] = None,
) -> None:
    """Encrypt all secrets under a new master key.

    A key that stands in the data folder is made and replaced here. One that comes from the environment or a program is
    followed by that of ENTREPOT_NEW_MASTER_KEY or --new-key-command. Restart the control plane with it.
    """
    config = Config.load(data)
    if master_key_command is None and VARIABLE not in config.environ:
        path = config.data / "master.key"
        count = _done(lambda: rotate_file(_database(config, database), _there(path)))
    else:
        count = _done(lambda: _rotate(config, database, (master_key_command, new_key_command)))
    print(f"{count} secrets are under a new master key; restart the control plane with it")


@app.command("restored")
def after_restore(data: Data = None, database: Database = None, master_key_command: KeyCommand = None) -> None:
    """Say that the database was restored from a backup: a new epoch begins, and gateways take it for newer."""
    config = Config.load(data)
    epoch = _done(lambda: restored(_database(config, database), _key(config, master_key_command)))
    print(f"epoch {epoch} begins; start the control plane")


@app.command()
def new_publication_key(data: Data = None, database: Database = None, master_key_command: KeyCommand = None) -> None:
    """Sign what is published to gateways by a new key. Control planes and gateways may run, and take it over.

    For gateways that have not heard of it yet the key before is kept, until the next time.
    """
    config = Config.load(data)
    _done(lambda: renew_signer(_database(config, database), _key(config, master_key_command)))
    print("publications are signed by a new key; `entrepot gateways` says under `keys` who believes it")


@app.command()
def new_certificate(data: Data = None) -> None:
    """Make a new server certificate, with a new key, by the present authority. The control plane may run.

    It shows it to new connections within some seconds; those that are open live on. Who believes the authority does not
    notice.
    """
    until = _certificates(data, renew)
    print(f"new connections are shown a new certificate, which holds until {until:%Y-%m-%d}; open ones live on")


@app.command()
def new_authority(data: Data = None) -> None:
    """Make a certificate authority that is to follow the present one. Gateways that run come to trust both.

    The control plane may run, and shows its certificate of the present one until `take-authority`.
    """
    made = _certificates(data, prepare)
    told = "once `entrepot gateways` says `yes` under `keys` for each: `entrepot storage take-authority`"
    print(f"{made} is made, and gateways come to trust it; {told}")


@app.command()
def take_authority(data: Data = None) -> None:
    """Put what `new-authority` made in the place of the present authority, whose key is removed. Then restart."""
    _certificates(data, take)
    print("restart the control plane: it shows a certificate of the new authority; `az-setup` again for administrators")


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="Folder to make; it must not exist.")],
    data: Data = None,
    private: Annotated[bool, typer.Option(help="With the ledgers' personal data.")] = False,
) -> None:
    """Copy a control plane's folder while it runs: the database, certificates, and the ledgers, which are verified.

    Not the master key, which belongs elsewhere. A PostgreSQL database is backed up with PostgreSQL's own means, before.
    """
    folder = Config.load(data).data
    try:
        entries = _backup(_there(folder), target, private=private)
    except (Error, Unproved, OSError, ValueError, sqlite3.Error) as error:
        print(f"nothing was backed up: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{target}: certificates, {entries} entries of ledgers, verified; keep the master key apart from it")


def _backup(data: Path, target: Path, *, private: bool) -> int:
    if target.exists():
        raise Error(Code.BAD_REQUEST, f"`{target}` is there already")
    draft = target.with_name(f".{target.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    try:
        if (data / "control.db").exists():
            # First: what it says is in the ledger is there when the ledger is copied.
            copy_sqlite(data / "control.db", draft / "control.db")
        shutil.copytree(data / "ca", draft / "ca")
        entries = 0
        for each in (data / "control", *sorted((data / "gateways").glob("*"))):
            entries += copy_ledger(each, draft / each.relative_to(data), private=private)
        for each in sorted((data / "shipped").glob("*")):  # all that is left of a gateway that is lost
            entries += copy_ledger(each, draft / each.relative_to(data))
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return entries


async def _rotate(config: Config, database: str | None, commands: tuple[str | None, str | None]) -> int:
    return await rotate(_database(config, database), _key(config, commands[0]), _new_key(config, commands[1]))


def _database(config: Config, given: str | None) -> str:
    url = given or config.environ.get(DATABASE_VARIABLE)
    return url or f"sqlite:///{_there(config.data / 'control.db').resolve()}"


def _key(config: Config, command: str | None) -> MasterKey:
    if command is not None:
        return MasterKey.from_command(shlex.split(command))
    if VARIABLE in config.environ:
        return MasterKey.from_env(config.environ)
    return MasterKey.from_file(_there(config.data / "master.key"))


def _new_key(config: Config, command: str | None) -> MasterKey:
    if command is not None:
        return MasterKey.from_command(shlex.split(command))
    return MasterKey.from_env(config.environ, NEW_VARIABLE)


def _there(path: Path) -> Path:
    """What the first start of a control plane makes. Raises Error."""
    if not path.exists():
        raise Error(Code.NOT_READY, f"there is no `{path}`: name the control plane's data folder with `--data`")
    return path


def _certificates(data: Path | None, work: Callable[[Path], T]) -> T:
    try:
        return work(_there(Config.load(data).data / "ca"))
    except Error as error:
        print(f"it was not done: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def _done(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    try:
        return asyncio.run(work())
    except (Error, OSError, ValueError) as error:
        print(f"it was not done: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
