"""What every route answers to requests that are wrong, and what every answer carries."""

from __future__ import annotations

import http.client
import json
import logging
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from entrepot.management.http import BODY_BYTES
from planes import NORTH, SECRET, Plane, plane

PRINCIPAL = "/providers/Entrepot.Access/principals"
QUERY = "?api-version=1"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with plane(tmp_path_factory.mktemp("plane")) as found:
        yield found


@pytest.fixture
def admin(up: Plane) -> httpx.Client:
    return up.of("admin")


def raw(
    up: Plane, admin: httpx.Client, path: str, method: str = "GET", body: bytes = b""
) -> tuple[int, dict[str, str]]:
    """Sent as it stands: httpx would tidy the path up."""
    host = up.url.partition("://")[2]
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.putheader("authorization", admin.headers["authorization"])
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["error"]
    finally:
        connection.close()


def test_every_answer_can_be_named(up: Plane, admin: httpx.Client) -> None:
    mine = str(uuid.uuid4())
    for path, status in (("/subscriptions", 200), ("/nothing/here", 404), (f"/subscriptions/{uuid.uuid4()}", 404)):
        answer = admin.get(path, headers={"x-ms-correlation-request-id": mine})
        assert answer.status_code == status
        assert answer.headers["x-ms-correlation-request-id"] == mine
        assert uuid.UUID(answer.headers["x-ms-request-id"])
        assert answer.headers["x-ms-routing-request-id"].endswith(answer.headers["x-ms-request-id"])
        assert answer.headers["cache-control"] == "no-cache"
    echoed = admin.get("/subscriptions", headers={"x-ms-correlation-request-id": "<script>"})
    assert "<" not in echoed.headers["x-ms-correlation-request-id"]


def test_the_api_version_is_wanted_and_any_is_taken(up: Plane, admin: httpx.Client) -> None:
    headers = {"authorization": admin.headers["authorization"]}
    for path in ("/subscriptions", PRINCIPAL, f"/subscriptions/{NORTH}/resourcegroups", "/tenants"):
        answer = httpx.get(up.url + path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "MissingApiVersionParameter")
        for query in ("?api-version=", "?api-version"):
            assert httpx.get(up.url + path + query, headers=headers).status_code == 400
        for query in ("?api-version=2099-01-01-preview", "?API-Version=x"):
            assert httpx.get(up.url + path + query, headers=headers).status_code == 200


def test_paths_are_matched_without_regard_to_case(admin: httpx.Client) -> None:
    for path in (
        "/SUBSCRIPTIONS",
        f"/subscriptions/{NORTH.upper()}/RESOURCEGROUPS",
        "/Tenants",
        "/subscriptions//",
        "/subscriptions/",
    ):
        assert admin.get(path).status_code == 200, path
    assert admin.put("/providers/ENTREPOT.access/PRINCIPALS/MixedCase", json={"properties": {}}).status_code == 201
    assert admin.get(f"{PRINCIPAL}/mixedcase").json()["id"] == f"{PRINCIPAL}/MixedCase"


@pytest.mark.parametrize(
    "path",
    [
        f"{PRINCIPAL}/a%2fb",
        f"{PRINCIPAL}/a%2Fb",
        f"{PRINCIPAL}/a%5cb",
        f"{PRINCIPAL}/a\\b",
        f"{PRINCIPAL}/a%00b",
        f"{PRINCIPAL}/a%0d%0ab",
        f"{PRINCIPAL}/%ff%fe",
        f"{PRINCIPAL}/..",
        f"{PRINCIPAL}/%2e%2e/regions",
        f"/subscriptions/{NORTH}/../{NORTH}",
    ],
)
def test_paths_that_could_be_read_in_two_ways(up: Plane, admin: httpx.Client, path: str) -> None:
    status, error = raw(up, admin, path + QUERY)
    assert (status, error["code"]) == (400, "BadRequest")


def test_letters_that_only_look_alike_are_others(admin: httpx.Client) -> None:
    for path in (
        "/providers/Entrepot.Acce\u017fs/regions",
        "/providers/Entrepot.Access/propo\u017fals",
        "/\u017fubscriptions",
    ):
        assert admin.get(path).status_code == 404


def test_a_path_that_is_too_long(up: Plane, admin: httpx.Client) -> None:
    status, _ = raw(up, admin, f"{PRINCIPAL}/{'x' * 9_000}{QUERY}")
    assert status == 414
    status, error = raw(up, admin, f"{PRINCIPAL}/{'x' * 2_000}{QUERY}")
    assert (status, error["code"]) == (400, "InvalidResourceName")


