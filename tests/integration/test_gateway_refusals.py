"""Every refusal that a client can meet, in each wire form, over each way to name an account: status, body, headers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from harness import DOMAIN, FROM_CN, FROM_JP, FROM_NOWHERE, PROXY, Answer, House, ask, body_of

GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
CHAT = {
    "openai": "/v1/chat/completions",
    "azure": "/openai/deployments/{deployment}/chat/completions?api-version=2024-10-21",
    "azure_v1": "/openai/v1/chat/completions",
}
FORMS = tuple(CHAT)

NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY), or as the password field (with blank username) if you're accessing the "
    "API from your browser and are prompted for a username and password. You can obtain an API key from "
    "https://platform.openai.com/account/api-keys."
)
AZURE_401 = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)
NO_DEPLOYMENT = (
    "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, "
    "please wait a moment and try again."
)


def openai(message: str, code: str | None, kind: str = "invalid_request_error", param: str | None = None) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def azure(code: str, message: str, **more: str) -> Any:
    return {"error": {"code": code, "message": message, **more}}


class Case(NamedTuple):
    """A call, and the body that it is answered with: OpenAI's, Azure's, and Azure v1's if that differs."""

    status: int
    bodies: tuple[Any, ...]
    account: str | None = "kanto"
    body: bytes = body_of()
    deployment: str = "gpt-4o"
    headers: Mapping[str, str] = MappingProxyType({})
    source: str = FROM_JP
    forms: tuple[str, ...] = FORMS


CASES = {
    "no key": Case(401, (openai(NO_KEY, None), azure("401", AZURE_401)), account=None),
    "unknown key": Case(
        401,
        (
            openai(
                "Incorrect API key provided: sk-...wxyz. You can find your API key at "
                "https://platform.openai.com/account/api-keys.",
                "invalid_api_key",
            ),
            azure("401", AZURE_401),
        ),
        account=None,
        headers={"authorization": "Bearer sk-0123456789012345wxyz"},
    ),
    "short unknown key": Case(
        401,
        (
            openai(
                "Incorrect API key provided. You can find your API key at "
                "https://platform.openai.com/account/api-keys.",
                "invalid_api_key",
            ),
            azure("401", AZURE_401),
        ),
        account=None,
        headers={"api-key": "hunter2"},
    ),
    "two different keys": Case(
        400,
        (
            openai("the request carries two different keys; send one", "conflicting_credentials"),
            azure("BadRequest", "the request carries two different keys; send one"),
        ),
        headers={"api-key": "sk-cloudy-0123456789abcdef"},
    ),
    "nothing permits": Case(
        403,
        (
            openai("the access policy does not permit this call (decision ID)", "access_denied", "request_forbidden"),
            azure("access_denied", "the access policy does not permit this call (decision ID)"),
        ),
        account="pending",
    ),
    "suspended": Case(
        403,
        (
            openai("this account is suspended (decision ID)", "account_suspended", "request_forbidden"),
            azure("account_suspended", "this account is suspended (decision ID)"),
        ),
        account="halted",
    ),
    "a rule with a code of its own": Case(
        403,
        (
            openai("a valid business licence is required (decision ID)", "licence_required", "request_forbidden"),
            azure("licence_required", "a valid business licence is required (decision ID)"),
        ),
        account="unlicensed",
    ),
    "organization of an unsupported territory": Case(
        403,
        (
            openai(
                "Country, region, or territory not supported",
                "unsupported_country_region_territory",
                "request_forbidden",
            ),
            azure("unsupported_country_region_territory", "Country, region, or territory not supported"),
        ),
        account="far",
    ),
    "deployment that is not there": Case(
        404,
        (
            openai("The model `gpt-9` does not exist or you do not have access to it.", "model_not_found"),
            azure("DeploymentNotFound", NO_DEPLOYMENT),
            azure("DeploymentNotFound", NO_DEPLOYMENT, type="invalid_request_error"),
        ),
        body=body_of("gpt-9"),
        deployment="gpt-9",
    ),
    "no model": Case(
        400,
        (
            openai("you must provide a model parameter", None, param="model"),
            None,
            azure("BadRequest", "you must provide a model parameter", param="model"),
        ),
        body=body_of(None),
        forms=("openai", "azure_v1"),
    ),
    "model null": Case(
        400,
        (openai("you must provide a model parameter", None, param="model"),),
        body=b'{"model":null}',
        forms=("openai",),
    ),
    "model of another type": Case(
        400,
        (
            openai("`model` must be a string", "invalid_body", param="model"),
            None,
            azure("BadRequest", "`model` must be a string", param="model"),
        ),
        body=b'{"model":["gpt-4o"]}',
        forms=("openai", "azure_v1"),
    ),
    "stream of another type": Case(
        400,
        (
            openai("`stream` must be true or false", "invalid_body", param="stream"),
            azure("BadRequest", "`stream` must be true or false", param="stream"),
        ),
        body=body_of(stream="yes"),
    ),
    "an array": Case(
        400,
        (
            openai("the body is not a JSON object", "invalid_body"),
            azure("BadRequest", "the body is not a JSON object"),
        ),
        body=b"[1,2]",
    ),
    "keys in two cases": Case(
        400,
        (
            openai(
                "the fields `model` and `Model` differ only in letter case; send one",
                "ambiguous_field",
                param="Model",
            ),
            azure("BadRequest", "the fields `model` and `Model` differ only in letter case; send one", param="Model"),
        ),
        body=b'{"model":"gpt-4o","Model":"gpt-9"}',
    ),
    "a key in another case": Case(
        400,
        (
            openai("the field `MODEL` must be written `model`", "ambiguous_field", param="MODEL"),
            azure("BadRequest", "the field `MODEL` must be written `model`", param="MODEL"),
        ),
        body=b'{"MODEL":"gpt-4o"}',
    ),
}


