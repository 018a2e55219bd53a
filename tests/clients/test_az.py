"""The stock Azure CLI runs Entrepot: the life of an account, and the refusal that two people lift.

For whatever is not on this machine, `az` is given a proxy that serves nothing and keeps what it is asked for: nothing
but whether there is a newer `az`, which each fresh folder of settings asks once and can do without.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from outside import Outside

from entrepot.management.roles import COMPLIANCE_OFFICER, OWNER, REVIEWER
from entrepot.sim.server import simulated
from entrepot.sim.settings import Rule, Settings
from harness import ask, body_of
from people import ACCESS, MAINLAND, PERSON, YANGTZE, Served, Who, served

HERE = Path(__file__).parent
AZ = HERE.parents[1] / ".venv-az/bin/az"
REFUSED = (
    "(CannotDeployDueToLocalRegulations) Due to local regulatory requirements, in mainland China only enterprise "
    "customers with a registered business license are eligible to subscribe to the Azure OpenAI Service."
)
NEWER = b"CONNECT azcliprod.blob.core.windows.net:443 HTTP/1.0"
GROUP = "rg-ai"
DEPLOY = (
    *("deployment", "create", "--deployment-name", "chat", "--model-format", "OpenAI", "--model-name", "gpt-4o"),
    *("--model-version", "2024-11-20", "--sku-name", "GlobalStandard", "--sku-capacity", "10"),
)


class Az:
    """The CLI with settings of its own, as `az-setup` makes them, logged in as `who`."""

    def __init__(self, house: Served, home: Path, environ: dict[str, str], who: Who, subscription: str) -> None:
        self._environ = {
            **environ,
            "AZURE_CONFIG_DIR": str(home),
            "AZURE_CORE_COLLECT_TELEMETRY": "false",
            "AZURE_CORE_ONLY_SHOW_ERRORS": "true",
            "REQUESTS_CA_BUNDLE": house.ca,
        }
        # The script is piped to a shell here; az.sh evaluates it.
        command = [sys.executable, "-m", "entrepot", "az-setup", "--data", str(house.folder)]
        script = subprocess.run(command, capture_output=True, check=True).stdout
        path = f"{AZ.parent}:{environ['PATH']}"
        subprocess.run(["sh"], input=script, env={**self._environ, "PATH": path}, check=True, timeout=200)
        login = ("login", "--service-principal", "-u", who.client_id, "-p", who.secret, "--tenant", house.tenant)
        (seen,) = self(*login)
        assert seen["id"] == subscription
        self("group", "create", "-n", GROUP, "-l", "japaneast")

    def __call__(self, *arguments: str) -> Any:
        done = self.tried(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    def tried(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(AZ), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=self._environ, timeout=200, check=False)


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    proxy = Outside()
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = Settings(script=(Rule(text="A receipt is a promise that can be checked."),))
    with simulated(settings) as sim, served(tmp_path_factory.mktemp("az") / "data") as house:
        house.upstream(sim.base_url, "gpt-4o@2024-11-20", "gpt-4o-mini@2024-07-18")
        yield house


@pytest.fixture(scope="module")
def two(house: Served) -> list[Who]:
    """Who proposes, and who approves. The policy of mainland China is their doing."""
    two = [house.person("officer", COMPLIANCE_OFFICER), house.person("reviewer", REVIEWER)]
    owner = house.person("owner", OWNER)
    house.agree([owner, two[1]], "policyRelease", None, {"packs": MAINLAND})
    return two


@pytest.mark.timeout(500)
def test_the_life_of_an_account(house: Served, outside: Outside) -> None:
    environ = {**outside.environ(), "ENTREPOT": str(Path(sys.executable).with_name("entrepot"))}
    command = ["sh", str(HERE / "az.sh"), str(house.folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=480, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.endswith("all as it should be\n")
    assert set(outside.asked) <= {NEWER}


@pytest.mark.timeout(500)
def test_two_people_make_an_enterprise_eligible(
    house: Served, two: list[Who], outside: Outside, tmp_path: Path
) -> None:
    az = {}
    for name, organization in (("lilei", PERSON), ("yangtze", YANGTZE)):
        subscription = house.contract(name, organization)
        tenant = house.person(f"{name}-admin", OWNER, f"/subscriptions/{subscription}")
        az[name] = Az(house, tmp_path / name, outside.environ(), tenant, subscription)
        account = ("-n", name, "-g", GROUP)
        create = ("account", "create", *account, "--kind", "OpenAI", "--sku", "S0", "-l", "japaneast", "--yes")
        az[name]("cognitiveservices", *create)  # succeeds, as with the real service
        refused = az[name].tried("cognitiveservices", "account", *DEPLOY, *account)
        assert refused.returncode != 0
        assert REFUSED in refused.stderr
    subject = f"{ACCESS}/organizations/yangtze"
    change = {"name": "openai@cloud", "grounds": "business licence seen"}
    path = two[0].propose("eligibility", subject, change)
    alone = two[0].post(f"{path}/approve?api-version=2026-11-01", json={"reason": "I know them"})
    assert alone.status_code == 403, alone.text
    account = ("-n", "yangtze", "-g", GROUP)
    assert az["yangtze"].tried("cognitiveservices", "account", *DEPLOY, *account).returncode != 0
    two[1].do("POST", f"{path}/approve", reason="the register has it")
    assert az["yangtze"]("cognitiveservices", "account", *DEPLOY, *account)["name"] == "chat"
    lilei = az["lilei"].tried("cognitiveservices", "account", *DEPLOY, "-n", "lilei", "-g", GROUP)
    assert REFUSED in lilei.stderr
    keys = az["yangtze"]("cognitiveservices", "account", "keys", "list", *account)
    answer = ask(house.data, body=body_of("chat"), key=keys["key1"])
    assert (answer.status, answer.headers["x-ms-region"]) == (200, "Japan East")
    assert set(outside.asked) <= {NEWER}
    _on_the_ledger(house, path, two[1])
    _explained(house, tmp_path / "world")


def _on_the_ledger(house: Served, proposal: str, approver: Who) -> None:
    """Refusal, the two people's change, and the permission after it; in this order, and proved."""
    folder = house.folder / "control"
    entrepot = [sys.executable, "-m", "entrepot", "ledger"]
    shown = subprocess.run([*entrepot, "export", "--data", str(folder)], capture_output=True, text=True, check=True)
    entries = [json.loads(line)["entry"] for line in shown.stdout.splitlines()]
    decisions = [entry["decision"] for entry in entries if "decision" in entry]
    deploys = [each for each in decisions if each["operation"] == "deploy"]
    told = [(each["client"]["account"], each["admitted"], each.get("code")) for each in deploys]
    barred = "cannot_deploy_due_to_local_regulations"
    wanted = [("lilei", False, barred), *[("yangtze", False, barred)] * 2, ("yangtze", True, None)]
    assert [each for each in told if each[0] in {"lilei", "yangtze"}] == [*wanted, ("lilei", False, barred)]
    changes = [entry["change"] for entry in entries if entry.get("change", {}).get("proposal")]
    (agreed,) = [each for each in changes if proposal.endswith(each["proposal"].rpartition("/")[2])]
    assert agreed["by"] == approver.client_id
    assert "break_glass" not in agreed
    assert "/providers/Entrepot.Access/organizations/yangtze" in {each["resource"] for each in agreed["resources"]}
    at_ms = [each["at_ms"] for each in deploys if each["client"]["account"] == "yangtze"]
    assert at_ms[1] < agreed["at_ms"] < at_ms[2]
    shown = subprocess.run([*entrepot, "show", "--data", str(folder)], capture_output=True, text=True, check=True)
    assert "AOAI-CN-DEPLOY-01" in shown.stdout
    (key,) = (folder / "keys").glob("*.vkey")
    verify = [*entrepot, "verify", str(folder / "ledger"), "--key", str(key)]
    proved = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert proved.returncode == 0, proved.stdout + proved.stderr


def _explained(house: Served, world: Path) -> None:
    """What the operator is told of the person's deployment, had there been one."""
    entrepot = [sys.executable, "-m", "entrepot"]
    subprocess.run([*entrepot, "export", str(world), "--data", str(house.folder)], capture_output=True, check=True)
    accounts = (world / "accounts.toml").read_text()
    before, found, after = accounts.partition('[[account]]\nname = "lilei"\n')
    assert found, accounts
    rest, *others = after.split("\n[[account]]", 1)
    asked = (
        '\n[[account.deployment]]\nname = "chat"\nmodel = "gpt-4o"\nversion = "2024-11-20"\nsku = "GlobalStandard"\n'
    )
    (world / "accounts.toml").write_text("\n[[account]]".join([before + found + rest + asked, *others]))
    for account, said in (("lilei", "refuse"), ("yangtze", "allow")):
        command = [*entrepot, "policy", "explain", str(world), "--account", account, "--deployment", "chat"]
        told = subprocess.run(
            [*command, "--origin", "CN", "--operation", "deploy"], capture_output=True, text=True, check=True
        )
        assert told.stdout.startswith(said), told.stdout
        assert ("forbid AOAI-CN-DEPLOY-01" in told.stdout) is (said == "refuse"), told.stdout
