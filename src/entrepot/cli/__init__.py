"""The command line: a table of commands, each in a file of its own that is imported only when its command runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]

from entrepot import __version__

_COMPLETE = "_ENTREPOT_COMPLETE"
ABOUT = "A model service that decides on every call who may use which model, from where, under which contract."

COMMANDS = {
    "apply": "Make a control plane hold what a world declares.",
    "az-setup": "Print what points the stock Azure CLI at a control plane, as a shell script.",
    "completion": "Print the completion script of a shell.",
    "control": "Run the control plane alone: the management API.",
    "demo": "Walk through the main job on real inference.",
    "export": "Write what a control plane holds as a world's folder.",
    "gateway": "Serve a world's folder: the data plane alone.",
    "gateways": "See which gateways follow a control plane; let others join.",
    "key": "Show and regenerate an account's keys.",
    "ledger": "Verify, read and export the ledger; erase personal data from it.",
    "org": "Organizations of a control plane: record, review, eligibility.",
    "policy": "Check, test, explain and compare access policies; propose, approve and list releases.",
    "principal": "Who can log in to a control plane.",
    "receipt": "Verify a receipt, offline.",
    "role": "Who may do what in a control plane, and where.",
    "serve": "Run control plane and gateway on this machine; the first start creates what is needed.",
    "sim": "Run a simulated upstream, for tests and benchmarks.",
    "storage": "New keys and authorities of a control plane; back it up; say that it was restored.",
    "upstream": "Upstreams of a control plane.",
    "usage": "Add up what was used, what it cost, and what was refused.",
    "world": "Check a world's folder.",
}


def command_line(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> typer.Typer:
    """The whole command tree, of which only the command that `arguments` name is really there.

    A shell that asks for completions has its line in `environ`, not in the arguments.
    """
    if environ is not None and _COMPLETE in environ:
        completion_init()
        arguments = (environ.get("COMP_WORDS") or environ.get("_TYPER_COMPLETE_ARGS") or "").split()[1:]
    app = typer.Typer(
        name="entrepot",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback(help=ABOUT)(_root)
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == wanted:
            _add(app, name, import_module(f"entrepot.cli.{module_of(name)}").app, summary)
        else:
            app.command(name, help=summary)(_not_imported)
    return app


def module_of(command: str) -> str:
    """The file below `cli/` that holds a command."""
    return command.replace("-", "_")


def _add(app: typer.Typer, name: str, group: typer.Typer, summary: str) -> None:
    """A module whose one function has the command's name is that command; others are groups."""
    commands = group.registered_commands
    function = commands[0].callback if len(commands) == 1 else None
    if function is not None and function.__name__ == module_of(name):
        app.command(name)(function)
    else:
        callback = group.registered_callback
        alone = callback is not None and callback.invoke_without_command is True
        app.add_typer(group, name=name, help=summary, no_args_is_help=not alone)


def _print_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end.")
]


def _root(version: Version = False) -> None:
    """Options that stand before any command."""


def _not_imported() -> None:
    raise RuntimeError("a command that was not named cannot run")