def refused(answer: Answer, form: str) -> None:
    """What every answer that refuses carries."""
    guid = answer.headers["apim-request-id"]
    assert GUID.fullmatch(guid)
    assert answer.headers["x-request-id"] == ("req_" + guid.replace("-", "") if form == "openai" else guid)
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["content-type"] == "application/json"
    assert ("www-authenticate" in answer.headers) == (answer.status == 401)
    assert "x-ms-region" not in answer.headers
    assert "retry-after" not in answer.headers


def expected(case: Case, form: str) -> Any:
    return case.bodies[min(FORMS.index(form), len(case.bodies) - 1)]


@pytest.mark.parametrize("prefix", ["", "/accounts/{account}", "host"])
@pytest.mark.parametrize(("name", "form"), [(name, form) for name, case in CASES.items() for form in case.forms])
def test_each_refusal_in_each_form(house: House, name: str, form: str, prefix: str) -> None:
    case = CASES[name]
    headers = dict(case.headers)
    account = case.account or "kanto"
    path = CHAT[form].format(deployment=case.deployment)
    if prefix == "host":
        headers["host"] = f"{account}.{DOMAIN}:8080"
    else:
        path = prefix.format(account=account) + path
    key = house.key(case.account) if case.account else None
    answer = ask(house.gateway.data, path, case.body, key, headers, source=case.source)
    assert answer.status == case.status, answer.body
    refused(answer, form)
    assert json.loads(answer.body.decode().replace(answer.headers["apim-request-id"], "ID")) == expected(case, form)
    assert not house.openai.seen


@pytest.mark.parametrize("form", FORMS)
def test_body_that_is_no_json(house: House, form: str) -> None:
    answer = ask(house.gateway.data, CHAT[form].format(deployment="gpt-4o"), b'{"model":', house.key())
    assert answer.status == 400
    refused(answer, form)
    assert answer.json["error"]["message"].startswith("the body is not JSON: ")
    assert answer.json["error"]["code"] == ("invalid_body" if form == "openai" else "BadRequest")


@pytest.mark.parametrize(
    ("path", "form", "body"),
    [
        ("/v1/foo", "openai", openai("Invalid URL (POST /v1/foo)", None)),
        ("/v1/chat/completions/", "openai", openai("Invalid URL (POST /v1/chat/completions/)", None)),
        ("/chat/completions", "openai", openai("Invalid URL (POST /chat/completions)", None)),
        ("/", "openai", openai("Invalid URL (POST /)", None)),
        ("/accounts/kanto", "openai", openai("Invalid URL (POST /accounts/kanto)", None)),
        (
            "/accounts/k%20o/v1/chat/completions",
            "openai",
            openai("Invalid URL (POST /accounts/k%20o/v1/chat/completions)", None),
        ),
        ("/openai/v1/foo", "azure_v1", azure("404", "Resource not found")),
        ("/openai/deployments/gpt-4o/foo?api-version=2024-10-21", "azure", azure("404", "Resource not found")),
        ("/openai/deployments/gpt-4o/chat/completions", "azure", azure("404", "Resource not found")),
        ("/openai/deployments/gpt-4o/chat/completions?api-version=v1", "azure", azure("404", "Resource not found")),
        ("/openai/deployments//chat/completions?api-version=2024-10-21", "azure", azure("404", "Resource not found")),
        ("/openai/chat/completions?api-version=2024-10-21", "azure", azure("404", "Resource not found")),
    ],
)
def test_paths_that_are_not_there(house: House, path: str, form: str, body: Any) -> None:
    answer = ask(house.gateway.data, path, body_of(), house.key())
    assert (answer.status, answer.json) == (404, body)
    refused(answer, form)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/models", "GET, HEAD"),
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/openai/v1/models/gpt-4o", "GET, HEAD"),
        ("GET", "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", "POST"),
    ],
)
def test_other_methods_are_told_which_one(house: House, method: str, path: str, allowed: str) -> None:
    answer = ask(house.gateway.data, path, None, house.key(), method=method)
    assert answer.status == 405
    refused(answer, "openai" if path.startswith("/v1/") else "azure")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("path", "form"), [("/v1/chat/completions", "openai"), ("/openai/v1/chat/completions", "azure_v1")]
)
@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (413, b"x" * 2_000_001, {}),
        (431, b"{}", {"x-filler": "y" * 17_000}),
    ],
)
def test_limits_of_the_listener_have_the_path_s_form(
    house: House, path: str, form: str, status: int, body: bytes, headers: dict[str, str]
) -> None:
    answer = ask(house.gateway.data, path, body, house.key(), headers)
    assert answer.status == status
    if status == 413:  # a head that is too large is not read for its path
        refused(answer, form)
        assert ("type" in answer.json["error"]) == (form == "openai")
    assert answer.headers["apim-request-id"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("path_account", "host_account"),
    [("cloudy", None), ("nobody", None), (None, "cloudy"), (None, "no.body"), ("kanto", "cloudy"), ("cloudy", "kanto")],
)
def test_a_key_opens_its_own_account_only(
    house: House, form: str, path_account: str | None, host_account: str | None
) -> None:
    path = CHAT[form].format(deployment="gpt-4o")
    if path_account is not None:
        path = f"/accounts/{path_account}{path}"
    headers = {"host": f"{host_account}.{DOMAIN}"} if host_account else {}
    answer = ask(house.gateway.data, path, body_of(), house.key(), headers)
    assert answer.status == 401
    refused(answer, form)
    assert answer.json["error"]["code"] == ("invalid_api_key" if form == "openai" else "401")
    assert not house.openai.seen


