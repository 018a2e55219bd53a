"""`entrepot gateway --control`, as its users run it, against a stand-in for the control plane."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from msgspec.structs import replace
from typer.testing import CliRunner

from control_plane import ControlPlane
from entrepot.cli.gateway import app
from entrepot.config import Config
from entrepot.sim.server import Sim, simulated
from entrepot.sim.settings import Settings
from entrepot.snapshot import Issuer, Published, Revision, publish_files
from harness import BASE_PACK, Account, Fleet, Gateway, Upstream, World, ask, body_of, until

ISSUER = "https://127.0.0.1:8443/tenant/v2.0"
AUDIENCE = "https://cognitiveservices.azure.com"
SIGNING = ECKey.generate_key("P-256", {"kid": "k1"})
KANTO, BARE = Account("kanto"), Account("bare", more="disable_local_auth = true")
BODY = body_of()
SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-000000000001"
GROUP = f"{SUBSCRIPTION}/resourcegroups/rg"
GRANTS = {
    "on-account": (f"{GROUP}/providers/microsoft.cognitiveservices/accounts/kanto",),
    "on-group": (GROUP,),
    "on-subscription": (SUBSCRIPTION,),
    "on-operator": ("/providers/entrepot.access/operators/harbour",),
    "everywhere": ("/",),
    "elsewhere": ("/subscriptions/x", "/providers/entrepot.access/operators/other", f"{GROUP}/providers"),
    "nowhere": (),
}
PATHS = (
    "/accounts/kanto/v1/chat/completions",
    "/accounts/kanto/openai/v1/chat/completions",
    "/accounts/kanto/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
    "/accounts/kanto//openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
)
TOKEN_TEXT = (
    "Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), "
    "or have expired."
)


def token(principal: str, key: ECKey = SIGNING, **changed: object) -> str:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "oid": principal, "iat": now, "nbf": now, "exp": now + 600, **changed}
    return jwt.encode({"alg": "ES256", "kid": "k1"}, claims, key, ["ES256"])


def published(n: int, upstream: str, *accounts: Account) -> Published:
    text = World(Path(), [Upstream("u", upstream)], [*accounts], 'data_domain = "models.example.test"\n').text()
    files = {"world.toml": text.encode(), "packs/base.toml": BASE_PACK.encode()}
    whole = publish_files(files, Config(Path(), {"UPSTREAM_KEY": World(Path(), [], []).upstream_key}), Revision(1, n))
    keys = json.dumps(KeySet([SIGNING]).as_dict(private=False)).encode()
    return replace(whole, issuer=Issuer(ISSUER, keys, (AUDIENCE,)), grants=GRANTS)


class Place:
    """One control plane, one gateway that follows it."""

    def __init__(self, plane: ControlPlane, sim: Sim, fleet: Fleet, home: Path) -> None:
        self.plane, self.sim, self.home = plane, sim, home
        self.world = World(home, [], [KANTO, BARE])
        self._fleet = fleet
        self.token = plane.token("gw-1")

    def gateway(self, *arguments: str, home: Path | None = None) -> AbstractContextManager[Gateway]:
        home = home or self.home
        data = str(home / "data")
        return self._fleet.gateway(self.world, home, "--control", self.plane.url, "--data", data, *arguments)


@pytest.fixture(scope="module")
def place(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    plane = ControlPlane()
    with simulated(Settings(api="openai")) as sim:
        plane.publish(published(1, sim.base_url, KANTO, BARE))
        plane.start()
        yield Place(plane, sim, fleet, tmp_path_factory.mktemp("behind"))
        if plane.running:
            plane.kill()


@pytest.fixture(scope="module")
def gateway(place: Place) -> Iterator[Gateway]:
    with place.gateway("--enrol", place.token, "--workers", "2") as gateway:
        yield gateway


def refused(gateway: Gateway, path: str, key: str | None, host: str | None = None) -> tuple[int, str | None, str]:
    answer = ask(gateway.data, path, BODY, key, {"host": host} if host else None)
    error = answer.json["error"]
    return answer.status, error["code"], error["message"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("principal", ["on-account", "on-group", "on-subscription", "on-operator", "everywhere"])
def test_a_token_opens_the_account_that_the_path_names(gateway: Gateway, path: str, principal: str) -> None:
    assert ask(gateway.data, path, BODY, token(principal)).status == 200


def test_a_token_opens_the_account_that_the_host_names(gateway: Gateway) -> None:
    host = {"host": "kanto.models.example.test"}
    assert ask(gateway.data, "/v1/chat/completions", BODY, token("everywhere"), host).status == 200
    assert ask(gateway.data, "/accounts/kanto/v1/chat/completions", BODY, token("everywhere"), host).status == 200


def test_models_are_listed_for_a_token(gateway: Gateway) -> None:
    assert ask(gateway.data, "/accounts/kanto/v1/models", key=token("on-group")).status == 200
    assert ask(gateway.data, "/accounts/kanto/v1/models", key=token("nowhere")).status == 401


@pytest.mark.parametrize("principal", ["elsewhere", "nowhere", "a-stranger"])
@pytest.mark.parametrize("path", PATHS)
def test_without_a_role_there_is_no_access(gateway: Gateway, path: str, principal: str) -> None:
    code = "permission_denied" if path.startswith("/accounts/kanto/v1") else "PermissionDenied"
    said = (401, code, "Principal does not have access to API/Operation.")
    assert refused(gateway, path, token(principal)) == said
    assert refused(gateway, path.replace("kanto", "no-such"), token("everywhere")) == said
    assert refused(gateway, path, token("everywhere"), host="bare.models.example.test") == said


@pytest.mark.parametrize(
    "bad",
    [
        token("everywhere", exp=1),
        token("everywhere", aud="https://management.azure.com"),
        token("everywhere", iss="https://else.example"),
        token("everywhere", ECKey.generate_key("P-256")),
        "a.b.c",
    ],
    ids=["expired", "audience", "issuer", "forged", "garbage"],
)
def test_a_bad_token_is_told_as_azure_does(gateway: Gateway, bad: str) -> None:
    assert refused(gateway, PATHS[2], bad) == (401, "401", TOKEN_TEXT)
    assert bad not in gateway.log


def test_a_token_without_an_account_says_how_to_name_one(gateway: Gateway) -> None:
    status, code, message = refused(gateway, "/v1/chat/completions", token("everywhere"))
    assert (status, code) == (401, "invalid_token")
    assert "/accounts/NAME/" in message


def test_an_account_that_takes_no_keys(gateway: Gateway) -> None:
    path = "/accounts/bare/openai/v1/chat/completions"
    said = (403, "AuthenticationTypeDisabled", "Key based authentication is disabled for this resource.")
    assert refused(gateway, path, BARE.key) == said
    assert ask(gateway.data, path, BODY, token("everywhere")).status == 200


def test_keys_and_tokens_side_by_side(gateway: Gateway) -> None:
    assert ask(gateway.data, PATHS[0], BODY, KANTO.key).status == 200
    both = ask(gateway.data, PATHS[0], BODY, token("everywhere"), {"api-key": KANTO.key})
    assert both.status == 400
    as_key = ask(gateway.data, PATHS[2], BODY, headers={"api-key": token("everywhere")})
    assert (as_key.status, as_key.json["error"]["code"]) == (401, "401")


def test_the_ledger_names_the_principal_in_its_personal_part(place: Place, gateway: Gateway) -> None:
    ask(gateway.data, PATHS[0], BODY, token("on-account"))

    def held() -> bool:
        files = (place.home / "data").rglob("*")
        return any(b"oid:on-account" in file.read_bytes() for file in files if file.is_file())

    until(held, "the principal stands in the ledger")


def test_changes_arrive_and_a_dead_control_plane_is_survived(place: Place, gateway: Gateway) -> None:
    plane, fresh = place.plane, Account("fresh")
    assert ask(gateway.data, body=BODY, key=fresh.key).status == 401
    plane.publish(published(2, place.sim.base_url, KANTO, BARE, fresh))
    until(lambda: all(ask(gateway.data, body=BODY, key=fresh.key).status == 200 for _ in range(8)), "the change")
    until(lambda: plane.asked[-1] == ("1.2", "true"), "the control plane knows")
    plane.kill()
    until(lambda: "cannot be reached" in (gateway.readiness()["problem"] or ""), "the gateway says so")
    assert gateway.readiness()["ready"]
    gateway.signal(9)
    gateway.wait()
    elsewhere = ("--listen", "127.0.0.7:0", "--admin-listen", "127.0.0.8:0")
    with place.gateway("--enrol", place.token, *elsewhere) as again:
        assert (again.data.host, again.admin.host) == ("127.0.0.7", "127.0.0.8")
        assert ask(again.data, body=BODY, key=fresh.key).status == 200
        assert ask(again.data, PATHS[0], BODY, token("on-account")).status == 200
        assert again.readiness()["revision"] == 1_000_000_002
        plane.publish(published(3, place.sim.base_url, KANTO))
        plane.start()
        until(lambda: ask(again.data, body=BODY, key=fresh.key).status == 401, "the control plane is followed again")


def test_a_start_does_without_what_does_not_compile_here(place: Place, tmp_path: Path) -> None:
    """As after an update of the control plane alone. The gateway's own parent is the judge, not the seal."""
    plane = place.plane
    if not plane.running:
        plane.start()
    n = plane.published[-1].revision.n
    plane.publish(published(n + 1, place.sim.base_url, KANTO))
    with place.gateway("--enrol", plane.token("gw-2"), home=tmp_path) as gateway:
        assert ask(gateway.data, PATHS[0], BODY, KANTO.key).status == 200
        until(lambda: plane.asked[-1] == (f"1.{n + 1}", "true"), "it is kept")
    whole = published(n + 2, place.sim.base_url, KANTO)
    pack = replace(whole.world.packs[0], data=b"[pack]")
    plane.publish(replace(whole, world=replace(whole.world, packs=(pack,))))
    with place.gateway(home=tmp_path) as gateway:
        assert ask(gateway.data, PATHS[0], BODY, KANTO.key).status == 200
        until(lambda: gateway.readiness()["problem"], "it says what is wrong")
        plane.publish(published(n + 3, place.sim.base_url, KANTO))
        until(lambda: gateway.readiness()["revision"] == 1_000_000_000 + n + 3, "it is mended")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.setattr("entrepot.cli.gateway.log_to_stderr", lambda: None)  # the log of this process is pytest's

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*arguments])
        return done.exit_code, " ".join(done.stderr.replace("│", "").split())

    return run


@pytest.mark.parametrize(
    "arguments", [(), ("--control", "https://h:1", "--world", "."), ("--world", ".", "--enrol", "x")]
)
def test_a_gateway_has_one_source(run: Callable[..., tuple[int, str]], arguments: tuple[str, ...]) -> None:
    status, said = run(*arguments)
    assert (status, "--control URL" in said) == (2, True)


def test_what_the_command_line_says_when_it_cannot(
    place: Place, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    follow = partial(run, "--control", place.plane.url, "--data", str(tmp_path))
    used = place.plane.token("gw-9")
    place.plane.tokens.clear()
    other = used[:-32] + "0" * 32
    for arguments, why in (
        ((), "this gateway is not enrolled"),
        (("--enrol", "nonsense"), "not an enrolment token"),
        (("--enrol", used), "the token is unknown, used or expired"),
        (("--enrol", other), "its certificate authority does not match"),
    ):
        status, said = follow(*arguments)
        assert status == 1
        assert said.startswith("the gateway cannot start: ")
        assert why in said
        assert used[6:-32] not in said
