"""The command line against a running control plane: worlds applied and exported, two people, the short commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from entrepot.cli import command_line
from entrepot.sim.server import simulated
from entrepot.sim.settings import Settings

START_S = 60.0
ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
WORLD = f"""
[policy]
packs = ["entrepot:base", "entrepot:azure-openai-mainland-china"]
[[site]]
network = "127.0.0.0/8"
territory = "CN"
[[operator]]
name = "bluewater"
legal_name = "Bluewater Data Services (Shanghai) Co., Ltd."
territory = "CN"
[[region]]
name = "japaneast"
territory = "JP"
operator = "bluewater"
zones = ["apac"]
[[provider]]
name = "openai"
[[upstream]]
name = "jp-1"
provider = "openai"
region = "japaneast"
api = "openai"
base_url = "BASE_URL/v1"
credential = "env:UPSTREAM_KEY"
models = {{ "gpt-4o@2024-11-20" = "gpt-4o" }}
[[organization]]
name = "yangtze-robotics"
legal_name = "Yangtze Robotics Co., Ltd."
territory = "CN"
entity_type = "enterprise"
kyc = "approved"
screening = "clear"
licence = {{ number = "BL-2019-0042" }}
eligibility = ["openai@cloud"]
[[subscription]]
id = "{ONE}"
organization = "yangtze-robotics"
[[account]]
name = "robotics-ai"
subscription = "{ONE}"
resource_group = "rg-ai"
location = "japaneast"
channel = "cloud"
operator = "bluewater"
residency = ["apac"]
keys = {{ key1 = "env:CLIENT_KEY" }}
[[account.deployment]]
name = "chat"
model = "gpt-4o"
version = "2024-11-20"
sku = "GlobalStandard"
capacity = 100
"""
KEYS = {"UPSTREAM_KEY": "upstream-secret-0123456789", "CLIENT_KEY": "client-key-0123456789"}


class Line:
    """The command line, as this or that person, with the control plane's folder."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def run(self, *words: str, status: int = 0, env: dict[str, str] | None = None) -> str:
        """What it prints, on both streams; its exit status has to be `status`."""
        environ: dict[str, str | None] = {**KEYS, "ENTREPOT_DATA": str(self.data), **(env or {})}
        done = CliRunner().invoke(command_line(words), words, env=environ)
        assert done.exit_code == status, (words, done.output, done.exception)
        for secret in (KEYS["UPSTREAM_KEY"], (self.data / "admin.secret").read_text()):
            assert secret not in done.output
        return done.stdout if "--json" in words else done.output

    def json(self, *words: str, status: int = 0, env: dict[str, str] | None = None) -> Any:
        return json.loads(self.run(*words, "--json", status=status, env=env))

    def person(self, role: str, scope: str = "/") -> dict[str, str]:
        """The environment of somebody with a role."""
        name = f"p-{uuid.uuid4().hex[:8]}"
        made = self.json("principal", "add", name, "--person", name)
        self.run("role", "assign", role, name, "--scope", scope)
        return {"ENTREPOT_CLIENT_ID": made["appId"], "ENTREPOT_CLIENT_SECRET": made["secret"]}

    def approve_all(self, env: dict[str, str]) -> int:
        names = [each["name"] for each in self.json("policy", "proposals")["proposals"]]
        for name in names:
            assert "in force" in self.run("policy", "approve", name[:13], "--reason", "seen", env=env)
        return len(names)


@contextmanager
def started(*words: str, sign: str) -> Iterator[str]:
    """A process of ours, and its line that begins with `sign`."""
    command = [sys.executable, "-m", "entrepot", *words]
    with (
        TemporaryFile("w+") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={"PATH": "/usr/bin:/bin", "ENTREPOT_UPSTREAM_JP_1": KEYS["UPSTREAM_KEY"], **KEYS},
        ) as process,
    ):
        assert process.stdout is not None
        try:
            told = next((line for line in process.stdout if line.startswith(sign)), None)
            log.seek(0)
            assert told is not None, log.read()[-3_000:]
            yield told
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with simulated(Settings()) as sim:
        yield sim.base_url


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    data = tmp_path / "data"
    with started("control", "--data", str(data), "--listen", "127.0.0.1:0", sign="managing on "):
        yield Line(data)


def world_in(folder: Path, upstream: str, text: str = WORLD) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "world.toml").write_text(text.replace("BASE_URL", upstream))
    return str(folder)