def test_methods_that_a_path_does_not_have(admin: httpx.Client) -> None:
    answer = admin.delete("/subscriptions")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert answer.json()["error"]["code"] == "MethodNotAllowed"
    assert admin.options(f"{PRINCIPAL}/x").headers["allow"] == "DELETE, GET, HEAD, PUT"


def test_what_is_allowed_is_what_is_served(tmp_path: Path) -> None:
    with plane(tmp_path) as served:
        admin = served.of("admin")
        for template in sorted({route.path for route in served.app.routes}):
            path = re.sub(r"\{[^}]*\}", NORTH, template)
            tried = {
                method: admin.request(method, path) for method in ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE")
            }
            answered = {method for method, answer in tried.items() if answer.status_code != 405}
            asked = [admin.options(path), *(answer for answer in tried.values() if answer.status_code == 405)]
            assert {answer.headers["allow"] for answer in asked} == {", ".join(sorted(answered))}, template
            assert {answer.status_code for answer in asked} == {405}, template


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff",
        b'{"properties":{"displayName":"a\\u0000b"}}',
        b'{"properties":{"a\\u0000b":1}}',
        b'{"properties":{"displayName":"\\ud800"}}',
        b'{"properties":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"properties":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"properties":{"displayName":NaN}}',
        b'{"properties":[]}',
        b'{"properties":{"displayName":7}}',
        b'{"properties":{"displayName":""}}',
        b'{"properties":{"displayName":"' + b"x" * 300 + b'"}}',
        b'{"properties":{"state":"maybe"}}',
        b'{"properties":{"operator":"nobody"}}',
        b'{"properties":{"surprise":1}}',
        b'{"properties":{"state":{"$ne":1}}}',
    ],
)
def test_bodies_that_are_wrong(admin: httpx.Client, content: bytes) -> None:
    answer = admin.put(f"{PRINCIPAL}/never", content=content)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "InvalidRequestContent"
    assert admin.get(f"{PRINCIPAL}/never").status_code == 404


def test_a_body_that_is_too_large_is_not_read_to_its_end(admin: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(2 * BODY_BYTES // 65_536):
            yield b" " * 65_536

    try:
        answer = admin.put(f"{PRINCIPAL}/never", content=endless())
    except httpx.TransportError:
        return  # the connection was cut while the rest was on its way
    assert answer.status_code == 413


def test_pages(admin: httpx.Client) -> None:
    path = "/providers/Microsoft.Authorization/roleDefinitions"
    everything = [role["name"] for role in admin.get(path).json()["value"]]
    found, link = [], path + "?$top=4&api-version=2022-04-01"
    while link:
        page = admin.get(link).json()
        assert len(page["value"]) <= 4
        found += [role["name"] for role in page["value"]]
        link = page.get("nextLink")
    assert found == everything
    # Whatever a client's own parameters are called, and whatever the path holds.
    odd = admin.get("/Subscriptions/11111111-0000-4000-8000-000000000001/locations?self=1&$top=1&api-version=1").json()
    assert "self=1" in odd["nextLink"]
    place = "/subscriptions/11111111-0000-4000-8000-000000000001/providers/Microsoft.CognitiveServices/locations"
    link = admin.get(f"{place}/Sweden%20Central/models?$top=1&api-version=1").json()["nextLink"]
    assert "/Sweden%20Central/" in link
    assert admin.get(link).json()["value"]
    for query in ("$top=x", "$top=-1", "$skipToken=1e3", "$top=" + "9" * 50):
        assert admin.get(path + f"?api-version=1&{query}").status_code == 400


def test_a_fault_of_ours_is_told_by_its_request_only(
    up: Plane, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("the secret of the house")

    monkeypatch.setattr(up.control.store, "list", broken)
    answer = admin.get(PRINCIPAL)
    assert answer.status_code == 500
    assert answer.headers["x-ms-request-id"] in answer.json()["error"]["message"]
    assert "secret of the house" not in answer.text
    assert any(record.exc_info for record in caplog.records)


def test_one_line_a_request_without_secrets(up: Plane, admin: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "entrepot.management.app"):
        answer = admin.get("/subscriptions?api-version=1&sig=very-secret")
    lines = [record.fields for record in caplog.records if record.getMessage() == "request"]  # type: ignore[attr-defined]
    assert len(lines) == 1
    assert lines[0]["request"] == answer.headers["x-ms-request-id"]
    assert (lines[0]["path"], lines[0]["status"], lines[0]["method"]) == ("/subscriptions", 200, "GET")
    told = json.dumps(lines)
    assert "very-secret" not in told
    assert SECRET not in told
    assert admin.headers["authorization"].split()[1] not in told


def test_health(up: Plane) -> None:
    assert httpx.get(f"{up.url}/healthz").json()["status"] == "ok"
