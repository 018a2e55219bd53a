"""`entrepot receipt`: check what a client was given, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from entrepot.ledger.verify import Key, Unproved, find_key, prove_receipt

app = typer.Typer(add_completion=False)

KeyOption = Annotated[str, typer.Option("--key", metavar="VKEY", help="The verifier key, or a file that holds it.")]


@app.callback()
def receipt() -> None:
    """Check a receipt."""


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The receipt.", exists=True, dir_okay=False)],
    key: KeyOption,
) -> None:
    """Prove that the receipt's entry is in the log that the key signed. Needs nothing of the gateway's.

    Exit status: 0 proved; 1 not proved, and why; 2 wrong usage.
    """
    verifier = key_of(key)
    try:
        print("\n".join(prove_receipt(file, verifier)))
    except (Unproved, OSError) as wrong:
        print(f"NOT PROVED: {wrong}")
        raise typer.Exit(1) from None


def key_of(given: str) -> Key:
    """The key of the option. A slip in it is wrong usage, and no word on what is to be proved."""
    try:
        return find_key(given)
    except OSError as wrong:
        what = f"`{given}` is neither a verifier key nor a file that can be read ({wrong.strerror})"
        raise typer.BadParameter(what, param_hint="--key") from None
    except (Unproved, ValueError) as wrong:
        raise typer.BadParameter(str(wrong), param_hint="--key") from None
