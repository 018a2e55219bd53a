"""Logging in, and everything that is no login: the authority and the bearer tokens of the management API."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from entrepot.management import throttle
from planes import CLIENTS, SECRET, VERSION, Plane, plane


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with plane(tmp_path_factory.mktemp("plane")) as found:
        yield found


def form(**more: str) -> dict[str, str]:
    given = {"grant_type": "client_credentials", "client_id": CLIENTS["admin"], "client_secret": SECRET}
    return {**given, **more}


def ask(up: Plane, path: str = "/adfs/oauth2/token", **more: str) -> httpx.Response:
    return httpx.post(up.url + path, data=form(**more))


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def test_metadata_in_the_forms_that_clients_ask_for(up: Plane) -> None:
    one = httpx.get(f"{up.url}/metadata/endpoints?api-version=2022-09-01").json()
    assert one["authentication"] == {
        "loginEndpoint": f"{up.url}/adfs",
        "audiences": [f"{up.url}/", up.url],
        "tenant": up.tenant,
        "identityProvider": "ADFS",
    }
    assert one["name"] == "Entrepot"
    assert one["suffixes"] == {}
    assert httpx.get(f"{up.url}/metadata/endpoints?api-version=2019-05-01").json() == [one]
    old = httpx.get(f"{up.url}/metadata/endpoints?api-version=1.0").json()
    assert old["authentication"]["loginEndpoint"] == f"{up.url}/adfs"


def test_a_host_that_is_not_ours_is_not_repeated(up: Plane) -> None:
    for path in ("/metadata/endpoints", "/adfs/.well-known/openid-configuration", "/common/discovery/instance"):
        answer = httpx.get(up.url + path, headers={"host": "evil.example"})
        assert answer.status_code == 200
        assert "evil" not in answer.text


def test_discovery_leads_to_a_token_and_its_key(up: Plane) -> None:
    for path in ("/adfs/.well-known/openid-configuration", f"/{up.tenant}/v2.0/.well-known/openid-configuration"):
        found = httpx.get(up.url + path).json()
        keys = httpx.get(found["jwks_uri"]).json()["keys"]
        assert all("d" not in key for key in keys)
        answer = httpx.post(found["token_endpoint"], data=form(scope=f"{up.url}//.default", client_info="1"))
        token = answer.json()["access_token"]
        assert jwt.decode(token, ECKey.import_key(keys[0]), ["ES256"]).claims["aud"] == f"{up.url}/"
    assert httpx.get(f"{up.url}/wrong-tenant/v2.0/.well-known/openid-configuration").status_code == 400


@pytest.mark.parametrize(
    ("asked", "audience"),
    [
        ({"resource": "https://management.azure.com/"}, "https://management.azure.com/"),
        ({"scope": "https://management.core.windows.net//.default"}, "https://management.core.windows.net/"),
        ({"scope": "https://management.core.chinacloudapi.cn//.default"}, "https://management.core.chinacloudapi.cn/"),
        ({"scope": "https://management.chinacloudapi.cn/.default openid"}, "https://management.chinacloudapi.cn"),
        ({"resource": "https://cognitiveservices.azure.com"}, "https://cognitiveservices.azure.com"),
        ({"scope": "https://ai.azure.com/.default"}, "https://ai.azure.com"),
    ],
)
def test_audiences(up: Plane, asked: dict[str, str], audience: str) -> None:
    answer = ask(up, **asked)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    claims = claims_of(answer.json()["access_token"])
    assert claims["aud"] == audience
    assert claims["oid"] == claims["appid"] == claims["sub"] == CLIENTS["admin"]
    assert claims["tid"] == up.tenant
    assert claims["exp"] - claims["iat"] == answer.json()["expires_in"] == 3_600
    assert claims["roles"] == ["Owner"]
    used = httpx.get(
        f"{up.url}/subscriptions", params=VERSION, headers={"authorization": f"Bearer {answer.json()['access_token']}"}
    )
    assert used.status_code == (200 if "management" in audience else 401)


@pytest.mark.parametrize(
    ("more", "status", "error"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": ""}, 400, "unsupported_grant_type"),
        ({"client_secret": ""}, 401, "invalid_client"),
        ({"client_id": ""}, 401, "invalid_client"),
        ({"client_id": "00000000-0000-4000-8000-00000000dead"}, 401, "invalid_client"),
        ({"client_secret": "ep-guess"}, 401, "invalid_client"),
        ({"scope": "https://graph.microsoft.com/.default"}, 400, "invalid_resource"),
        ({"resource": "https://evil.example"}, 400, "invalid_resource"),
        ({"scope": "https://management.azure.com/.default https://ai.azure.com/.default"}, 400, "invalid_scope"),
        ({"client_secret": "a\0b"}, 400, "invalid_request"),
        ({"client_id": "x" * 9_000, "client_secret": "y" * 9_000}, 413, "invalid_request"),
    ],
)
def test_what_is_refused_says_so_as_oauth_does(up: Plane, more: dict[str, str], status: int, error: str) -> None:
    answer = ask(up, **more)
    told = answer.json()
    assert (answer.status_code, told["error"]) == (status, error)
    assert "Trace ID: " + answer.headers["x-ms-request-id"] in told["error_description"]
    assert SECRET not in answer.text
    assert "access_token" not in told


def test_unknown_and_known_clients_are_refused_alike(up: Plane) -> None:
    told = [
        ask(up, client_id=client, client_secret="wrong").json()["error_description"].partition(" Trace")[0]
        for client in (CLIENTS["one-group"], "00000000-0000-4000-8000-00000000beef")
    ]
    assert told[0] == told[1]
    assert told[0].startswith("AADSTS7000215: ")


def test_other_bodies_than_forms(up: Plane) -> None:
    url = f"{up.url}/adfs/oauth2/token"
    assert httpx.post(url, json=form()).json()["error"] == "invalid_request"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    for content in (b"\xff\xfe", b"a=%ff", b"grant_type=a&grant_type=b", b"&".join(b"k%d=1" % n for n in range(100))):
        answer = httpx.post(url, content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert httpx.post(url, content=b"", headers=headers).json()["error"] == "invalid_request"
    assert httpx.get(url).status_code == 405


def test_the_secret_as_basic_authentication(up: Plane) -> None:
    given = {"grant_type": "client_credentials"}
    url = f"{up.url}/adfs/oauth2/token"
    assert httpx.post(url, data=given, auth=(CLIENTS["admin"], SECRET)).status_code == 200
    assert httpx.post(url, data=given, auth=(CLIENTS["admin"], "wrong")).status_code == 401
    for value in ("Basic", "Basic !!!", "Basic " + base64.b64encode(b"nocolon").decode()):
        assert httpx.post(url, data=given, headers={"authorization": value}).status_code == 401


def test_guessing_is_slowed_down_and_counted_and_others_log_in_meanwhile(up: Plane) -> None:
    client = CLIENTS["south-tenant"]
    answers = [ask(up, client_id=client, client_secret=f"guess-{n}") for n in range(throttle.FREE + 1)]
    assert [each.status_code for each in answers] == [401] * throttle.FREE + [429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert answers[-1].json()["error"] == "temporarily_unavailable"
    assert ask(up).status_code == 200  # another client at the same address
    time.sleep(int(answers[-1].headers["retry-after"]))
    assert ask(up, client_id=client).status_code == 200


def forged(up: Plane) -> dict[str, str]:
    good = ask(up).json()["access_token"]
    head, body, signature = good.split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    claims = claims_of(good)
    public = httpx.get(f"{up.url}/adfs/discovery/keys").json()["keys"][0]
    other = ECKey.generate_key("P-256", private=True)

    def b64(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    secret = OctKey.import_key(json.dumps(public).encode())
    return {
        "none": f"{b64({**header, 'alg': 'none'})}.{body}.",
        "none, signed": f"{b64({**header, 'alg': 'None'})}.{body}.{signature}",
        "hs256 with the public key": jwt.encode({"alg": "HS256", "kid": header["kid"]}, claims, secret, ["HS256"]),
        "another key under our kid": jwt.encode({"alg": "ES256", "kid": header["kid"]}, claims, other, ["ES256"]),
        "a key that it brings along": jwt.encode(
            {"alg": "ES256", "kid": "mine", "jwk": other.as_dict(private=False)}, claims, other, ["ES256"]
        ),
        "other claims": f"{head}.{b64({**claims, 'oid': CLIENTS['person']})}.{signature}",
        "no signature": f"{head}.{body}.",
        "two parts": f"{head}.{body}",
        "a path as kid": f"{b64({**header, 'kid': '../../../etc/passwd'})}.{body}.{signature}",
        "a number as kid": f"{b64({**header, 'kid': 7})}.{body}.{signature}",
        "crit": f"{b64({**header, 'crit': ['b64'], 'b64': False})}.{body}.{signature}",
        "for the data plane": ask(up, resource="https://cognitiveservices.azure.com").json()["access_token"],
        "nothing": "x",
        "dots": "..",
        "long": "x" * 20_000,
        "text that is none": "\u00ff.\u00ff.\u00ff",
    }


def test_forged_tokens_are_all_refused(up: Plane) -> None:
    for name, token in forged(up).items():
        headers = {"authorization": f"Bearer {token}".encode("latin-1")}
        answer = httpx.get(f"{up.url}/subscriptions", params=VERSION, headers=headers)
        assert answer.status_code == 401, name
        assert answer.json()["error"]["code"] == "InvalidAuthenticationToken", name
        assert answer.headers["www-authenticate"].startswith("Bearer "), name


@pytest.mark.parametrize("value", [None, "", "Bearer", "Basic YTpi", "bearer\tx"])
def test_no_token_is_no_login(up: Plane, value: str | None) -> None:
    headers = {} if value is None else {"authorization": value}
    answer = httpx.get(f"{up.url}/subscriptions", params=VERSION, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] in {"AuthenticationFailed", "InvalidAuthenticationToken"}


def test_a_disabled_principal_is_out_at_once_and_so_is_its_token(up: Plane) -> None:
    admin = up.of("admin")
    path = "/providers/Entrepot.Access/principals/short-lived"
    made = admin.put(path, json={"properties": {"displayName": "for a moment"}})
    assert made.status_code == 201
    client = made.json()["properties"]["appId"]
    secret = admin.post(f"{path}/newSecret").json()["secret"]
    token = ask(up, client_id=client, client_secret=secret).json()["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    assert httpx.get(f"{up.url}/subscriptions", params=VERSION, headers=headers).json() == {"value": []}
    assert admin.put(path, json={"properties": {"state": "Disabled"}}).status_code == 200
    assert httpx.get(f"{up.url}/subscriptions", params=VERSION, headers=headers).status_code == 401
    refused = ask(up, client_id=client, client_secret=secret)
    assert refused.json()["error_description"].startswith("AADSTS7000112: ")
    assert ask(up, client_id=client, client_secret="wrong").json()["error_description"].startswith("AADSTS7000215: ")
    assert admin.delete(path).status_code == 200
    assert ask(up, client_id=client, client_secret=secret).json()["error"] == "invalid_client"