def call(url: str, key: str) -> httpx.Response:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def test_a_world_is_applied_by_two_exported_and_served(line: Line, upstream: str, tmp_path: Path) -> None:
    world, out = world_in(tmp_path / "world", upstream), str(tmp_path / "out")
    before = line.run("apply", world, "--dry-run")
    assert "+ account robotics-ai" in before
    assert "nothing was changed" in line.run("apply", world, "--yes", status=1, env={"CLIENT_KEY": ""})
    assert line.json("org", "list")["organizations"][0]["name"] == "local"
    told = line.run("apply", world, "--yes", status=3)
    assert told.count("waits for a second person") == 3
    assert "entrepot policy approve " in told
    # Waiting is not proposing again, and nobody approves alone.
    assert line.run("apply", world, "--yes", status=3).count("waits for approval: ") == 3
    waiting = line.json("policy", "proposals")["proposals"]
    assert len(waiting) == 3
    refused = line.run("policy", "approve", waiting[0]["name"], status=1)
    assert "another person" in refused
    assert line.approve_all(line.person("Compliance Officer")) == 3
    line.run("apply", world, "--yes")
    assert "nothing to do" in line.run("apply", world)
    assert line.json("apply", world, "--yes")["plan"]["steps"] == []
    assert "set `ENTREPOT_UPSTREAM_JP_1`" in line.run("export", out)
    assert "is not empty" in line.run("export", out, status=2)
    assert "valid: " in line.run("world", "check", out)
    assert "nothing to do" in line.run("apply", out)
    assert KEYS["CLIENT_KEY"] not in (Path(out) / "accounts.toml").read_text()
    explained = line.json(
        "policy", "explain", out, "--account", "robotics-ai", "--deployment", "chat", "--origin", "CN"
    )
    assert explained["decision"] == "allow", explained
    served = ("gateway", "--world", out, "--data", str(tmp_path / "gateway"), "--listen=127.0.0.1:0")
    with started(*served, "--admin-listen=127.0.0.1:0", sign="serving ") as serving:
        found = re.search(r"http://[0-9.:]+", serving)
        assert found
        assert call(found[0], KEYS["CLIENT_KEY"]).status_code == 200
        assert call(found[0], "another-key").status_code == 401


def test_what_is_forbidden_where_it_is_deployed_and_what_two_people_make_of_it(line: Line, tmp_path: Path) -> None:
    """An individual in mainland China is refused; so is an enterprise, until two people have made it eligible."""
    world = WORLD.replace('eligibility = ["openai@cloud"]\n', "").replace('residency = ["apac"]\n', "")
    person = "\n".join(
        [
            '[[organization]]\nname = "li-lei"\nlegal_name = "Li Lei"\nterritory = "CN"',
            f'entity_type = "individual"\nkyc = "approved"\nscreening = "clear"\n[[subscription]]\nid = "{TWO}"',
            f'organization = "li-lei"\n[[account]]\nname = "li-lei-ai"\nsubscription = "{TWO}"',
            'resource_group = "rg"\nlocation = "japaneast"\nchannel = "cloud"\noperator = "bluewater"',
            'keys = { key1 = "sha256:' + "0a" * 32 + '" }\n[[account.deployment]]\nname = "chat"',
            'model = "gpt-4o"\nversion = "2024-11-20"\nsku = "GlobalStandard"\n',
        ]
    )
    folder = world_in(tmp_path / "world", "http://127.0.0.1:9", world + person)
    told = line.json("apply", folder, "--yes", "--break-glass", "first start", status=3)
    failures = told["outcome"]["failures"]
    assert {each["name"] for each in failures} == {"robotics-ai/chat", "li-lei-ai/chat"}
    assert {each["code"] for each in failures} == {"CannotDeployDueToLocalRegulations"}
    assert all("(decision control" in each["lines"][0] for each in failures)
    broken = [
        each for each in line.json("policy", "proposals", "--all")["proposals"] if "breakGlass" in each["properties"]
    ]
    assert [each["properties"]["kind"] for each in broken] == ["policyRelease"]
    officer, reviewer = line.person("Compliance Officer"), line.person("Reviewer")
    proposing = ("org", "propose-eligibility", "yangtze-robotics", "openai@cloud", "--grounds", "BL-2019-0042")
    made = line.json(*proposing, "--expires", "2035-12-31", env=officer)
    assert "SecondPerson" not in line.run("policy", "approve", made["name"], status=1, env=officer)
    assert "approved, in force" in line.run("policy", "approve", made["name"], env=reviewer)
    eligible = world.replace(
        'kyc = "approved"', 'kyc = "approved"\neligibility = [{ name = "openai@cloud", expires = 2035-12-31 }]', 1
    )
    world_in(tmp_path / "world", "http://127.0.0.1:9", eligible + person)
    told = line.json("apply", folder, "--yes", status=3)
    assert [each["name"] for each in told["outcome"]["failures"]] == ["li-lei-ai/chat"]
    assert told["outcome"]["done"] == 1
    assert "known to its client only" in line.run("key", "list", "li-lei-ai")
    assert "robotics-ai" in line.run("upstream", "remove", "jp-1", status=1)


