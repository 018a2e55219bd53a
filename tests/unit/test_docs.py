"""What users can set, call, see or receive has to be documented; a mention in the right page is the least."""

from __future__ import annotations

import re
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest
import typer

from entrepot.cli import COMMANDS, command_line, module_of
from entrepot.config import Config
from entrepot.gateway import routes
from entrepot.gateway.metrics import CATALOGUE
from entrepot.resources.folder import read_world
from entrepot.resources.load import load_world
from entrepot.wire.forms import Form

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def options_of(name: str) -> list[tuple[str, str]]:
    """Every command below `name` with each of its options."""
    app = import_module(f"entrepot.cli.{module_of(name)}").app
    found = []
    for command in [*app.registered_commands, *filter(None, [app.registered_callback])]:
        own = getattr(command, "name", None) or command.callback.__name__.replace("_", "-")
        group = typer.Typer(add_completion=False)
        group.command(own)(command.callback)
        for parameter in typer.main.get_command(group).params:
            found.extend((own, option) for option in parameter.opts if option.startswith("--"))
    return [each for each in found if each[1] not in {"--help"}]


PAGES = {
    "apply": "cli",
    "az-setup": "configuration",
    "completion": "cli",
    "control": "configuration",
    "demo": "configuration",
    "export": "cli",
    "gateway": "configuration",
    "gateways": "cli",
    "key": "cli",
    "ledger": "ledger",
    "org": "cli",
    "policy": "policy",
    "principal": "cli",
    "receipt": "ledger",
    "role": "cli",
    "serve": "configuration",
    "sim": "sim",
    "storage": "storage",
    "upstream": "cli",
    "usage": "usage",
    "world": "world",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_and_its_options_are_documented(command: str) -> None:
    text = page(PAGES[command]) + page("configuration") + page("cli")
    assert f"entrepot {command}" in page("configuration")
    missing = [(own, option) for own, option in options_of(command) if option not in text]
    assert not missing


def test_every_command_file_is_in_the_table() -> None:
    files = {path.stem for path in (ROOT / "src/entrepot/cli").glob("*.py")} - {
        "__init__",
        "budgets",  # `entrepot usage budgets`
        "replay",  # `entrepot policy replay`
    }
    assert files == {module_of(name) for name in COMMANDS}
    assert command_line([]).registered_commands


@pytest.mark.parametrize("metric", CATALOGUE)
def test_metric_is_documented_with_its_labels(metric: str) -> None:
    row = next(line for line in page("metrics").splitlines() if line.startswith(f"| `{metric}`"))
    for label in CATALOGUE[metric].labels:
        assert label in row


def test_every_route_is_documented() -> None:
    text = page("api")
    posted = routes.POSTED
    for path, prefix in chain(
        ((path, "/v1/") for path in posted),
        ((path, "/openai/v1/") for path in posted),
        ((path, "/openai/deployments/{deployment}/") for path in posted),
    ):
        assert f"`POST {prefix}{path}`" in text
    for prefix in ("/v1", "/openai/v1", "/openai"):
        assert f"`GET {prefix}/models`" in text
        assert f"`GET {prefix}/models/{{model}}`" in text
    for form in Form:
        assert {Form.OPENAI: "OpenAI", Form.AZURE: "Azure classic", Form.AZURE_V1: "Azure v1"}[form] in text


def test_config_is_documented() -> None:
    text = page("configuration")
    assert set(Config.__struct_fields__) == {"data", "environ"}
    assert "`--data DIR`" in text
    assert "`env:NAME`" in text


def test_environment_is_read_in_one_place_and_documented() -> None:
    """`os.environ` and `os.getenv` stand in `config.py` alone, and the names read there are in the documentation."""
    readers = [
        path.name
        for path in (ROOT / "src").rglob("*.py")
        if re.search(r"os\.(environ|getenv)", path.read_text(encoding="utf-8").replace("`os.environ`", ""))
    ]
    assert readers == ["config.py"]
    names = re.findall(r"ENTREPOT_[A-Z_]+", (ROOT / "src/entrepot/config.py").read_text(encoding="utf-8"))
    assert names
    assert all(f"`{name}`" in page("configuration") for name in names)


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_worlds_of_the_documentation_are_valid(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(# world/world.toml\n.*?)```", text, re.DOTALL)
    (tmp_path / "world.toml").write_text(block, encoding="utf-8")
    assert load_world(read_world(tmp_path), {"base": b""}).world.accounts[0].name == "lab"