@pytest.mark.parametrize("host", [f"kanto.{DOMAIN}", f"KANTO.{DOMAIN.upper()}:443", "127.0.0.1", DOMAIN, "localhost:1"])
def test_a_host_name_may_name_the_account(house: House, host: str) -> None:
    assert ask(house.gateway.data, body=body_of(), key=house.key(), headers={"host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer {key}"},
        {"authorization": "bearer {key}"},
        {"authorization": "BEARER   {key}"},
        {"api-key": "{key}"},
        {"x-api-key": "{key}"},
        {"api-key": "{key}", "authorization": "Bearer {key}"},
        {"api-key": "{key}", "x-api-key": "{key}", "authorization": "Bearer {key}"},
        {"api-key": "{key}", "authorization": "Basic dXNlcjpwYXNz"},
        {"api-key": "", "authorization": "Bearer {key}"},
    ],
)
@pytest.mark.parametrize("which", ["key", "key2"])
def test_where_keys_may_stand(house: House, headers: dict[str, str], which: str) -> None:
    key = getattr(house.accounts["kanto"], which)
    sent = {name: value.format(key=key) for name, value in headers.items()}
    assert ask(house.gateway.data, body=body_of(), headers=sent).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Basic dXNlcjpwYXNz"}, 401),
        ({"authorization": "{key}"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"api-key": ""}, 401),
        ({"api-key": "{key}x"}, 401),
        ({"api-key": "{key}", "x-api-key": "{other}"}, 400),
        ({"api-key": "{key}", "authorization": "Bearer wrong"}, 400),
    ],
)
def test_where_they_may_not(house: House, headers: dict[str, str], status: int) -> None:
    sent = {name: value.format(key=house.key(), other=house.key("cloudy")) for name, value in headers.items()}
    answer = ask(house.gateway.data, body=body_of(), headers=sent)
    assert answer.status == status
    refused(answer, "openai")


@pytest.mark.parametrize(
    ("account", "source", "forwarded", "served"),
    [
        ("kanto", FROM_JP, None, True),
        ("kanto", FROM_CN, None, False),
        ("kanto", FROM_NOWHERE, None, False),  # unknown is not supported
        ("kanto", FROM_CN, FROM_JP, False),  # a header is believed from the trusted proxy only
        ("kanto", PROXY, FROM_JP, True),
        ("kanto", PROXY, f"{FROM_CN}, {FROM_JP}", True),  # what the proxy itself saw counts
        ("kanto", PROXY, f"{FROM_JP}, {FROM_CN}", False),
        ("kanto", PROXY, "not an address", False),
        ("kanto", PROXY, None, False),
        ("cloudy", FROM_CN, None, True),  # the same origin over the other channel
        ("cloudy", FROM_NOWHERE, None, True),
        ("attested", FROM_CN, None, True),  # its servers are known to be in Singapore
    ],
)
def test_where_a_call_comes_from(house: House, account: str, source: str, forwarded: str | None, served: bool) -> None:
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    answer = ask(house.gateway.data, body=body_of(), key=house.key(account), headers=headers, source=source)
    assert answer.status == (200 if served else 403)
    if not served:
        assert answer.body == (
            b'{"error":{"code":"unsupported_country_region_territory","message":'
            b'"Country, region, or territory not supported","param":null,"type":"request_forbidden"}}'
        )