def test_many_go_in_batches_and_only_what_is_wrong_is_left_out(line: Line, tmp_path: Path) -> None:
    base = WORLD.replace('credential = "env:UPSTREAM_KEY"', 'credential = "none"')
    organizations = [
        f'[[organization]]\nname = "o-{at}"\nlegal_name = "O {at}"\nterritory = "JP"\nentity_type = "enterprise"\n'
        f'[[subscription]]\nid = "33333333-3333-4333-8333-{at:012}"\norganization = "o-{at}"\noperator = "bluewater"\n'
        f'channel = "cloud"\n'
        for at in range(30)
    ]
    folder = world_in(tmp_path / "world", "http://127.0.0.1:9", base + "".join(organizations))
    line.run("org", "add", "o-3", "--legal-name", "Taken", "--territory", "JP", "--operator", "local")
    line.run("apply", folder, "--yes", status=1)
    listed = {each["name"] for each in line.json("org", "list")["organizations"]}
    assert len(listed) == 32
    line.run("org", "remove", "o-3")
    line.run("apply", folder, "--yes", "--break-glass", "nobody is here")
    assert "nothing to do" in line.run("apply", folder)
    world_in(tmp_path / "world", "http://127.0.0.1:9", base)
    told = line.run("apply", folder)
    assert "not in the world, and kept: 30 subscriptions" not in told  # `local` is not in it either
    assert "31 subscriptions" in told
    line.run("apply", folder, "--yes", "--prune", "subscription", "--prune", "organization")
    assert len(line.json("org", "list")["organizations"]) == 1
    assert "is nothing that is pruned" in line.run("apply", folder, "--prune", "principal", status=2)


def test_the_short_commands(line: Line, tmp_path: Path) -> None:
    assert "local" in line.run("org", "list")
    adding = ("org", "add", "acme", "--legal-name", "A", "--territory", "CN", "--operator", "local")
    wrong = line.run(*adding, "--registration", "uscc:91110000600037341X", status=1)
    assert "properties.registration.number: " in wrong
    assert "copy the number anew from the register" in wrong
    assert "org review acme" in line.run(*adding, "--registration", "uscc:91110000600037341L")
    line.run("org", "review", "local", "--kyc", "rejected")
    assert "another approves it" in line.run("org", "review", "local", "--kyc", "approved", status=1)
    line.run("org", "reinstate", "local", "--kyc", "--reason", "a mistake")
    assert line.approve_all(line.person("Reviewer")) == 1
    assert line.json("org", "show", "local")["properties"]["kyc"] == "approved"
    adding = (
        "upstream",
        "add",
        "u1",
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--provider",
        "openai",
        "--region",
        "local",
    )
    line.run(*adding, "--model", "gpt-4o@2024-11-20=own", "--credential", "env:UPSTREAM_KEY")
    assert line.json("upstream", "list")["upstreams"][0]["properties"]["credential"] == "secret"
    assert "has no version" in line.run(*adding, "--model", "gpt-4o", status=2)
    assert "NOWHERE" in line.run(*adding, "--model", "a@1", "--credential", "env:NOWHERE", status=2)
    line.run("upstream", "remove", "u1")
    pack = tmp_path / "own.toml"
    pack.write_text("x = ")
    assert ": own.toml: not TOML" in line.run("policy", "propose", "entrepot:base", str(pack), status=1)
    made = line.json("policy", "propose", "entrepot:base", "entrepot:openai-api", "--at", "2029-01-01T00:00:00Z")
    assert line.run("policy", "withdraw", made["name"]).strip().endswith("withdrawn")
    assert "in force" in line.run("policy", "publish", "entrepot:base", "entrepot:openai-api", "--break-glass", "alone")
    assert [each["properties"]["state"] for each in line.json("policy", "list")["releases"]].count("inForce") == 1
    assert "Reviewer" in line.run("role", "names")
    assert "there is no role" in line.run("role", "assign", "King", "administrator", status=2)
    assert "administrator" in line.run("role", "list")
    assert "--enrol enrol-edge-" in line.run("gateways", "enrol", "edge", "--territory", "SG")
    (row,) = [each.split() for each in line.run("gateways").splitlines() if each.startswith("edge")]
    assert row[3:] == ["no", "-", "-", "-", "-"]  # it never asked this control plane: what it believes is not known
    line.run("gateways", "remove", "edge")
    assert "there is no account" in line.run("key", "list", "nobody", status=1)
    line.run("principal", "add", "clerk", "--operator", "local")
    line.run("principal", "secret", "clerk", "--revoke-others")
    assert "clerk" in line.run("principal", "list")
    line.run("role", "assign", "Reader", "clerk", "--scope", "operator:local")
    line.run("role", "remove", "Reader", "clerk", "--scope", "operator:local")
    line.run("principal", "remove", "clerk")


