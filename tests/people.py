"""People who manage an `entrepot serve` over its own API, and what they put into it."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from entrepot.management.roles import DEFINITIONS
from harness import Place
from servings import arguments, serving

ACCESS = "/providers/Entrepot.Access"
VERSION = "2026-11-01"
MAINLAND = ("entrepot:base", "entrepot:azure-openai-mainland-china")
# An enterprise in mainland China that has everything but its eligibility.
YANGTZE = {
    "legalName": "Yangtze Robotics Co., Ltd.",
    "operator": "local",
    "territory": "CN",
    "entityType": "enterprise",
    "registration": {"kind": "uscc", "number": "91110000600037341L"},
    "licence": {"number": "BL-2019-0042"},
    "kyc": "approved",
    "screening": "clear",
}
PERSON = {
    "legalName": "Li Lei",
    "operator": "local",
    "territory": "CN",
    "entityType": "individual",
    "kyc": "approved",
    "screening": "clear",
}


class Who(httpx.Client):
    """A principal that is logged in. `client_id` and `secret` are its own."""

    def __init__(self, served: Served, client_id: str, secret: str) -> None:
        super().__init__(base_url=served.url, verify=served.tls, timeout=60, trust_env=False)
        self.client_id, self.secret = client_id, secret
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        answer = self.post("/adfs/oauth2/token", data=form)
        assert answer.status_code == 200, answer.text
        self.headers["authorization"] = f"Bearer {answer.json()['access_token']}"

    def do(self, method: str, path: str, properties: Mapping[str, Any] | None = None, **body: Any) -> Any:
        """The answer's JSON. `properties` go into the envelope; `body` beside them."""
        sent = {**({"properties": properties} if properties is not None else {}), **body}
        answer = self.request(method, path, params={"api-version": VERSION}, json=sent if method != "GET" else None)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def propose(self, kind: str, subject: str | None, change: Mapping[str, Any]) -> str:
        """The proposal's path."""
        path = f"{ACCESS}/proposals/{uuid.uuid4()}"
        about = {"subject": subject} if subject is not None else {}
        self.do("PUT", path, {"kind": kind, "change": change, "reason": "as agreed", **about})
        return path


class Served:
    """What runs, its addresses, and the administrator."""

    def __init__(self, data: Path, told: Mapping[str, str]) -> None:
        self.folder = data
        kept = msgspec.json.decode((data / "control.json").read_bytes())
        self.url, self.ca, self.tenant = kept["url"], kept["ca"], kept["tenant"]
        self.tls = ssl.create_default_context(cafile=self.ca)
        self.data_url, self.metrics_url = told["data plane"], told["metrics"]
        host, _, port = self.data_url.removeprefix("http://").rpartition(":")
        self.data = Place(host, int(port))
        self._people: list[Who] = []
        self.administrator = self.who(kept["client_id"], (data / "admin.secret").read_text())

    def who(self, client_id: str, secret: str) -> Who:
        """Logged in anew."""
        made = Who(self, client_id, secret)
        self._people.append(made)
        return made

    def close(self) -> None:
        for who in self._people:
            who.close()

    def person(self, name: str, role: str, scope: str = "/", owner: str | None = None) -> Who:
        """A new principal with a role; `role` is a role's GUID."""
        path = f"{ACCESS}/principals/{name}"
        made = self.administrator.do("PUT", path, {"displayName": name, "owner": owner or name})
        secret = self.administrator.do("POST", f"{path}/newSecret")["secret"]
        client_id = made["properties"]["appId"]
        self.assign(client_id, role, scope)
        return self.who(client_id, secret)

    def assign(self, principal: str, role: str, scope: str) -> None:
        path = f"{scope.rstrip('/')}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
        self.administrator.do("PUT", path, {"roleDefinitionId": DEFINITIONS + role, "principalId": principal})

    def agree(self, two: Sequence[Who], kind: str, subject: str | None, change: Mapping[str, Any]) -> str:
        """One proposes, another approves; the proposal's path."""
        path = two[0].propose(kind, subject, change)
        two[1].do("POST", f"{path}/approve", reason="looked at it")
        return path

    def upstream(self, url: str, *models: str) -> None:
        """A provider, and an upstream of it at `url` in Japan that serves `models`."""
        do = self.administrator.do
        do("PUT", f"{ACCESS}/providers/openai", {})
        for model in models:
            do("PUT", f"{ACCESS}/models/{model}", {"provider": "openai"})
        upstream = {"provider": "openai", "region": "japaneast", "api": "openai", "baseUrl": f"{url}/v1"}
        named = {model: model.partition("@")[0] for model in models}
        do("PUT", f"{ACCESS}/upstreams/sim", {**upstream, "models": named, "credentialValue": "sk-the-operators-own"})

    def contract(self, organization: str, properties: Mapping[str, Any]) -> str:
        """An organization with a subscription on the cloud channel; the subscription's id."""
        self.administrator.do("PUT", f"{ACCESS}/organizations/{organization}", properties)
        subscription = str(uuid.uuid4())
        terms = {"displayName": organization, "organization": organization, "operator": "local", "channel": "cloud"}
        self.administrator.do("PUT", f"/subscriptions/{subscription}", terms)
        return subscription


@contextmanager
def served(data: Path, *more: str) -> Iterator[Served]:
    """On free ports, until the block ends; then there is nothing in its log that should not be."""
    with serving(data, *arguments(), "--territory=JP", *more) as (_, told):
        found = Served(data, told)
        try:
            yield found
        finally:
            found.close()
    log = (data.parent / "stderr").read_text()
    assert "Traceback" not in log, log[-4_000:]
