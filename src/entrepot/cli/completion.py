"""`entrepot completion`: the script by which a shell completes commands and options."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from entrepot.cli.remote.connection import fail

app = typer.Typer(add_completion=False)

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_ENTREPOT_COMPLETE"


@app.command()
def completion(shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print a completion script: `eval "$(entrepot completion bash)"` in `~/.bashrc`, or zsh, or fish."""
    if shell not in SHELLS:
        fail(f"`{shell}` is no shell that is known here; write one of {', '.join(SHELLS)}", 2)
    print(get_completion_script(prog_name="entrepot", complete_var=VARIABLE, shell=shell))