def test_errors_say_what_to_do_next(line: Line, tmp_path: Path) -> None:
    nowhere = {"ENTREPOT_DATA": str(tmp_path / "nowhere")}
    assert "entrepot serve --data" in line.run("org", "list", env=nowhere, status=2)
    assert "ENTREPOT_CLIENT_ID" in line.run("org", "list", "--control", "https://127.0.0.1:1", status=2)
    somebody = {"ENTREPOT_CLIENT_ID": str(uuid.uuid4()), "ENTREPOT_CLIENT_SECRET": "wrong"}
    away = line.run("org", "list", "--control", "https://127.0.0.1:1", env=somebody, status=1)
    assert "cannot be reached" in away
    assert "entrepot principal secret" in line.run("org", "list", env=somebody, status=1)
    told = json.loads((line.data / "control.json").read_text())
    elsewhere = ("--control", told["url"], "--ca", told["ca"])
    assert "local" in line.run("org", "list", *elsewhere, env=line.person("Auditor"))
    assert "does not have authorization" in line.run("org", "remove", "local", env=line.person("Auditor"), status=1)
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "world.toml").write_text('[[operator]]\nname = "x"\nterritory = "XX"\n[[nothing]]\n')
    assert line.run("apply", str(tmp_path / "world"), status=1).count("world.toml:") == 3


def test_shells_complete_what_is_not_imported() -> None:
    script = CliRunner().invoke(command_line(["completion"]), ["completion", "bash"])
    assert "_ENTREPOT_COMPLETE" in script.output
    for words, found in (
        ("entrepot po", "policy"),
        ("entrepot policy pro", "proposals"),
        ("entrepot apply --pr", "--prune"),
    ):
        environ = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_ENTREPOT_COMPLETE": "complete_bash"}
        done = subprocess.run(
            [sys.executable, "-m", "entrepot"], env={"PATH": "", **environ}, capture_output=True, text=True, check=True
        )
        assert found in done.stdout.split()


def test_serve_begins_with_a_world(upstream: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    world = world_in(tmp_path / "world", upstream)
    listen = ("--management=127.0.0.1:0", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0")
    with started("serve", "--data", str(data), "--world", world, *listen, sign="data plane ") as told:
        assert call(told.split()[-1], KEYS["CLIENT_KEY"]).status_code == 200
        line = Line(data)
        assert "nothing to do" in line.run("apply", world)
        line.run("key", "regenerate", "robotics-ai", "key1")
        assert "setKeys" not in line.run("apply", world, "--dry-run")


class _Ill(BaseHTTPRequestHandler):
    """A control plane whose database is away."""

    def do_POST(self) -> None:
        told = b'{"error":{"code":"ServiceUnavailable","message":"the database does not answer"}}'
        self.send_response(503)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: Any) -> None:
        """Nothing: the test asks what the command says."""


def test_a_control_plane_that_does_not_work_is_not_taken_for_a_wrong_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTREPOT_CLIENT_ID", "somebody")
    monkeypatch.setenv("ENTREPOT_CLIENT_SECRET", "right")
    server = HTTPServer(("127.0.0.1", 0), _Ill)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        done = CliRunner().invoke(command_line(["gateways"]), ["gateways", "--control", url])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (done.exit_code, done.output) == (1, "the database does not answer\n")
